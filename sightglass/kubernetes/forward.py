"""Ports of the cluster on this machine: ``kubectl port-forward`` for each Service, kept up while pods come and go."""

import re
import subprocess
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from sightglass.clients import polling
from sightglass.clients.polling import NotYet
from sightglass.facts.cluster import APPLICATION, namespace
from sightglass.facts.errors import UserError
from sightglass.facts.services import Service
from sightglass.facts.settings import HOST, PORTS, SERVICES, Port, service_ports
from sightglass.local.ports import require_free

FORWARDED = (
    *("prometheus", "alertmanager", "loki_http", "tempo_http", "grafana", "minio"),
    *("collector_otlp_http", "collector_otlp_grpc"),
)
"""Ports that a person or ``verify`` asks for something, beside those of the services."""
READY_TIMEOUT = 20.0
_AGAIN = 0.3
"""Seconds between the end of a forward, with its pod, and the next."""
_LISTENS = re.compile(rf"Forwarding from {re.escape(HOST)}:(\d+) -> ")
"""What kubectl prints once it listens."""


class _Kubectl(ABC):
    """A kubectl that is started again whenever it ends, until it is stopped."""

    def __init__(self, context: str, namespace: str):
        self._command = ["kubectl", f"--context={context}", f"--namespace={namespace}"]
        self._process: subprocess.Popen[str] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    @abstractmethod
    def arguments(self) -> list[str]:
        """What it is started with the next time."""

    @abstractmethod
    def read_line(self, line: str) -> None:
        """Take in what it says."""

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Let it begin anew."""
        if self._process is not None:
            self._process.terminate()

    def stop(self) -> None:
        self._stop.set()
        self.end()

    def join(self, timeout: float) -> None:
        self._thread.join(timeout)

    def _keep(self) -> None:
        while not self._stop.is_set():
            self._process = subprocess.Popen(
                [*self._command, *self.arguments()],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            if self._stop.is_set():
                self.end()
            with self._process as kubectl:
                for line in kubectl.stdout or ():
                    self.read_line(line.strip())
            self._stop.wait(_AGAIN)


class _Forward(_Kubectl):
    """One port; ``local`` is 0 until kubectl says which free one it took."""

    def __init__(self, context: str, port: Port, local: int, space: str):
        self.component = port.component
        super().__init__(context, space)
        self.space = space
        self._port, self.local = port, local
        self.listens, self.said = False, ""

    def arguments(self) -> list[str]:
        self.listens = False
        ports = f"{self.local or ''}:{self._port.in_cluster or self._port.default}"
        return ["port-forward", f"service/{self.component}", f"--address={HOST}", ports]

    def read_line(self, line: str) -> None:
        if found := _LISTENS.match(line):
            self.local, self.listens = int(found[1]), True
        self.said = line or self.said


class _PodWatch(_Kubectl):
    """Ends the forwards of a component one of whose pods is on its way out, or gone.

    A forward stays with the pod that it found first. Most end with it, but one that found a pod in its last moment
    takes connections for ever and answers none.
    """

    def __init__(self, context: str, namespace: str, forwards: Sequence[_Forward]):
        super().__init__(context, namespace)
        self._forwards = forwards

    def arguments(self) -> list[str]:
        return ["get", "pods", "--watch", '--output=jsonpath={.metadata.name} {.metadata.deletionTimestamp}{"\\n"}']

    def read_line(self, line: str) -> None:
        pod, _, leaves = line.partition(" ")
        for forward in self._forwards:
            if leaves and pod.startswith(f"{forward.component}-"):
                forward.end()


class Forwards:
    """Forwards the ports of these components while the context is entered.

    ``ports`` gives the number on this machine by the port's name, and one that is taken raises :class:`UserError`.
    Where it has none kubectl takes a free one, which :meth:`wait` waits for: a number that was only found to be free
    could be somebody else's by the time kubectl listens.
    """

    def __init__(
        self,
        context: str,
        services: Sequence[Service] = SERVICES,
        *,
        without: frozenset[str] = frozenset(),
        ports: Mapping[str, int] | None = None,
    ):
        others = [port for port in PORTS if port.name in FORWARDED]
        numbers = ports or {}
        wanted = {port.name: port for port in (*service_ports(services), *others) if port.component not in without}
        # What listens there already would answer in the cluster's stead.
        require_free({port: numbers[name] for name, port in wanted.items() if name in numbers})
        observed = {service.name for service in services}
        self._forwards = {
            name: _Forward(
                *(context, port, numbers.get(name, 0)),
                APPLICATION if port.component in observed else namespace(port.component),
            )
            for name, port in wanted.items()
        }
        forwards = list(self._forwards.values())
        spaces = {forward.space for forward in forwards}
        self._kept = [*(_PodWatch(context, space, forwards) for space in sorted(spaces)), *forwards]

    def __enter__(self) -> Self:
        for kubectl in self._kept:
            kubectl.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for kubectl in self._kept:
            kubectl.stop()
        for kubectl in self._kept:
            kubectl.join(5)

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
            what = f"{forward.component} to be reachable in the cluster"
            try:
                polling.until(lambda f=forward: _listens(f), timeout=timeout, what=what)  # type: ignore[misc]
            except polling.DeadlineError as error:
                raise UserError(f"{error}. `make deploy` says what it lacks.") from None


def _listens(forward: _Forward) -> None:
    if not forward.listens:
        raise NotYet(forward.said or "no connection yet")
