"""How a model knows the positions of tokens: rotary frequencies, sinusoids, and the slopes of ALiBi."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from converter.inference.weights import Floats
from converter.models.rope import divisors, magnitude

if TYPE_CHECKING:
    from converter.inference.configured import Configured
    from converter.models.architecture import Rotary as Table

_LONGEST: Final = 10000.0  # the base of the wavelengths of sinusoids


class Rotary:
    """Turns pairs of elements of each head, the further the later the token."""

    def __init__(self, table: Table, known: Configured) -> None:
        self._size = known.length(table.size)  # elements of a head that are turned
        base = known.number(table.base)
        powers = np.arange(0, self._size, 2, dtype=np.float32) / np.float32(self._size)
        frequencies = np.float32(1) / np.float32(base) ** powers
        if table.scaling is not None:
            frequencies /= np.asarray(divisors(self._size, base, known.look_up), np.float32)
        self._frequencies: Floats = frequencies.astype(np.float32)
        self._magnitude = np.float32(1 if table.scaling is None else magnitude(known.look_up))
        self._width, self._neighbours = known.head_size, table.pairs == "neighbours"

    def turned(self, x: Floats, first: int) -> Floats:
        """[batch, tokens, the heads side by side], whose first token has the position `first` → the same shape."""
        angles = np.outer(np.arange(first, first + x.shape[1], dtype=np.float32), self._frequencies)
        cosine, sine = (wave(angles)[:, None] * self._magnitude for wave in (np.cos, np.sin))  # [tokens, 1, pairs]
        heads = x.reshape(*x.shape[:2], -1, self._width).copy()
        half = self._size // 2
        if self._neighbours:
            one, other = heads[..., 0 : self._size : 2], heads[..., 1 : self._size : 2]
        else:
            one, other = heads[..., :half], heads[..., half : self._size]
        turned = one * cosine - other * sine
        other[...] = other * cosine + one * sine
        one[...] = turned
        return heads.reshape(x.shape)


def sinusoids(first: int, count: int, width: int) -> Floats:
    """[count, width]: the sines of all wavelengths, then their cosines."""
    half = width // 2
    steps = np.exp(np.arange(half, dtype=np.float32) * np.float32(-math.log(_LONGEST) / (half - 1)))
    angles = np.arange(first, first + count, dtype=np.float32)[:, None] * steps
    found: Floats = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    return np.pad(found, ((0, 0), (0, width - 2 * half)))


def slopes(n_head: int) -> Floats:
    """[n_head]: a geometric series. Beyond a power of two, every other slope of the series for twice that power follows."""
    whole = 1 << (n_head.bit_length() - 1)
    found = [2.0 ** (-8 * (head + 1) / whole) for head in range(whole)]
    found += [2.0 ** (-8 * (2 * head + 1) / (2 * whole)) for head in range(n_head - whole)]
    return np.asarray(found, np.float32)
