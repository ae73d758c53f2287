"""supervisord, which writes the files of one folder as :mod:`sightglass.local.logfiles` says.

python -m sightglass.local.supervisord FOLDER -c supervisord.conf
"""

import sys
from pathlib import Path
from typing import Any

from supervisor import loggers, supervisord

from sightglass.local import logfiles


def handler(folder: Path) -> Any:
    """What supervisord makes for a log file that has a bound: its own kind outside the folder."""
    own = loggers.RotatingFileHandler

    def make(filename: str, *arguments: Any) -> Any:
        return (logfiles.Handler if Path(filename).parent == folder else own)(filename, *arguments)

    return make


def main() -> None:
    """Run supervisord with the arguments that follow the folder."""
    folder = Path(sys.argv.pop(1))
    loggers.RotatingFileHandler = handler(folder)
    supervisord.main()


if __name__ == "__main__":
    main()
