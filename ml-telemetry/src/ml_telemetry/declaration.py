"""What a model says of itself, once: everything that observes it follows from this object.

A declaration is frozen and has one JSON form, with one digest: a record can be read years later with the declaration
that it was made under. Fields are only ever added, with defaults, and a field that has its default is not written: so
the digest of a declaration stays what it was.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from enum import StrEnum
from functools import cached_property
from importlib import import_module
from typing import Any, Final, Self, TypeVar, cast, get_args, get_origin, get_type_hints

SCHEMA_VERSION: Final = 1
MAXIMUM_SERIES: Final = 4_000
"""The most time series that one instance of a model may make for what it declares."""
BUCKETS: Final = 20
"""Series that a histogram counts for where it has buckets of its own; a native one is one series."""
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")
_MODEL: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_HEADER: Final = re.compile(r"[a-z0-9-]{1,64}")


class DeclarationError(ValueError):
    """A declaration that cannot work; the message is one sentence that says what to change."""


class Task(StrEnum):
    """What a model does."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"


class Per(StrEnum):
    """What a stage works on: one request, or a batch of them."""

    REQUEST = "request"
    BATCH = "batch"


class Kind(StrEnum):
    """What a feature is; a text becomes the profile of a text."""

    NUMBER = "number"
    RATIO = "ratio"
    COUNT = "count"
    CATEGORY = "category"
    TEXT = "text"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of a prediction that has a span and a duration; stages of one ``group`` get a common parent span."""

    name: str
    per: Per = Per.REQUEST
    group: str = ""
    description: str = ""


@dataclass(frozen=True, kw_only=True)
class Feature:
    """An input of the model: its unit (UCUM), a sentence, and the values of a category.

    A value of a category that is not declared counts as ``other``, and one that is missing as ``missing``.
    """

    name: str
    kind: Kind
    description: str
    unit: str = "1"
    values: tuple[str, ...] = ()

    @property
    def attribute(self) -> str:
        """Name of the span attribute and of the log line's key."""
        return f"ml.input.{self.name}{'.ratio' if self.kind is Kind.RATIO else ''}"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request may hold, and what an operator should hear of.

    A good answer is at least ``smallest_answer_bytes`` long: without the id of its prediction it is none. A prediction
    with no more than ``confidence`` is unsure. More requests ``in_progress`` in one worker are more than it can do.
    """

    batch_size: int = 32
    input_bytes: int = 1_048_576
    answer_bytes: int = 65_536
    confidence: float = 0.5
    smallest_answer_bytes: int = 32
    in_progress: int = 96


@dataclass(frozen=True, kw_only=True)
class Burst:
    """Requests of one client beyond this many in so many seconds are thinned for statistics."""

    requests: int = 10
    seconds: float = 60.0


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A request that the model answers: its JSON body."""

    name: str
    body: str

    @classmethod
    def of(cls, name: str, request: Mapping[str, Any]) -> Self:
        """Make one from the request."""
        return cls(name=name, body=json.dumps(request, ensure_ascii=False))

    @property
    def request(self) -> Any:
        """The request that the body holds."""
        return json.loads(self.body)


