"""Heads that follow from an embedding: a model uses one tensor for both, and a file may hold either."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, Final, NamedTuple

from converter.resources import load_json

# What heads and embeddings are called, without a prefix.
HEADS: Final = (
    *("lm_head.weight", "lm_head.decoder.weight", "lm_head.decoder.bias", "predictions.decoder.weight"),
    *("predictions.decoder.bias", "generator_lm_head.weight", "vocab_projector.weight", "proj_out.weight"),
    *("output_projection.weight", "embed_out.weight", "decoder.weight", "head.weight", "lm_loss.weight"),
    "pred_layer.proj.weight",
)
EMBEDDINGS: Final = (
    *("embed_tokens.weight", "word_embeddings.weight", "wte.weight", "tokens_embed.weight", "shared.weight"),
    *("embed_in.weight", "transformer.w.weight", "tok_embeddings.weight", "embeddings.weight", "word_embedding.weight"),
)
TIED: Final = "tie_word_embeddings"


def ends(name: str, endings: tuple[str, ...]) -> bool:
    """Whether a name is one of these, or ends in one after a dot."""
    return name in endings or name.endswith(_after_a_dot(endings))


@cache
def _after_a_dot(endings: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f".{ending}" for ending in endings)


def is_tied(config: Mapping[str, Any] | None) -> bool | None:
    """Whether config.json says or implies that the head follows from the embedding; None if that is not known."""
    if config is None:
        return None
    said, kind = config.get(TIED), config.get("model_type")
    if type(said) is bool:
        return said
    table = load_json("config-defaults.json")
    family = table["families"].get(kind) if type(kind) is str else None
    return None if family is None else bool(family.get("values", {}).get(TIED, table["common"][TIED]))


def tied_heads(config: Mapping[str, Any] | None) -> Mapping[str, str]:
    """The heads that config.json's family may have, each with its embedding; none if it does not tie them."""
    if config is None or is_tied(config) is not True:
        return {}
    kind = config.get("model_type")
    return {row["head"]: row["embedding"] for row in load_json("tied-heads.json")["rows"] if kind in row["families"]}


class Pair(NamedTuple):
    """A head that is stored beside an embedding. `tied`: whether the model ties the two; None if that is not known."""

    head: str
    embedding: str
    tied: bool | None


def stored_twice(
    tensors: Mapping[str, Any], config: Mapping[str, Any] | None, followers: Mapping[str, str]
) -> Iterator[Pair]:
    """Yield the heads that are tensors of their own beside an embedding. `followers` are the heads that a family ties."""
    heads = [name for name in tensors if name in followers or is_head(name)]
    alone, tied = embedding(tensors) if heads else None, is_tied(config)
    for head in heads:
        name = followers.get(head, alone)
        if name is not None and name in tensors and tensors[name] != tensors[head]:
            yield Pair(head, name, True if head in followers and config is None else tied)


def is_head(name: str) -> bool:
    """Whether this is the name of a head's matrix."""
    return name.endswith(".weight") and ends(name, HEADS)


def embedding(names: Iterable[str]) -> str | None:
    """The one embedding among the names; None if there are several, or none."""
    found = [name for name in names if ends(name, EMBEDDINGS)]
    return found[0] if len(found) == 1 else None
