"""Sets aside queue files that the Collector could not open, so that it starts whatever a power cut left behind.

The Collector keeps what waits for a server in files of bbolt. Where one is damaged, bbolt panics in a thread of its
own, which no option of the Collector catches. This looks at each file as bbolt does when it opens it, and renames one
that is damaged; then it becomes the program that is named after it:

    python -m sightglass.runtime.queue_files FOLDER [COMMAND ...]

It needs nothing but Python, for it also runs before the Collector in a cluster.
"""

import json
import mmap
import os
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

DAMAGED = ".damaged"
"""Ending of a file that was set aside; the next one of that queue takes its place, so that they never fill the disk."""
TEMPORARY = "tempdb"
"""Files of a compaction that a kill interrupted; the Collector itself removes them."""

_PAGE = struct.Struct("<QHHI")
"""Header of a page: its number, flags, how many elements it has, how many further pages it extends over."""
_META = struct.Struct("<IIIIQQQQQQ")
"""Magic number, version, page size, flags, root page, sequence, free list, end of used pages, transaction, sum."""
_BRANCH_ELEMENT = struct.Struct("<IIQ")
_LEAF_ELEMENT = struct.Struct("<IIII")
_BUCKET = struct.Struct("<QQ")
_MAGIC, _VERSION = 0xED0CDAED, 2
_BRANCH, _LEAF = 0x01, 0x02
_IS_BUCKET = 0x01
_QUEUE = b"qmv0"
"""Key of what a queue knows of itself: where it reads and where it writes."""
_MOST = 10_000_000
"""Items that no queue of half a gigabyte can hold."""


class Damage(Exception):  # noqa: N818 - it is what was found
    """Why a file cannot be opened."""


class _File:
    """One file of bbolt, read as the library reads it."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.page_size, self.root, self.end = self._meta()
        self.seen: set[int] = set()

    def _meta(self) -> tuple[int, int, int]:
        """Page size, root page and end of used pages of the newest valid meta page."""
        found = []
        # The first meta page is at the start, the second one page later, and its size is not known yet.
        for offset in (0, *(1024 << shift for shift in range(7))):
            if offset + _PAGE.size + _META.size > len(self.data):
                continue
            content = self.data[offset + _PAGE.size : offset + _PAGE.size + _META.size]
            magic, version, size, _, root, _, _, end, transaction, checksum = _META.unpack(content)
            if (magic, version) == (_MAGIC, _VERSION) and _fnv(content[:-8]) == checksum and offset in (0, size):
                found.append((transaction, size, root, end))
        if not found:
            raise Damage("it has no valid meta page")
        _, size, root, end = max(found)
        return size, root, end

    def check(self) -> None:
        """Raise :class:`Damage` where bbolt would panic."""
        self._tree(self.root, None, None)

    def _tree(self, number: int, least: bytes | None, below: bytes | None) -> bytes | None:
        """Check all pages under one, whose keys lie between two; return the greatest key."""
        page, flags, elements = self._page(number)
        last = least
        if flags == _BRANCH:
            children = list(self._branches(page, elements))
            for position, (key, child) in enumerate(children):
                _order(number, position, key, last, below)
                limit = children[position + 1][0] if position + 1 < len(children) else below
                last = self._tree(child, key, limit)
            return last
        for position, (key, value, is_bucket) in enumerate(_leaves(page, elements, number)):
            _order(number, position, key, last, below)
            last = key
            if is_bucket:
                self._bucket(value, number)
            elif key == _QUEUE:
                _queue(value)
        return last

    def _bucket(self, value: bytes, number: int) -> None:
        if len(value) < _BUCKET.size:
            raise Damage(f"a bucket of page {number} is cut off")
        root, _ = _BUCKET.unpack_from(value)
        if root:
            self._tree(root, None, None)
            return
        # A small bucket is a page inside its value.
        page = value[_BUCKET.size :]
        if len(page) < _PAGE.size:
            raise Damage(f"a bucket of page {number} is cut off")
        _, flags, elements, _ = _PAGE.unpack_from(page)
        if flags != _LEAF:
            raise Damage(f"a bucket of page {number} is no leaf")
        last = None
        for position, (key, content, _) in enumerate(_leaves(page, elements, number)):
            _order(number, position, key, last, None)
            last = key
            if key == _QUEUE:
                _queue(content)

    def _page(self, number: int) -> tuple[bytes, int, int]:
        """Content, flags and number of elements of a page that is referred to for the first time."""
        start = number * self.page_size
        if number < 2 or number >= self.end or start + self.page_size > len(self.data):
            raise Damage(f"page {number} is out of bounds")
        own, flags, elements, more = _PAGE.unpack_from(self.data, start)
        if own != number:
            raise Damage(f"page {number} says that it is page {own}")
        if flags not in (_BRANCH, _LEAF):
            raise Damage(f"page {number} is neither branch nor leaf")
        pages = range(number, number + more + 1)
        if pages[-1] >= self.end or (pages[-1] + 1) * self.page_size > len(self.data):
            raise Damage(f"page {number} extends out of bounds")
        if not self.seen.isdisjoint(pages):
            raise Damage(f"page {number} is referred to twice")
        self.seen.update(pages)
        return self.data[start : start + len(pages) * self.page_size], flags, elements

    def _branches(self, page: bytes, elements: int) -> Iterator[tuple[bytes, int]]:
        for index in range(elements):
            at = _PAGE.size + index * _BRANCH_ELEMENT.size
            if at + _BRANCH_ELEMENT.size > len(page):
                raise Damage("a branch page is cut off")
            offset, key_size, child = _BRANCH_ELEMENT.unpack_from(page, at)
            yield _slice(page, at + offset, key_size), child


def _leaves(page: bytes, elements: int, number: int) -> Iterator[tuple[bytes, bytes, bool]]:
    """Key, value and whether it is a bucket, of each element; what waits in the queue is not read."""
    for index in range(elements):
        at = _PAGE.size + index * _LEAF_ELEMENT.size
        if at + _LEAF_ELEMENT.size > len(page):
            raise Damage(f"page {number} is cut off")
        flags, offset, key_size, value_size = _LEAF_ELEMENT.unpack_from(page, at)
        key, is_bucket = _slice(page, at + offset, key_size), bool(flags & _IS_BUCKET)
        start = at + offset + key_size
        if start + value_size > len(page):
            raise Damage("an element lies outside its page")
        yield key, page[start : start + value_size] if is_bucket or key == _QUEUE else b"", is_bucket


def _slice(page: bytes, start: int, size: int) -> bytes:
    if start + size > len(page):
        raise Damage("an element lies outside its page")
    return page[start : start + size]


def _order(number: int, position: int, key: bytes, last: bytes | None, below: bytes | None) -> None:
    """Keys rise, the first of a page may be that of its branch, and all stay below the branch's next."""
    if last is not None and (key < last or (position > 0 and key == last)):
        raise Damage(f"page {number} is out of order")
    if below is not None and key >= below:
        raise Damage(f"page {number} is out of order")


