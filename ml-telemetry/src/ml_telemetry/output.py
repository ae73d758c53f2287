"""Whole lines to standard output, without ever waiting for who reads it.

A line is written at once where the reader has room. Where it has none, as when it is stopped, lines wait in a bounded
buffer, in their order, and a thread writes them as soon as they are taken. A line for which there is no room is lost
and counted.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

DEFAULT_BYTES: Final = 16 * 1024 * 1024
QUEUE_FULL: Final = "queue_full"
WRITE_FAILED: Final = "write_failed"
# What the thread writes before it lets others have their turn.
_TURN_BYTES: Final = 65_536
_POLL_SECONDS: Final = 0.5

OnLoss = Callable[[str, int], None]
"""Is told why lines were lost, and how many."""


def _ignore(reason: str, count: int) -> None:
    """Count nothing."""


class LineWriter:
    """Writes to a file descriptor from any thread; ``limit`` is how many bytes may wait."""

    def __init__(self, file_descriptor: int, limit: int = DEFAULT_BYTES) -> None:
        self.on_loss: OnLoss = _ignore
        self._limit = limit
        self._send, self._can_block = _sender(file_descriptor)
        self._file_descriptor = file_descriptor
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        # A line may be logged while another is written, by a destructor or a signal handler.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._writing = False
        self._thread: threading.Thread | None = None

    def write(self, line: bytes, *, always: bool = False) -> bool:
        """Write a line, or keep it; returns False when it is lost.

        ``always`` keeps it also where the buffer is full: for the rare line that says what was lost.
        """
        reason = ""
        with self._lock:
            if self._waiting or self._writing or self._can_block:
                if self._bytes + len(line) > self._limit and not always:
                    reason = QUEUE_FULL
                else:
                    self._keep(line)
            else:
                reason = self._write_now(line)
        if reason:
            self.on_loss(reason, 1)
        return not reason

    def _write_now(self, line: bytes) -> str:
        self._writing = True
        try:
            written = self._send(line)
        except BlockingIOError:
            written = 0
        except OSError:
            return WRITE_FAILED
        finally:
            self._writing = False
        if written < len(line):
            # Before what was logged meanwhile.
            self._keep(line[written:], first=True)
        return ""

    def _keep(self, line: bytes, *, first: bool = False) -> None:
        if first:
            self._waiting.appendleft(line)
        else:
            self._waiting.append(line)
        self._bytes += len(line)
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._write_waiting, name="log-lines", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:
                # The interpreter ends: ``flush`` writes what waits.
                self._thread = None
        self._changed.notify_all()

    def flush(self, seconds: float) -> bool:
        """Wait up to ``seconds`` until nothing waits, and say whether that came about."""
        deadline = time.monotonic() + seconds
        while True:
            with self._changed:
                if not self._waiting:
                    return True
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return False
            if self._can_block:
                with self._changed:
                    self._changed.wait(min(remaining, _POLL_SECONDS))
            elif self._is_ready(min(remaining, _POLL_SECONDS)):
                self._write_turn()

    def give_up(self) -> None:
        """Lose what still waits, and count it."""
        with self._changed:
            lost = len(self._waiting)
            self._waiting.clear()
            self._bytes = 0
        if lost:
            self.on_loss(WRITE_FAILED, lost)

    def _write_waiting(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
            if self._can_block:
                self._write_blocking()
            elif self._is_ready(_POLL_SECONDS):
                self._write_turn()

    def _is_ready(self, seconds: float) -> bool:
        """Wait until the reader takes something, or is gone, and say whether that came about."""
        # One object for each call: two threads may not share one.
        poll = select.poll()
        poll.register(self._file_descriptor, select.POLLOUT)
        return bool(poll.poll(1000 * seconds))

    def _write_turn(self) -> None:
        """Write what the reader takes, up to a bound; the lock is held, but nothing is waited for."""
        lost = turn = 0
        with self._changed:
            self._writing = True
            while self._waiting and turn < _TURN_BYTES:
                line = self._waiting[0]
                try:
                    written = self._send(line)
                except BlockingIOError:
                    break
                except OSError:
                    written = len(line)
                    lost += 1
                turn += written
                self._done(line, written)
            self._writing = False
        if lost:
            self.on_loss(WRITE_FAILED, lost)

    def _write_blocking(self) -> None:
        """Write one line where only a write that may block is possible: without the lock."""
        with self._changed:
            if not self._waiting:
                return
            line = self._waiting[0]
        lost = 0
        try:
            written = self._send(line)
        except OSError:
            written = len(line)
            lost = 1
        with self._changed:
            if self._waiting and self._waiting[0] is line:
                self._done(line, written)
        if lost:
            self.on_loss(WRITE_FAILED, lost)

    def _done(self, line: bytes, written: int) -> None:
        if written == len(line):
            self._waiting.popleft()
        else:
            self._waiting[0] = line[written:]
        self._bytes -= written
        if not self._waiting:
            self._changed.notify_all()


def _sender(file_descriptor: int) -> tuple[Callable[[bytes], int], bool]:
    """Return a function that writes what can be written without waiting, and whether it may block all the same.

    The flag O_NONBLOCK belongs to what is open and not to the process: set on standard output itself, it would break
    other programs that share it. Opened anew, a pipe or a terminal has flags of its own.
    """
    mode = os.fstat(file_descriptor).st_mode
    if stat.S_ISSOCK(mode):
        # Closed with the process: nobody else may close what it shares with others.
        stream = socket.socket(fileno=os.dup(file_descriptor))
        flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
        return lambda data: stream.send(data, flags), False
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        try:
            path = f"/proc/self/fd/{file_descriptor}"
            own = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            return lambda data: os.write(file_descriptor, data), True
        return lambda data: os.write(own, data), False
    # A file takes what it is given: the kernel writes it later.
    return lambda data: os.write(file_descriptor, data), False
