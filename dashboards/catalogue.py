"""The six dashboards, and their JSON."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards import kubernetes_board, load_test_board, model_board, pipeline_board, service_board, slo_board
from dashboards.layout import Board
from dashboards.names import Uid

FOLDER: Final = Path(__file__).resolve().parent / "json"
BOARDS: Final[dict[Uid, Callable[[], Board]]] = {
    Uid.SERVICE: service_board.board,
    Uid.MODEL: model_board.board,
    Uid.PIPELINE: pipeline_board.board,
    Uid.SLO: slo_board.board,
    Uid.LOAD_TEST: load_test_board.board,
    Uid.KUBERNETES: kubernetes_board.board,
}


def render() -> dict[str, str]:
    """Text of every dashboard's JSON by file name; the same text each time."""
    return {
        f"{uid}.json": JSONEncoder(sort_keys=True, indent=2, ensure_ascii=False).encode(make().build()) + "\n"
        for uid, make in BOARDS.items()
    }


def stale(folder: Path = FOLDER) -> list[str]:
    """Names of the files in ``folder`` that are not what the code makes: changed, missing or left over."""
    made = render()
    there = {path.name: path.read_text() for path in folder.glob("*.json")}
    return sorted(name for name in made.keys() | there.keys() if made.get(name) != there.get(name))


def write(folder: Path = FOLDER) -> None:
    """Write every file anew and remove those that no dashboard has."""
    folder.mkdir(exist_ok=True)
    made = render()
    for path in folder.glob("*.json"):
        if path.name not in made:
            path.unlink()
    for name, text in made.items():
        (folder / name).write_text(text)


def load(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """The committed dashboards, in the order of their names."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
