"""Sends a dashboard's queries to the servers, as Grafana would."""

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from dashboards.fill_variables import Filling
from dashboards.names import Source
from dashboards.sent_queries import Kind, Question
from sightglass.clients import backends
from sightglass.clients.polling import NotYet
from sightglass.facts.target import Target


@dataclass(frozen=True)
class Answer:
    """What a server said: how many points, lines, traces or names; or in ``error`` why it said nothing.

    ``seconds`` is how long it took.
    """

    question: Question
    query: str
    found: int
    seconds: float
    error: str = ""

    @property
    def problem(self) -> str:
        """What is wrong with it, or nothing."""
        if self.error:
            return f"{self.question.name}: {self.error}; the query was {self.query}"
        return "" if self.found else f"{self.question.name}: empty; the query was {self.query}"


def ask(target: Target, question: Question, filling: Filling) -> Answer:
    """Fill and send one question; a server's refusal is in the answer, a variable that nobody sets raises."""
    query = filling.fill(question)
    began = time.perf_counter()
    try:
        found = _found(target, question, query, filling)
    except NotYet as reason:
        return Answer(question, query, 0, time.perf_counter() - began, str(reason))
    return Answer(question, query, found, time.perf_counter() - began)


def _found(target: Target, question: Question, query: str, filling: Filling) -> int:
    match question.source:
        case Source.PROMETHEUS:
            return _prometheus(target.prometheus_url, question, query, filling)
        case Source.LOKI:
            return _loki(target.loki_url, question, query, filling)
        case Source.TEMPO:
            around: backends.Params = {"start": int(filling.start), "end": math.ceil(filling.end)}
            params = {"q": query, "limit": question.limit, **around}
            answer = backends.get("tempo", f"{target.tempo_url}/api/search", params)
            return len(answer.json().get("traces", ()))


def series_names(target: Target, question: Question, filling: Filling) -> set[str]:
    """Names of all series that a PromQL question asks for, as Prometheus itself reads it; empty for others."""
    if question.source is not Source.PROMETHEUS:
        return set()
    params = {"query": filling.fill(question)}
    answer = backends.get("prometheus", f"{target.prometheus_url}/api/v1/parse_query", params)
    return set(_selected(answer.json()["data"]))


def _selected(node: Any) -> Iterator[str]:
    """Walk Prometheus' syntax tree."""
    if isinstance(node, list):
        for part in node:
            yield from _selected(part)
    elif isinstance(node, dict):
        if node.get("type") in ("vectorSelector", "matrixSelector"):
            yield node["name"]
        for part in node.values():
            yield from _selected(part)


def _prometheus(url: str, question: Question, query: str, filling: Filling) -> int:
    around: dict[str, str | int | float] = {"start": filling.start, "end": filling.end}
    match question.kind:
        case Kind.VALUES:
            params = {"match[]": query, **around}
            answer = backends.get("prometheus", f"{url}/api/v1/label/{question.label}/values", params)
            return len(answer.json()["data"])
        case Kind.EXEMPLARS:
            answer = backends.get("prometheus", f"{url}/api/v1/query_exemplars", {"query": query, **around})
            return sum(len(series["exemplars"]) for series in answer.json()["data"])
        case Kind.INSTANT:
            answer = backends.get("prometheus", f"{url}/api/v1/query", {"query": query, "time": filling.end})
            return _numbers(series["value"] for series in answer.json()["data"]["result"])
        case _:
            params = {"query": query, **around, "step": filling.step(question.minimum_step)}
            answer = backends.get("prometheus", f"{url}/api/v1/query_range", params)
            return _matrix(answer.json())


def _loki(url: str, question: Question, query: str, filling: Filling) -> int:
    params: dict[str, str | int | float] = {
        "query": query,
        "start": int(filling.start * 1e9),
        "end": int(filling.end * 1e9),
        "direction": "backward",
    }
    if question.kind is Kind.LOGS:
        params["limit"] = question.limit
    else:
        params["step"] = filling.step(question.minimum_step)
    answer = backends.get("loki", f"{url}/loki/api/v1/query_range", params).json()
    if question.kind is Kind.LOGS:
        return sum(len(stream["values"]) for stream in answer["data"]["result"])
    return _matrix(answer)


def _matrix(answer: Any) -> int:
    return _numbers(value for series in answer["data"]["result"] for value in series["values"])


def _numbers(values: Iterable[tuple[float, str]]) -> int:
    """How many are numbers: a panel shows nothing where a division by zero stands."""
    return sum(1 for _, value in values if not math.isnan(float(value)))
