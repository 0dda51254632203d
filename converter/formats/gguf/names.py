"""A GGUF file in the terms of its family: the names, shapes and settings of Hugging Face, and the tokenizer."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from converter.errors import LayoutError, UnsupportedError
from converter.formats.gguf.metadata import ARCHITECTURE, Array, shortest
from converter.models import families as registry

if TYPE_CHECKING:
    from converter.models.family import Family
    from converter.tensors.catalogue import Catalogue
    from converter.tensors.tensor import Tensor

ACTIVATION: Final = "cerebras_tool.activation_function"  # our own key: the activation that the model was trained with
EMBEDDING: Final = "token_embd.weight"  # has a row for each token
TOKENIZER: Final = "tokenizer.ggml."  # the prefix of the tokenizer's keys


def canonical(catalogue: Catalogue) -> Catalogue:
    """A GGUF catalogue with its family's names, with matrices in the family's shape, and with a config.json.

    Names that no row of the family has stay as they are. If the family is not known, the whole catalogue stays as it
    is.
    """
    found = catalogue.metadata.get(ARCHITECTURE)
    known = next(
        (family for family in registry.families() if family.gguf_name is not None and family.gguf_name == found), None
    )
    if known is None:
        return catalogue
    rows = {row.gguf: row for row in known.row_table if row.gguf}
    prefix = known.prefixes[-1]

    def ours(name: str) -> tuple[str, bool]:
        """The family's name for a tensor, and whether its matrix lies transposed there."""
        number = name.split(".")[1] if name.startswith("blk.") else ""
        row = rows.get(name.replace(f"blk.{number}.", "blk.{layer}.", 1) if number.isdecimal() else name)
        return (name, False) if row is None else (row.named(prefix).replace("{layer}", number), row.gguf_transposed)

    tensors: dict[str, Tensor] = {}
    for name, tensor in catalogue.items():
        there, transposed = ours(name)
        tensors[there] = tensor.t() if transposed else tensor
    unsupported = []
    for other in catalogue.unsupported:
        there, transposed = ours(other.name)
        shape = other.shape[::-1] if transposed and other.shape is not None else other.shape
        unsupported.append(replace(other, name=there, shape=shape))
    if len(tensors.keys() | {other.name for other in unsupported}) != len(catalogue) + len(unsupported):
        raise LayoutError(
            f"`{catalogue.location}` holds one tensor twice, under its name in GGUF and under its name on the Hub"
        )
    changed = replace(catalogue, tensors=tensors, unsupported=tuple(unsupported))
    return changed.with_origin(config=_config(catalogue, known))


def says_activation(catalogue: Catalogue) -> bool:
    """Whether a file says with which form of GELU the model was trained. Only our writer notes it."""
    return ACTIVATION in catalogue.metadata


def _config(catalogue: Catalogue, known: Family) -> dict[str, Any]:
    """What a config.json of Hugging Face would say about the model."""
    metadata = catalogue.metadata
    config: dict[str, Any] = {"architectures": [known.transformers]} if known.transformers else {}
    config["model_type"] = known.model_type
    # llama.cpp computes the tanh form, so that is assumed unless the writer noted another one.
    asked = known.activation_setting("tanh")
    config |= {key: metadata.get(ACTIVATION, name) for key, name in asked.items()}
    for row in known.metadata:
        value = metadata.get(row.key, known.setting(row.value, {}))
        if value is not None:
            config[known.config_key(row.value)] = (
                shortest(value) if row.type == "f32" and type(value) is float else value
            )
    for parameter in known.row_table:
        found = catalogue.get(parameter.gguf or "") if parameter.gguf == EMBEDDING else None
        if found is not None and found.shape:
            config.setdefault(known.config_key(str(parameter.shape[0])), found.shape[0])
    for key in known.special_tokens:
        if TOKENIZER + key in metadata:
            config[key] = metadata[TOKENIZER + key]
    for key, value in config.items():
        if isinstance(value, Array) or (type(value) is float and not math.isfinite(value)):
            raise UnsupportedError(f"`{catalogue.location}` says `{key}` is {value!r}, which no config.json can hold")
    config["tie_word_embeddings"] = "output.weight" not in catalogue
    return config
