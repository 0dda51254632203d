"""The divisors of a model's rotary frequencies, by which it reaches longer texts: those forms that llama.cpp computes, too.

Source: transformers' modeling_rope_utils.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from converter.errors import UnsupportedError

# Up to as many tokens as the model has positions, "dynamic" changes nothing, and longer texts are not computed here.
KINDS: Final = ("default", "dynamic", "linear", "llama3", "yarn")
NOTED_WHOLE: Final = ("dynamic", "yarn")  # GGUF has no keys for all that they have
# What Llama 3 has besides its factor: where the frequencies begin and end to change, and the length that it was trained on.
_LLAMA3: Final = (1.0, 4.0, 8192)
_SPREAD: Final = 1e-5  # the relative error of factors in F32
_FAST: Final = 32  # YaRN: what turns more often than that in the trained length stays as it is,
_SLOW: Final = 1  # and what turns less often is divided by the factor
_APART: Final = 0.001  # the least distance between the two

Setting = Callable[[str], Any]


def divisors(size: int, base: float, setting: Setting) -> list[float]:
    """One for each pair of the `size` elements. `setting` gives rope_kind, rope_factor and the like, and n_positions.

    Raises UnsupportedError for a kind that is not known here, or without its numbers.
    """
    kind, factor = setting("rope_kind") or "default", setting("rope_factor")
    if kind not in KINDS:
        raise UnsupportedError(f"`config.json` says `rope_type` is {kind!r:.80}: {', '.join(KINDS)} are known here")
    if kind in ("default", "dynamic"):
        return [1.0] * (size // 2)
    if type(factor) not in (int, float) or factor < 1:
        raise UnsupportedError(
            f"`config.json` says the rope's `factor` is {factor!r:.80}: a number from 1 was expected"
        )
    if kind == "linear":
        return [float(factor)] * (size // 2)
    original = setting("rope_original") or setting("n_positions")
    low, high = (setting("rope_low"), setting("rope_high")) if kind == "llama3" else _turns(setting)
    if any(type(number) not in (int, float) or number <= 0 for number in (low, high, original)) or low == high:
        raise UnsupportedError("`config.json` lacks a number of its `rope_scaling`")
    if kind == "llama3":
        return _llama3(size, base, factor, low, high, original)
    return _yarn(size, base, factor, low, high, original, whole=setting("rope_truncate") is not False)


def magnitude(setting: Setting) -> float:
    """What cosines and sines are multiplied by: 1 except for YaRN. Raises UnsupportedError unless it is a positive number."""
    if setting("rope_kind") != "yarn":
        return 1.0
    said, factor = setting("rope_magnitude"), setting("rope_factor")
    if said is not None:
        if type(said) not in (int, float) or said <= 0:
            raise UnsupportedError(
                f"`config.json` says the rope's `attention_factor` is {said!r:.80}: a positive number was expected"
            )
        return float(said)
    one, all_dims = setting("rope_mscale"), setting("rope_mscale_all")
    if one and all_dims:
        return _grown(factor, one) / _grown(factor, all_dims)
    return _grown(factor, 1)


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


def _turns(setting: Setting) -> tuple[Any, Any]:
    return setting("rope_slow") or _SLOW, setting("rope_fast") or _FAST


def _grown(factor: float, by: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * by * math.log(factor) + 1.0


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


def _yarn(
    size: int, base: float, factor: float, slow: float, fast: float, original: float, *, whole: bool
) -> list[float]:
    """Divide more and more, from the pair that turns `fast` times in the original length to the one that turns `slow` times."""
    if base <= 1:
        raise UnsupportedError(f"YaRN needs a base of the rotary frequencies above 1: config.json says {base!r:.80}")
    first, last = (size * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base)) for turns in (fast, slow))
    if whole:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, size - 1)
    found = []
    for pair in range(size // 2):
        part = min(max((pair - first) / (last - first if last != first else _APART), 0.0), 1.0)
        found.append(1 / (part / factor + 1 - part))
    return found
