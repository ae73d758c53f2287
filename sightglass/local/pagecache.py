"""Takes fresh files out of the system's page cache.

A program that was just written lies there in large pieces, and a piece is mapped whole: the servers then count 150 MiB
more as resident than after a start from the disk, where only what is needed is read, in small pieces.
"""

import os
import sys
from pathlib import Path

LEAST = 2**20
"""Bytes of a file that is worth it."""


def forget(folder: Path) -> None:
    """Write the large files of a folder to the disk, and free the memory that they take; on Linux alone."""
    if sys.platform != "linux":
        return
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink() and file.stat().st_size >= LEAST:
            descriptor = os.open(file, os.O_RDONLY)
            try:
                # Only what is on the disk can be freed.
                os.fdatasync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
