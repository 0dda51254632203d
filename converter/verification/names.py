"""Tensors by bare names: without the prefix of the source's family, because some files have it and others don't."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from converter.errors import ModelError

if TYPE_CHECKING:
    from converter.models.families import Family
    from converter.tensors.catalogue import Catalogue, Unsupported
    from converter.tensors.tensor import Tensor


def bare(name: str, family: Family | None) -> str:
    """A name without the prefix of the source's family, if the family is known and has one."""
    return name if family is None else family.bare(name)


def bare_tensors(catalogue: Catalogue, family: Family | None) -> dict[str, Tensor]:
    """The tensors by their bare names. Raises ModelError if two names differ only by the prefix."""
    tensors = {bare(name, family): tensor for name, tensor in catalogue.items()}
    if family is not None and len(tensors) < len(catalogue):
        prefix = next(name.removesuffix(family.bare(name)) for name in catalogue if name != family.bare(name))
        raise ModelError(f"`{catalogue.location}` has a name with the prefix `{prefix}` and without")
    return tensors


def opaque_tensors(catalogue: Catalogue, family: Family | None) -> dict[str, Unsupported]:
    """The tensors that are not decoded here, by their bare names."""
    return {bare(other.name, family): other for other in catalogue.unsupported}


# Endings that older versions of PyTorch and transformers gave, and those of today; transformers reads both.
_SPELLINGS: Final = (
    (".LayerNorm.gamma", ".LayerNorm.weight"),
    (".LayerNorm.beta", ".LayerNorm.bias"),
    (".weight_g", ".parametrizations.weight.original0"),
    (".weight_v", ".parametrizations.weight.original1"),
)


def other_spelling(name: str) -> str | None:
    """The name that the same tensor has in files of older or newer programs."""
    for older, newer in _SPELLINGS:
        for ending, other in ((older, newer), (newer, older)):
            if name.endswith(ending):
                return name.removesuffix(ending) + other
    return None


def stand_ins(catalogue: Catalogue) -> dict[str, str]:
    """Names that a file leaves out, with the name that stands for each: `save_model` of safetensors writes them down."""
    return {
        name: kept
        for name, kept in catalogue.metadata.items()
        if type(kept) is str and kept in catalogue and name not in catalogue
    }
