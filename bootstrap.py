"""Makes the virtual environment that every make target runs in, from the locked requirements.

    python3 bootstrap.py .venv          # everything, tests and all
    python3 bootstrap.py .venv run      # what a stack needs; the rest is installed by the command that uses it
    python3 bootstrap.py .venv load     # what the load tests need, besides

Runs under the system's Python, so it uses the standard library only.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

LOCKS = {
    "run": Path("requirements-run.txt"),
    "load": Path("requirements-load.txt"),
    "dev": Path("requirements.txt"),
}
"""By what is installed; each has all of those before it."""
EDITABLE = ("--editable", ".", "--editable", "ml-telemetry")
"""What of this checkout is installed in place."""
OURS = ("sightglass", "ml_telemetry")
"""The same, by the names of the files that point to it."""
OLDEST, NEWEST = (3, 11), (3, 13)


def main(folder: str, part: str = "dev") -> None:
    """Create the environment in ``folder``, install the lock with hashes checked, and mark it as ready."""
    lock = LOCKS[part]
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        sys.exit(
            f"sightglass: this is Python {sys.version.split()[0]}; Python 3.11 to 3.13 is needed: "
            "run `make up PYTHON=python3.11` with one that is installed."
        )
    venv = Path(folder)
    python = venv / "bin" / "python"
    print(f"making {venv} from {lock}", flush=True)
    ready = venv / "ready"
    # Programs of an environment name the folder that it was made in: in a copy they would run the original's code.
    own = ready.is_file() and ready.read_text().strip() == str(Path.cwd())
    markers = [_marker(venv, name) for name in LOCKS]
    for marker in markers if not own else [_marker(venv, part)]:
        marker.unlink(missing_ok=True)
    _run(
        "the virtual environment cannot be made; on Debian and Ubuntu `apt-get install python3-venv` helps",
        *(sys.executable, "-m", "venv", *([] if own else ["--clear"]), folder),
    )
    # uv installs the rest; it comes out of the same lock, so its hash is checked as well.
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as only_uv:
        only_uv.write(_locked(lock, "uv"))
        only_uv.flush()
        _run(
            "uv cannot be installed; is there a network, or a mirror set for pip?" + about_socks(),
            *(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--require-hashes", "-r", only_uv.name),
        )
    why = "the locked packages cannot be installed; the reason stands above"
    uv = [venv / "bin" / "uv", "pip"]
    # The machine's own certificates, as pip and Go take them: a company's mirror is trusted by all or by none.
    # Compiled once here, not again by every command where Python may not write what it compiled.
    options = ("--compile-bytecode", "--quiet", "--system-certs", "--python", python)
    # What an earlier command brought along stays until everything is asked for.
    way = ["sync"] if part == "dev" else ["install", "--requirements"]
    _run(why, *uv, way[0], *options, "--require-hashes", *way[1:], lock)
    _run(why, *uv, "install", *options, "--no-deps", "--no-build-isolation", *EDITABLE)
    for name in OURS:
        for paths in venv.glob(f"lib/python*/site-packages/_{name}.pth"):
            make_relative(paths)
    for marker in markers[: list(LOCKS).index(part) + 1]:
        marker.write_text(f"{Path.cwd()}\n")


def make_relative(paths: Path) -> None:
    """Name the checkout's folders from where the file is: a copy finds its own, and no locale must fit their names."""
    lines = paths.read_text(encoding="utf-8").splitlines()
    # Python 3.11 reads the file in the locale's encoding, whatever else it is told.
    found = [os.path.relpath(line, paths.parent.resolve()) for line in lines if line.strip()]
    paths.write_text("".join(f"{line}\n" for line in found), encoding="utf-8")


def _marker(venv: Path, part: str) -> Path:
    return venv / ("ready" if part == "run" else f"ready-{part}")


def _locked(lock: Path, package: str) -> str:
    match = re.search(rf"^{package}==.*?(?=^\S)", lock.read_text() + "\nend", re.MULTILINE | re.DOTALL)
    if match is None:
        sys.exit(f"sightglass: {lock} does not lock {package}: run `make lock`.")
    return match[0]


def about_socks() -> str:
    """pip alone knows no SOCKS proxy."""
    proxies = (os.environ.get(name, "") for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"))
    if next(filter(None, proxies), "").startswith("socks"):
        return " pip takes no SOCKS proxy: set HTTPS_PROXY to an HTTP proxy, or PIP_INDEX_URL and NO_PROXY to a mirror"
    return ""


def _run(why: str, *command: object) -> None:
    if subprocess.run([str(word) for word in command], check=False).returncode:
        sys.exit(f"sightglass: {why}.")


if __name__ == "__main__":
    main(*sys.argv[1:])
