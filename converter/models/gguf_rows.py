"""What a family's table says about GGUF: the keys, and how llama.cpp computes such a model."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from converter.models.needs import Need, needs


class Ignored(NamedTuple):
    """A setting that llama.cpp leaves out, and the sentence that says so.

    From the size `below` on it changes nothing; with a `value`, only that one changes something.
    """

    setting: str
    said: str
    below: str | None = None
    value: Any = None


class Gguf(NamedTuple):
    """How llama.cpp computes it: what it takes for granted, by setting and as `needs`, and a reason if it can't.

    `default`: such a file is of this family unless it says otherwise. `ignored` are settings that llama.cpp
    leaves out.
    """

    fixed: Mapping[str, Any] = MappingProxyType({})
    refused: str | None = None
    default: bool = True
    ignored: tuple[Ignored, ...] = ()
    needs: tuple[Need, ...] = ()


class Metadatum(NamedTuple):
    """A GGUF key; `value` is an expression over sizes and settings, and an `optional` key is left out if it has no value.

    It is left out, too, if its value is that of the expression `unless`, or if a setting in `when` has another value.
    On the way back, `gives` is the setting or size that the expression `back` of `value` gives; a lone name gives itself.
    """

    key: str
    type: Literal["u32", "f32", "f64", "bool", "string"]
    value: str
    optional: bool = False
    gives: str | None = None
    back: str = "value"
    unless: str | None = None
    when: Mapping[str, Any] = MappingProxyType({})


def gguf(document: Mapping[str, Any]) -> Gguf:
    """What a family's table says about llama.cpp."""
    ignored = tuple(Ignored(**row) for row in document.get("ignored", ()))
    return Gguf(**{**document, "ignored": ignored, "needs": needs(document)})
