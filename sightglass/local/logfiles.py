"""The files that a service's lines are kept in. A file never gets another name, and a name never another file.

Promtail keeps how far it has read by the path of a file. Where the newest file always has the same path, that number
is wrong after a rotation that Promtail did not see, and lines are lost. Here each file has the time of its beginning
in its name, ``text-classifier.20261201T004512.123456Z.log``: the next file begins under a name of its own, and the
oldest is removed.
"""

import errno
import json
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from supervisor import loggers

from ml_telemetry import signals

FILE_BYTES = 60 * 2**20
"""A file that has grown to this is followed by the next."""
FILES = 17
"""Kept of a service: together under 1 GiB, and full ones for ten minutes of a thousand lines a second."""
WAITING_BYTES = 2**20
"""Of a service's output, as much waits in memory while the disk is full; later lines are counted and lost."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_TIME = "%Y%m%dT%H%M%S.%fZ"
_NAME = re.compile(r"(?P<service>.+)[.](?P<time>[0-9]{8}T[0-9]{6}[.][0-9]{6}Z)[.]log")
_RENAMED = re.compile(r"(?P<service>.+)[.]log([.](?P<number>[0-9]+))?")


def kept(folder: Path, service: str) -> list[Path]:
    """The files of a service, oldest first; those that an earlier version renamed are the oldest."""
    found: list[tuple[tuple[int, int, str], Path]] = []
    for file in folder.glob(f"{service}.*"):
        if (named := _NAME.fullmatch(file.name)) and named["service"] == service:
            found.append(((1, 0, named["time"]), file))
        elif (renamed := _RENAMED.fullmatch(file.name)) and renamed["service"] == service:
            found.append(((0, -int(renamed["number"] or 0), ""), file))
    return [file for _, file in sorted(found)]


def newest(folder: Path, service: str) -> Path | None:
    """The file that a service's next line goes to; None before the first."""
    files = [file for file in kept(folder, service) if _NAME.fullmatch(file.name)]
    return files[-1] if files else None


def begin(folder: Path, service: str) -> Path:
    """Make the next file, whose name comes after all others, also where the clock went back."""
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    if (last := newest(folder, service)) and (named := _NAME.fullmatch(last.name)):
        now = max(now, datetime.strptime(named["time"], _TIME).replace(tzinfo=UTC) + timedelta(microseconds=1))
    file = folder / f"{service}.{now.strftime(_TIME)}.log"
    file.touch(mode=0o600, exist_ok=False)
    return file


def begun(folder: Path, service: str) -> Path:
    """The newest file, made where there is none."""
    return newest(folder, service) or begin(folder, service)


class Handler(loggers.RotatingFileHandler):  # type: ignore[misc]  # supervisord has no types
    """Writes a service's output for supervisord, in whole lines a file.

    ``folder/service.log`` is the name that supervisord has for it: the folder gets the files described above, and
    ``service.log`` beside the folder leads to the newest.
    """

    def __init__(self, filename: str, _mode: str, max_bytes: int, backups: int) -> None:
        named = Path(filename)
        self._folder, self._service = named.parent, named.stem
        self._link = named.parent.with_name(named.name)
        file = begun(self._folder, self._service)
        if not _ends_with_a_line(file):
            file = begin(self._folder, self._service)
        self._whole = True
        self._waiting = b""
        self._lost = 0
        self._skipping = False
        super().__init__(str(file), "ab", max_bytes, backups)
        self.reopen()
        self._tidy()

    def reopen(self) -> None:
        """Open the file without a buffer: what a full disk does not take must stay with us."""
        self.close()
        self.stream = Path(self.baseFilename).open("ab", buffering=0)  # noqa: SIM115 - closed by close()
        self.closed = False

    def emit(self, record: Any) -> None:
        """Write what the service printed; where the file gets full, up to the last end of a line."""
        data: bytes = record.msg if isinstance(record.msg, bytes) else str(record.msg).encode()
        if self._skipping:
            end = data.find(b"\n") + 1
            self._skipping = not end
            data = data[end:] if end else b""
        try:
            self._waiting = self._write(self._waiting + data)
            self._bound()
            if self._lost and not self._waiting and self._whole:
                self._waiting = self._write(self._notice())
        except OSError:
            self.handleError()

    def _write(self, data: bytes) -> bytes:
        """Write data to this file and the next; return what the disk did not take."""
        room = self.maxBytes - self.stream.tell()
        if room < len(data):
            fits = data.rfind(b"\n", 0, max(room, 0)) + 1
            if not fits and not self._whole:
                fits = data.find(b"\n") + 1
            # A line without an end must not make a file without an end.
            if fits or self._whole or room < -self.maxBytes:
                if rest := self._append(data[:fits]):
                    return rest + data[fits:]
                self._next()
                data = data[fits:]
        return self._append(data)

    def _append(self, data: bytes) -> bytes:
        while data:
            try:
                written = self.stream.write(data)
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                if not self._waiting:
                    print(f"{self._service}: {error}; its output waits for room on the disk", file=sys.stderr)
                break
            self._whole = data[:written].endswith(b"\n")
            data = data[written:]
        return data

    def _bound(self) -> None:
        """Lose and count the newest lines where too much waits."""
        if len(self._waiting) <= WAITING_BYTES:
            return
        end = self._waiting.rfind(b"\n", 0, WAITING_BYTES) + 1
        lost = self._waiting[end:]
        self._skipping = not lost.endswith(b"\n")
        self._lost += lost.count(b"\n") + self._skipping
        # A line that begins in the file gets its end there.
        self._waiting = self._waiting[:end] or (b"" if self._whole else b"\n")

    def _notice(self) -> bytes:
        """The line that says how many were lost."""
        count, self._lost = self._lost, 0
        event = signals.TELEMETRY_DROPPED_EVENT
        line = {
            "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "severity": "ERROR",
            "event.name": event.name,
            "message": "log lines were lost while the disk was full",
            signals.DROPPED_COUNT.name: count,
        }
        return json.dumps(line).encode() + b"\n"

    def _next(self) -> None:
        try:
            self.baseFilename = str(begin(self._folder, self._service))
            self.reopen()
            self._tidy()
        except OSError as error:
            # The lines are tried in the file that is there.
            if error.errno not in _FULL:
                raise

    def _tidy(self) -> None:
        for old in kept(self._folder, self._service)[: -(self.backupCount + 1)]:
            old.unlink(missing_ok=True)
        fresh = self._link.with_name(f".{self._link.name}.new")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(Path(self._folder.name) / Path(self.baseFilename).name)
        fresh.replace(self._link)


def _ends_with_a_line(file: Path) -> bool:
    with file.open("rb") as stream:
        if stream.seek(0, 2) == 0:
            return True
        stream.seek(-1, 2)
        return stream.read() == b"\n"
