"""Which tensors of two checkpoints correspond: by name, and where the names differ, by the bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from converter import formats
from converter.models.masks import droppable
from converter.models.recognition import Recognition, recognise
from converter.models.selection import meant, unknown
from converter.opening import spelt
from converter.tensors.crc_checked import checked
from converter.tensors.guards import check_expansion
from converter.verification.comparison import equal
from converter.verification.names import bare, bare_tensors

if TYPE_CHECKING:
    from converter.models.families import Family
    from converter.tensors.catalogue import Catalogue
    from converter.tensors.tensor import Tensor

Start: TypeAlias = tuple[tuple[int, ...], str, bytes]  # a shape, a dtype, and the first elements
_TILE: Final = 4 << 20  # bytes that are read at a time, while a comparison uses memory of its own
_FIRST: Final = 16  # elements by which tensors are told apart before they are read


@dataclass(frozen=True, slots=True)
class Side:
    """A checkpoint by bare names: without the prefix of its family. `names` are those in the file.

    `origin` is the checkpoint as it was opened, and `catalogue` has the family's names. `recognition` is what it is
    recognised as. `finish` checks the CRCs of what was only partly read.
    """

    catalogue: Catalogue
    recognition: Recognition | None
    tensors: Mapping[str, Tensor]
    names: Mapping[str, str]
    finish: Callable[[], None]
    origin: Catalogue

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return self.nbytes_of(None)

    def nbytes_of(self, only: Container[str] | None) -> int:
        """Bytes of the tensors with some bare names; of all for None."""
        return sum(tensor.nbytes for name, tensor in self.tensors.items() if only is None or name in only)


def sides(*catalogues: Catalogue) -> list[Side]:
    """Checkpoints with names that can be compared. Raises ModelError for a name with and without the prefix."""
    found = [formats.canonical(catalogue) for catalogue in catalogues]
    known = [recognise(catalogue, catalogue.config) for catalogue in found]
    family = next((one.family for one in known if one is not None), None)
    return [
        _side(catalogue, recognition, origin, family)
        for catalogue, recognition, origin in zip(found, known, catalogues, strict=True)
    ]


def _side(catalogue: Catalogue, recognition: Recognition | None, origin: Catalogue, family: Family | None) -> Side:
    check_expansion(catalogue)
    copy, finish = checked(catalogue)
    files = list(origin) if len(origin) == len(catalogue) else list(catalogue)
    names = {bare(name, family): file for name, file in zip(catalogue, files, strict=True)}
    return Side(catalogue, recognition, bare_tensors(copy, family), names, finish, origin)


def chosen(both: Sequence[Side], globs: Sequence[str]) -> set[str]:
    """The bare names of the tensors that globs, or names as they are printed, mean on any side.

    Raises RuleError for a glob that no side has a tensor for.
    """
    known = [(side, spelt(side.origin, side.recognition)) for side in both]
    files = [formats.names_in_file(side.catalogue, side.origin) for side in both]
    found = set[str]()
    for glob in globs:
        hits = set[str]()
        for (side, names), file in zip(known, files, strict=True):
            fitting = set(meant(glob, names))
            hits |= {bare for bare, name in zip(side.names, side.catalogue, strict=True) if file[name] in fitting}
        if not hits:
            raise unknown("the filter", glob, [*dict.fromkeys(name for _, names in known for name in names)])
        found |= hits
    return found


def unnamed(both: Sequence[Side], only: Collection[str] | None) -> int:
    """How many tensors a filter leaves out; `only` are the bare names that it takes."""
    return 0 if only is None else len({name for side in both for name in side.tensors if name not in only})


def following(side: Side, alone: Iterable[str], family: Family | None) -> set[str]:
    """Names that only this side has, but that follow from the rest, such as masks and second names of a tensor."""
    waiting = set(alone)
    masks = {bare(name, family) for name in droppable(side.catalogue, side.recognition)}
    others = {tensor for name, tensor in side.tensors.items() if name not in waiting}
    return {name for name in waiting if name in masks or side.tensors[name] in others}


def same_bytes(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], *, again: bool = False) -> dict[str, str]:
    """For names of `theirs`, the name in `ours` of a tensor with the same shape, dtype and bytes.

    A name of `ours` is given once, in their order, unless it may be given `again`. Tensors of one number are left out: they
    are equal by chance, as norms of ones and biases of zeros are. A tensor is read whole only if one on the other side
    begins like it.
    """
    if not ours or not theirs:  # to look at a tensor's start has all of it read in the end, to check its CRC
        return {}
    starts = {name: _start(tensor) for name, tensor in ours.items()}
    others = {name: _start(tensor) for name, tensor in theirs.items()}
    shared = {*starts.values()} & {*others.values()}
    known: dict[tuple[Start, bytes], list[str]] = {}
    for name, tensor in ours.items():
        if starts[name] in shared and (digest := _telling(tensor)) is not None:
            known.setdefault((starts[name], digest), []).append(name)
    found = {}
    for name, tensor in theirs.items():
        if others[name] not in shared or (digest := _telling(tensor)) is None:
            continue
        if names := known.get((others[name], digest)):
            found[name] = names[0] if again else names.pop(0)
    return found


def along(renamed: Mapping[str, str], ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, str]:
    """For names of `theirs`, the name of the equal tensor in `ours` whose module was renamed in the same way.

    `renamed` gives the name before for each name after. Its pairs say which modules have which names now, so that tensors of one
    number, which their bytes do not tell apart, are found by where they are.
    """
    modules: dict[str, str] = {}
    for new, old in renamed.items():
        one, other = new.split("."), old.split(".")
        while one and other and one[-1] == other[-1]:
            one, other = one[:-1], other[:-1]
            modules.setdefault(".".join(one), ".".join(other))
    found: dict[str, str] = {}
    free = dict(ours)
    for new, tensor in theirs.items():
        parts = new.split(".")
        for length in range(len(parts) - 1, -1, -1):
            module = modules.get(".".join(parts[:length]))
            old = ".".join((*([module] if module else ()), *parts[length:]))
            if module is None or old not in free or free[old].shape != tensor.shape:
                continue
            if same_elements(free[old], tensor) or _cast(free[old], tensor):
                found[new] = old
                del free[old]
                break
    return found


def same_elements(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two tensors have the same dtype and, in row-major order, the same bytes. Quantised ones never count."""
    return _plain_alike(ours, theirs) and _digest(ours) == _digest(theirs)


