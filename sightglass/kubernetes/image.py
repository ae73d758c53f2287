"""The image of the service, the canary and the storage Job: staged, named by all that goes into it, and built.

    python -m sightglass.kubernetes.image    # build it unless it is there, print its name

The environment may say CONTAINER_ENGINE (docker, or podman with the same commands), BASE_IMAGE, and pip's variables
for a mirror. The build works with and without BuildKit.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import click
from rich.console import Console

from sightglass.clients import kubectl
from sightglass.facts.errors import UserError
from sightglass.facts.services import Service
from sightglass.facts.settings import REPOSITORY, SERVICES
from sightglass.facts.settings import load as load_settings
from sightglass.kubernetes import charts
from sightglass.kubernetes.options import KubernetesSettings
from sightglass.kubernetes.options import load as load_options
from sightglass.kubernetes.workloads import IMAGE
from sightglass.terminal.progress import Meter

HOST = "docker.io/"
"""What an image without a registry belongs to; podman would say ``localhost/``, and no pod would find it."""
NAME = f"{HOST}{IMAGE}"
SOURCE = REPOSITORY / "example-service"
TELEMETRY = REPOSITORY / "ml-telemetry" / "src"
VERSION = metadata.version("sightglass")
DISTRIBUTIONS = ("sightglass", "ml-telemetry")
"""Packages of this checkout that tell their version on the service's signals."""
PACKAGES = ("facts", "clients", "runtime")
"""Packages of the tool that the image's programs need: it has no other."""
BASE = "python"
"""Name of the base in versions.yaml."""
BUILD_VARIABLES = (
    *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
)
"""Variables that the build takes over where they are set; none is kept in the image."""
EPOCH = 1577836800
"""Time of every staged file, in Unix seconds: a file that only looks newer makes no other layer."""
TAIL = 20
"""Lines of the engine's output that an error shows."""
_NO_INDEX = re.compile(r"connection broken by|Max retries exceeded|Could not fetch URL|from versions: none")


class _CommandError(Exception):
    """The engine ended with an error; the message is the end of what it said."""


def engine() -> str:
    """The program that builds."""
    return load_options().container_engine


def base_image(settings: KubernetesSettings) -> str:
    """The image to build on: BASE_IMAGE, else the one of versions.yaml, from the mirror if there is one."""
    if settings.base_image:
        return settings.base_image
    _, images = charts.load()
    return images[BASE].reference(settings.image_registry, settings.image_digests == "on")


def context(models: Path, folder: Path) -> None:
    """Stage all that the Dockerfile copies into a folder that is empty or not there: the same input, the same bytes.

    ``models`` is a store; of each service the model that is served is taken, without what only that store knows of it.
    Raises :class:`UserError` where there is none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty")
    for name in ("Dockerfile", "requirements.txt"):
        shutil.copyfile(SOURCE / name, folder / name)
    (folder / "models").mkdir()
    for service in SERVICES:
        if service.training is not None:
            _copy_model(models / service.name, folder / "models" / service.name, service)
    _copy_programs(folder / "sightglass")
    for path in (folder, *folder.rglob("*")):
        # A model may be for its owner only; in the image, root owns all and another user reads it.
        path.chmod(0o755 if path.is_dir() else 0o644)
        os.utime(path, (EPOCH, EPOCH))


def _copy_model(source: Path, target: Path, service: Service) -> None:
    try:
        digest = (source / "current").read_text().strip()
        shutil.copytree(source / digest, target / digest)
    except FileNotFoundError:
        raise UserError(
            f"There is no trained model of {service.name} in {source.parent}: `make up` trains one, as does "
            f"`SIGHTGLASS_MODELS_DIR={source.parent} {sys.executable} -m {service.training}`."
        ) from None
    (target / "current").write_text(digest)


def model_versions(models: Path) -> dict[str, str]:
    """Version for people of the model that each service serves, as this machine's store has it."""
    found = {}
    for service in (service for service in SERVICES if service.training is not None):
        digest = (models / service.name / "current").read_text().strip()
        found[service.name] = json.loads((models / service.name / "versions.json").read_text())[digest]
    return found


def _copy_programs(folder: Path) -> None:
    """Copy the packages of the services, and of this one those that the programs need: not the tool itself."""
    ignore = shutil.ignore_patterns("__pycache__", ".*")
    services = [SOURCE / service.package for service in SERVICES]
    for package in (*services, SOURCE / "model_store", TELEMETRY / "ml_telemetry"):
        shutil.copytree(package, folder / package.name, ignore=ignore)
    tool = folder / "sightglass"
    for name in PACKAGES:
        shutil.copytree(REPOSITORY / "sightglass" / name, tool / name, ignore=ignore)
    shutil.copy(REPOSITORY / "sightglass" / "__init__.py", tool)
    # Where Python looks for the versions that the service puts on its signals.
    for name in DISTRIBUTIONS:
        version = metadata.version(name)
        about = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def tag(folder: Path, base: str) -> str:
    """Name of the image that a staged folder makes on a base: other content, Dockerfile or base is another name."""
    total = hashlib.sha256(f"{base}\0".encode())
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        total.update(f"{file.relative_to(folder).as_posix()}\0{content}\0".encode())
    return f"{NAME}:{VERSION}-{total.hexdigest()[:12]}"


