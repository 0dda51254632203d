"""The masks of an architecture: which of them hold exactly what they must, so that they can be left out and made again."""

from __future__ import annotations

import struct
from functools import cache
from typing import TYPE_CHECKING, Final

from converter.dtypes import BF16, F16, F32, F64
from converter.errors import UnsupportedError

if TYPE_CHECKING:
    from converter.models.recognition import Recognition
    from converter.tensors.catalogue import Catalogue
    from converter.tensors.tensor import Tensor

_PACKED: Final = {F64.name: "<d", F32.name: "<f", F16.name: "<e"}


def droppable(catalogue: Catalogue, recognition: Recognition | None) -> list[str]:
    """The buffers that hold the values that the architecture gives them. Their bytes are read."""
    if recognition is None:
        return []
    rows = {row.name: row for row in recognition.family.row_table if row.kind == "buffer"}
    wrong = {mismatch.name for mismatch in recognition.mismatched}
    found = []
    catalogue.expect(catalogue[name] for name in recognition.buffers)
    checked: dict[Tensor, bool] = {}
    for name in recognition.buffers:
        tensor = catalogue[name]
        bare = ".".join(
            "{layer}" if part.isdigit() else part for part in name.removeprefix(recognition.prefix).split(".")
        )
        if name not in wrong and bare in rows:
            if tensor not in checked:
                checked[tensor] = _holds(tensor, rows[bare].value)
            if checked[tensor]:
                found.append(name)
    return found


def to_drop(catalogue: Catalogue, recognition: Recognition | None, *, keep: bool) -> set[str]:
    """The buffers to leave out: none if they are kept, else all.

    Raises UnsupportedError if one does not hold its mask, because leaving it out would lose something.
    """
    if keep or recognition is None:
        return set()
    dropped = set(droppable(catalogue, recognition))
    strange = [name for name in recognition.buffers if name not in dropped]
    if strange:
        raise UnsupportedError(
            f"`{strange[0]}` is not the mask that {recognition.family.title} has there"
            + (f", nor are {len(strange) - 1} more" if len(strange) > 1 else "")
            + ": give --keep-buffers to carry it over"
        )
    return dropped


def _holds(tensor: Tensor, value: str | float | None) -> bool:
    if value == "causal":
        if tensor.dtype.itemsize != 1 or len(tensor.shape) < 2:
            return False
        expected, position = _causal(tensor.shape[-1]), 0
        if tensor.nbytes != len(expected):
            return False
        for tile in tensor.tiles():
            if not expected.startswith(tile, position):
                return False
            position += len(tile)
        return True
    if not isinstance(value, int | float):
        return False
    if tensor.dtype is BF16:
        element = struct.pack("<f", value)[2:]  # -1e4 loses nothing that rounds up
    elif tensor.dtype.name in _PACKED:
        element = struct.pack(_PACKED[tensor.dtype.name], value)
    else:
        return False
    return all(bytes(tile) == element * (len(tile) // len(element)) for tile in tensor.tiles())


@cache
def _causal(length: int) -> bytes:
    """A [length, length] matrix with ones on and below the diagonal, one byte for each element."""
    return b"".join(b"\1" * (row + 1) + b"\0" * (length - row - 1) for row in range(length))
