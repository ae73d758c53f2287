"""Ports of the cluster on this machine: ``kubectl port-forward`` for each Service, kept up while pods come and go."""

import re
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from sightglass import polling
from sightglass.errors import UserError
from sightglass.kubernetes.place import ClusterPlace, namespace
from sightglass.polling import NotYet
from sightglass.ports import require_free
from sightglass.settings import HOST, PORTS

FORWARDED = (
    *("service", "prometheus", "alertmanager", "loki_http", "tempo_http", "grafana", "minio"),
    *("collector_otlp_http", "collector_otlp_grpc"),
)
"""Ports that a person or ``verify`` asks for something."""
READY_TIMEOUT = 20.0
_AGAIN = 0.3
"""Seconds between the end of a forward, with its pod, and the next."""
_COMPONENT = {port.name: port.component for port in PORTS}
_LISTENS = re.compile(rf"Forwarding from {re.escape(HOST)}:(\d+) -> ")
"""What kubectl prints once it listens."""


@dataclass
class _Forward:
    port: str
    local: int = 0
    """On this machine; 0 until kubectl says which free one it took."""
    listens: bool = False
    process: subprocess.Popen[str] | None = None
    said: str = ""


class Forwards:
    """Forwards the ports of these components while the context is entered.

    ``ports`` gives the number on this machine by the port's name, and one that is taken raises :class:`UserError`.
    Where it has none kubectl takes a free one, which :meth:`wait` waits for: a number that was only found to be free
    could be somebody else's by the time kubectl listens.
    """

    def __init__(self, context: str, *, without: frozenset[str] = frozenset(), ports: Mapping[str, int] | None = None):
        self._context = context
        self._stop = threading.Event()
        wanted = [name for name in FORWARDED if _COMPONENT[name] not in without]
        # What listens there already would answer in the cluster's stead.
        require_free({name: ports[name] for name in wanted if name in ports} if ports else {})
        self._forwards = {name: _Forward(name, (ports or {}).get(name, 0)) for name in wanted}
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        for forward in self._forwards.values():
            thread = threading.Thread(target=self._keep, args=(forward,), name=forward.port, daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        for forward in self._forwards.values():
            if forward.process is not None:
                forward.process.terminate()
        for thread in self._threads:
            thread.join(5)

    def has(self, port: str) -> bool:
        """Whether that port is forwarded."""
        return port in self._forwards

    def address(self, port: str) -> str:
        """``host:port`` on this machine."""
        return f"{HOST}:{self._forwards[port].local}"

    def url(self, port: str) -> str:
        """Base URL on this machine."""
        return f"http://{self.address(port)}"

    def wait(self, *ports: str, timeout: float = READY_TIMEOUT) -> None:
        """Wait until kubectl listens at these ports, or all; :class:`UserError` names the first that does not."""
        for name in ports or tuple(self._forwards):
            forward = self._forwards[name]
            what = f"{_COMPONENT[name]} to be reachable in the cluster"
            try:
                polling.until(lambda f=forward: _listens(f), timeout=timeout, what=what)  # type: ignore[misc]
            except polling.DeadlineError as error:
                raise UserError(f"{error}. `make deploy` says what it lacks.") from None

    def _keep(self, forward: _Forward) -> None:
        component = _COMPONENT[forward.port]
        command = ["kubectl", f"--context={self._context}", f"--namespace={namespace(component)}", "port-forward"]
        command += [f"service/{component}", f"--address={HOST}"]
        while not self._stop.is_set():
            forward.process = subprocess.Popen(
                [*command, f"{forward.local or ''}:{ClusterPlace().port(forward.port)}"],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            if self._stop.is_set():
                forward.process.terminate()
            with forward.process as kubectl:
                for line in kubectl.stdout or ():
                    if found := _LISTENS.match(line):
                        forward.local, forward.listens = int(found[1]), True
                    forward.said = line.strip() or forward.said
            forward.listens = False
            self._stop.wait(_AGAIN)


def _listens(forward: _Forward) -> None:
    if not forward.listens:
        raise NotYet(forward.said or "no connection yet")
