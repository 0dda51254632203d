"""The declared models: what is known about each is in schemas/models/*.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any, Final, Literal

from converter.errors import ModelError
from converter.models.architecture import Dimensions
from converter.models.families import Family, family
from converter.resources import load_json, schemas

HUB: Final = "https://huggingface.co"


@dataclass(frozen=True, slots=True)
class Layout:
    """How the published files store a model.

    `transposed`: the matrices are views with stride (1, in) of storages that are [out, in]. `order` is the order of the
    storages, a key of the architecture's orders. `dtype` is the parameters' dtype. Rows `without` are not stored.
    """

    prefix: str
    mask_dtype: str
    transposed: bool
    order: str
    note: str | None = None
    dtype: str = "F32"
    without: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A weight file. Facts that are not known are None.

    `listed_size` is what the repository's page shows; `nbytes` is exact, and `nbytes_is` says whether it was published
    or calculated. `superseded_sha256` is the hash of an older file of the same size. `first` is a shard's first tensor.
    """

    name: str
    url: str
    listed_size: str
    storages: int
    root: str
    nbytes: int | None = None
    nbytes_is: Literal["published", "calculated"] | None = None
    sha256: str | None = None
    superseded_sha256: str | None = None
    first: str | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """A declared model. `config` is its config.json. `parameters` counts elements, without masks and with a tied head once.

    `safetensors` is the revision of the repository where somebody's conversion to safetensors lies; None if there is none.
    """

    name: str
    architecture: str
    repository: str
    licence: str
    config: Mapping[str, Any] = field(hash=False)
    parameters: int
    layout: Layout
    files: tuple[ModelFile, ...]
    companions: tuple[str, ...]
    index: str | None = None
    safetensors: str | None = None

    @property
    def family(self) -> Family:
        """Its family."""
        return family(self.architecture)

    @property
    def dimensions(self) -> Dimensions:
        """Its layers, width and heads."""
        return self.family.dimensions(self.config)

    @property
    def short(self) -> str:
        """The name without the family: `111M`."""
        return self.name.rpartition("-")[2]

    def url(self, file: str) -> str:
        """The direct link to a file of the repository."""
        return _url(self.repository, file)


@cache
def declared() -> tuple[Model, ...]:
    """The declared models, the smallest first."""
    models = (_model(load_json("models", path.name)) for path in (schemas() / "models").glob("*.json"))
    return tuple(sorted(models, key=lambda model: model.parameters))


def find(name: str) -> Model:
    """The declared model called `Cerebras-GPT-111M`, `111M` or `cerebras/Cerebras-GPT-111M`, in any case."""
    wanted = name.casefold()
    for model in declared():
        if wanted in {model.name.casefold(), model.short.casefold(), model.repository.casefold()}:
            return model
    known = ", ".join(model.name for model in declared())
    raise ModelError(f"`{name}` is not a declared model: choose {known}")


def _model(document: dict[str, Any]) -> Model:
    files = (ModelFile(url=_url(document["repository"], file["name"]), **file) for file in document["files"])
    read = {
        "config": MappingProxyType(document["config"]),
        "layout": Layout(**document["layout"]),
        "files": tuple(files),
        "companions": tuple(document["companions"]),
    }
    return Model(**{**document, **read})


def _url(repository: str, file: str) -> str:
    return f"{HUB}/{repository}/resolve/main/{file}"
