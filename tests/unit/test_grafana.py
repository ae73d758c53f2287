"""Finding Grafana: a folder that the person names, or what was fetched, and a sentence where there is neither."""

from pathlib import Path

import pytest

from sightglass.facts import versions
from sightglass.facts.errors import UserError
from sightglass.local.grafana import GrafanaHome, Unavailable, find, release

PROGRAM = "#!/bin/sh\necho fake grafana\n"
FILES = {"bin/grafana": PROGRAM, "conf/defaults.ini": "[server]\n", "public/index.html": "<html></html>\n"}


def unpacked(folder: Path, files: dict[str, str] = FILES) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        (folder / name).chmod(0o755 if "bin/" in name else 0o644)
    return folder


def command(home: Path, *words: str) -> GrafanaHome:
    return GrafanaHome(home, (str(home / "bin" / words[0]), *words[1:]))


class TestGivenHome:
    def test_it_wins_over_what_was_fetched(self, tmp_path: Path) -> None:
        home = unpacked(tmp_path / "mine")
        assert release(home) is None
        assert find(home, unpacked(tmp_path / "fetched")) == command(home, "grafana", "server")

    def test_the_old_name_of_the_program(self, tmp_path: Path) -> None:
        home = unpacked(tmp_path / "old", FILES | {"bin/grafana-server": PROGRAM})
        (home / "bin" / "grafana").unlink()
        assert find(home) == command(home, "grafana-server")

    @pytest.mark.parametrize("lost", sorted(FILES))
    def test_an_incomplete_one_is_an_error(self, tmp_path: Path, lost: str) -> None:
        home = unpacked(tmp_path / "half", {name: text for name, text in FILES.items() if name != lost})
        with pytest.raises(UserError) as caught:
            find(home)
        assert str(caught.value) == (
            f"GRAFANA_HOME is {home}, which is no unpacked Grafana release: it has to hold bin/grafana "
            "(or bin/grafana-server), conf/defaults.ini and public. Correct it or unset it."
        )


class TestFetched:
    def test_what_was_unpacked_is_started(self, tmp_path: Path) -> None:
        home = unpacked(tmp_path / "grafana")
        assert find(None, home) == command(home, "grafana", "server")

    def test_an_archive_of_something_else(self, tmp_path: Path) -> None:
        found = find(None, unpacked(tmp_path, {"readme": "no Grafana"}))
        assert isinstance(found, Unavailable)
        assert "holds no Grafana release" in found.reason

    def test_the_reason_and_what_to_set(self) -> None:
        version = versions.load().servers["grafana"].version
        assert find(None, None, "dl.example cannot be reached (refused)") == Unavailable(
            "Grafana could not be fetched: dl.example cannot be reached (refused). To have dashboards, "
            f"unpack a release of Grafana (such as {version}) and set GRAFANA_HOME to its folder."
        )

    def test_a_machine_that_upstream_has_none_for(self) -> None:
        found = find(None)
        assert isinstance(found, Unavailable)
        assert found.reason.startswith("There is no Grafana for ")


def test_the_archive_is_of_the_one_version() -> None:
    found = release(None)
    assert found is not None
    assert versions.load().servers["grafana"].version in found.url
