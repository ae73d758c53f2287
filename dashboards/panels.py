"""Panels as this project draws them: what is common to all stands here, so that all dashboards look alike."""

from collections.abc import Mapping, Sequence
from typing import Final

from grafana_foundation_sdk.builders import (
    common,
    dashboard,
    heatmap,
    logs,
    loki,
    prometheus,
    stat,
    statetimeline,
    table,
    tempo,
    timeseries,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.common import (
    AxisPlacement,
    BigValueColorMode,
    BigValueGraphMode,
    BigValueTextMode,
    GraphDrawStyle,
    GraphTresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    LogsDedupStrategy,
    LogsSortOrder,
    ScaleDistribution,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode

from dashboards.colours import GREEN
from dashboards.names import Source
from dashboards.queries import Target, reference

Panel = timeseries.Panel | stat.Panel | heatmap.Panel | table.Panel | logs.Panel | statetimeline.Panel
Steps = Sequence[tuple[float, str]]
"""Thresholds: from that value on, that colour; below the first one it is green."""
WIDTH: Final = 24
"""Columns of a dashboard."""
_HEIGHT: Final = 8
_STAT_HEIGHT: Final = 4
_TIME_SERIES_FILL: Final = 8
_SOFT_MAXIMUM: Final = {"reqps": 1.0, "cps": 1.0, "short": 1.0, "percentunit": 0.01, "s": 0.001, "Bps": 1024.0}
"""Where the axis ends at least: without it a line of zeros has one up to 100."""


def lines(
    title: str,
    description: str,
    *targets: Target,
    unit: str,
    width: int = 8,
    height: int = _HEIGHT,
    minimum: float | None = 0,
    maximum: float | None = None,
    stacked: bool = False,
    table_legend: bool = False,
    colours: Mapping[str, str] | None = None,
    thresholds: Steps = (),
    none: str = "",
    repeat: str = "",
) -> timeseries.Panel:
    """Series over time, from ``minimum`` up.

    ``colours`` go by regular expression from the legend's start, ``thresholds`` are dashed lines. ``none`` says why
    nothing is shown. With ``repeat`` there is one panel for each value of that variable, four beside each other.
    """
    panel = timeseries.Panel().unit(unit).span(width).height(height)
    if minimum is not None:
        panel.min(minimum)
    if maximum is not None:
        panel.max(maximum)
    elif unit in _SOFT_MAXIMUM:
        panel.axis_soft_max(_SOFT_MAXIMUM[unit])
    panel.fill_opacity(30 if stacked else _TIME_SERIES_FILL).line_width(1).show_points(VisibilityMode.NEVER)
    panel.draw_style(GraphDrawStyle.LINE).legend(_legend(as_table=table_legend))
    panel.tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    panel.color_scheme(_colour(models.FieldColorModeId.PALETTE_CLASSIC))
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))
    style = GraphTresholdsStyleMode.DASHED if thresholds else GraphTresholdsStyleMode.OFF
    panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(style)).thresholds(_thresholds(thresholds))
    for pattern, colour in (colours or {}).items():
        panel.override_by_regexp(f"/^(?:{pattern})/", [_fixed(colour)])
    if none:
        panel.no_value(none)
    if repeat:
        panel.repeat(repeat).repeat_direction("h")
    panel.title(title).description(description)
    panel.datasource(_source(targets))
    return panel.targets(_lettered(targets))


def bars(
    title: str,
    description: str,
    *targets: Target,
    unit: str,
    width: int = 8,
    height: int = _HEIGHT,
    colours: Mapping[str, str] | None = None,
) -> timeseries.Panel:
    """Counts over time as stacked bars."""
    panel = lines(title, description, *targets, unit=unit, width=width, height=height, stacked=True, colours=colours)
    # No bar is narrower than this, so that a count is worth a look.
    return panel.draw_style(GraphDrawStyle.BARS).fill_opacity(70).line_width(0).interval("15s")


def number(
    title: str,
    description: str,
    *targets: Target,
    unit: str,
    width: int = 4,
    thresholds: Steps = (),
    decimals: int | None = None,
    spark: bool = True,
    text: BigValueTextMode = BigValueTextMode.AUTO,
    none: str = "no data",
    base: str = GREEN,
) -> stat.Panel:
    """The newest value, large; with a small graph unless it never moves. ``base`` is the lowest colour."""
    panel = stat.Panel().unit(unit).span(width).height(_STAT_HEIGHT).no_value(none).text_mode(text)
    panel.graph_mode(BigValueGraphMode.AREA if spark else BigValueGraphMode.NONE)
    panel.color_mode(BigValueColorMode.VALUE)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    panel.thresholds(_thresholds(thresholds, base=base))
    panel.color_scheme(_colour(models.FieldColorModeId.THRESHOLDS))
    if decimals is not None:
        panel.decimals(decimals)
    panel.title(title).description(description)
    panel.datasource(_source(targets))
    return panel.targets(_lettered(targets))


def heat(
    title: str, description: str, target: Target, *, unit: str, width: int = 12, height: int = _HEIGHT
) -> heatmap.Panel:
    """Where the observations of a histogram lie, over time; exemplars are dots that lead to their traces."""
    panel = heatmap.Panel().span(width).height(height).calculate(False).cell_gap(1).show_y_histogram().show_legend()
    panel.show_tooltip().exemplars_color("rgba(255, 152, 48, 0.5)")
    panel.color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Blues").exponent(0.5).steps(64))
    panel.y_axis(heatmap.YAxisConfig().unit(unit).axis_placement(AxisPlacement.LEFT))
    panel.scale_distribution(common.ScaleDistributionConfig().type(ScaleDistribution.LINEAR))
    panel.unit("short").thresholds(_thresholds(()))
    panel.title(title).description(description)
    panel.datasource(reference(Source.PROMETHEUS))
    return panel.targets(_lettered([target]))


