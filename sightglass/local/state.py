"""The folder of a stack: what of it is ours, and how just that is removed.

The folder may be anybody's, a home for instance. The file :data:`MARK` names what this program made there; what was
there before is never taken over, and what others put there later stays.
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from sightglass.facts.errors import UserError
from sightglass.facts.settings import PORTS, Settings

MARK = "made-by-sightglass.json"
OURS = ("bentoml", "credentials.json", "data", "load", "logs", "models", "run")
"""Everything that a stack has in its folder."""
DATA = sorted({port.component for port in PORTS})
"""The folders in ``data``, one a component."""


def claim(settings: Settings) -> None:
    """Mark the folder before anything is made in it; :class:`UserError` when a name is taken by something of others."""
    folder = settings.state_dir
    mark = folder / MARK
    if mark.exists():
        return
    try:
        made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        taken = [name for name in OURS if (folder / name).exists()]
        if taken and not _of_an_older_version(folder):
            raise UserError(
                f"{folder} has {' and '.join(taken)} of something else: set SIGHTGLASS_STATE_DIR to an empty folder."
            )
        mark.write_text(json.dumps({"folder": made or bool(taken), "names": OURS}))
    except OSError as error:
        raise UserError(f"{error}: set SIGHTGLASS_STATE_DIR to a folder that can be written.") from None


def _of_an_older_version(folder: Path) -> bool:
    """Whether there is a stack in a folder of its own, which had no mark."""
    names = {entry.name for entry in folder.iterdir()}
    default = folder == Settings.model_fields["state_dir"].default
    return names <= set(OURS) and (default or bool({"credentials.json", "run"} & names))


def owned(settings: Settings) -> list[Path]:
    """What is there and ours, data by component."""
    folder = settings.state_dir
    if not folder.exists():
        return []
    if (folder / MARK).exists():
        names = json.loads((folder / MARK).read_text())["names"]
    else:
        names = OURS if _of_an_older_version(folder) else ()
    found = [folder / name for name in names if name != "data"]
    if "data" in names:
        found += [folder / "data" / name for name in DATA]
    return [path for path in found if path.exists()]


def remove(settings: Settings) -> list[Path]:
    """Remove what is ours; returns what others have in the folder, which stays."""
    folder, data, mark = settings.state_dir, settings.state_dir / "data", settings.state_dir / MARK
    made = not mark.exists() or json.loads(mark.read_text())["folder"]
    ours = owned(settings)
    # Last, so that a removal that broke off can be done again.
    for path in (*ours, mark):
        # A link leads to something of others.
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.is_dir():
            shutil.rmtree(path)
    if not data.is_symlink() and data.is_dir() and not any(data.iterdir()):
        data.rmdir()
    left = [*_inside(data), *(path for path in _inside(folder) if path != data)]
    if made and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    return left


def _inside(folder: Path) -> Iterable[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else ()
