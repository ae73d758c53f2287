"""Runs the cases with promtool, on the rules as they are or on rules that were broken on purpose."""

import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from sightglass.alerting.rule import Alert, Group, Recording, render
from tests.unit.rules.cases import Case

EXTERNAL = {"grafana_url": "http://127.0.0.1:3000", "runbooks_url": "file:///runbooks"}
"""What the environment of a test's Prometheus says."""
MUTANTS = "mutants"
_TEMPLATE = re.compile(r"\{\{ \$(externalLabels|labels|value)\.?(\w*)[^}]*\}\}")
_COMPARISON = re.compile(
    r"(?P<left>(?:[\w:]+(?:\{[^{}]*\})?(?:\[\w+\])?)?\)*) (?P<operator>==|>=|>|<) "
    r"(?P<right>[\d.]+(?!\w)|last_over_time)"
)
_OPPOSITE = {"==": "!=", ">=": "<", ">": "<=", "<": ">="}


@dataclass(frozen=True)
class Steps:
    """Seconds between two samples of the series, and between two evaluations of the rules."""

    samples: int
    evaluations: int


@dataclass(frozen=True)
class Mutant:
    """An alert rule with one thing changed, under a name of its own."""

    rule: Alert
    original: Alert
    change: str


def rule_of(case: Case, groups: Sequence[Group]) -> Alert | None:
    """The rule that a case is about: of the same name, and with no label that the case contradicts."""
    rules = [alert for group in groups for alert in group.alerts if alert.name == case.alert]
    return next((rule for rule in rules if len(rules) == 1 or rule.labels.items() <= case.labels.items()), None)


def expanded(annotations: Mapping[str, str], case: Case) -> dict[str, str]:
    """Annotations as Prometheus must expand them."""

    def value(match: re.Match[str]) -> str:
        kind, name = match.groups()
        return case.value if kind == "value" else (EXTERNAL if kind == "externalLabels" else case.labels)[name]

    return {name: _TEMPLATE.sub(value, text) for name, text in annotations.items()}


def document(
    rules: Path, cases: Sequence[Case], groups: Sequence[Group], steps: Steps, mutants: Sequence[Mutant] = ()
) -> dict[str, Any]:
    """A file for promtool: each case as a test of its alert, or else of the mutants of its alert's rules."""
    tests = []
    for case in cases:
        test: dict[str, Any] = {
            "name": case.name,
            "interval": f"{steps.samples}s",
            "external_labels": EXTERNAL,
            "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
        }
        rule = rule_of(case, groups)
        if mutants:
            names = [mutant.rule.name for mutant in mutants if rule in (mutant.original, None)]
            test["promql_expr_test"] = [expectation for name in names for expectation in _states(case, name)]
        else:
            test["promql_expr_test"] = list(_states(case, case.alert))
            test["alert_rule_test"] = _annotations(case, rule)
        tests.append(test)
    # Else promtool takes the groups in any order, and one of long windows may come before what it is made of.
    order = [*(group.name for group in groups), *([MUTANTS] if mutants else [])]
    head = {"rule_files": [str(rules)], "evaluation_interval": f"{steps.evaluations}s", "group_eval_order": order}
    return {**head, "tests": tests}


def _states(case: Case, alert: str) -> Iterator[dict[str, Any]]:
    expr = f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})'
    for moment in case.quiet:
        yield {"expr": expr, "eval_time": f"{moment}s", "exp_samples": []}
    if case.firing is not None:
        yield {"expr": expr, "eval_time": f"{case.firing}s", "exp_samples": [{"labels": "{}", "value": 1}]}


def _annotations(case: Case, rule: Alert | None) -> list[dict[str, Any]]:
    """Everything that leaves Prometheus, where the case says what the value is."""
    if case.kind != "fires" or rule is None or (not case.value and "$value" in rule.description):
        return []
    alert = {
        "exp_labels": {"severity": rule.severity, **rule.labels, **case.labels},
        "exp_annotations": expanded(rule.annotations, case),
    }
    return [{"eval_time": f"{case.firing}s", "alertname": case.alert, "exp_alerts": [alert]}]


