"""Images of the servers for a cluster of the tests' own: the local builds, under the names that are published.

They hold a program, and for MinIO the shell that its chart calls; entry points and users are those of the published
images. `IMAGE_LOADER` gives them to the nodes.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sightglass.clients import kubectl
from sightglass.kubernetes import charts, image


@dataclass(frozen=True)
class Stub:
    """How the published image is built around the program."""

    program: str
    path: str
    user: str
    entry: str = ""
    folder: str = "/"
    shell: bool = False


STUBS: Mapping[str, Stub] = {
    "minio": Stub("minio", "/usr/bin/minio", "1000", "/usr/bin/docker-entrypoint.sh", shell=True),
    "prometheus": Stub("prometheus", "/bin/prometheus", "65534", "/bin/prometheus", "/prometheus"),
    "alertmanager": Stub("alertmanager", "/bin/alertmanager", "65534", "/bin/alertmanager", "/alertmanager"),
    "loki": Stub("loki", "/usr/bin/loki", "10001", "/usr/bin/loki"),
    "tempo": Stub("tempo", "/tempo", "10001", "/tempo"),
    "promtail": Stub("promtail", "/usr/bin/promtail", "0", "/usr/bin/promtail"),
    "collector": Stub("otelcol", "/otelcol-contrib", "10001", "/otelcol-contrib"),
}
"""By the image's name in versions.yaml."""
_ENTRYPOINT = '#!/bin/sh\nexec "$@"\n'


def write(program_files: Mapping[str, Path], base: str, folder: Path) -> list[Path]:
    """Build every image and save it as an archive; ``base`` has a shell. Returns the archives."""
    _, images = charts.load()
    archives = []
    for name, stub in STUBS.items():
        reference = images[name].reference(digests=False)
        with tempfile.TemporaryDirectory(dir=folder) as context:
            _build(Path(context), program_files[stub.program], stub, base, reference)
        archive = folder / f"{name}.tar"
        image.save(reference, archive)
        archives.append(archive)
    return archives


def _build(context: Path, program: Path, stub: Stub, base: str, reference: str) -> None:
    shutil.copyfile(program, context / "program")
    (context / "program").chmod(0o755)
    lines = [f"FROM {base if stub.shell else 'scratch'}", f"COPY program {stub.path}"]
    if stub.shell:
        (context / "entrypoint").write_text(_ENTRYPOINT)
        (context / "entrypoint").chmod(0o755)
        lines.append(f"COPY entrypoint {stub.entry}")
    lines += [f'ENTRYPOINT ["{stub.entry}"]', f"WORKDIR {stub.folder}", f"USER {stub.user}"]
    (context / "Dockerfile").write_text("\n".join(lines) + "\n")
    kubectl.run([image.engine(), "build", "--quiet", f"--tag={reference}", str(context)])


def load(loader: list[str], archives: list[Path]) -> None:
    """Give the archives to the nodes."""
    for archive in archives:
        subprocess.run([*loader, str(archive)], check=True, capture_output=True)
        archive.unlink()
