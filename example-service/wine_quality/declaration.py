"""What the wine model says of itself: its spans, metrics and lines follow from this."""

from __future__ import annotations

from typing import Final

from ml_telemetry.declaration import Declaration, Feature, Kind, Limits, Sample, Stage, Task

SERVICE_NAME: Final = "wine-quality"


def _measured(name: str, unit: str, description: str) -> Feature:
    return Feature(name=name, kind=Kind.NUMBER, unit=unit, description=description)


DECLARATION: Final = Declaration(
    name="wine_quality",
    task=Task.REGRESSION,
    description="Estimates what score tasters would give a red wine.",
    unit="{score}",
    minimum=0.0,
    maximum=10.0,
    stages=(
        Stage(name="prepare", description="Put the measurements into the order of the training."),
        Stage(name="predict", description="Ask the model for the score."),
    ),
    features=(
        _measured("fixed_acidity", "g/L", "Acids that stay when the wine is heated, as tartaric acid."),
        _measured("volatile_acidity", "g/L", "Acids that leave when the wine is heated, as acetic acid."),
        _measured("citric_acid", "g/L", "Citric acid."),
        _measured("residual_sugar", "g/L", "Sugar that is left after fermentation."),
        _measured("chlorides", "g/L", "Salt, as sodium chloride."),
        _measured("free_sulfur_dioxide", "mg/L", "Sulfur dioxide that is not bound."),
        _measured("total_sulfur_dioxide", "mg/L", "All sulfur dioxide."),
        _measured("density", "g/mL", "Density."),
        _measured("ph", "1", "Acidity, as pH."),
        _measured("sulphates", "g/L", "Sulphates, as potassium sulphate."),
        _measured("alcohol", "%", "Alcohol by volume."),
    ),
    limits=Limits(smallest_answer_bytes=128),
    samples=tuple(
        Sample.of(
            name,
            {
                "fixed_acidity": row[0],
                "volatile_acidity": row[1],
                "citric_acid": row[2],
                "residual_sugar": row[3],
                "chlorides": row[4],
                "free_sulfur_dioxide": row[5],
                "total_sulfur_dioxide": row[6],
                "density": row[7],
                "ph": row[8],
                "sulphates": row[9],
                "alcohol": row[10],
            },
        )
        for name, row in (
            ("plain", (7.5, 0.65, 0.05, 2.0, 0.08, 12.0, 40.0, 0.9975, 3.4, 0.55, 9.5)),
            ("better", (9.0, 0.35, 0.45, 2.2, 0.07, 16.0, 38.0, 0.996, 3.25, 0.8, 12.0)),
        )
    ),
)
FEATURES: Final = tuple(feature.name for feature in DECLARATION.features)
