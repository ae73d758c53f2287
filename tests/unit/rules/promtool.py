"""Runs the cases with promtool, on the rules as they are or on rules that were broken on purpose."""

import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from sightglass.alerting.model import Alert, Group, render
from tests.unit.rules.cases import Case

EXTERNAL = {"grafana_url": "http://127.0.0.1:3000", "runbooks_url": "file:///runbooks"}
"""What the environment of a test's Prometheus says."""
_TEMPLATE = re.compile(r"\{\{ \$(externalLabels|labels|value)\.?(\w*)[^}]*\}\}")
_COMPARISON = re.compile(
    r"(?P<left>(?:[\w:]+(?:\{[^{}]*\})?(?:\[\w+\])?)?\)*) (?P<operator>==|>=|>|<) "
    r"(?P<right>[\d.]+(?!\w)|last_over_time)"
)
_OPPOSITE = {"==": "!=", ">=": "<", ">": "<=", "<": ">="}


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
    rules: Path, cases: Sequence[Case], groups: Sequence[Group], step: int, mutants: Sequence[Mutant] = ()
) -> dict[str, Any]:
    """A file for promtool: each case as a test of its alert, or else of the mutants of its alert's rules."""
    tests = []
    for case in cases:
        test: dict[str, Any] = {
            "name": case.name,
            "interval": f"{step}s",
            "external_labels": EXTERNAL,
            "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
        }
        rule = rule_of(case, groups)
        if mutants:
            names = [m.rule.name for m in mutants if m.original.name == case.alert and rule in (m.original, None)]
            test["promql_expr_test"] = [expectation for name in names for expectation in _states(case, name)]
        else:
            test["promql_expr_test"] = list(_states(case, case.alert))
            test["alert_rule_test"] = _annotations(case, rule)
        tests.append(test)
    return {"rule_files": [str(rules)], "evaluation_interval": f"{step}s", "tests": tests}


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


def run(promtool: Path, folder: Path, groups: Sequence[Group], cases: Sequence[Case], step: int) -> str:
    """Run the cases on the rules; returns what promtool complains of, nothing if all hold."""
    rules = folder / "rules.yaml"
    rules.write_text(render(groups, "a test"))
    return complaints(promtool, folder, document(rules, cases, groups, step))


def survivors(promtool: Path, folder: Path, groups: Sequence[Group], cases: Sequence[Case], step: int) -> list[str]:
    """Break every alert rule in every way; returns the changes that no case noticed."""
    mutants = [mutant for group in groups for alert in group.alerts for mutant in mutated(alert)]
    broken = [
        replace(group, rules=[*group.rules, *(m.rule for m in mutants if m.original in group.alerts)])
        for group in groups
    ]
    rules = folder / "mutants.yaml"
    rules.write_text(render(broken, "a test"))
    said = complaints(promtool, folder, document(rules, cases, groups, step, mutants))
    noticed = set(re.findall(r"\w+__\d+", said))
    return [f"{mutant.rule.name}: {mutant.change}" for mutant in mutants if mutant.rule.name not in noticed]


def mutated(alert: Alert) -> Iterator[Mutant]:
    """The rule with each comparison turned around, each threshold moved up and down, and another ``for``."""
    number = 0

    def mutant(change: str, **changed: str) -> Mutant:
        nonlocal number
        number += 1
        # ALERTS and nothing else is asked for a mutant.
        return Mutant(replace(alert, name=f"{alert.name}__{number}", **changed), alert, change)  # type: ignore[arg-type]

    for text, left, operator, right in {m.group(0, *m.groupdict()) for m in _COMPARISON.finditer(alert.expr)}:
        found = re.compile(re.escape(text) + r"(?![\d.])")
        others = [f"{left} {_OPPOSITE[operator]} {right}"]
        if right != "last_over_time" and float(right):
            lower = float(right) - 1 if float(right) <= 2 and "." not in right else float(right) / 1.5
            others += [f"{left} {operator} {float(right) * 1.5:g}", f"{left} {operator} {lower:g}"]
        for other in others:
            expr = found.sub(lambda _, other=other: other, alert.expr)  # type: ignore[misc]
            yield mutant(f"{text} -> {other}", expr=expr)
    if alert.hold != "0s":
        yield mutant("for: 0s", hold="0s")
        yield mutant("for: twice as long", hold=f"{2 * int(alert.hold[:-1])}{alert.hold[-1]}")


def complaints(promtool: Path, folder: Path, content: Mapping[str, Any]) -> str:
    """What promtool says about a file of tests, nothing if all of them hold."""
    file = folder / "cases.yaml"
    file.write_text(yaml.safe_dump(content, width=1_000_000))
    command = [str(promtool), "test", "rules", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    # It ends with 1 when a test failed; what is no failed test must not be taken for one.
    assert (done.returncode == 0) is ("FAILED" not in done.stdout + done.stderr), done.stdout + done.stderr
    return "" if done.returncode == 0 else done.stdout + done.stderr
