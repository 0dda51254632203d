"""What config.json says against the tensors of a model that has no rows of its own here.

Each row names a key of config.json and the tensors that show its value. A row holds only for names that mean the same in
every architecture that uses them, and says nothing where the layers differ from each other: then one number can't be right.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from converter.text import plural

if TYPE_CHECKING:
    from converter.tensors.tensor import Tensor

_LAYERS: Final = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_WIDTH: Final = ("embedding_size", "word_embed_proj_dim", "n_embd", "d_model", "hidden_size")
_HEADS: Final = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_KV_HEADS: Final = ("num_key_value_heads",)
_FURTHER: Final = "num_nextn_predict_layers"  # layers behind the last one, which guess further tokens
# The lists of layers, and the keys that may say how many there are: the first key that is there counts.
_LISTS: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(("model.layers.", "transformer.h.", "backbone.layers.", "layers.", "h."), _LAYERS),
    **dict.fromkeys(("bert.encoder.layer.", "roberta.encoder.layer.", "vit.encoder.layer."), _LAYERS),
    "model.encoder.layers.": ("encoder_layers",),
    "model.decoder.layers.": ("decoder_layers", "num_hidden_layers"),
}
_LAYER: Final = re.compile(rf"({'|'.join(map(re.escape, _LISTS))})(0|[1-9][0-9]{{0,5}})\..+")


class _Size(NamedTuple):
    """A dimension of tensors that a key of config.json gives."""

    names: re.Pattern[str]
    dimension: int
    keys: tuple[str, ...]
    called: str
    unit: str


def _width(names: str) -> _Size:
    return _Size(re.compile(names), 1, _WIDTH, "a row of the embedding has", "number")


def _inner(names: str, called: str, *keys: str) -> _Size:
    return _Size(re.compile(names), 0, keys, f"{called} has", "row")


_SIZES: Final = (
    _width(r"(?:model\.(?:decoder\.)?)?embed_tokens\.weight"),
    _width(r"(?:transformer\.)?(?:wte|word_embeddings)\.weight"),
    _width(r"backbone\.embeddings?\.weight"),
    _width(r"(?:ro)?bert\.embeddings\.word_embeddings\.weight"),
    _inner(r"model\.layers\.\d+\.mlp\.(?:gate|up)_proj\.weight", "up_proj", "intermediate_size"),
    _inner(r"(?:(?:ro)?bert|vit)\.encoder\.layer\.\d+\.intermediate\.dense\.weight", "intermediate.dense", "intermediate_size"),
    _inner(r"model\.encoder\.layers\.\d+\.fc1\.weight", "fc1", "encoder_ffn_dim"),
    _inner(r"model\.decoder\.layers\.\d+\.fc1\.weight", "fc1", "decoder_ffn_dim", "ffn_dim"),
)  # fmt: skip


class _Heads(NamedTuple):
    """Matrices whose rows belong to heads."""

    names: re.Pattern[str]
    keys: tuple[str, ...]
    called: str


_QUERIES: Final = re.compile(r"model\.layers\.\d+\.self_attn\.q_proj\.weight")
_KEYS: Final = re.compile(r"model\.layers\.\d+\.self_attn\.k_proj\.weight")
_VALUES: Final = re.compile(r"model\.layers\.\d+\.self_attn\.v_proj\.weight")
_ATTENTION: Final = (
    _Heads(_QUERIES, _HEADS, "q_proj"),
    _Heads(_KEYS, _KV_HEADS, "k_proj"),
    _Heads(_VALUES, _KV_HEADS, "v_proj"),
    _Heads(re.compile(r"(?:ro)?bert\.encoder\.layer\.\d+\.attention\.self\.query\.weight"), _HEADS, "query"),
    _Heads(re.compile(r"model\.decoder\.layers\.\d+\.self_attn\.q_proj\.weight"), ("decoder_attention_heads", *_HEADS), "q_proj"),
)  # fmt: skip


def misfits(tensors: Mapping[str, Tensor], config: Mapping[str, Any], *, whole: bool) -> Iterator[str]:
    """Yield a sentence for each number of config.json that the tensors contradict. `whole`: no layer is known to be elsewhere."""
    yield from _layers(tensors, config, whole)
    if config.get("quantization_config") is not None:  # packed matrices have shapes of their own
        return
    for size in _SIZES:
        key, wanted = _number(config, size.keys)
        found = _common(tensors, size.names, size.dimension)
        if wanted is not None and found is not None and found != wanted:
            yield f"`{key}` is {wanted:,}, and {size.called} {plural(found, size.unit)}"
    yield from _heads(tensors, config)


def _layers(tensors: Mapping[str, Tensor], config: Mapping[str, Any], whole: bool) -> Iterator[str]:
    held: defaultdict[str, defaultdict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for name in tensors:
        if match := _LAYER.fullmatch(name):
            held[match[1]][int(match[2])].add(name[match.end(2) :])
    further = config.get(_FURTHER)
    for prefix, layers in held.items():
        number = max(layers)
        if layers[number].isdisjoint(layers[min(layers)]) and number:
            continue  # not only a list of layers: models of 2023 have their embedding and their head in it
        key, wanted = _number(config, _LISTS[prefix])
        if wanted is None or (number + 1 < wanted and not whole):
            continue
        most = wanted + (further if type(further) is int and further > 0 else 0)
        if not wanted <= number + 1 <= most:
            yield f"`{key}` is {wanted:,}, and the last layer of the tensors is {prefix}{number}"


def _heads(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Iterator[str]:
    """Heads that can't share the rows of a projection."""
    _, each = _number(config, ("head_dim",))
    _, heads = _number(config, _HEADS)
    queries = _common(tensors, _QUERIES, 0)
    for one in _ATTENTION:
        key, wanted = _number(config, one.keys)
        rows = _common(tensors, one.names, 0)
        if wanted is None or rows is None:
            continue
        if rows % wanted:
            yield f"`{key}` is {wanted:,}, and {one.called} has {plural(rows, 'row')}, which {plural(wanted, 'head')} can't share"
        elif one.keys == _KV_HEADS and each is not None and rows != wanted * each:
            yield f"`{key}` is {wanted:,} and `head_dim` is {each:,}, and {one.called} has {plural(rows, 'row')}"
        elif (
            one.keys == _KV_HEADS
            and each is None
            and heads
            and queries is not None
            and rows * heads != queries * wanted
        ):
            said = f"`{key}` is {wanted:,} and `num_attention_heads` is {heads:,}"
            yield f"{said}, and {one.called} has {plural(rows, 'row')} where q_proj has {queries:,}"


def _number(config: Mapping[str, Any], keys: tuple[str, ...]) -> tuple[str, int | None]:
    """The first of the keys that config.json has, and its value; None if that is no positive number."""
    key = next((key for key in keys if config.get(key) is not None), keys[0])
    value = config.get(key)
    return key, value if type(value) is int and value > 0 else None


def _common(tensors: Mapping[str, Tensor], names: re.Pattern[str], dimension: int) -> int | None:
    """The size of a dimension that all the tensors of these names have; None if there are none, or if they differ."""
    found = {
        tensor.shape[dimension]
        if len(tensor.shape) == 2 and tensor.dtype.floating and tensor.storage.encoding is None
        else None
        for name, tensor in tensors.items()
        if names.fullmatch(name)
    }
    return found.pop() if len(found) == 1 else None
