"""The families that are recognised: one for each file in schemas/architectures, with its module if it has one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from converter.models.families.gpt2 import Gpt2
from converter.models.family import Family
from converter.resources import load_json, schemas

_MODULES: Final[dict[str, type[Family]]] = {"gpt2": Gpt2}


def read(document: Mapping[str, Any]) -> Family:
    """The family that a document of schemas/architectures.schema.json describes."""
    return _MODULES.get(document["name"], Family).read(document)


@cache
def families() -> tuple[Family, ...]:
    """The families of schemas/architectures, by name."""
    paths = sorted((schemas() / "architectures").glob("*.json"))
    return tuple(read(load_json("architectures", path.name)) for path in paths)


def family(name: str) -> Family:
    """The family of a declared model, by the name in its JSON."""
    return next(family for family in families() if family.name == name)


def runnable() -> list[str]:
    """The titles of the families that this package writes as GGUF and computes."""
    return [family.title for family in families() if family.name in _MODULES]
