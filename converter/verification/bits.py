"""The tensors of an output by the names that the source has for them, and the reading of their elements."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from converter.errors import ReadError
from converter.models.ties import tied_heads
from converter.steps import at
from converter.tensors.crc_checked import checked
from converter.verification import opaque
from converter.verification.broken import broken_by
from converter.verification.names import bare, bare_tensors, opaque_tensors, other_spelling, stand_ins
from converter.verification.walk import Workspace

if TYPE_CHECKING:
    from converter.tensors.catalogue import Catalogue
    from converter.tensors.tensor import Tensor
    from converter.verification.comparison import Outcome
    from converter.verification.wanted import Expected

_Found = TypeVar("_Found")


def named(catalogue: Catalogue, expected: Expected) -> dict[str, Tensor]:
    """An output's tensors by bare names, and also by the expected names where the output has other ones.

    safetensors' own `save_model` notes in the metadata which name it kept in place of one that it left out. If an embedding and
    a head are tied, the output may only have the head.
    """
    family = expected.family
    tensors = bare_tensors(catalogue, family)
    for name, other in opaque_tensors(catalogue, family).items():
        if opaque.unlike(expected.opaque.get(name), other) is None:
            tensors[name] = opaque.as_bytes(other)
    tied = {name for group in expected.tied for name in group}
    for name, kept in stand_ins(catalogue).items():
        if bare(name, family) in expected.shapes:
            tensors.setdefault(bare(name, family), catalogue[kept])
    for name in expected.shapes:
        spelled = other_spelling(name)
        if spelled in tensors:
            tensors.setdefault(name, tensors[spelled])
    followers = family.followers if family is not None else tied_heads(expected.config)
    for head, name in followers.items():
        if head in tensors and name in expected.shapes and (head in tied or head not in expected.shapes):
            tensors.setdefault(name, tensors[head])
    return tensors


class Bits:
    """The elements of an output. They are read once, and their checksums are checked on the way."""

    def __init__(self, expected: Expected, tensors: Mapping[str, Tensor], catalogue: Catalogue, threads: int) -> None:
        copy, self.finish = checked(catalogue)
        self._expected, self._unchecked = expected, tensors
        self._checked = named(copy, expected)
        self._workspace = Workspace(threads=threads)
        self.checksums: dict[str, str] = {}  # errors of checksums, by the tensor's name

    def unlike(self, name: str) -> tuple[str, str] | None:
        """Why a tensor can't be compared element by element; None if it can."""
        return self._read(name, lambda tensors: self._expected.unlike(name, tensors[name], tensors))

    def compare(self, names: Sequence[str]) -> dict[str, Outcome]:
        """The outcomes of these tensors. Two names of one tensor, in the source and here, are compared once."""
        pairs = {name: (self._expected.identity(name), self._checked[name]) for name in names}
        firsts = {pairs[name]: name for name in reversed(names)}
        outcomes = {pair: self._compare(name) for pair, name in firsts.items()}
        return {name: outcomes[pair] for name, pair in pairs.items()}

    def _compare(self, name: str) -> Outcome:
        at(name)
        return self._read(name, lambda tensors: self._expected.compare(name, tensors[name], self._workspace))

    def _read(self, name: str, look: Callable[[Mapping[str, Tensor]], _Found]) -> _Found:
        """The result of reading a tensor by `look`. If its checksum is wrong, that is noted, and it is read all the same."""
        try:
            return look(self._checked)
        except ReadError as error:
            self.checksums[name] = str(error)
        with broken_by(ReadError, name=name):
            return look(self._unchecked)
