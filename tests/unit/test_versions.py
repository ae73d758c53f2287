"""Every version stands in one file, and what repeats one says the same."""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sightglass.facts import versions
from sightglass.facts.errors import UserError
from sightglass.facts.settings import REPOSITORY
from sightglass.facts.versions import Mention
from sightglass.local.servers import LOAD_GENERATOR, SERVERS

KNOWN = versions.load()
MENTIONS = list(versions.mentions())
# A build that is another version than archive and image; each says why in the file.
OTHER_BUILDS = {"minio", "alertmanager", "tempo", "promtail"}
LOCKED = re.compile(r"^(servers/[a-z-]+/go\.(mod|sum)|servers/collector/builder\.yaml|.*requirements.*\.txt)$")
HISTORY = re.compile(r"^(CHANGELOG\.md|docs/decisions/.*)$")


def built(name: str) -> str:
    build = KNOWN.servers[name].build
    assert build is not None
    return build.release or KNOWN.servers[name].version


def test_a_build_is_the_same_version_but_where_the_file_says_why() -> None:
    with_build = [name for name, server in KNOWN.servers.items() if server.build]
    assert {name for name in with_build if built(name) != KNOWN.servers[name].version} == OTHER_BUILDS
    for name in with_build:
        because = KNOWN.servers[name].build.because  # type: ignore[union-attr]
        assert bool(because) == (name in OTHER_BUILDS), name
        assert because is None or re.fullmatch(r"[A-Z].{40,}\.", because), name


def test_archive_and_image_are_one_version() -> None:
    for name, server in KNOWN.servers.items():
        if server.image:
            assert server.image.tag.removeprefix("v") == server.version, name
            assert server.image.digest, name
        if server.release:
            assert server.version in server.release.url, name


def test_loki_is_past_the_versions_that_lose_chunks() -> None:
    assert tuple(int(part) for part in KNOWN.servers["loki"].version.split(".")) >= (3, 7, 7)


def test_a_checksum_has_two_sources_at_least() -> None:
    for name, server in KNOWN.servers.items():
        if server.release and server.release.sha256:
            assert len(server.release.sources) >= 2, name
            assert set(server.release.sha256) <= set(server.release.platforms), name
    sums = [found for server in KNOWN.servers.values() if server.release for found in server.release.sha256.values()]
    assert len(sums) == len(set(sums))


def test_every_server_is_in_the_file() -> None:
    assert {server.name for server in (*SERVERS, LOAD_GENERATOR)} | {"grafana"} == KNOWN.servers.keys()
    for server in SERVERS:
        release = KNOWN.servers[server.name].release
        assert release is not None
        assert release.members.keys() == server.programs.keys()


def stale(mention: Mention) -> bool:
    text = mention.file.read_text()
    return mention.written(text) != text


@pytest.mark.parametrize("mention", MENTIONS, ids=lambda mention: f"{mention.file.parent.name}/{mention.file.name}")
def test_places_say_what_the_file_says(mention: Mention) -> None:
    assert not stale(mention), "run `make generate`"
    assert stale(replace(mention, version="0.0.0-other"))


def test_a_place_that_is_gone_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("image: something\n")
    with pytest.raises(ValueError, match=r"has no place for 1\.2\.3"):
        Mention(file, r"image: \S+:(\S+)", "1.2.3").written(file.read_text())


# Nowhere else


def known_versions() -> set[str]:
    """What must not stand anywhere else: each version that is told from others by two dots at least."""
    found = {server.version for server in KNOWN.servers.values()}
    found |= {server.build.version for server in KNOWN.servers.values() if server.build}
    found |= {server.build.release for server in KNOWN.servers.values() if server.build and server.build.release}
    found |= {image.tag for image in KNOWN.all_images().values()}
    found |= {chart.version for chart in (*KNOWN.charts.values(), *KNOWN.scale.values())}
    return {version.removeprefix("v") for version in found}


def elsewhere(texts: Iterator[tuple[str, str]]) -> list[str]:
    """``file: version`` of each version that stands outside of its file and of the mentions that repeat it."""
    pattern = re.compile(rf"(?<![\w.])v?({'|'.join(re.escape(version) for version in known_versions())})(?![\w]|\.\d)")
    found = []
    for name, text in texts:
        for mention in MENTIONS:
            if mention.file == REPOSITORY / name:
                text = replace(mention, version="").written(text)
        found += [f"{name}: {match[1]}" for match in pattern.finditer(text)]
    return found


def tracked() -> Iterator[tuple[str, str]]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    ).stdout.split("\0")
    for name in filter(None, listed):
        if name == versions.FILE.name or LOCKED.match(name) or HISTORY.match(name):
            continue
        file = REPOSITORY / name
        if file.is_file() and file.suffix in (".py", ".md", ".yaml", ".yml", ".toml", ".env", ".ini", ""):
            yield name, file.read_text(errors="replace")


def test_no_version_stands_anywhere_else() -> None:
    texts = list(tracked())
    if not texts:
        pytest.skip("needs a git checkout")
    assert elsewhere(iter(texts)) == []
    grafana = KNOWN.servers["grafana"].version
    assert elsewhere(iter([("docs/x.md", f"Grafana {grafana}.")])) == [f"docs/x.md: {grafana}"]
    assert elsewhere(iter([("docs/x.md", f"Grafana {grafana}1 and 1{grafana}")])) == []


# Mistakes in the file


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": "1.2.3", "licence": "MIT", "relase": {}}, r"servers\.x\.relase: Unexpected keyword"),
        ({"version": "1.2.3"}, r"servers\.x\.licence: Field required"),
        (
            {
                "version": "1.2.3",
                "licence": "MIT",
                "release": {"url": "u", "checksums": "c", "platforms": ["linux-amd64"], "sha256": {"linux-amd64": "1"}},
            },
            r"servers\.x\.release\.sha256\.linux-amd64: String should match",
        ),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, change: dict[str, object], said: str) -> None:
    file = tmp_path / "versions.yaml"
    file.write_text(f"servers: {{x: {change!r}}}\nimages: {{}}\ncharts: {{}}\nscale: {{}}\n".replace("'", '"'))
    with pytest.raises(UserError, match=said):
        versions.read(file)
