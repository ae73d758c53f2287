"""Lines to standard output: in their order, whole, and never waited for."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import socket
import subprocess
import sys
import termios
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_telemetry import losses, output
from ml_telemetry.losses import LossNotice
from ml_telemetry.output import LineWriter
from waiting import until

LINE = b"x" * 999 + b"\n"


class Pipe:
    """A pipe that takes little, and whoever reads it."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, 4096)
        self.received = bytearray()

    def read_all(self) -> bytes:
        """Read until the pipe is empty and nobody writes any more for a moment."""
        os.set_blocking(self.reader, False)
        quiet = 0
        while quiet < 20:
            try:
                self.received += os.read(self.reader, 65_536)
                quiet = 0
            except BlockingIOError:
                quiet += 1
                time.sleep(0.01)
        return bytes(self.received)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    for end in (made.reader, made.writer):
        os.close(end)


@pytest.fixture
def lost() -> Counter[str]:
    return Counter()


def writer_to(file_descriptor: int, lost: Counter[str], limit: int = output.DEFAULT_BYTES) -> LineWriter:
    made = LineWriter(file_descriptor, limit)
    made.on_loss = lambda reason, count: lost.update({reason: count})
    return made


def numbered(count: int) -> list[bytes]:
    return [b"%06d" % number + LINE[6:] for number in range(count)]


def test_line_is_with_the_reader_when_write_returns(pipe: Pipe, lost: Counter[str]) -> None:
    assert writer_to(pipe.writer, lost).write(LINE)
    assert os.read(pipe.reader, 65_536) == LINE


def test_reader_that_stands_still_holds_nobody_up_and_gets_everything_later(pipe: Pipe, lost: Counter[str]) -> None:
    lines = numbered(2_000)
    writer = writer_to(pipe.writer, lost)
    before = os.get_blocking(pipe.writer)
    start = time.monotonic()
    assert all(writer.write(line) for line in lines)
    assert time.monotonic() - start < 2
    assert not writer.flush(0.05)
    assert pipe.read_all() == b"".join(lines)
    assert writer.flush(1)
    assert not lost
    # Others write to the same pipe, and expect that it blocks.
    assert os.get_blocking(pipe.writer) is before is True


def test_lines_beyond_the_bound_are_lost_and_counted_exactly(pipe: Pipe, lost: Counter[str]) -> None:
    writer = writer_to(pipe.writer, lost, limit=50_000)
    kept = [line for line in numbered(200) if writer.write(line)]
    assert 50 <= len(kept) < 60
    assert lost == {output.QUEUE_FULL: 200 - len(kept)}
    assert writer.write(b"the notice\n", always=True)
    assert pipe.read_all() == b"".join(kept) + b"the notice\n"
    # There is room again.
    assert writer.write(LINE)
    assert lost[output.QUEUE_FULL] == 200 - len(kept)


def test_lines_of_several_threads_stay_whole_and_in_each_threads_order(pipe: Pipe, lost: Counter[str]) -> None:
    writer = writer_to(pipe.writer, lost)

    def write(name: int) -> None:
        for number in range(200):
            assert writer.write(json.dumps({"thread": name, "number": number, "rest": "y" * 300}).encode() + b"\n")

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    lines = [json.loads(line) for line in pipe.read_all().splitlines()]
    for thread in threads:
        thread.join()
    for name in range(4):
        assert [line["number"] for line in lines if line["thread"] == name] == list(range(200))


def test_line_longer_than_the_pipe_comes_whole(pipe: Pipe, lost: Counter[str]) -> None:
    long = b"z" * 300_000 + b"\n"
    writer = writer_to(pipe.writer, lost)
    assert writer.write(long)
    assert writer.write(LINE)
    assert pipe.read_all() == long + LINE


def test_reader_that_is_gone_is_a_counted_loss_and_no_error(pipe: Pipe, lost: Counter[str]) -> None:
    writer = writer_to(pipe.writer, lost)
    waiting = sum(writer.write(LINE) for _ in range(100))
    os.close(pipe.reader)
    until(lambda: writer.flush(0), "the buffer to be given up")
    assert 90 < lost[output.WRITE_FAILED] <= waiting
    before = lost[output.WRITE_FAILED]
    assert writer.write(LINE) is False
    assert lost[output.WRITE_FAILED] == before + 1
    pipe.reader = os.open(os.devnull, os.O_RDONLY)