def traces(title: str, description: str, target: Target, *, width: int = 8) -> table.Panel:
    """Traces that a TraceQL search finds; the id of each opens it."""
    panel = table.Panel().span(width).height(_HEIGHT).show_header(True).no_value("none").unit("short")
    panel.thresholds(_thresholds(()))
    for heading, pixels in {"Trace ID": 150, "Start time": 170, "Duration": 90}.items():
        panel.override_by_name(heading, [models.DynamicConfigValue(id_val="custom.width", value=pixels)])
    # Tempo leaves a duration of 0 out.
    panel.override_by_name("Duration", [models.DynamicConfigValue(id_val="noValue", value="< 1 ms")])
    # The caller's own span, whose name this is, is seldom ours to see.
    panel.override_by_name("Name", [models.DynamicConfigValue(id_val="custom.hidden", value=True)])
    panel.title(title).description(description)
    panel.datasource(reference(Source.TEMPO))
    return panel.targets(_lettered([target]))


def rows(
    title: str,
    description: str,
    *targets: Target,
    columns: Mapping[str, tuple[str, str]],
    width: int = WIDTH,
    height: int = 6,
    none: str = "none",
) -> table.Panel:
    """Instant queries as one table, joined on their labels.

    ``columns`` renames: field of the data (``Value #A``, a label) to title and unit, from left to right; every other
    field is hidden.
    """
    panel = table.Panel().span(width).height(height).show_header(True).no_value(none).unit("short")
    panel.thresholds(_thresholds(()))
    panel.transformations(
        [
            models.DataTransformerConfig(id_val="merge", options={}),
            models.DataTransformerConfig(id_val="filterFieldsByName", options={"include": {"names": list(columns)}}),
            models.DataTransformerConfig(
                id_val="organize",
                options={
                    "excludeByName": {},
                    "indexByName": {name: place for place, name in enumerate(columns)},
                    "renameByName": {name: heading for name, (heading, _) in columns.items()},
                },
            ),
        ]
    )
    for heading, unit in columns.values():
        panel.override_by_name(heading, [models.DynamicConfigValue(id_val="unit", value=unit)])
    panel.title(title).description(description)
    panel.datasource(_source(targets))
    return panel.targets(_lettered(targets))


def states(
    title: str,
    description: str,
    *targets: Target,
    names: Mapping[int, tuple[str, str]],
    width: int = WIDTH,
    height: int = 7,
) -> statetimeline.Panel:
    """One band a series, coloured by its value: ``names`` gives text and colour of each."""
    results = {
        str(value): models.ValueMappingResult(text=text, color=colour) for value, (text, colour) in names.items()
    }
    panel = statetimeline.Panel().span(width).height(height).merge_values(True).show_value(VisibilityMode.NEVER)
    panel.row_height(0.8).fill_opacity(70).line_width(0).unit("none").mappings([models.ValueMap(options=results)])
    panel.thresholds(_thresholds(())).color_scheme(_colour(models.FieldColorModeId.THRESHOLDS))
    panel.legend(common.VizLegendOptions().show_legend(False).display_mode(LegendDisplayMode.HIDDEN).calcs([]))
    panel.tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.SINGLE).sort(SortOrder.NONE))
    panel.title(title).description(description)
    panel.datasource(_source(targets))
    return panel.targets(_lettered(targets))


def log_lines(title: str, description: str, target: Target, *, height: int = 12) -> logs.Panel:
    """Log lines, newest first; opened, a line shows its fields and the button to its trace."""
    panel = logs.Panel().span(WIDTH).height(height).show_time(True).show_labels(False).show_common_labels(False)
    panel.wrap_log_message(False).prettify_log_message(False).enable_log_details(True)
    panel.sort_order(LogsSortOrder.DESCENDING).dedup_strategy(LogsDedupStrategy.NONE)
    panel.unit("short").thresholds(_thresholds(()))
    panel.title(title).description(description)
    panel.datasource(reference(Source.LOKI))
    return panel.targets(_lettered([target]))


def _legend(*, as_table: bool = False) -> common.VizLegendOptions:
    legend = common.VizLegendOptions().show_legend(True).placement(LegendPlacement.BOTTOM)
    if as_table:
        return legend.display_mode(LegendDisplayMode.TABLE).calcs(["mean", "max", "lastNotNull"])
    return legend.display_mode(LegendDisplayMode.LIST).calcs([])


def _thresholds(steps: Steps, *, base: str = GREEN) -> dashboard.ThresholdsConfig:
    """The lowest step has no value: it begins at minus infinity."""
    made = [models.Threshold(value=None, color=base), *(models.Threshold(value=v, color=c) for v, c in steps)]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(made)


def _colour(mode: models.FieldColorModeId) -> dashboard.FieldColor:
    return dashboard.FieldColor().mode(mode)


def _fixed(colour: str) -> models.DynamicConfigValue:
    return models.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": colour})


def _lettered(targets: Sequence[Target]) -> list[Builder[Dataquery]]:
    """The targets with their letters: A, B, C."""
    return [target.ref_id(chr(ord("A") + place)) for place, target in enumerate(targets)]


def _source(targets: Sequence[Target]) -> models.DataSourceRef:
    """The data source of the panel, which is that of its targets."""
    kinds = {loki.Dataquery: Source.LOKI, tempo.TempoQuery: Source.TEMPO, prometheus.Dataquery: Source.PROMETHEUS}
    return reference(kinds[type(targets[0])])
