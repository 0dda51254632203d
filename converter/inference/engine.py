"""What computes a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from converter.errors import ModelError
from converter.models.families import runnable
from converter.models.recognition import recognise

if TYPE_CHECKING:
    from converter.models.architecture import Activation
    from converter.models.families import Family
    from converter.tensors.catalogue import Catalogue


class Engine(Protocol):
    """Something that computes a model.

    `log_probabilities` says that its logits are normalised, so one constant for each position is lost. The other side's
    logits are then normalised, too, before they are compared.
    """

    name: str
    activation: Activation
    log_probabilities: bool

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """[tokens] → [tokens, vocabulary]."""
        ...


class Model(Engine, Protocol):
    """An engine of this package, over a catalogue."""

    family: Family
    vocab_size: int
    n_positions: int

    def greedy(self, tokens: Sequence[int], count: int) -> list[int]:
        """The `count` tokens that follow, each the likeliest after those before it; of equally likely ones the lowest."""
        ...


def compute(
    catalogue: Catalogue, *, config: Mapping[str, Any] | None = None, activation: Activation | None = None
) -> Model:
    """The model that a catalogue holds. `config` replaces the catalogue's own, and `activation` that of the config.

    Raises ModelError if no engine computes its family, or if it is not whole or contradicts its config.json;
    UnsupportedError for a configuration or a dtype that its engine does not compute.
    """
    found = recognise(catalogue, catalogue.config if config is None else config)
    if found is None:
        raise ModelError(
            f"`{catalogue.location}` has no architecture that can be computed here ({', '.join(runnable())}): "
            "compare only its tensors"
        )
    found.family.computed()
    from converter.inference.decoder import Decoder

    return Decoder(catalogue, config=config, activation=activation)