def _cast(ours: Tensor, theirs: Tensor) -> bool:
    """Whether a tensor holds what another dtype makes of the other's elements."""
    return ours.dtype != theirs.dtype and theirs.storage.encoding is None and equal(ours, theirs)


def is_transposed(ours: Tensor, theirs: Tensor) -> bool:
    """Whether a matrix holds the other's elements with rows and columns exchanged. Quantised ones never count."""
    if len(ours.shape) != 2 or ours.shape[::-1] != theirs.shape or not _plain_alike(ours, theirs):
        return False
    return _start(ours.t()) == _start(theirs) and _digest(ours.t()) == _digest(theirs)


def _plain_alike(ours: Tensor, theirs: Tensor) -> bool:
    encoded = ours.storage.encoding is not None or theirs.storage.encoding is not None
    return ours.dtype == theirs.dtype and ours.size == theirs.size and not encoded


def _start(tensor: Tensor) -> Start:
    """Its shape, its dtype, and the bytes of its first elements."""
    view = tensor
    while len(view.shape) > 1 and view.size:
        view = replace(view, shape=view.shape[1:], stride=view.stride[1:])
    first = view.rows(0, min(_FIRST, view.shape[0])) if view.shape and view.size else view
    return tensor.shape, tensor.dtype.name, first.bits().tobytes()


def _digest(tensor: Tensor) -> bytes:
    """The SHA-256 of its canonical bytes."""
    digest = hashlib.sha256()
    for tile in tensor.tiles(_TILE):
        digest.update(tile)
    return digest.digest()


def _telling(tensor: Tensor) -> bytes | None:
    """The SHA-256 of its canonical bytes; None if all its elements are alike."""
    digest, width, first, alike = hashlib.sha256(), tensor.dtype.itemsize, b"", True
    for tile in tensor.tiles(_TILE):
        digest.update(tile)
        first = first or bytes(tile[:width])
        if alike := alike and tile[:width] == first == tile[-width:]:
            elements = np.frombuffer(tile, "u1")
            alike = np.array_equal(elements[width:], elements[:-width])
    return None if alike else digest.digest()
