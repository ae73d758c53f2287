"""Declarations of models that the tests observe."""

from __future__ import annotations

from ml_telemetry.declaration import Declaration, Feature, Kind, Per, Sample, Stage, Task

TEXTS = Declaration(
    name="texts",
    task=Task.CLASSIFICATION,
    classes=("a", "b"),
    stages=(
        Stage(name="normalise", group="preprocess"),
        Stage(name="vectorize", group="preprocess", per=Per.BATCH),
        Stage(name="predict", per=Per.BATCH),
        Stage(name="postprocess"),
    ),
    features=(Feature(name="text", kind=Kind.TEXT, description="A text."),),
    personal=("text",),
)
"""Classifies texts in batches."""
HOUSES = Declaration(
    name="houses",
    task=Task.REGRESSION,
    unit="EUR",
    minimum=0,
    maximum=1e8,
    stages=(Stage(name="prepare"), Stage(name="predict")),
    features=(
        Feature(name="area", kind=Kind.NUMBER, unit="m2", description="Area to live in."),
        Feature(name="rooms", kind=Kind.COUNT, unit="{room}", description="Rooms."),
        Feature(name="garden", kind=Kind.RATIO, description="Share of the plot that is garden."),
        Feature(name="heating", kind=Kind.CATEGORY, values=("gas", "oil"), description="What heats it."),
    ),
    slices=("heating",),
    samples=(Sample.of("flat", {"area": 80.5, "rooms": 3, "garden": 0, "heating": "gas"}),),
)
"""Estimates prices one by one."""
