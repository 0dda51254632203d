"""How much work computing is, in bytes that are read for a comparison, so that one bar can show both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from converter.tensors.catalogue import Catalogue

# A pass over all weights takes this share of the time in which their bytes are compared.
_SHARE: Final = 0.5


def pass_work(catalogue: Catalogue) -> float:
    """The work of one pass over a model's weights, in bytes."""
    return _SHARE * sum(tensor.nbytes for tensor in catalogue.values())
