"""Traces, metrics and log lines of a machine-learning service, made from one declaration of its model."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ml_telemetry.asgi import instrument
    from ml_telemetry.handler import Prediction, prediction
    from ml_telemetry.inference import InferenceRecord

__all__ = ["InferenceRecord", "Prediction", "instrument", "prediction"]

_MODULES = {
    "InferenceRecord": "ml_telemetry.inference",
    "Prediction": "ml_telemetry.handler",
    "instrument": "ml_telemetry.asgi",
    "prediction": "ml_telemetry.handler",
}


def __getattr__(name: str) -> Any:
    """Load what a service needs only where a service asks for it: tools read the names of signals alone."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
