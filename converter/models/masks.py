"""The masks of an architecture: which of them hold exactly what they must, so that they can be left out and made again."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from converter.dtypes import BF16, F16, F32, F64
from converter.errors import UnsupportedError
from converter.models.rows import evaluated
from converter.text import more
from converter.words import option

if TYPE_CHECKING:
    from converter.models.recognition import Recognition
    from converter.tensors.catalogue import Catalogue
    from converter.tensors.tensor import Tensor

# A one in each dtype that causal masks have been saved in.
_ONES: Final = {"BOOL": b"\1", "U8": b"\1", "F32": struct.pack("<f", 1), "F16": struct.pack("<e", 1)}
_MOST: Final = 65504  # the largest number of F16
# How far a frequency may be from the right one: a share of it, and what is lost near zero.
_CLOSE: Final = {F32.name: (1e-5, 0.0), F16.name: (1e-3, 1e-7), BF16.name: (1e-2, 0.0)}
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
                checked[tensor] = _holds(tensor, rows[bare].value, recognition, catalogue.config or {})
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
            + more(len(strange), before=", nor are ")
            + f": give {option('keep-buffers', True)} to carry it over"
        )
    return dropped


def _holds(tensor: Tensor, value: str | float | None, recognition: Recognition, config: Mapping[str, Any]) -> bool:
    if value == "rotary":
        return _turns(tensor, recognition, config)
    if value == "causal":
        if tensor.dtype.name not in _ONES or len(tensor.shape) < 2:
            return False
        return _equal(tensor, _causal(tensor.shape[-1], _ONES[tensor.dtype.name])) or (
            (window := _window(recognition, config)) is not None
            and _equal(tensor, _causal(tensor.shape[-1], _ONES[tensor.dtype.name], window))
        )
    if not isinstance(value, int | float):
        return False
    if tensor.dtype is BF16:
        element = struct.pack("<f", value)[2:]  # BF16 by cutting: what -1e4 loses would round down anyway
    elif tensor.dtype.name in _PACKED:
        most = _MOST if tensor.dtype is F16 else math.inf
        element = struct.pack(
            _PACKED[tensor.dtype.name], value if abs(value) <= most else math.copysign(math.inf, value)
        )
    else:
        return False
    return all(bytes(tile) == element * (len(tile) // len(element)) for tile in tensor.tiles())


def _equal(tensor: Tensor, expected: bytes) -> bool:
    position = 0
    if tensor.nbytes != len(expected):
        return False
    for tile in tensor.tiles():
        if not expected.startswith(tile, position):
            return False
        position += len(tile)
    return True


def _window(recognition: Recognition, config: Mapping[str, Any]) -> int | None:
    """How far the layers look back that do not look at everything; None if the family has none."""
    forward = recognition.family.forward
    if forward is None or forward.local is None or forward.window is None:
        return None
    found = recognition.family.setting(forward.window, config)
    return found if type(found) is int and found > 0 else None


def _turns(tensor: Tensor, recognition: Recognition, config: Mapping[str, Any]) -> bool:
    """Whether a buffer holds the frequencies of the family's rotary positions, as exactly as its dtype can."""
    family = recognition.family
    rotary = family.forward.rotary if family.forward is not None else None
    if rotary is None or tensor.dtype.name not in _CLOSE or len(tensor.shape) != 1:
        return False
    known = family.known(recognition.sizes, config)
    size, base = evaluated(rotary.size, known), evaluated(rotary.base, known)
    data = b"".join(map(bytes, tensor.tiles()))
    if type(size) is not int or type(base) not in (int, float) or tensor.size != size // 2:
        return False
    if tensor.dtype is BF16:
        data = b"".join(b"\0\0" + data[at : at + 2] for at in range(0, len(data), 2))
    found = struct.iter_unpack(_PACKED.get(tensor.dtype.name, "<f"), data)
    close, least = _CLOSE[tensor.dtype.name]
    return all(
        abs(value - expected) <= close * expected + least
        for (value,), expected in zip(found, (base ** (-2 * pair / size) for pair in range(size // 2)), strict=True)
    )


@cache
def _causal(length: int, one: bytes, window: int | None = None) -> bytes:
    """A [length, length] matrix with ones on and below the diagonal; with a window, only the last `window` of each row's."""
    zero, rows = bytes(len(one)), []
    for row in range(length):
        seen = row + 1 if window is None else min(row + 1, window)
        rows.append(zero * (row + 1 - seen) + one * seen + zero * (length - row - 1))
    return b"".join(rows)
