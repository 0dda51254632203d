"""What generation_config.json says of a model, by the keys of a GGUF file.

Sources: gguf-py's constants.py, for the names of keys; transformers' GenerationConfig, for those of settings.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from converter.formats.gguf.metadata import ARCHITECTURE, shortest
from converter.formats.marks import GENERATION

if TYPE_CHECKING:
    from converter.tensors.catalogue import Catalogue

_TOKENS: Final = {  # a setting and the keys of its tokens; text ends at any of several
    "bos_token_id": ("bos_token_id",),
    "eos_token_id": ("eos_token_id", "eot_token_id", "eom_token_id"),
    "pad_token_id": ("padding_token_id",),
}
_SAMPLING: Final = {
    "general.sampling.temp": "temperature",
    "general.sampling.top_k": "top_k",
    "general.sampling.top_p": "top_p",
    "general.sampling.min_p": "min_p",
    "general.sampling.penalty_repeat": "repetition_penalty",
}
_SAMPLERS: Final = ("temperature", "top_k", "top_p", "min_p")  # they mean something only where tokens are drawn
_LARGEST: Final = 1 << 31


def as_files(catalogue: Catalogue) -> Mapping[str, bytes]:
    """The file that transformers reads, by its name; none if the keys say nothing that it would say."""
    said = catalogue.metadata
    found: dict[str, Any] = {}
    for setting, names in _TOKENS.items():
        ids = [said.get(f"tokenizer.ggml.{name}") for name in names]
        known = list(dict.fromkeys(number for number in ids if _is_id(number)))
        if known:
            found[setting] = known[0] if len(known) == 1 else known
    start = said.get(f"{said.get(ARCHITECTURE)}.decoder_start_token_id")
    if _is_id(start):
        found["decoder_start_token_id"] = start
    for key, setting in _SAMPLING.items():
        value = said.get(key)
        if isinstance(value, int | float) and type(value) is not bool and math.isfinite(value) and value > 0:
            found[setting] = shortest(value) if isinstance(value, float) else value
    if said.get("general.sampling.temp") == 0:  # the likeliest token is taken, whatever else the file says
        found = {setting: value for setting, value in found.items() if setting not in _SAMPLERS} | {"do_sample": False}
    elif any(setting in found for setting in _SAMPLERS):
        found["do_sample"] = True
    return {GENERATION: (json.dumps(found, indent=2) + "\n").encode()} if found else {}


def _is_id(value: object) -> bool:
    return type(value) is int and 0 <= value < _LARGEST