def exists(image: str) -> bool:
    """Whether the engine has the image; raises :class:`UserError` where there is no engine that answers."""
    _require_engine()
    try:
        kubectl.run([engine(), "image", "inspect", "--format={{.Id}}", image])
    except kubectl.ProgramError:
        return False
    return True


def _require_engine() -> None:
    program = engine()
    try:
        kubectl.run([program, "ps", "--quiet"], timeout=30)
    except kubectl.ProgramError as error:
        said = error.stderr.strip().splitlines() or ["it says nothing"]
        start = "podman machine start" if program == "podman" else "systemctl start docker"
        raise UserError(
            f"{program} is installed, but its engine does not answer ({said[-1]}): start it, with `{start}` or as your "
            f"system does it, and see that you may use it, with `{program} ps`."
        ) from None


def build(folder: Path, image: str, base: str, console: Console) -> None:
    """Build a staged folder under a name, and show how far it is.

    Raises :class:`UserError` if the engine does not answer, the base cannot be pulled, or the packages cannot be had.
    """
    if not exists(base):
        try:
            _follow(["pull", base], console, f"pulling {base}")
        except _CommandError as error:
            raise UserError(
                f"The base image {base} cannot be pulled: check the network and its name, or set BASE_IMAGE to an "
                f"image with Python 3.11 that can be had. {engine()} said:\n{error}"
            ) from None
    # Without a value the engine takes it from the environment: an index with a password stays off the command line.
    passed = [f"--build-arg={name}" for name in BUILD_VARIABLES if os.environ.get(name)]
    # Without BuildKit, a failed step would leave its container.
    command = ["build", "--force-rm", f"--tag={image}", f"--build-arg=BASE_IMAGE={base}", *passed, str(folder)]
    try:
        _follow(command, console, f"building {image}")
    except _CommandError as error:
        if _NO_INDEX.search(str(error)):
            raise UserError(
                "The image's packages cannot be fetched: check the network, or set PIP_INDEX_URL to a mirror; if that "
                f"needs a certificate of its own, set BASE_IMAGE to an image that has it. pip said:\n{error}"
            ) from None
        raise UserError(f"{image} could not be built. {engine()} said:\n{error}") from None
    if not exists(image):
        raise UserError(
            f"{image} was built, but {engine()} does not have it, because another builder is selected: "
            "`docker buildx use default` selects its own."
        )


def _follow(arguments: Sequence[str], console: Console, label: str) -> None:
    """Run the engine and show the line it is at; raises :class:`_CommandError` with its last lines."""
    last: deque[str] = deque(maxlen=TAIL)
    with (
        Meter(console, label, str) as meter,
        subprocess.Popen(
            [engine(), *arguments],
            env={**os.environ, "BUILDKIT_PROGRESS": "plain"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
    ):
        assert process.stdout is not None  # noqa: S101 - it is piped above
        try:
            for line in process.stdout:
                if line.strip():
                    last.append(line.rstrip())
                    meter.note(line.strip()[:80])
        except BaseException:
            process.terminate()
            raise
        if process.wait():
            raise _CommandError(_end(last))


def _end(lines: Sequence[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)


def save(image: str, path: Path) -> None:
    """Write the image as an archive, which ``kind load``, ``ctr images import`` and their like take."""
    _require_engine()
    kubectl.run([engine(), "save", f"--output={path}", image], timeout=600)


def push(image: str, reference: str) -> None:
    """Give the image another name and push it there."""
    kubectl.run([engine(), "tag", image, reference])
    try:
        kubectl.run([engine(), "push", reference], timeout=1800)
    except kubectl.ProgramError as error:
        said = error.stderr.strip().splitlines() or ["it said nothing"]
        registry = reference.partition("/")[0]
        raise UserError(
            f"{reference} cannot be pushed ({said[-1]}): log in with `{engine()} login {registry}`, or set "
            "IMAGE_REGISTRY to a registry that takes it."
        ) from None


def ensure(model_store: Path, settings: KubernetesSettings, console: Console) -> str:
    """Return the name of the image of this checkout and model; builds it if the engine does not have it."""
    base = base_image(settings)
    with tempfile.TemporaryDirectory(prefix="sightglass-image.") as name:
        folder = Path(name)
        context(model_store, folder)
        image = tag(folder, base)
        if not exists(image):
            build(folder, image, base, console)
    return image


@click.command()
def main() -> None:
    """Build the image of this checkout and of the model that ``make up`` trained; print its name."""
    click.echo(ensure(load_settings().models_dir, load_options(), Console(stderr=True)))


if __name__ == "__main__":
    main()
