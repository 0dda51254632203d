"""Which tensors are buffers: they belong to a model and are saved with it, but they are not trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from converter.models.recognition import Recognition
    from converter.tensors.catalogue import Catalogue

# What torch.nn's normalisation layers keep in addition to their weights (torch/nn/modules/batchnorm.py).
_STATISTICS: Final = frozenset(("running_mean", "running_var", "num_batches_tracked"))


def buffers(catalogue: Catalogue, recognition: Recognition | None) -> set[str]:
    """The names of the buffers: those that a module or the family declares, and the statistics of normalisation."""
    known = {*catalogue.facts.get("buffers", ()), *(recognition.buffers if recognition is not None else ())}
    return {name for name in catalogue if name in known or name.rpartition(".")[2] in _STATISTICS}
