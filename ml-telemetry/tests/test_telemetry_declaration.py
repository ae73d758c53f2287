"""A declaration: frozen, one JSON form with one digest, and refused in one sentence where it cannot work."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import pytest

from ml_telemetry.declaration import (
    PROFILE,
    Burst,
    Declaration,
    DeclarationError,
    Feature,
    Kind,
    Limits,
    Per,
    Sample,
    Stage,
    Task,
)

LOANS = Declaration(
    name="loans",
    task=Task.REGRESSION,
    unit="EUR",
    minimum=0,
    maximum=1e6,
    stages=(Stage(name="prepare"), Stage(name="predict", per=Per.BATCH), Stage(name="explain")),
    features=(
        Feature(name="age", kind=Kind.NUMBER, unit="a", description="Age of the applicant."),
        Feature(name="debt", kind=Kind.RATIO, description="Debt by income."),
        Feature(name="children", kind=Kind.COUNT, unit="{child}", description="Children at home."),
        Feature(name="region", kind=Kind.CATEGORY, values=("north", "süd"), description="Region."),
        Feature(name="reason", kind=Kind.TEXT, description="Why the money is wanted."),
    ),
    personal=("reason",),
    slices=("region",),
    limits=Limits(batch_size=8),
    burst=Burst(requests=5),
    samples=(Sample.of("young", {"age": 20, "reason": "a büro"}),),
)


def changed(**values: Any) -> Declaration:
    return replace(LOANS, **values)


def test_json_leads_back_to_the_same_declaration() -> None:
    assert Declaration.from_json(LOANS.as_json()) == LOANS
    assert Declaration.from_json(LOANS.as_json()).sha256 == LOANS.sha256
    assert re.fullmatch(r"[0-9a-f]{64}", LOANS.sha256)
    assert changed(margin=0.1).sha256 != LOANS.sha256
    assert Declaration.from_json(LOANS.as_json()).samples[0].request == {"age": 20, "reason": "a büro"}


def test_what_has_its_default_is_not_written_so_a_new_field_changes_no_digest() -> None:
    document = json.loads(LOANS.as_json())
    assert set(document) & {"margin", "label_noise", "classes", "client_header", "route"} == set()
    assert document["limits"] == {"batch_size": 8}
    assert document["schema_version"] == 1
    assert changed(client_header="x-client-id").as_json() == LOANS.as_json()
    assert LOANS.as_json() == json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def test_digest_is_what_it_was() -> None:
    # A change of this number means that records of today name a declaration that nobody finds.
    plain = Declaration(
        name="m",
        task=Task.CLASSIFICATION,
        classes=("a", "b"),
        stages=(Stage(name="predict"),),
        features=(Feature(name="x", kind=Kind.NUMBER, description="A number."),),
    )
    assert plain.as_json() == (
        '{"classes":["a","b"],"features":[{"description":"A number.","kind":"number","name":"x"}],"name":"m",'
        '"schema_version":1,"stages":[{"name":"predict"}],"task":"classification"}'
    )
    assert plain.sha256 == "1bb6631b4dec20a629092a1a1093fe53e5bb9e0432817ac288f18e5f2016c57e"


def test_it_is_frozen_and_new_fields_have_defaults() -> None:
    with pytest.raises(FrozenInstanceError):
        LOANS.name = "other"  # type: ignore[misc]
    needed = {one.name for one in fields(Declaration) if one.name in ("name", "task", "stages", "features")}
    document = {name: value for name, value in json.loads(LOANS.as_json()).items() if name in needed}
    old = Declaration.from_json(json.dumps({**document, "schema_version": 1}))
    assert (old.unit, old.user_header, old.randomisation_unit, old.maximum) == ("1", "x-user-id", "user", None)


def test_a_text_is_observed_as_its_profile() -> None:
    names = [feature.name for feature in LOANS.observed]
    assert names == ["age", "debt", "children", "region", *(feature.name for feature in PROFILE)]
    assert [feature.name for feature in LOANS.categories] == ["region"]
    assert LOANS.features[1].attribute == "ml.input.debt.ratio"


def category(values: int) -> Feature:
    return Feature(name="city", kind=Kind.CATEGORY, values=tuple(map(str, range(values))), description="City.")


def feature(**values: Any) -> dict[str, Any]:
    made = {"name": "x", "kind": Kind.NUMBER, "description": "X.", **values}
    return {"features": (Feature(**made),), "slices": ()}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"name": "Loans!"}, "its name must be lower-case"),
        ({"stages": ()}, "it has no stage"),
        ({"stages": (Stage(name="a"), Stage(name="a"))}, "the stage 'a' is declared twice"),
        (
            {
                "stages": tuple(
                    Stage(name=f"s{n}", per=per) for n, per in enumerate((Per.BATCH, Per.REQUEST, Per.BATCH))
                )
            },
            "its stages per batch must follow each other",
        ),
        (feature(name="not a name"), "the feature 'not a name' must be"),
        (feature(kind=Kind.CATEGORY), "only a category has values"),
        (feature(values=("a",)), "only a category has values"),
        (feature(description=""), "needs a sentence"),
        ({"classes": ("a", "b")}, "a regression has no classes"),
        ({"task": Task.CLASSIFICATION, "classes": ("a", "a")}, "needs two classes"),
        ({"minimum": 2e6}, "from 2000000.0 to 1000000.0 is empty"),
        ({"slices": ("town",)}, "the slice 'town' is no feature"),
        ({"user_header": "X User"}, "'X User' is no lower-case name"),
        ({"randomisation_unit": "day"}, "randomisation_unit must be"),
        (
            {"features": (category(3_000),), "slices": ()},
            "it would make 6,126 time series, 6,004 of them by its values of its categories, and the most is 4,000",
        ),
    ],
)
def test_what_cannot_work_is_one_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DeclarationError, match=re.escape(sentence)) as refused:
        changed(**values)
    assert str(refused.value).count("\n") == 0


def test_series_are_counted_for_each_metric() -> None:
    assert LOANS.series() == {
        "ml.inference.duration": 120,
        "ml.predictions": 2,
        "ml.input.feature": 20,
        "ml.input.category": 8,
    }


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[]", "has the schema version None"),
        ('{"schema_version": 2}', "has the schema version 2, and this program knows 1"),
        ('{"schema_version": 1, "name": "m"}', "lacks the field 'task'"),
        ('{"schema_version": 1, "colour": 1}', "has a field 'colour' that is not known"),
        ('{"schema_version": 1, "name": "m", "task": "guessing", "stages": [], "features": []}', "must be one of"),
        ('{"schema_version": 1, "name": "m", "task": "regression", "stages": 1, "features": []}', "must be a list"),
        ('{"schema_version": 1, "name": 1, "task": "regression", "stages": [], "features": []}', "must be str"),
        ('{"schema_version": 1, "name": "m", "task": "regression", "stages": [1], "features": []}', "a JSON object"),
    ],
)
def test_json_that_is_none_is_said(text: str, sentence: str) -> None:
    with pytest.raises(DeclarationError, match=re.escape(sentence)):
        Declaration.from_json(text)


def declared_by(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ml_telemetry.declaration", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_declaration_is_printed_for_those_who_do_not_import_it(tmp_path: Path) -> None:
    (tmp_path / "cats.py").write_text(
        "from ml_telemetry.declaration import Declaration, Feature, Kind, Stage, Task\n"
        "CATS = Declaration(name='cats', task=Task.REGRESSION, stages=(Stage(name='predict'),), features=(\n"
        "    Feature(name='weight', kind=Kind.NUMBER, unit='kg', description='Weight.'),))\n"
        "DOG = 'dog'\n"
    )
    done = declared_by(tmp_path, "cats:CATS")
    assert Declaration.from_json(done.stdout).name == "cats", done.stderr


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("dogs:DOG", "There is no module 'dogs'"),
        ("json:DOG", "The module 'json' has no 'DOG'"),
        ("sys:path", "sys:path is a list, not a Declaration."),
        ("json", "Usage: python -m ml_telemetry.declaration MODULE:NAME"),
    ],
)
def test_what_is_no_declaration_is_said_in_one_sentence(tmp_path: Path, argument: str, sentence: str) -> None:
    done = declared_by(tmp_path, argument)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1
