"""What goes into the service's image and how the image is named; a stand-in for the engine says what engines say."""

import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import model_store
from sightglass.facts.errors import UserError
from sightglass.facts.settings import REPOSITORY, SERVICES
from sightglass.kubernetes import image, manifests
from sightglass.kubernetes.options import load as load_options

BASE = "docker.io/library/python:3.11-slim"
NAMES = [service.name for service in SERVICES]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with two models of each service, kept for their owner only."""
    home = tmp_path / "home"
    for name in NAMES:
        for digest in ("old", "new"):
            folder = home / name / digest
            folder.mkdir(parents=True)
            for file in ("model.json", "model.joblib"):
                (folder / file).write_text(f"{file} of {digest}")
                (folder / file).chmod(0o600)
            folder.chmod(0o700)
        (home / name / "current").write_text("new\n")
        (home / name / "versions.json").write_text('{"new": "2026-12-01.1"}')
    return home


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what the image is made of, to be changed."""
    copy = tmp_path / "checkout"
    for name in ("sightglass", "example-service", "ml-telemetry"):
        shutil.copytree(REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(image, "REPOSITORY", copy)
    monkeypatch.setattr(image, "SOURCE", copy / "example-service")
    monkeypatch.setattr(image, "TELEMETRY", copy / "ml-telemetry" / "src")
    return copy


@pytest.fixture
def staged(store: Path, tmp_path: Path) -> Callable[[], Path]:
    """Stages the store into a new folder each time."""
    folders = iter(tmp_path / f"staged-{number}" for number in range(10))

    def stage() -> Path:
        folder = next(folders)
        image.context(store, folder)
        return folder

    return stage


def archive(folder: Path) -> str:
    """Sum over the folder as an engine gets it: names, modes, times and content."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for path in sorted(folder.rglob("*")):
            entry = tar.gettarinfo(str(path), str(path.relative_to(folder)))
            tar.addfile(entry, io.BytesIO(path.read_bytes()) if path.is_file() else None)
    return hashlib.sha256(stream.getvalue()).hexdigest()


def test_same_input_is_staged_as_the_same_bytes(staged: Callable[[], Path], store: Path, checkout: Path) -> None:
    first = staged()
    for file in (store / NAMES[0] / "new" / "model.json", checkout / "sightglass" / "runtime" / "canary.py"):
        os.utime(file, (1, 1))
    second = staged()
    assert archive(first) == archive(second)
    assert image.tag(first, BASE) == image.tag(second, BASE)
    (second / "Dockerfile").touch()
    assert archive(first) != archive(second)


@pytest.mark.parametrize(
    "changed",
    [
        "example-service/Dockerfile",
        "example-service/requirements.txt",
        "example-service/text_classifier/service.py",
        "example-service/text_classifier/small_corpus.json",
        "ml-telemetry/src/ml_telemetry/runtime.py",
        "sightglass/runtime/canary.py",
        "sightglass/runtime/storage.py",
        "sightglass/clients/polling.py",
    ],
)
def test_what_goes_in_is_part_of_the_name(staged: Callable[[], Path], checkout: Path, changed: str) -> None:
    before = image.tag(staged(), BASE)
    with (checkout / changed).open("a") as file:
        file.write("\n")
    assert image.tag(staged(), BASE) != before


@pytest.mark.parametrize(
    "unused", ["sightglass/cli/commands.py", "sightglass/alerting/slo.py", "sightglass/kubernetes/image.py"]
)
def test_the_tool_does_not_go_in(staged: Callable[[], Path], checkout: Path, unused: str) -> None:
    before = image.tag(staged(), BASE)
    with (checkout / unused).open("a") as file:
        file.write("\n")
    folder = staged()
    assert image.tag(folder, BASE) == before
    assert not (folder / "sightglass" / unused).exists()


def test_model_base_and_version_are_part_of_the_name(staged: Callable[[], Path], store: Path) -> None:
    folder = staged()
    name = image.tag(folder, BASE)
    assert re.fullmatch(rf"docker\.io/sightglass/services:{re.escape(image.VERSION)}-[0-9a-f]{{12}}", name)
    assert image.tag(folder, f"{BASE}@sha256:{'0' * 64}") != name
    (store / NAMES[0] / "current").write_text("old")
    assert image.tag(staged(), BASE) != name


def test_the_served_model_alone_goes_in_and_another_user_may_read_it(staged: Callable[[], Path], store: Path) -> None:
    folder = staged()
    for name in NAMES:
        models = folder / "models" / name
        assert sorted(path.name for path in models.iterdir()) == ["current", "new"]
        assert (models / "new" / "model.json").read_text() == "model.json of new"
        assert (store / name / "new" / "model.json").stat().st_mode & 0o077 == 0
    unreadable = [path for path in folder.rglob("*") if path.stat().st_mode & 0o777 not in (0o755, 0o644)]
    assert unreadable == []


def test_pods_are_told_the_version_that_people_know(store: Path) -> None:
    assert image.model_versions(store) == dict.fromkeys(NAMES, "2026-12-01.1")
    ours: dict[str, Any] = {"kind": "ConfigMap", "metadata": {"name": f"{NAMES[0]}-env"}, "data": {"A": "1"}}
    foreign: dict[str, Any] = {"kind": "ConfigMap", "metadata": {"name": "other-env"}, "data": {"A": "1"}}
    manifests.with_model_versions([ours, foreign], image.model_versions(store))
    assert ours["data"] == {"A": "1", model_store.VERSION_VARIABLE: "2026-12-01.1"}
    assert foreign["data"] == {"A": "1"}


def run_staged(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code with the staged packages and the installed libraries, and without this checkout."""
    site = sysconfig.get_path("purelib")
    paths = f"import sys; sys.path[:0] = [{str(folder / 'sightglass')!r}]; sys.path.append({site!r}); "
    command = [sys.executable, "-I", "-S", "-B", "-c", paths + code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_programs_have_all_modules_that_they_import(staged: Callable[[], Path]) -> None:
    folder = staged()
    code = (
        "import sightglass.runtime.canary, sightglass.runtime.storage; "
        "import ml_telemetry.runtime, text_classifier.estimator; "
        "from importlib.metadata import version; "
        "print(sightglass.__file__, version('sightglass'), version('ml-telemetry'))"
    )
    done = run_staged(folder, code)
    versions = [image.VERSION, metadata.version("ml-telemetry")]
    assert done.stdout.split() == [str(folder / "sightglass" / "sightglass" / "__init__.py"), *versions], done.stderr
    (folder / "sightglass" / "sightglass" / "clients" / "polling.py").unlink()
    assert "No module named 'sightglass.clients.polling'" in run_staged(folder, code).stderr


def test_without_a_model_the_sentence_says_what_trains_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no trained model of \S+ in .*/empty: `make up` trains one"):
        image.context(tmp_path / "empty", tmp_path / "folder")


def test_a_folder_with_files_is_left_alone(tmp_path: Path, store: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(FileExistsError):
        image.context(store, tmp_path)
    assert (tmp_path / "mine").read_text() == "mine"


def test_the_image_has_the_locked_versions_and_not_the_tools_packages() -> None:
    def pins(file: Path) -> set[str]:
        return set(re.findall(r"^[a-z0-9-]+==[^\\\n]+", file.read_text(), re.MULTILINE))

    everything, service = pins(REPOSITORY / "requirements.txt"), pins(image.SOURCE / "requirements.txt")
    assert service < everything
    packages = {pin.partition("==")[0] for pin in service}
    assert {"bentoml", "scikit-learn", "minio", "requests"} <= packages
    assert not {"locust", "supervisor", "playwright", "uv", "pytest"} & packages


def test_dockerfile_declares_what_is_passed() -> None:
    text = (image.SOURCE / "Dockerfile").read_text()
    # Proxies are declared by every engine itself.
    declared = set(re.findall(r"^ARG (PIP_\w+)$", text, re.MULTILINE))
    assert declared == {name for name in image.BUILD_VARIABLES if name.startswith("PIP_")}


def test_base_image_is_the_pinned_one_unless_the_environment_names_another(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BASE_IMAGE", "IMAGE_REGISTRY", "IMAGE_DIGESTS"):
        monkeypatch.delenv(name, raising=False)
    assert re.fullmatch(r"docker\.io/library/python:3\.11\S*@sha256:[0-9a-f]{64}", image.base_image(load_options()))
    monkeypatch.setenv("IMAGE_REGISTRY", "mirror.example:5000")
    monkeypatch.setenv("IMAGE_DIGESTS", "off")
    assert re.fullmatch(r"mirror\.example:5000/library/python:3\.11[^@]*", image.base_image(load_options()))
    monkeypatch.setenv("BASE_IMAGE", "mine:1")
    assert image.base_image(load_options()) == "mine:1"


# The engine


Engine = Callable[[str], Path]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """Puts a ``docker`` of these shell lines on the PATH, alone; returns the file with the arguments of each call."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    for name in (*image.BUILD_VARIABLES, "CONTAINER_ENGINE"):
        monkeypatch.delenv(name, raising=False)

    def install(lines: str) -> Path:
        calls = tmp_path / "calls"
        program = folder / "docker"
        program.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n{lines}\n')
        program.chmod(0o755)
        return calls

    return install


def build(folder: Path) -> None:
    image.build(folder, "sightglass/text-classifier:test", BASE, Console(file=io.StringIO()))


def test_no_engine_is_one_sentence(fake: Engine) -> None:
    with pytest.raises(UserError, match=r"^docker is not installed: install Docker, or .*CONTAINER_ENGINE=podman"):
        image.exists(BASE)
    fake("exit 0")
    assert image.exists(BASE)


def test_another_engine_must_be_one_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTAINER_ENGINE", "nerdctl")
    with pytest.raises(UserError, match="CONTAINER_ENGINE does not fit: Input should be 'docker' or 'podman'"):
        image.exists(BASE)
    monkeypatch.setenv("CONTAINER_ENGINE", "podman")
    assert image.engine() == "podman"


def test_an_engine_that_does_not_answer_is_to_be_started(fake: Engine, tmp_path: Path) -> None:
    fake("echo warning >&2; echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    for call in (lambda: image.exists(BASE), lambda: build(tmp_path), lambda: image.save("a", tmp_path / "a.tar")):
        with pytest.raises(UserError, match=r"does not answer \(Cannot connect .*\): start it, with `systemctl"):
            call()


@pytest.mark.parametrize(
    ("failing", "sentence"),
    [
        (
            "image:exit 1;; pull:echo pull access denied; exit 1",
            "base image .*slim cannot be pulled: .* set BASE_IMAGE .*\n  pull access denied",
        ),
        (
            "build:echo \"Retrying after connection broken by 'NewConnectionError'\"; exit 1",
            "packages cannot be fetched: .* set PIP_INDEX_URL .*\n  Retrying",
        ),
        ("build:echo no space left; exit 1", r"text-classifier:test could not be built. docker said:\n  no space left"),
    ],
)
def test_each_failure_of_a_build_has_a_sentence(fake: Engine, tmp_path: Path, failing: str, sentence: str) -> None:
    cases = "\n".join(
        f"{name}) {action};;" for name, _, action in (case.partition(":") for case in failing.split(";; "))
    )
    fake(f'case "$1" in\n{cases}\nesac')
    with pytest.raises(UserError, match=sentence):
        build(tmp_path)
    fake("exit 0")
    build(tmp_path)


def test_a_mirror_is_passed_to_the_build_but_not_shown(
    fake: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = fake("exit 0")
    build(tmp_path)
    assert "PIP_INDEX_URL" not in calls.read_text()
    monkeypatch.setenv("PIP_INDEX_URL", "https://me:secret@mirror.example/simple")
    build(tmp_path)
    assert f"--build-arg=BASE_IMAGE={BASE} --build-arg=PIP_INDEX_URL {tmp_path}\n" in calls.read_text()
    assert "secret" not in calls.read_text()


def test_an_image_that_is_there_is_not_built_again(
    fake: Engine, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BASE_IMAGE", BASE)
    console = Console(file=io.StringIO())
    calls = fake("exit 0")
    name = image.ensure(store, load_options(), console)
    assert "\nbuild " not in calls.read_text()
    made = tmp_path / "made"
    fake(f'case "$*" in build*) : > {made};; *inspect*{name}) test -e {made};; esac')
    assert image.ensure(store, load_options(), console) == name
    assert f"\nbuild --force-rm --tag={name} " in calls.read_text()


def test_an_image_that_another_builder_kept_is_said(fake: Engine, tmp_path: Path) -> None:
    fake('case "$*" in *inspect*:test) exit 1;; esac')
    with pytest.raises(UserError, match=r"was built, but docker does not have it, .*`docker buildx use default`"):
        build(tmp_path)
