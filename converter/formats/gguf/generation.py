"""How to generate text: generation_config.json, and the keys of a GGUF file that say the same.

Sources: gguf-py's constants.py and llama.cpp's include/llama.h, for the names of keys; transformers' GenerationConfig, for those
of settings.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from converter.formats.gguf.keys import Packed, scalar
from converter.formats.gguf.metadata import ARCHITECTURE, shortest
from converter.formats.marks import GENERATION

if TYPE_CHECKING:
    from converter.models.tokenizers.tokenizer import Tokenizer
    from converter.tensors.catalogue import Catalogue

_TOKENS: Final = {  # each setting and the keys of its tokens; if there are several, text ends at any of them
    "bos_token_id": ("bos_token_id",),
    "eos_token_id": ("eos_token_id", "eot_token_id", "eom_token_id"),
    "pad_token_id": ("padding_token_id",),
}
_ROLES: Final = {"bos_token_id": ("bos",), "eos_token_id": ("eos", "eot", "eom"), "pad_token_id": ("pad",)}
_START: Final = "decoder_start_token_id"
_TEMPERATURE: Final = "general.sampling.temp"


class _Row(NamedTuple):
    """A key, its type, and the setting of transformers; `least` is the smallest value that both programs understand."""

    key: str
    type: str
    setting: str
    least: float = 1e-30  # above zero, as F32, too


_SAMPLING: Final = (
    _Row(_TEMPERATURE, "f32", "temperature"),
    _Row("general.sampling.top_k", "i32", "top_k", 0),  # 0 turns it off in both programs
    _Row("general.sampling.top_p", "f32", "top_p"),
    _Row("general.sampling.min_p", "f32", "min_p", 0),
    _Row("general.sampling.penalty_repeat", "f32", "repetition_penalty"),
)
# Settings that transformers doesn't have, and that llama.cpp's converter takes from the same file under these names.
_FURTHER: Final = (
    _Row("general.sampling.penalty_repeat", "f32", "penalty_repeat"),
    _Row("general.sampling.penalty_last_n", "i32", "penalty_last_n", -1),
    _Row("general.sampling.xtc_probability", "f32", "xtc_probability", 0),
    _Row("general.sampling.xtc_threshold", "f32", "xtc_threshold", 0),
    _Row("general.sampling.mirostat", "i32", "mirostat", 0),
    _Row("general.sampling.mirostat_tau", "f32", "mirostat_tau", 0),
    _Row("general.sampling.mirostat_eta", "f32", "mirostat_eta", 0),
)
_SAMPLERS: Final = ("temperature", "top_k", "top_p", "min_p")  # they only mean something if tokens are drawn
_ABOUT_THE_FILE: Final = ("transformers_version", "_from_model_config", "_commit_hash")
_LARGEST: Final = 1 << 31


# ---- from keys to generation_config.json ----------------------------------------------------------------------------


def as_files(catalogue: Catalogue) -> Mapping[str, bytes]:
    """The file that transformers reads, by its name; none if the keys say nothing that it would say."""
    said = catalogue.metadata
    found: dict[str, Any] = {}
    for setting, names in _TOKENS.items():
        ids = [said.get(f"tokenizer.ggml.{name}") for name in names]
        known = list(dict.fromkeys(number for number in ids if _is_id(number)))
        if known:
            found[setting] = known[0] if len(known) == 1 else known
    start = said.get(f"{said.get(ARCHITECTURE)}.{_START}")
    if _is_id(start):
        found[_START] = start
    found |= _drawn(said)
    return {GENERATION: (json.dumps(found, indent=2) + "\n").encode()} if found else {}


def _drawn(said: Mapping[str, Any]) -> dict[str, Any]:
    """How tokens are drawn, in the words of transformers."""
    found: dict[str, Any] = {}
    for row in _SAMPLING:
        value = said.get(row.key)
        if _fits(value, row):
            found[row.setting] = shortest(value) if isinstance(value, float) else value
    if said.get(_TEMPERATURE) == 0:  # the likeliest token is taken, whatever else the file says
        return {setting: value for setting, value in found.items() if setting not in _SAMPLERS} | {"do_sample": False}
    return found | ({"do_sample": True} if any(setting in found for setting in _SAMPLERS) else {})


# ---- from generation_config.json to keys ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sampling:
    """The values of keys by their names, the settings that they come from, and the settings that change nothing."""

    keys: Mapping[str, int | float]
    taken: frozenset[str]
    idle: tuple[str, ...]


def sampling(document: Mapping[str, Any]) -> Sampling:
    """What a generation_config.json says of how tokens are drawn.

    Where it says that none are drawn (`do_sample` is false), the temperature becomes 0, at which llama.cpp takes the likeliest.
    """
    keys: dict[str, int | float] = {}
    taken = set[str]()
    idle: tuple[str, ...] = ()
    for row in (*_SAMPLING, *_FURTHER):
        value: Any = document.get(row.setting)
        if _fits(value, row) and row.key not in keys:
            keys[row.key] = value
            taken.add(row.setting)
    if document.get("do_sample") is False:
        idle = tuple(setting for setting in _SAMPLERS if document.get(setting) is not None)
        for row in _SAMPLING:
            if row.setting in _SAMPLERS:
                keys.pop(row.key, None)
        keys[_TEMPERATURE] = 0
    if "do_sample" in document and any(row.key in keys for row in _SAMPLING if row.setting in _SAMPLERS):
        taken.add("do_sample")
    return Sampling(keys, frozenset(taken), idle)


def packed(document: Mapping[str, Any]) -> Iterator[Packed]:
    """The keys of a generation_config.json that say how tokens are drawn."""
    types = {row.key: row.type for row in (*_SAMPLING, *_FURTHER)}
    for key, value in sampling(document).keys.items():
        yield scalar(key, types[key], int(value) if types[key] == "i32" else value)


def ended(tokenizer: Tokenizer, document: Mapping[str, Any], rows: int) -> Tokenizer:
    """The tokenizer with the tokens that a generation_config.json names, where it doesn't say itself what they are.

    Text may end at several tokens: GGUF has keys for three. `rows` is the number of the embedding's rows.
    """
    special = dict(tokenizer.special)
    for setting, roles in _ROLES.items():
        free = [role for role in roles if role not in special]
        known = {special[role] for role in roles if role in special}
        further = [number for number in _ids(document, setting) if number < rows and number not in known]
        special |= zip(free, further, strict=False)
    return replace(tokenizer, special=special)


def left(document: Mapping[str, Any], special: Mapping[str, int], start: object) -> str | None:
    """Why a part of generation_config.json stays behind, as a sentence; None if everything went along.

    `special` are the ids that the file gets by role, and `start` is the token with which its decoder starts.
    """
    found = sampling(document)
    behind = []
    for setting, value in document.items():
        if setting in _ROLES:
            written = {special[role] for role in _ROLES[setting] if role in special}
            gone = not written.issuperset(_ids(document, setting)) or not (value is None or _ids(document, setting))
        elif setting == _START:
            gone = value is not None and value != start
        else:
            gone = value is not None and setting not in found.taken and setting not in found.idle
        if gone and setting not in _ABOUT_THE_FILE:
            behind.append(setting)
    reasons = []
    if behind:
        reasons.append(f"GGUF has no place for what it says about {_quoted(behind)}")
    if found.idle:
        reasons.append(f"{_quoted(found.idle)} would change nothing, because `do_sample` is false")
    return "; ".join(reasons) or None


def comparable(document: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a generation_config.json that a GGUF file could say, in the words of `as_files`."""
    found: dict[str, Any] = {}
    for setting in _ROLES:
        if ids := _ids(document, setting):
            found[setting] = ids[0] if len(ids) == 1 else ids
    if _is_id(document.get(_START)):
        found[_START] = document[_START]
    return found | _drawn(sampling(document).keys)


def _ids(document: Mapping[str, Any], setting: str) -> list[int]:
    value = document.get(setting)
    return list(
        dict.fromkeys(one for one in (value if type(value) is list else [value]) if type(one) is int and _is_id(one))
    )


def _quoted(settings: list[str] | tuple[str, ...]) -> str:
    return ", ".join(f"`{setting[:60]}`" for setting in settings)


def _is_id(value: object) -> bool:
    return type(value) is int and 0 <= value < _LARGEST


def _fits(value: Any, row: _Row) -> bool:
    """Whether a value is a number that the row's key can have."""
    if type(value) not in (int, float) or not math.isfinite(value) or not row.least <= value < _LARGEST:
        return False
    return row.type != "i32" or value == int(value)
