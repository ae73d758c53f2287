"""Makes the virtual environment that every make target runs in, from the locked requirements.

Runs under the system's Python, so it uses the standard library only.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

LOCK = Path("requirements.txt")
OLDEST, NEWEST = (3, 11), (3, 13)


def main(folder: str) -> None:
    """Create the environment in ``folder``, install the lock with hashes checked, and mark it as ready."""
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        sys.exit(
            f"sightglass: this is Python {sys.version.split()[0]}; Python 3.11 to 3.13 is needed: "
            "run `make up PYTHON=python3.11` with one that is installed."
        )
    venv = Path(folder)
    python = venv / "bin" / "python"
    print(f"making {venv} from {LOCK}", flush=True)
    _run(
        "the virtual environment cannot be made; on Debian and Ubuntu `apt-get install python3-venv` helps",
        *(sys.executable, "-m", "venv", folder),
    )
    # uv installs the rest; it comes out of the same lock, so its hash is checked as well.
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as only_uv:
        only_uv.write(_locked("uv"))
        only_uv.flush()
        _run(
            "uv cannot be installed; is there a network, or a mirror set for pip?",
            *(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--require-hashes", "-r", only_uv.name),
        )
    why = "the locked packages cannot be installed; the reason stands above"
    uv = [venv / "bin" / "uv", "pip"]
    # The machine's own certificates, as pip and Go take them: a company's mirror is trusted by all or by none.
    options = ("--quiet", "--system-certs", "--python", python)
    _run(why, *uv, "sync", *options, "--require-hashes", LOCK)
    _run(why, *uv, "install", *options, "--no-deps", "--no-build-isolation", "--editable", ".")
    (venv / "ready").touch()


def _locked(package: str) -> str:
    match = re.search(rf"^{package}==.*?(?=^\S)", LOCK.read_text() + "\nend", re.MULTILINE | re.DOTALL)
    if match is None:
        sys.exit(f"sightglass: {LOCK} does not lock {package}: run `make lock`.")
    return match[0]


def _run(why: str, *command: object) -> None:
    if subprocess.run([str(word) for word in command], check=False).returncode:
        sys.exit(f"sightglass: {why}.")


if __name__ == "__main__":
    main(sys.argv[1])
