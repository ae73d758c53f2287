"""Hostile callers and senders on the running stack, from a seed; `make fuzz` is the long one."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis import Case
from schemathesis.core.failures import FailureGroup
from schemathesis.openapi.checks import UndefinedStatusCode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from sightglass.facts.settings import REPOSITORY
from tests.integration.running import Running
from text_classifier import openapi

DOCUMENT = schemathesis.openapi.from_dict(openapi.document())


@DOCUMENT.parametrize()
@hypothesis.settings(max_examples=60, derandomize=True, database=None, deadline=None)
def test_every_answer_is_one_that_the_description_has(stack: Running, case: Case[Any]) -> None:
    # A schema cannot say that a text needs a word: one without is refused.
    case.call_and_validate(base_url=stack.target.endpoint().url, excluded_checks=[positive_data_acceptance])


def test_an_answer_that_is_not_described_is_noticed(stack: Running) -> None:
    document = openapi.document()
    del document["paths"]["/predict"]["post"]["responses"]["422"]
    operation = schemathesis.openapi.from_dict(document)["/predict"]["POST"]
    case = operation.Case(body={"text": " "}, media_type="application/json")
    with pytest.raises(FailureGroup) as found:
        case.call_and_validate(base_url=stack.target.endpoint().url)
    assert UndefinedStatusCode in {type(failure) for failure in found.value.exceptions}


def fuzz(stack: Running, *arguments: str) -> None:
    command = [sys.executable, "-m", "tests.fuzz", *arguments]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=stack.environment, capture_output=True, text=True, timeout=1_700, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_hostile_callers_and_senders_cost_nobody_anything(stack: Running) -> None:
    fuzz(stack, "--requests", "3000", "--records", "300")


@pytest.mark.long
@pytest.mark.timeout(1_800)
def test_a_hundred_thousand_of_them_cost_nobody_anything(stack: Running) -> None:
    fuzz(stack, "--seed", "2")
