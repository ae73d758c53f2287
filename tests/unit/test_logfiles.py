"""The files that a service's output is kept in: names that stay, whole lines, and a bound."""

import json
import os
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from supervisor.loggers import LevelsByName, LogRecord

from sightglass.local import logfiles

LINE = b"x" * 99 + b"\n"


def write(handler: logfiles.Handler, data: bytes) -> None:
    handler.emit(LogRecord(LevelsByName.INFO, data))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "services"


def handler(folder: Path, service: str = "text-classifier", size: int = 1000, backups: int = 3) -> logfiles.Handler:
    return logfiles.Handler(str(folder / f"{service}.log"), "a", size, backups)


def test_a_file_keeps_its_name_and_a_name_its_file(folder: Path) -> None:
    written = handler(folder)
    seen: dict[str, int] = {}
    for number in range(60):
        write(written, b"%099d\n" % number)
        for file in logfiles.kept(folder, "text-classifier"):
            assert seen.setdefault(file.name, file.stat().st_ino) == file.stat().st_ino
    files = logfiles.kept(folder, "text-classifier")
    assert len(seen) == 6
    assert [file.name for file in files] == sorted(seen)[-4:]
    assert b"".join(file.read_bytes() for file in files) == b"".join(b"%099d\n" % number for number in range(20, 60))


def test_a_file_holds_whole_lines(folder: Path) -> None:
    written = handler(folder, backups=100)
    text = b"".join(b"%d%s\n" % (number, b"y" * (number % 90)) for number in range(500))
    for start in range(0, len(text), 37):
        write(written, text[start : start + 37])
    files = logfiles.kept(folder, "text-classifier")
    assert len(files) > 10
    assert b"".join(file.read_bytes() for file in files) == text
    assert {file.read_bytes()[-1:] for file in files} == {b"\n"}
    assert max(file.stat().st_size for file in files) <= 1000 + 99


def test_a_line_without_end_makes_no_file_without_end(folder: Path) -> None:
    written = handler(folder)
    for _ in range(100):
        write(written, b"z" * 100)
    assert sum(file.stat().st_size for file in logfiles.kept(folder, "text-classifier")) <= 4 * 2200


def test_the_link_leads_to_the_newest(folder: Path) -> None:
    written = handler(folder)
    for _ in range(25):
        write(written, LINE)
    link = folder.parent / "text-classifier.log"
    assert link.resolve() == logfiles.newest(folder, "text-classifier")
    assert link.read_bytes() == LINE * 5


def test_a_restart_goes_on_in_the_newest_file_unless_its_last_line_is_half(folder: Path) -> None:
    write(handler(folder), LINE)
    write(handler(folder), LINE[:50])
    write(handler(folder), LINE)
    assert [file.read_bytes() for file in logfiles.kept(folder, "text-classifier")] == [LINE + LINE[:50], LINE]


def test_names_go_on_where_the_clock_went_back(folder: Path) -> None:
    folder.mkdir()
    ahead = folder / "text-classifier.29991231T235959.999999Z.log"
    ahead.touch()
    assert logfiles.begin(folder, "text-classifier").name == "text-classifier.30000101T000000.000000Z.log"


def test_files_of_others_and_of_an_earlier_version(folder: Path) -> None:
    folder.mkdir()
    mine = ["text-classifier.log", "text-classifier.log.1", "text-classifier.log.2"]
    others = ["text-classifier.canary.log", "text-classifier.away", "text-classifier-2.log"]
    for name in mine + others:
        (folder / name).touch()
    began = datetime.now(UTC)
    written = handler(folder, backups=3)
    kept = logfiles.kept(folder, "text-classifier")
    assert [file.name for file in kept[:3]] == ["text-classifier.log.2", "text-classifier.log.1", "text-classifier.log"]
    assert f"text-classifier.{began:%Y%m%dT%H%M}" in kept[3].name
    for _ in range(100):
        write(written, LINE)
    left = {file.name for file in folder.iterdir()}
    assert left >= set(others)
    assert not left & set(mine)


def test_ten_minutes_at_full_load_and_at_most_one_gibibyte() -> None:
    assert (logfiles.FILES - 1) * logfiles.FILE_BYTES >= 1_000 * 1_300 * 600
    assert logfiles.FILES * logfiles.FILE_BYTES <= 2**30


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs to be allowed to mount a small disk")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def full(disk: Path) -> Path:
    """A file that takes what the disk has left."""
    file = disk / "everything"
    with file.open("wb", buffering=0) as stream:
        while True:
            try:
                stream.write(bytes(4096))
            except OSError:
                return file


@pytest.mark.parametrize("size", [1_000, 2**20])
def test_lines_wait_while_the_disk_is_full(small_disk: Path, size: int) -> None:
    folder = small_disk / "services"
    written = handler(folder, size=size, backups=1_000)
    write(written, b"%099d\n" % 0)
    file = full(small_disk)
    for number in range(1, 300):
        write(written, b"%099d\n" % number)
    file.unlink()
    write(written, b"%099d\n" % 300)
    text = b"".join(file.read_bytes() for file in logfiles.kept(folder, "text-classifier"))
    assert text == b"".join(b"%099d\n" % number for number in range(301))


def test_lines_that_found_no_room_are_counted(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logfiles, "WAITING_BYTES", 10_050)
    folder = small_disk / "services"
    written = handler(folder, size=2**20)
    write(written, b"%099d\n" % 0)
    file = full(small_disk)
    text = b"".join(b"%099d\n" % number for number in range(1, 5_000))
    for start in range(0, len(text), 1_037):
        write(written, text[start : start + 1_037])
    file.unlink()
    write(written, LINE)
    (kept,) = logfiles.kept(folder, "text-classifier")
    lines = kept.read_bytes().splitlines(keepends=True)
    whole = len(lines) - 2
    assert 100 < whole < 200
    assert lines[:whole] == [b"%099d\n" % number for number in range(whole)]
    assert lines[whole] == LINE
    said = json.loads(lines[-1])
    assert said["event.name"] == "ml.telemetry.dropped"
    assert said["ml.telemetry.dropped.count"] == 5_000 - whole
