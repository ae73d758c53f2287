"""One stack on one machine: brought up in dependency order, asked for its state, taken down."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from sightglass.clients import http, polling
from sightglass.facts.errors import UserError
from sightglass.facts.settings import Settings
from sightglass.local import processes
from sightglass.local.components import Component
from sightglass.local.ports import require_free
from sightglass.local.supervise import ALIVE, Supervisor

READY_TIMEOUT = 90.0
"""Seconds that one component may take from its start until it is ready."""


@dataclass(frozen=True)
class ComponentStatus:
    """State of one component as ``status`` shows it."""

    name: str
    pid: int | None
    ready: bool
    url: str
    state: str
    detail: str


class Stack:
    """Components under one supervisor."""

    def __init__(self, settings: Settings, components: Sequence[Component]) -> None:
        self.settings = settings
        self.components = components
        self.supervisor = Supervisor(settings.state_dir)

    def bring_up(
        self,
        gates: Mapping[str, Callable[[], None]] | None = None,
        report: Callable[[str, float], None] = lambda _name, _seconds: None,
    ) -> None:
        """Start what does not run and wait until all is ready; what runs unchanged is left alone.

        ``gates`` holds work that must be done before a component of that name starts (training the model); what it
        makes may be among the component's files, a change of which restarts it.
        ``report`` is told each component's name and the seconds until it was ready. The first failure ends the
        wait: :class:`UserError` names the component, the reason and its log.
        """
        began = time.monotonic()
        gates = dict(gates or {})
        if self.supervisor.pid() is None:
            self._require_free_ports(self.components)
            for component in self.components:
                if component.prepare:
                    component.prepare()
            self.supervisor.start(self.components)
        else:
            for name in self._running() & gates.keys():
                gates.pop(name)()
            self.supervisor.update(self.components)
        running = self._running()
        missing = [component for component in self.components if component.name not in running]
        self._require_free_ports(missing)
        ready = {component.name: threading.Event() for component in self.components}
        failed, updating = threading.Event(), threading.Lock()

        def start(component: Component) -> None:
            try:
                if component.name in gates:
                    gates[component.name]()
                    # So that the next time finds what was made unchanged. Several may end at once.
                    with updating:
                        self.supervisor.update(self.components)
                for name in component.after:
                    while name in ready and not ready[name].wait(0.05):
                        if failed.is_set():
                            return
                if component.name not in running:
                    if component.prepare:
                        component.prepare()
                    self.supervisor.launch(component.name)
                self._wait_ready(component, failed)
                if component.finish and not failed.is_set():
                    component.finish()
                ready[component.name].set()
                report(component.name, time.monotonic() - began)
            except BaseException:
                failed.set()
                raise

        with ThreadPoolExecutor(max_workers=len(self.components)) as pool:
            futures: list[Future[None]] = [pool.submit(start, component) for component in self.components]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            except KeyboardInterrupt:
                failed.set()  # nobody waits for readiness any more; what runs goes on
                raise
            for future in done:
                future.result()

    def start(self, name: str) -> None:
        """Start one component and wait until it is ready."""
        component = next(component for component in self.components if component.name == name)
        self.supervisor.launch(name)
        self._wait_ready(component, threading.Event())

    def tear_down(self, report: Callable[[str], None] = lambda _name: None) -> bool:
        """Stop everything, what sends before what receives, and the supervisor; False when nothing ran."""
        if self.supervisor.pid() is None:
            return self.supervisor.end_strays() > 0
        known = {component.name: component for component in self.components}
        left = {name for name, state in self.supervisor.states().items() if state.pid}
        stopped = {name: threading.Event() for name in known}

        def stop(name: str) -> None:
            for source in (other.name for other in self.components if name in other.feeds):
                stopped[source].wait()
            if name in left:
                self.supervisor.stop(name)
                report(name)
            stopped[name].set()

        with ThreadPoolExecutor(max_workers=max(1, len(known))) as pool:
            list(pool.map(stop, known))
        self.supervisor.shut_down(timeout=30)
        return True

    def status(self) -> list[ComponentStatus]:
        """State of every component, its readiness asked of itself at this moment."""
        states = self.supervisor.states()

        def ask(component: Component) -> ComponentStatus:
            state = states.get(component.name)
            running = state is not None and state.pid > 0
            problem = self._not_ready(component) if running else None
            return ComponentStatus(
                name=component.name,
                pid=state.pid if state is not None and running else None,
                ready=running and problem is None,
                url=component.url,
                state=state.state.lower() if state else "down",
                detail=problem or ("" if running else (state.detail if state else "not started")),
            )

        with ThreadPoolExecutor(max_workers=len(self.components)) as pool:
            return list(pool.map(ask, self.components))

    def resident_bytes(self) -> dict[str, int]:
        """Resident memory of every running component by name."""
        return {name: processes.resident_bytes(s.pid) for name, s in self.supervisor.states().items() if s.pid}

    def _running(self) -> set[str]:
        return {name for name, state in self.supervisor.states().items() if state.state in ALIVE}

    def _wait_ready(self, component: Component, failed: threading.Event) -> None:
        def ready() -> None:
            if failed.is_set():
                return
            state = self.supervisor.states()[component.name]
            if state.state not in ALIVE:
                raise UserError(
                    f"{component.name} ended while starting ({state.detail}). The end of its log, {component.log}:\n"
                    + last_lines(component.log, 15)
                )
            if (problem := self._not_ready(component)) is not None:
                raise polling.NotYet(problem)

        try:
            polling.until(ready, timeout=READY_TIMEOUT, interval=0.1, what=f"{component.name} to become ready")
        except polling.DeadlineError as error:
            raise UserError(f"{error}. See its log: {component.log}") from None

    @staticmethod
    def _not_ready(component: Component) -> str | None:
        try:
            answer = http.session.get(component.ready_url, timeout=5)
        except http.Error as error:
            return f"no answer at {component.ready_url} ({type(error).__name__})"
        return None if answer.status_code == 200 else f"{answer.status_code} {answer.text.strip()[:120]}"

    def _require_free_ports(self, components: Iterable[Component]) -> None:
        names = {component.name for component in components}
        require_free(
            {port: self.settings.ports[port.name] for port in self.settings.all_ports if port.component in names}
        )


def last_lines(file: Path, count: int) -> str:
    """The last ``count`` lines of a text file; empty when it does not exist."""
    try:
        with file.open(errors="replace") as lines:
            return "".join(deque(lines, maxlen=count)).rstrip()
    except FileNotFoundError:
        return ""
