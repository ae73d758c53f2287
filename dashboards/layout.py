"""A dashboard from its rows: places every panel, and adds what all dashboards have."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models.dashboard import (
    Dashboard,
    DashboardCursorSync,
    DashboardLinkType,
    GridPos,
    Panel,
    RowPanel,
)

from dashboards import annotations
from dashboards.names import TAG, Uid
from dashboards.panels import WIDTH
from dashboards.panels import Panel as PanelBuilder
from dashboards.variables import Variable

_ROW_HEIGHT = 1


@dataclass(frozen=True)
class Row:
    """A heading and the panels under it; they fill the width line by line."""

    title: str
    panels: Sequence[PanelBuilder]


@dataclass(frozen=True)
class Board:
    """A dashboard before it is JSON."""

    uid: Uid
    title: str
    description: str
    variables: Sequence[Variable]
    rows: Sequence[Row]
    span: str = "now-30m"
    refresh: str = "30s"
    one_service: bool = True
    """Whether deployments are those of the chosen service, or all."""

    def build(self) -> Dashboard:
        """Return the SDK's dashboard; panels that do not fill their lines raise :class:`ValueError`."""
        links = dashboard.DashboardLink("Sightglass").type(DashboardLinkType.DASHBOARDS).tags([TAG])
        links.keep_time(True).include_vars(True).as_dropdown(False).icon("external link")
        made = (
            dashboard.Dashboard(self.title)
            .uid(self.uid.value)
            .description(self.description)
            .tags([TAG])
            .time(self.span, "now")
            .refresh(self.refresh)
            .timezone("browser")
            .tooltip(DashboardCursorSync.CROSSHAIR)
            .readonly()
            .variables(list(self.variables))
            .annotations([annotations.deployments(one_service=self.one_service), annotations.alerts()])
            .links([links])
            .build()
        )
        made.panels = self._placed()
        return made

    def _placed(self) -> list[Panel | RowPanel]:
        placed: list[Panel | RowPanel] = []
        top = 0
        for row in self.rows:
            heading = dashboard.Row(row.title).build()
            heading.id_val = stable_id(f"row {row.title}")
            heading.grid_pos = GridPos(h=_ROW_HEIGHT, w=WIDTH, x=0, y=top)
            placed.append(heading)
            top += _ROW_HEIGHT
            left = line_height = 0
            for builder in row.panels:
                panel = builder.build()
                place = panel.grid_pos or GridPos()
                place.x, place.y = left, top
                panel.grid_pos, panel.id_val = place, stable_id(panel.title or "")
                placed.append(panel)
                left, line_height = left + place.w, line_height or place.h
                if left > WIDTH or place.h != line_height:
                    raise ValueError(f"{self.title}: {panel.title} does not fit into its line")
                if left == WIDTH:
                    top, left, line_height = top + line_height, 0, 0
            if left:
                raise ValueError(f"{self.title}: the last line of {row.title} is not full")
        return placed


def stable_id(title: str) -> int:
    """A panel's id from its title: a link to a panel still finds it when others are added or moved."""
    return zlib.crc32(title.encode()) % 1_000_000 + 1
