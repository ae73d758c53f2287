"""Programs that were just fetched take no memory until they are started."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from sightglass.local import pagecache
from sightglass.local.fetch import Fetcher
from tests.unit.upstream import Upstream, serve

pytestmark = pytest.mark.skipif(shutil.which("fincore") is None, reason="needs fincore, to see what is in the cache")


def cached(file: Path) -> int:
    """Bytes of a file that are in the page cache."""
    command = ["fincore", "--bytes", "--noheadings", "--output", "RES", str(file)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_what_was_written_is_no_longer_in_memory(tmp_path: Path) -> None:
    folder = tmp_path / "home" / "bin"
    folder.mkdir(parents=True)
    file = folder / "program"
    file.write_bytes(os.urandom(5_000_000))
    if cached(file) == 0:
        pytest.skip("needs a file system with a page cache")
    pagecache.forget(tmp_path / "home")
    assert cached(file) == 0


def test_a_link_to_elsewhere_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    pagecache.forget(tmp_path)


def test_a_program_that_was_fetched_takes_no_memory(tmp_path: Path) -> None:
    upstream = Upstream()
    with serve(upstream):
        one = upstream.archive("x", "x.zip", {"x": os.urandom(5_000_000)})
        found = Fetcher(tmp_path / "releases", Console(quiet=True)).fetch([one])
    assert cached(found.homes["x-1.0"] / "bin" / "x") == 0
