"""The divisors of a model's rotary frequencies, by which it reaches longer texts: those forms that llama.cpp computes, too.

Source: transformers' modeling_rope_utils.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from converter.errors import UnsupportedError

KINDS: Final = ("default", "linear", "llama3")
# What Llama 3 has besides its factor: where the frequencies begin and end to change, and the length that it was trained on.
_LLAMA3: Final = (1.0, 4.0, 8192)
_SPREAD: Final = 1e-5  # the relative error of factors in F32


def divisors(size: int, base: float, setting: Callable[[str], Any]) -> list[float]:
    """One for each pair of the `size` elements. `setting` gives rope_kind, rope_factor, rope_low, rope_high, rope_original.

    Raises UnsupportedError for a kind that is not known here, or without its numbers.
    """
    kind, factor = setting("rope_kind") or "default", setting("rope_factor")
    if kind not in KINDS:
        raise UnsupportedError(f"`config.json` says `rope_type` is {kind!r:.80}: {', '.join(KINDS)} are known here")
    if kind == "default":
        return [1.0] * (size // 2)
    if type(factor) not in (int, float) or factor < 1:
        raise UnsupportedError(
            f"`config.json` says the rope's `factor` is {factor!r:.80}: a number from 1 was expected"
        )
    if kind == "linear":
        return [float(factor)] * (size // 2)
    low, high, original = (setting(name) for name in ("rope_low", "rope_high", "rope_original"))
    if any(type(number) not in (int, float) or number <= 0 for number in (low, high, original)) or low == high:
        raise UnsupportedError("`config.json` lacks a number of its `rope_scaling`")
    return _llama3(size, base, factor, low, high, original)


def recognised(found: list[float], size: int, base: float) -> dict[str, Any] | None:
    """The rope_scaling of a Llama 3 whose divisors these are; None if they are not."""
    factor = max(found, default=0.0)
    if not math.isfinite(factor) or factor <= 1 or len(found) != size // 2:
        return None
    expected = _llama3(size, base, factor, *_LLAMA3)
    if any(abs(one - other) > _SPREAD * other for one, other in zip(found, expected, strict=True)):
        return None
    names = ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    return {"rope_type": "llama3", "factor": factor, **dict(zip(names, _LLAMA3, strict=True))}


def _llama3(size: int, base: float, factor: float, low: float, high: float, original: float) -> list[float]:
    found = []
    for pair in range(size // 2):
        wavelength = 2 * math.pi * base ** (2 * pair / size)
        if wavelength < original / high:
            found.append(1.0)
        elif wavelength > original / low:
            found.append(float(factor))
        else:
            smooth = (original / wavelength - low) / (high - low)
            found.append(1 / ((1 - smooth) / factor + smooth))
    return found