def _queue(value: bytes) -> None:
    """The queue would count from where it reads to where it writes, one by one."""
    fields = {value[at]: value[at + 1 : at + 9] for at in range(0, len(value) - 8, 9) if value[at] in (0x19, 0x21)}
    read, write = (int.from_bytes(fields.get(tag, b""), "little") for tag in (0x19, 0x21))
    if not 0 <= write - read <= _MOST:
        raise Damage(f"it reads at {read} and writes at {write}")


def _fnv(content: bytes) -> int:
    """FNV-1a of 64 bits."""
    total = 0xCBF29CE484222325
    for byte in content:
        total = (total ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return total


def damage(file: Path) -> str:
    """Why the Collector could not open a file, empty where it can. A file that is still empty is a new one."""
    if file.stat().st_size == 0:
        return ""
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            _File(data).check()
        except Damage as found:
            return str(found)
    return ""


def set_aside(folder: Path) -> dict[Path, str]:
    """Rename each damaged file of a folder; return the new names, each with what is wrong."""
    found = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not file.is_file() or file.name.startswith(TEMPORARY) or file.suffix == DAMAGED:
            continue
        if why := damage(file):
            aside = file.with_name(file.name + DAMAGED)
            file.replace(aside)
            found[aside] = why
    return found


def main(folder: str, *command: str) -> None:
    """Set aside what is damaged, say so as the Collector would, and go on as the command."""
    for file, why in set_aside(Path(folder)).items():
        line = {
            "level": "error",
            "ts": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "msg": f"A queue file is damaged ({why}); what waited in it is lost. It was set aside.",
            "file": str(file),
        }
        print(json.dumps(line), file=sys.stderr, flush=True)
    if command:
        os.execv(command[0], command)  # noqa: S606 - the program that it was asked to become


if __name__ == "__main__":
    main(*sys.argv[1:])
