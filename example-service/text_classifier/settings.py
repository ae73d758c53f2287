"""Settings of the text classifier; each can be set by an environment variable ``TEXT_CLASSIFIER_<NAME>``."""

from __future__ import annotations

from functools import cache
from ipaddress import ip_network
from typing import Final

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

SERVICE_NAME: Final = "text-classifier"
MODEL_NAME: Final = "news_classifier"
CLASSES: Final = ("rec.autos", "rec.motorcycles", "rec.sport.baseball", "rec.sport.hockey")
TRAIN_COMMAND: Final = "python -m text_classifier.training --if-missing"


_PREFIX: Final = "TEXT_CLASSIFIER_"


class SettingsError(Exception):
    """An environment variable of the service has a value that cannot work."""


class Settings(BaseSettings):
    """What an operator may change without touching the code."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True)

    max_characters: int = Field(default=100_000, ge=1, description="Longest text that is classified, in characters.")
    max_batch_size: int = Field(default=32, ge=2, description="Most requests in one adaptive batch.")
    max_latency_ms: int = Field(default=10_000, ge=1, description="Milliseconds to wait for a batch before 503.")
    timeout_seconds: float = Field(default=30.0, gt=0, description="Seconds a received request may take before 504.")
    head_seconds: float = Field(default=10.0, gt=0, description="Seconds a caller may take to send its headers.")
    body_seconds: float = Field(default=20.0, gt=0, description="Seconds a caller may take to send a body before 408.")
    max_head_bytes: int = Field(default=16_384, ge=1024, description="Largest request line and headers, in bytes.")
    trusted_proxies: str = Field(
        default="", description="Proxies whose `X-Forwarded-For` is believed: addresses, networks."
    )
    client_address: bool = Field(default=True, description="Whether spans hold the caller's address.")

    @field_validator("trusted_proxies")
    @classmethod
    def _only_networks(cls, value: str) -> str:
        for entry in filter(None, map(str.strip, value.split(","))):
            ip_network(entry)
        return value

    @property
    def max_body_bytes(self) -> int:
        """Largest request body in bytes: a character takes at most 12 bytes as JSON (two escaped surrogates)."""
        return 12 * self.max_characters + 1024


@cache
def settings() -> Settings:
    """Return the settings of this process, read once; raises ``SettingsError`` that says which variable is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        problems = [f"{_PREFIX}{problem['loc'][0]}".upper() + f": {problem['msg']}" for problem in error.errors()]
        raise SettingsError("; ".join(problems)) from error
