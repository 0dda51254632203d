"""Activations in float32: GELU in its tanh form, and the exact one that Cerebras-GPT was trained with; SiLU and ReLU."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from converter.models.architecture import Activation

_PIECE: Final = 32 << 10  # elements: the piece and three buffers of 128 KiB stay in the second-level cache
_ONE: Final = np.float32(1)

# The normal distribution's lower tail, Φ(-a) = exp(-a²/2) · P(t) with t = 1 / (1 + 0.235 a): the form of Hastings
# (Abramowitz & Stegun 7.1.26), fitted again over 0 ≤ a ≤ 14 to a relative error of 1.2e-7. These are P's coefficients
# from t¹ up.
_SCALE: Final = np.float32(0.235)
_FURTHEST: Final = np.float32(15)  # Φ(-15) is 0 in float32
_TAIL: Final = tuple(
    np.float32(coefficient)
    for coefficient in (
        *(0.093809221, 0.092617613, 0.097952453, 0.035576829),
        *(0.179663567, -0.145536667, 0.210025339, -0.064108413),
    )
)
_CUBIC: Final = np.float32(-2 * math.sqrt(2 / math.pi) * 0.044715)
_LINEAR: Final = np.float32(-2 * math.sqrt(2 / math.pi))


def gelu_erf(x: NDArray[np.float32]) -> None:
    """Replace x, contiguous, by x·Φ(x). The error is below 1.3e-7 · max(1, |x|): a float32's own."""
    _in_pieces(_erf, x)


def gelu_tanh(x: NDArray[np.float32]) -> None:
    """Replace x, contiguous, by ½x·(1 + tanh(√(2/π)·(x + 0.044715x³)))."""
    _in_pieces(_tanh, x)


def silu(x: NDArray[np.float32]) -> None:
    """Replace x, contiguous, by x / (1 + exp(-x))."""
    _in_pieces(_silu, x)


def relu(x: NDArray[np.float32]) -> None:
    """Replace x by max(x, 0)."""
    np.maximum(x, np.float32(0), out=x)


def squared_relu(x: NDArray[np.float32]) -> None:
    """Replace x by max(x, 0)²."""
    relu(x)
    np.square(x, out=x)


ACTIVATIONS: Final[dict[Activation, Callable[[NDArray[np.float32]], None]]] = {
    "erf": gelu_erf,
    "tanh": gelu_tanh,
    "silu": silu,
    "relu": relu,
    "relu2": squared_relu,
}


def _in_pieces(gelu: Callable[..., None], x: NDArray[np.float32]) -> None:
    flat = x.reshape(-1)
    buffers = np.empty((3, min(_PIECE, flat.size)), np.float32)
    with np.errstate(over="ignore", under="ignore"):
        for start in range(0, flat.size, _PIECE):
            piece = flat[start : start + _PIECE]
            gelu(piece, *buffers[:, : len(piece)])


def _erf(x: NDArray[np.float32], a: NDArray[np.float32], t: NDArray[np.float32], tail: NDArray[np.float32]) -> None:
    """x·Φ(x) as max(x, 0) - |x|·Φ(-|x|), which nowhere subtracts two numbers near 1."""
    np.abs(x, out=a)
    np.minimum(a, _FURTHEST, out=a)
    np.multiply(a, _SCALE, out=t)
    t += _ONE
    np.reciprocal(t, out=t)
    np.multiply(t, _TAIL[-1], out=tail)
    for coefficient in _TAIL[-2::-1]:
        tail += coefficient
        tail *= t
    tail *= a
    a *= a
    a *= np.float32(-0.5)
    np.exp(a, out=a)
    tail *= a
    np.maximum(x, np.float32(0), out=x)
    x -= tail


def _tanh(x: NDArray[np.float32], power: NDArray[np.float32], *_: NDArray[np.float32]) -> None:
    """½(1 + tanh u) as 1 / (1 + exp(-2u)): one exponential, and no difference of two numbers near 1."""
    np.multiply(x, x, out=power)
    power *= _CUBIC
    power += _LINEAR
    power *= x
    np.exp(power, out=power)
    power += _ONE
    x /= power


def _silu(x: NDArray[np.float32], power: NDArray[np.float32], *_: NDArray[np.float32]) -> None:
    np.negative(x, out=power)
    np.exp(power, out=power)
    power += _ONE
    x /= power
