"""What the environment may change of a deployment to Kubernetes; read once per command."""

import shlex
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, AliasGenerator, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from sightglass.facts.cluster import ClusterTopology
from sightglass.facts.errors import UserError
from sightglass.facts.settings import PREFIX

KIND_CLUSTER = "sightglass"
"""Name of the kind cluster that is made where no other is named; its context is ``kind-sightglass``."""


def _names(field: str) -> AliasChoices:
    return AliasChoices(f"{PREFIX}{field.upper()}", field.upper())


class KubernetesSettings(BaseSettings):
    """Each field is ``SIGHTGLASS_<NAME>`` in the environment; the short name of earlier versions does the same."""

    model_config = SettingsConfigDict(
        env_ignore_empty=True, extra="ignore", alias_generator=AliasGenerator(validation_alias=_names)
    )

    kube_context: str | None = Field(default=None, description="Context of kubectl; without it a kind cluster is made")
    charts_dir: Path | None = Field(default=None, description="Folder of unpacked charts that are taken instead")
    without: str = Field(default="", description="Releases that are left out, with commas between them")
    storage_class: str | None = Field(default=None, description="StorageClass of all volumes")
    image_registry: str | None = Field(default=None, description="Registry that has all images, ours is pushed to it")
    image_loader: str | None = Field(default=None, description="Command that gives the nodes an image archive")
    image_digests: Literal["on", "off"] = Field(default="on", description="Whether images are pinned by digest too")
    container_engine: Literal["docker", "podman"] = Field(default="docker", description="What builds the image")
    base_image: str | None = Field(default=None, description="Base of the service's image")
    grafana_url: str = Field(default=ClusterTopology().grafana_url, description="Where people open Grafana")
    runbooks_url: str = Field(default=ClusterTopology().runbooks_url, description="Where people read the runbooks")

    @property
    def context(self) -> str:
        """The context that kubectl and helm are called with."""
        return self.kube_context or f"kind-{KIND_CLUSTER}"

    @property
    def kind_cluster(self) -> str | None:
        """Name of the kind cluster behind the context, if it is one."""
        return self.context.removeprefix("kind-") if self.context.startswith("kind-") else None

    @property
    def left_out(self) -> frozenset[str]:
        """Names of the releases that are not installed."""
        return frozenset(name.strip() for name in self.without.split(",") if name.strip())

    @property
    def loader(self) -> list[str]:
        """The image loader's words."""
        return shlex.split(self.image_loader or "")

    @field_validator("image_loader")
    @classmethod
    def _has_whole_words(cls, value: str | None) -> str | None:
        shlex.split(value or "")
        return value


def load() -> KubernetesSettings:
    """Read the settings; a value that does not fit raises :class:`UserError`."""
    try:
        settings = KubernetesSettings()
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"{str(first['loc'][0]).upper()} does not fit: {first['msg']}. Set it anew or unset it."
        ) from None
    if settings.charts_dir is not None:
        settings.charts_dir = settings.charts_dir.expanduser().resolve()
        if not settings.charts_dir.is_dir():
            raise UserError(f"CHARTS_DIR is {settings.charts_dir}, which is no folder: set it to one with the charts.")
    return settings