def run(promtool: Path, folder: Path, groups: Sequence[Group], cases: Sequence[Case], steps: Steps) -> str:
    """Run the cases on the rules; returns what promtool complains of, nothing if all hold."""
    documents = {}
    for alert in dict.fromkeys(case.alert for case in cases):
        ours = [case for case in cases if case.alert == alert]
        kept = only(groups, alert)
        rules = folder / f"{alert}.rules.yaml"
        rules.write_text(render(kept, "a test"))
        documents[alert] = document(rules, ours, kept, steps)
    return complaints(promtool, folder, documents)


def survivors(promtool: Path, folder: Path, groups: Sequence[Group], cases: Sequence[Case], steps: Steps) -> list[str]:
    """Break every alert rule in every way; returns the changes that no case noticed."""
    documents, all_ = {}, []
    for name in dict.fromkeys(case.alert for case in cases):
        ours = [case for case in cases if case.alert == name]
        kept = only(groups, name)
        mutants = list(mutated([rule for group in kept for rule in group.alerts]))
        broken = [*kept, Group(MUTANTS, [mutant.rule for mutant in mutants])]
        rules = folder / f"{name}.rules.yaml"
        rules.write_text(render(broken, "a test"))
        documents[name] = document(rules, ours, kept, steps, mutants)
        all_ += mutants
    noticed = set(re.findall(r"\w+__\d+", complaints(promtool, folder, documents)))
    return [f"{mutant.rule.name}: {mutant.change}" for mutant in all_ if mutant.rule.name not in noticed]


def only(groups: Sequence[Group], alert: str) -> list[Group]:
    """The rules of one alert and the recordings that they need, directly or through others."""
    text = "\n".join(rule.expr for group in groups for rule in group.alerts if rule.name == alert)
    recordings = {rule.name: rule.expr for group in groups for rule in group.rules if isinstance(rule, Recording)}
    needed: set[str] = {alert}
    while found := {name for name in recordings.keys() - needed if re.search(rf"(?<![\w:]){name}(?![\w:])", text)}:
        needed |= found
        text += "\n".join(rule.expr for group in groups for rule in group.rules if rule.name in found)
    kept = [replace(group, rules=[rule for rule in group.rules if rule.name in needed]) for group in groups]
    return [group for group in kept if group.rules]


def mutated(alerts: Sequence[Alert]) -> Iterator[Mutant]:
    """The rules with each comparison turned around, each threshold moved up and down, and another ``for``."""
    numbers = count(1)
    for alert in alerts:
        for change, other in _changes(alert):
            yield Mutant(replace(other, name=f"{alert.name}__{next(numbers)}"), alert, change)


def _changes(alert: Alert) -> Iterator[tuple[str, Alert]]:
    for text, left, operator, right in {m.group(0, *m.groupdict()) for m in _COMPARISON.finditer(alert.expr)}:
        found = re.compile(re.escape(text) + r"(?![\d.])")
        others = [f"{left} {_OPPOSITE[operator]} {right}"]
        if right != "last_over_time" and float(right):
            lower = float(right) - 1 if float(right) <= 2 and "." not in right else float(right) / 1.5
            others += [f"{left} {operator} {float(right) * 1.5:g}", f"{left} {operator} {lower:g}"]
        for other in others:
            expr = found.sub(lambda _, other=other: other, alert.expr)  # type: ignore[misc]
            yield f"{text} -> {other}", replace(alert, expr=expr)
    if alert.hold != "0s":
        yield "for: 0s", replace(alert, hold="0s")
        yield "for: twice as long", replace(alert, hold=f"{2 * int(alert.hold[:-1])}{alert.hold[-1]}")


def complaints(promtool: Path, folder: Path, documents: Mapping[str, Mapping[str, Any]]) -> str:
    """What promtool says about files of tests by name, nothing if all of them hold."""
    names = []
    for name, content in documents.items():
        file = folder / f"{name}.cases.yaml"
        file.write_text(yaml.safe_dump(content, width=1_000_000))
        names.append(str(file))
    command = [str(promtool), "test", "rules", *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    # It ends with 1 when a test failed; what is no failed test must not be taken for one.
    assert (done.returncode == 0) is ("FAILED" not in done.stdout + done.stderr), done.stdout + done.stderr
    return "" if done.returncode == 0 else done.stdout + done.stderr
