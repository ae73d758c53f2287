"""What the text classifier says of itself: its spans, metrics and lines follow from this."""

from __future__ import annotations

from typing import Final

from ml_telemetry.contract import Contract
from ml_telemetry.declaration import Declaration, Feature, Kind, Limits, Per, Sample, Stage, Task
from text_classifier.settings import CLASSES, MODEL_NAME

PREPROCESS: Final = "preprocess"
DECLARATION: Final = Declaration(
    name=MODEL_NAME,
    task=Task.CLASSIFICATION,
    description="Tells which of four newsgroups a post belongs to.",
    classes=CLASSES,
    stages=(
        Stage(name="normalise", group=PREPROCESS, description="Split the text into lower-case words."),
        Stage(name="vectorize", group=PREPROCESS, per=Per.BATCH, description="Weigh the words of each text."),
        Stage(name="predict", per=Per.BATCH, description="Ask the classifier for calibrated probabilities."),
        Stage(name="postprocess", description="Prepare the answer."),
    ),
    features=(Feature(name="text", kind=Kind.TEXT, description="The post."),),
    personal=("text",),
    refusals=("empty_text", "text_too_long"),
    limits=Limits(batch_size=32, input_bytes=1_201_024, confidence=0.5, smallest_answer_bytes=256),
    samples=(
        Sample.of(
            "hockey",
            {"text": "The goalie stopped every shot in the third period and the playoffs are back in our rink."},
        ),
        Sample.of(
            "autos", {"text": "After the oil change my sedan's engine still knocks when the transmission shifts down."}
        ),
        Sample.of("baseball", {"text": "He pitched seven innings without a run before the bullpen gave up a double."}),
        Sample.of(
            "motorcycles",
            {"text": "I lean into the corner, roll on the throttle and the bike holds its line; wear a helmet."},
        ),
    ),
)
CONTRACT: Final = Contract(DECLARATION)
