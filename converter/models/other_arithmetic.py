"""What a config.json says, though no model of its family computes it: it belongs to another family, whatever it is called."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from converter.resources import load_json

if TYPE_CHECKING:
    from converter.models.architecture import Architecture

# How the names of classes end in transformers, after the family's name.
_ENDING: Final = re.compile(r"(For[A-Z]\w*|(?:LMHead|DoubleHeads|LM|PreTrained|Text)?Model)$")
_NO_LETTER: Final = re.compile(r"[^a-z0-9]")


def objections(family: Architecture, config: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each key that changes what is computed and that the family does not have, and for foreign classes."""
    own = {setting.name for setting in family.settings}
    read = [key for size in family.size_table for key in size.config]
    read += [key for setting in family.settings for key in setting.config]
    own |= {key.rpartition(".")[2] for key in read}
    for row in load_json("other-arithmetic.json")["rows"]:
        key = row["key"]
        for inside in ("", *(f"{name}." for name in row.get("also", ()))):
            name = inside + key
            said = _said(config, name)
            if key in own or _without_effect(said, row["without_effect"]):
                continue
            yield (
                f"`config.json` says `{name}` is {reprlib.repr(said)}, as models of {row['of']} have it, and {family.title} "
                "does not compute that: if the key is a mistake, remove it"
            )
    for name in _classes(config):
        other = _family(name)
        if other is not None and not _is_own(family, other):
            yield (
                f"`config.json` says the model's class is {name!r:.80} and its `model_type` is "
                f"{reprlib.repr(config.get('model_type', family.model_type))}: these are two families, so correct the wrong one"
            )


def _said(config: Mapping[str, Any], name: str) -> Any:
    outer, _, key = name.rpartition(".")
    inner = config.get(outer) if outer else config
    return inner.get(key) if isinstance(inner, Mapping) else None


def _without_effect(said: Any, values: list[Any]) -> bool:
    """Whether a value is one of these, or a list of nothing else. 1 is not true."""
    if said is None or (isinstance(said, list) and all(_without_effect(one, values) for one in said)):
        return True
    return any(said == value and isinstance(said, bool) == isinstance(value, bool) for value in values)


def _classes(config: Mapping[str, Any]) -> list[str]:
    said = config.get("architectures")
    return [name for name in said if isinstance(name, str)] if isinstance(said, list) else []


def _family(name: str) -> str | None:
    """What transformers calls the family of one of its classes, without signs; None if it has no such family."""
    stem = _NO_LETTER.sub("", _ENDING.sub("", name).lower())
    return (
        stem if stem in {_NO_LETTER.sub("", kind) for kind in load_json("config-defaults.json")["families"]} else None
    )


def _is_own(family: Architecture, other: str) -> bool:
    called = {family.name, family.model_type, *family.also}
    classes = {family.transformers, *family.also.values()} - {None}
    called |= {_ENDING.sub("", name or "").lower() for name in (*classes, *_classes(family.sample))}
    return other in {_NO_LETTER.sub("", name) for name in called}
