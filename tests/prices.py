"""A model of another kind, for tests only: a regression with thirty features, one a category, one often missing."""

from ml_telemetry.contract import Contract
from ml_telemetry.declaration import Declaration, Feature, Kind, Limits, Per, Sample, Stage, Task

NUMBERS = tuple(Feature(name=f"number_{n}", kind=Kind.NUMBER, description=f"Number {n}.") for n in range(28))
VALUES = {feature.name: 10.0 ** (at - 14) for at, feature in enumerate(NUMBERS)} | {"heating": "coal", "rooms": None}
"""A house of which nobody counted the rooms, heated by what is not declared."""
DECLARATION = Declaration(
    name="prices",
    task=Task.REGRESSION,
    unit="EUR",
    stages=(Stage(name="prepare"), Stage(name="estimate", per=Per.BATCH)),
    features=(
        *NUMBERS,
        Feature(name="heating", kind=Kind.CATEGORY, values=("gas", "oil"), description="What heats it."),
        Feature(name="rooms", kind=Kind.COUNT, unit="{room}", description="Rooms."),
    ),
    limits=Limits(smallest_answer_bytes=200),
    samples=(Sample.of("house", VALUES),),
)
CONTRACT = Contract(DECLARATION)
