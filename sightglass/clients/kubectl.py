"""The programs that a deployment calls: kubectl and helm, and what goes wrong with them in one sentence."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sightglass.facts.errors import UserError

MANAGER = "sightglass"
"""Who the API server notes as the writer of our objects."""
_HINTS = {
    "kubectl": "install kubectl 1.32 or newer",
    "helm": "install Helm 3.14 or newer",
    "kind": "install kind, or name an existing cluster with KUBE_CONTEXT",
    "docker": "install Docker, or name another engine with the same commands, CONTAINER_ENGINE=podman",
}
_UNREACHABLE = ("was refused", "no such host", "i/o timeout", "Unable to connect", "no route to host", "EOF")


class ProgramError(UserError):
    """A program ended with an error; ``stderr`` is what it said."""

    def __init__(self, command: str, stderr: str) -> None:
        said = stderr.strip().splitlines()
        super().__init__(f"`{command}` failed: {said[-1] if said else 'it said nothing'}")
        self.stderr = stderr


def require(*names: str) -> None:
    """Raise :class:`UserError` for the first program that is not installed."""
    for name in names:
        if shutil.which(name) is None:
            raise UserError(f"{name} is not installed: {_HINTS.get(name, 'install it')}.")


def run(command: Sequence[str], *, text: str | None = None, timeout: float = 300) -> str:
    """Run a program and return its standard output; ``text`` is its standard input."""
    require(command[0])
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise UserError(f"`{' '.join(command[:4])} ...` did not end within {timeout:g} s.") from None
    if done.returncode:
        raise ProgramError(" ".join(command[:6]), done.stderr)
    return done.stdout


@dataclass(frozen=True)
class Kubectl:
    """kubectl on one context."""

    context: str

    def __call__(self, *arguments: str, text: str | None = None, timeout: float = 120) -> str:
        """Run kubectl; a cluster that cannot be reached is told apart from a call that fails."""
        try:
            return run(["kubectl", f"--context={self.context}", *arguments], text=text, timeout=timeout)
        except ProgramError as error:
            if "context was not found" in error.stderr or "no context exists" in error.stderr:
                raise UserError(
                    f"kubectl knows no context {self.context!r}: `kubectl config get-contexts` lists them, "
                    "and KUBE_CONTEXT names one."
                ) from None
            if any(word in error.stderr for word in _UNREACHABLE):
                reason = error.stderr.strip().splitlines()[-1]
                raise UserError(
                    f"The cluster of context {self.context!r} cannot be reached ({reason}): "
                    "is it running, and is KUBE_CONTEXT the right one?"
                ) from None
            raise

    def get(self, *arguments: str) -> list[dict[str, Any]]:
        """The objects that ``kubectl get`` finds; none is an empty list."""
        answer = self("get", *arguments, "--ignore-not-found", "--output=json")
        if not answer.strip():
            return []
        found = json.loads(answer)
        items: list[dict[str, Any]] = found["items"] if found.get("kind", "").endswith("List") else [found]
        return items

    def get_raw(self, path: str) -> Any:
        """The API server's own answer at a path."""
        return json.loads(self("get", f"--raw={path}"))

    def apply(self, objects: Sequence[dict[str, Any]]) -> list[str]:
        """Apply objects on the server's side; returns ``kind/name`` of those that changed."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        before = {key(found): _version(found) for found in self._known(text)}
        answer = self(
            *("apply", "--server-side", "--force-conflicts", f"--field-manager={MANAGER}"),
            *("--filename=-", "--output=json"),
            text=text,
        )
        after = _documents(answer)
        return [label(found) for found in after if before.get(key(found)) != _version(found)]

    def _known(self, text: str) -> list[dict[str, Any]]:
        return _documents(self("get", "--filename=-", "--ignore-not-found", "--output=json", text=text))


def _documents(text: str) -> list[dict[str, Any]]:
    """Objects of kubectl's JSON, which is one object or a list."""
    if not text.strip():
        return []
    found = json.loads(text)
    return list(found["items"]) if found.get("kind", "").endswith("List") else [found]


def _version(found: dict[str, Any]) -> str:
    return str(found["metadata"]["resourceVersion"])


def key(found: dict[str, Any]) -> tuple[str, str, str]:
    """What tells one object from another."""
    meta = found["metadata"]
    return found["kind"], meta.get("namespace", ""), meta["name"]


def label(found: dict[str, Any]) -> str:
    """The object in words, as kubectl writes it."""
    return f"{found['kind'].lower()}/{found['metadata']['name']}"
