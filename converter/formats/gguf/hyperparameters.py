"""The keys of a GGUF file from which its program computes, for architectures that no family here describes.

Source: llama.cpp's src/llama-hparams.cpp and src/llama-model.cpp, for the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from converter.formats.gguf.facts import plain_value
from converter.formats.gguf.metadata import ARCHITECTURE, Array, Keys
from converter.formats.gguf.names import family_of
from converter.formats.said import Alias, Hyperparameters

if TYPE_CHECKING:
    from converter.tensors.catalogue import Catalogue

# Keys that repeat what the tensors say, and keys that are for people.
_WITHOUT_EFFECT: Final = frozenset(("vocab_size", "tensor_data_layout"))
_BESIDE: Final = ("adapter.lora.alpha",)  # keys without an architecture's name before them
_DEFAULTS: Final[Mapping[str, Any]] = {
    "rope.freq_base": 10000.0,
    "attention.causal": True,
    "expert_count": 0,
    "expert_used_count": 0,
}
_HEADS: Final = "attention.head_count"
_OF_A_HEAD: Final = ("rope.dimension_count", "attention.key_length", "attention.value_length")

# What shapes don't say, and what every architecture takes from the same setting of config.json. Lengths of a text are not here,
# because some architectures count them differently. Lengths of a head are not, because some architectures have several.
_IN_CONFIG: Final[Mapping[str, tuple[str, ...]]] = {
    _HEADS: ("num_attention_heads", "n_head", "num_heads"),
    f"{_HEADS}_kv": ("num_key_value_heads",),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps",),
    "attention.layer_norm_epsilon": ("layer_norm_eps", "layer_norm_epsilon", "layernorm_epsilon"),
    "rope.freq_base": ("rope_theta", "rotary_emb_base"),
    "expert_used_count": ("num_experts_per_tok",),
}


def hyperparameters(catalogue: Catalogue) -> Hyperparameters | None:
    """The values by key, without those that become the family's config.json; None if the file names no architecture."""
    metadata = catalogue.metadata
    architecture = metadata.get(ARCHITECTURE)
    if type(architecture) is not str:
        return None
    prefix = f"{architecture}."
    known = family_of(catalogue)
    rows = {row.key for row in known.metadata} if known is not None else set()
    entries = metadata.entries if isinstance(metadata, Keys) else {}
    said = {
        name: _value(value, entries[name].type if name in entries else "")
        for name, value in metadata.items()
        if name in _BESIDE
        or (name.startswith(prefix) and name not in rows and name.removeprefix(prefix) not in _WITHOUT_EFFECT)
    }
    defaults = {} if known is not None else {prefix + name: value for name, value in _defaults(said, prefix).items()}
    return Hyperparameters((ARCHITECTURE, architecture), said, defaults)


def in_config(catalogue: Catalogue) -> list[Alias]:
    """The keys that a config.json would have as well, for architectures without a family here that makes a config.json."""
    found = hyperparameters(catalogue)
    if found is None or not found.defaults:
        return []
    prefix = f"{found.architecture[1]}."
    rows = ((prefix + name, names) for name, names in _IN_CONFIG.items())
    return [Alias(key, names, found.said[key]) for key, names in rows if type(found.said.get(key)) in (int, float)]


def _defaults(said: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """What llama.cpp assumes for keys that a file lacks. The lengths of a head follow from the other sizes."""
    found = dict(_DEFAULTS)
    heads, width = said.get(prefix + _HEADS), said.get(prefix + "embedding_length")
    if heads is not None:
        found[f"{_HEADS}_kv"] = heads
    if type(heads) is int and type(width) is int and heads > 0:
        found |= dict.fromkeys(_OF_A_HEAD, width // heads)
        length = said.get(f"{prefix}attention.key_length")
        found |= {"rope.dimension_count": length} if length is not None else {}
    return found


def _value(value: Any, kind: str) -> Any:
    """A value that JSON has. A number for each layer that is the same for all is one number."""
    if not isinstance(value, Array):
        return plain_value(value, kind)
    values = [plain_value(one, value.type) for one in value]
    return values[0] if values and all(one == values[0] for one in values) else values