PROFILE: Final = (
    Feature(name="characters", kind=Kind.COUNT, unit="{character}", description="Characters of the text."),
    Feature(name="words", kind=Kind.COUNT, unit="{word}", description="Words of the text after normalisation."),
    Feature(name="word_length", kind=Kind.NUMBER, unit="{character}", description="Mean characters per word."),
    Feature(name="alphabetic", kind=Kind.RATIO, description="Share of characters that are letters."),
    Feature(name="digit", kind=Kind.RATIO, description="Share of characters that are digits."),
    Feature(
        name="special",
        kind=Kind.RATIO,
        description="Share of characters that are no letter, digit or white space.",
    ),
    Feature(name="out_of_vocabulary", kind=Kind.RATIO, description="Share of words the model never saw."),
)
"""What is observed of a text in place of the text."""


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """A model: see the fields.

    A classification has ``classes``, and ``none_of_these`` where feedback may say that none of them was right; a
    regression has a ``unit`` and a plausible range. ``personal`` names the fields of a request that are personal.
    ``refusals`` are reasons, beside the common ones, why it refuses a request.
    ``slices`` names features whose values are scored apart; ``stored_input_bytes`` bounds the input a record keeps.
    ``label_noise`` is the share of labels that may be wrong, ``margin`` how much worse than another a model may be and
    count as equal, and ``randomisation_unit`` what an experiment assigns: a request, a client or a user.
    """

    name: str
    task: Task
    stages: tuple[Stage, ...]
    features: tuple[Feature, ...]
    description: str = ""
    route: str = "/predict"
    classes: tuple[str, ...] = ()
    none_of_these: bool = True
    unit: str = "1"
    minimum: float | None = None
    maximum: float | None = None
    personal: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    samples: tuple[Sample, ...] = ()
    slices: tuple[str, ...] = ()
    client_header: str = "x-client-id"
    user_header: str = "x-user-id"
    stored_input_bytes: int = 65_536
    burst: Burst = field(default_factory=Burst)
    label_noise: float = 0.0
    margin: float = 0.0
    randomisation_unit: str = "user"

    def __post_init__(self) -> None:
        for sentence in self._faults():
            raise DeclarationError(f"The declaration of {self.name!r} cannot work: {sentence}.")

    @cached_property
    def observed(self) -> tuple[Feature, ...]:
        """The features as they are measured: a text is measured as its profile."""
        return tuple(one for feature in self.features for one in (PROFILE if feature.kind is Kind.TEXT else (feature,)))

    @property
    def measures(self) -> tuple[Feature, ...]:
        """Observed features that are numbers."""
        return tuple(feature for feature in self.observed if feature.kind is not Kind.CATEGORY)

    @property
    def categories(self) -> tuple[Feature, ...]:
        """Observed features that are one of some values."""
        return tuple(feature for feature in self.observed if feature.kind is Kind.CATEGORY)

    def series(self) -> dict[str, int]:
        """Return how many time series each metric of one instance makes, of users' and of synthetic requests."""
        counts = {
            "ml.inference.duration": len(self.stages) * BUCKETS,
            "ml.predictions": max(1, len(self.classes)),
            "ml.input.feature": len(self.measures),
            "ml.input.category": sum(len(feature.values) + 2 for feature in self.categories),
        }
        return {name: 2 * count for name, count in counts.items()}

    # --- as JSON ------------------------------------------------------------------------------------------------------

    def as_json(self) -> str:
        """Return the canonical JSON: sorted names, no white space, nothing that has its default."""
        document = {"schema_version": SCHEMA_VERSION, **_document(self)}
        return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the canonical JSON, 64 hexadecimal digits."""
        return hashlib.sha256(self.as_json().encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str) -> Declaration:
        """Read a declaration back; raises :class:`DeclarationError`."""
        document = json.loads(text)
        found = document.pop("schema_version", None) if isinstance(document, dict) else None
        if not isinstance(found, int) or found > SCHEMA_VERSION:
            raise DeclarationError(
                f"This declaration has the schema version {found!r}, and this program knows {SCHEMA_VERSION}: "
                "read it with a newer ml-telemetry."
            )
        return _object(cls, document, "the declaration")

    # --- what cannot work ---------------------------------------------------------------------------------------------

    def _faults(self) -> Iterator[str]:
        if not _MODEL.fullmatch(self.name):
            yield "its name must be lower-case letters, digits, '_' and '-', and begin with a letter"
        if not self.stages:
            yield "it has no stage: declare at least Stage(name='predict')"
        yield from _names("stage", [stage.name for stage in self.stages])
        yield from _names("group", [*{stage.group for stage in self.stages if stage.group}])
        yield from _names("refusal", list(self.refusals))
        yield from _names("feature", [feature.name for feature in self.observed])
        for feature in self.observed:
            if (feature.kind is Kind.CATEGORY) != bool(feature.values):
                yield f"the feature {feature.name!r} is a {feature.kind}, and only a category has values"
            if not feature.description:
                yield f"the feature {feature.name!r} needs a sentence that says what it is"
        if len(self.stages) > 1 and [stage.per for stage in self.stages] != sorted(
            (stage.per for stage in self.stages), key=self._order()
        ):
            yield "its stages per batch must follow each other, since a batch has one beginning and one end"
        if self.task is Task.CLASSIFICATION and len(set(self.classes)) < 2:
            yield "a classification needs two classes or more, each with its own name"
        if self.task is Task.REGRESSION and self.classes:
            yield "a regression has no classes"
        if self.minimum is not None and self.maximum is not None and self.minimum >= self.maximum:
            yield f"its range from {self.minimum} to {self.maximum} is empty"
        unknown = set(self.slices) - {feature.name for feature in self.observed}
        if unknown:
            yield f"the slice {min(unknown)!r} is no feature"
        for header in (self.client_header, self.user_header):
            if not _HEADER.fullmatch(header):
                yield f"{header!r} is no lower-case name of a header"
        if self.randomisation_unit not in ("request", "client", "user"):
            yield "its randomisation_unit must be request, client or user"
        yield from self._too_many_series()

    def _order(self) -> Any:
        """Return what sorts stages: those before the batch, those of it, and those after it."""
        batched = [at for at, stage in enumerate(self.stages) if stage.per is Per.BATCH]
        positions = iter(range(len(self.stages)))
        first, last = (batched[0], batched[-1]) if batched else (0, -1)
        return lambda per: (at := next(positions), (first <= at <= last) != (per is Per.BATCH))[1]

    def _too_many_series(self) -> Iterator[str]:
        series = self.series()
        total = sum(series.values())
        if total > MAXIMUM_SERIES:
            most = max(series, key=series.__getitem__)
            parts = {
                "ml.inference.duration": "stages",
                "ml.predictions": "classes",
                "ml.input.feature": "features",
                "ml.input.category": "values of its categories",
            }
            yield (
                f"it would make {total:,} time series, {series[most]:,} of them by its {parts[most]}, and the most is "
                f"{MAXIMUM_SERIES:,}: declare fewer, or group them"
            )


def _names(what: str, names: list[str]) -> Iterator[str]:
    for name in names:
        if not _NAME.fullmatch(name):
            yield f"the {what} {name!r} must be lower-case letters, digits and '_', and begin with a letter"
        if names.count(name) > 1:
            yield f"the {what} {name!r} is declared twice"


def _document(value: Any) -> dict[str, Any]:
    return {
        one.name: _plain(current) for one in fields(value) if (current := getattr(value, one.name)) != _default(one)
    }


def _default(one: Any) -> Any:
    return one.default_factory() if one.default_factory is not MISSING else one.default


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return _document(value) if hasattr(value, "__dataclass_fields__") else value


T = TypeVar("T")


def _object(kind: type[T], document: Any, where: str) -> T:
    """Make a frozen object of the fields in a JSON object, and say which field does not fit."""
    if not isinstance(document, dict):
        raise DeclarationError(f"{where} must be a JSON object.")
    hints = get_type_hints(kind)
    known = {one.name: one for one in fields(cast(Any, kind))}
    if unknown := sorted(set(document) - set(known)):
        raise DeclarationError(f"{where} has a field {unknown[0]!r} that is not known.")
    missing = [name for name, one in known.items() if name not in document and _default(one) is MISSING]
    if missing:
        raise DeclarationError(f"{where} lacks the field {missing[0]!r}.")
    return kind(**{name: _value(hints[name], value, f"{where}, {name}") for name, value in document.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise DeclarationError(f"{where} must be a list.")
        return tuple(_value(get_args(hint)[0], item, where) for item in value)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        try:
            return hint(value)
        except ValueError:
            raise DeclarationError(f"{where} must be one of {', '.join(hint)}.") from None
    if isinstance(hint, type) and hasattr(hint, "__dataclass_fields__"):
        return _object(hint, value, where)
    kinds = get_args(hint) or (hint,)
    allowed = (*kinds, int) if float in kinds else kinds
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in kinds):
        raise DeclarationError(f"{where} must be {' or '.join(kind.__name__ for kind in kinds)}.")
    return value


def main(arguments: list[str]) -> None:
    """Print the canonical JSON of the declaration that ``MODULE:NAME`` names, for programs that do not import it."""
    module, _, name = arguments[0].partition(":") if len(arguments) == 1 else ("", "", "")
    if not module or not name:
        sys.exit("Usage: python -m ml_telemetry.declaration MODULE:NAME")
    try:
        found = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        sys.exit(f"There is no module {error.name!r}: name one that Python finds here.")
    except AttributeError:
        sys.exit(f"The module {module!r} has no {name!r}: name the object that is the declaration.")
    except DeclarationError as error:
        sys.exit(str(error))
    if not isinstance(found, Declaration):
        sys.exit(f"{module}:{name} is a {type(found).__name__}, not a Declaration.")
    print(found.as_json())


if __name__ == "__main__":
    # Not those of this module, which is another one while it is run: a declaration is of the class that is imported.
    import_module("ml_telemetry.declaration").main(sys.argv[1:])