def test_what_is_given_up_at_the_end_is_counted(pipe: Pipe, lost: Counter[str]) -> None:
    writer = writer_to(pipe.writer, lost)
    for line in numbered(100):
        writer.write(line)
    writer.give_up()
    assert writer.flush(0)
    received = pipe.read_all()
    # The line that was cut by the full pipe is among the lost.
    assert received.count(b"\n") + lost[output.WRITE_FAILED] == 100


def test_line_that_is_logged_while_another_is_written_comes_after_it(
    pipe: Pipe, lost: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[LineWriter] = []
    write = os.write

    def interrupted(file_descriptor: int, data: bytes) -> int:
        if data == b"outer\n":
            made[0].write(b"inner\n")
        return write(file_descriptor, data)

    monkeypatch.setattr(os, "write", interrupted)
    made.append(writer_to(pipe.writer, lost))
    made[0].write(b"outer\n")
    assert pipe.read_all() == b"outer\ninner\n"


@pytest.mark.parametrize("kind", ["socket", "terminal", "pipe that cannot be opened anew"])
def test_no_kind_of_output_blocks(kind: str, lost: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "socket":
        left, right = socket.socketpair()
        left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        file_descriptor, reader = os.dup(left.fileno()), os.dup(right.fileno())
    elif kind == "terminal":
        reader, file_descriptor = pty.openpty()
        attributes = termios.tcgetattr(file_descriptor)
        attributes[1] &= ~termios.OPOST
        termios.tcsetattr(file_descriptor, termios.TCSANOW, attributes)
    else:
        reader, file_descriptor = os.pipe()

        def refuse(*_: object) -> int:
            raise PermissionError

        monkeypatch.setattr(os, "open", refuse)
    lines = numbered(500)
    writer = writer_to(file_descriptor, lost)
    monkeypatch.undo()
    start = time.monotonic()
    assert all(writer.write(line) for line in lines)
    assert time.monotonic() - start < 2
    assert not writer.flush(0.01)
    received = bytearray()
    while len(received) < 500 * len(LINE):
        received += os.read(reader, 65_536)
    assert bytes(received) == b"".join(lines)
    assert writer.flush(1)


def test_file_gets_its_lines_at_once(tmp_path: Path, lost: Counter[str]) -> None:
    file = tmp_path / "lines"
    file.write_bytes(b"before\n")
    with file.open("ab") as stream:
        assert writer_to(stream.fileno(), lost).write(LINE)
        assert file.read_bytes() == b"before\n" + LINE


def test_process_that_ends_writes_what_still_waits(tmp_path: Path) -> None:
    program = (
        "import logging\n"
        "from ml_telemetry import logs\n"
        "logs.configure_logging()\n"
        "for number in range(500): logging.getLogger('a').warning('%d %s', number, 'x' * 1000)\n"
    )
    # A reader that begins late.
    reader = "sleep 0.5; cat > lines"
    with subprocess.Popen(["sh", "-c", reader], stdin=subprocess.PIPE, cwd=tmp_path) as slow:
        subprocess.run([sys.executable, "-c", program], stdout=slow.stdin, check=True, timeout=60)
    lines = [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]
    assert [int(line["message"].split()[0]) for line in lines] == list(range(500))


def test_losses_are_said_at_once_and_then_together(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[int] = []

    def read() -> list[int]:
        lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
        said.extend(line["ml.telemetry.dropped.count"] for line in lines)
        return said

    notice = LossNotice("logs", seconds=0.3)
    notice.lost("queue_full", 1)
    assert read() == [1]
    for _ in range(5):
        notice.lost("queue_full", 2)
    assert read() == [1]
    until(lambda: read() == [1, 10], "the rest of the losses")
    monkeypatch.setattr(losses, "SECONDS", 60)
    notice.lost("queue_full", 3)
    notice.say()
    assert read() == [1, 10, 3]
    notice.say()
    assert read() == [1, 10, 3]
