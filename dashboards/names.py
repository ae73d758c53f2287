"""Names that others refer to: uids of dashboards and data sources, the tag that links the dashboards."""

from enum import StrEnum
from typing import Final


class Uid(StrEnum):
    """Uids of the dashboards; alerts and documents link to them, so they never change."""

    SERVICE = "sightglass-service"
    MODEL = "sightglass-model"
    PIPELINE = "sightglass-pipeline"
    SLO = "sightglass-slo"
    LOAD_TEST = "sightglass-load-test"
    KUBERNETES = "sightglass-kubernetes"


class Source(StrEnum):
    """Data sources: each has its type as its uid."""

    PROMETHEUS = "prometheus"
    LOKI = "loki"
    TEMPO = "tempo"


TAG: Final = "sightglass"
"""On every dashboard; the row of links at the top lists what has it."""
