"""The questions about what outputs are compared with. A checkpoint and the digests of one answer them alike.

Names are without the family's prefix, because some files have it and others don't.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from converter.formats.said import Finding, Hyperparameters
    from converter.models.families import Family
    from converter.models.recognition import Recognition
    from converter.reports.verification import Difference
    from converter.tensors.catalogue import Catalogue, Unsupported
    from converter.tensors.tensor import Tensor
    from converter.verification.comparison import Outcome
    from converter.verification.golden import Golden
    from converter.verification.walk import Workspace

Progress = Callable[[int], None]  # called with the bytes that were compared since the last call
Copy = tuple[Mapping[str, "Tensor"], Mapping[str, "Outcome"]]  # an output's tensors, and their outcomes


class Expected(Protocol):
    """What outputs must be."""

    location: str
    family: Family | None
    shapes: Mapping[str, tuple[int, ...]]
    tied: Sequence[Sequence[str]]
    nbytes: int  # bytes of all tensors
    others: Sequence[str]  # names of what lies beside the weights
    remarks: Mapping[str, Any]  # what the files say about the model
    format: str | None  # the name of its format
    opaque: Mapping[str, Unsupported]  # tensors that are not decoded here: their bytes are compared
    hyperparameters: Hyperparameters | None  # what its keys say about how it is computed
    config: Mapping[str, Any] | None  # its config.json, or what is known without one
    explained: ClassVar[int]  # the number of damaged tensors whose damage is looked into

    @property
    def masks(self) -> Set[str]:
        """Buffers that an output may leave out, because they hold exactly what the architecture says."""
        ...

    def whole(self, otherwise: str) -> Catalogue:
        """The checkpoint. Raises UnsupportedError if there are only digests; `otherwise` then says what can't be done."""
        ...

    def identity(self, name: str) -> Hashable:
        """What all names of one tensor have in common."""
        ...

    def unlike(self, name: str, found: Tensor, others: Mapping[str, Tensor]) -> tuple[str, str] | None:
        """Why a tensor can't be compared element by element, as a name and as a sentence; None if it can."""
        ...

    def is_known(self, name: str, found: Tensor) -> bool:
        """Whether there is anything to compare a tensor with, in the dtype that it has."""
        ...

    def compare(self, name: str, found: Tensor, workspace: Workspace) -> Outcome:
        """Compare a tensor of the same shape. Raises ReadError if the output can't be read."""
        ...

    def holds(self, name: str, found: Tensor) -> bool:
        """Whether a tensor of the same shape has exactly the elements that this name should have."""
        ...

    def alike(self, name: str, other: str) -> bool:
        """Whether two names have exactly the same elements."""
        ...

    def explain(
        self, name: str, found: Tensor, outcome: Outcome, others: Mapping[str, Tensor], *, look: bool
    ) -> Difference:
        """What happened to a damaged tensor. The tensor is only read again to find out if `look` is true."""
        ...

    @property
    def settings(self) -> Mapping[str, Any] | None:
        """What config.json means; None if there is none."""
        ...

    def surroundings(self, output: Catalogue, recognition: Recognition | None) -> Iterator[Finding]:
        """Yield what is to be said about the config.json and the tokenizer of an output, recognised as `recognition`."""
        ...

    def golden(self, copies: Iterable[Copy]) -> Golden:
        """Make the golden manifest, with the digests of equivalent copies. Raises UnsupportedError as `whole` does."""
        ...

    def finish(self) -> None:
        """Raise if the source turned out to be damaged, or was changed while it was read."""
        ...
