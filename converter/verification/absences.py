"""What a copy may lack: tensors that transformers makes again, and second names of tensors that a model ties.

Older versions of transformers saved buffers that newer ones leave out. transformers 5 stores one of several tied tensors, while
shards, arrays of numpy and cloned state dicts have each of them. Whether a copy may lack such a tensor is decided by its
name, by its elements and by config.json together: a name alone is never enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from converter.models.ties import EMBEDDINGS, HEADS, ends, is_tied
from converter.verification.configs import meaning
from converter.verification.roundings import floats

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.tensors.catalogue import Catalogue
    from converter.tensors.tensor import Tensor

    # Called with a buffer's elements, what is known, and the relative error that the buffer's dtype allows.
    Rule = Callable[[NDArray[Any], "_Known", float], bool]

_LARGEST: Final = 16 << 20  # bytes: a mask of 4,096 positions as bytes, or of 2,048 as floats
_FAR: Final = (-1e4, -1e9)  # what a mask has at positions that may not be seen
_PRECISION: Final = {2: 2**-8}  # relative error, by the bytes of an element; larger elements were computed as F32
_FINE: Final = 2e-6
_HIGHEST: Final = 1e12  # a rotary embedding's base; a larger one is not believed
_BASES: Final = {"esm": 10000.0}  # for families whose older files do not say it
_LEAST: Final = 6e-8  # the smallest F16


class _Known(NamedTuple):
    """What config.json says that the rules need."""

    family: Any
    base: Any
    window: Any


def remade(catalogue: Catalogue, config: Mapping[str, Any] | None) -> set[str]:
    """Names of buffers that transformers makes again, with exactly these elements, or that it has no use for."""
    said = config or {}
    family = said.get("model_type")
    base = meaning(said, "rope_theta")
    if base is None and type(family) is str:
        base = _BASES.get(family)
    known = _Known(family, base, meaning(said, "window_size"))
    return {name for name, tensor in catalogue.items() if _is_remade(name, tensor, known)}


def is_unused(name: str, config: Mapping[str, Any]) -> bool:
    """Whether nothing is computed with a tensor: T5's first files have positions of the text that the decoder looks at."""
    return ends(name, _UNUSED) and config.get("model_type") in _WITHOUT


class Ties:
    """Which names a model ties to each other, if its config.json says so or leaves it to a family that does."""

    def __init__(self, names: Iterable[str], config: Mapping[str, Any] | None) -> None:
        self._tied = is_tied(config) is True
        self._embeddings = tuple(islice((name for name in names if ends(name, EMBEDDINGS)), _MOST))

    def leaders(self, name: str) -> Sequence[str]:
        """The names that this one follows: a head follows an embedding, and its bias another bias."""
        for ending in _FOLLOWING:
            if name.endswith(ending):
                return (name.removesuffix(ending) + _SHARED,)
        if not self._tied or not ends(name, HEADS):
            return ()
        return (name.removesuffix(_BIAS) + "bias",) if name.endswith(_BIAS) else self._embeddings


_MOST: Final = 16  # embeddings of one model that a head is compared with
_WITHOUT: Final = ("t5", "mt5")
_UNUSED: Final = ("EncDecAttention.relative_attention_bias.weight",)
_BIAS: Final = "decoder.bias"
_SHARED: Final = "shared.weight"
_FOLLOWING: Final = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")  # follow _SHARED, if it is there


# ---- the rules ------------------------------------------------------------


def _counts(found: NDArray[Any], known: _Known, error: float) -> bool:
    return bool((found.ravel() == np.arange(found.size)).all())


def _is_zero(found: NDArray[Any], known: _Known, error: float) -> bool:
    return not found.any()


def _is_mask(found: NDArray[Any], known: _Known, error: float) -> bool:
    """[1, 1, n, n]: a position sees itself and those before it, or only as many of them as a window has."""
    if found.ndim != 4 or found.shape[-1] != found.shape[-2]:
        return False
    causal = np.tri(found.shape[-1], dtype="?")
    banded = (
        [causal & ~np.tri(len(causal), k=-known.window, dtype="?")]
        if type(known.window) is int and 0 < known.window < len(causal)
        else []
    )
    return any((found == mask).all() for mask in (causal, *banded))


def _is_far(found: NDArray[Any], known: _Known, error: float) -> bool:
    return found.size == 1 and any(np.isclose(found.ravel()[0], far, rtol=error) for far in _FAR)


def _are_frequencies(found: NDArray[Any], known: _Known, error: float) -> bool:
    """[n]: the base of the rotary embedding to the powers of 0, -1/n, -2/n and so on."""
    if type(known.base) not in (int, float) or not 1 <= known.base <= _HIGHEST or found.ndim != 1:
        return False
    return np.allclose(found, float(known.base) ** (-np.arange(found.size) / found.size), rtol=error, atol=_LEAST)


def _are_sinusoids(found: NDArray[Any], known: _Known, error: float) -> bool:
    """[positions, width]: sines in the left half, cosines in the right one."""
    if known.family != "marian" or found.ndim != 2:
        return False
    positions, width = found.shape
    angles = np.arange(positions)[:, None] / 10000 ** (2 * (np.arange(width) // 2) / width)  # [positions, width]
    wanted = np.concatenate([np.sin(angles[:, 0::2]), np.cos(angles[:, 1::2])], axis=1)
    return np.allclose(found, wanted, rtol=error, atol=error)


_RULES: Final[tuple[tuple[tuple[str, ...], Rule], ...]] = (
    (("position_ids",), _counts),
    (("embeddings.token_type_ids",), _is_zero),
    (("attn.bias", "attention.bias"), _is_mask),
    (("attn.masked_bias", "attention.masked_bias"), _is_far),
    (("inv_freq",), _are_frequencies),
    (("encoder.embed_positions.weight", "decoder.embed_positions.weight"), _are_sinusoids),
)


def _is_remade(name: str, tensor: Tensor, known: _Known) -> bool:
    if ends(name, _UNUSED) and known.family in _WITHOUT:
        return True
    rule = next((rule for endings, rule in _RULES if ends(name, endings)), None)
    if rule is None or not tensor.size or tensor.nbytes > _LARGEST:
        return False
    found = floats(tensor.bits(), tensor.dtype)
    return found.dtype.kind in "biuf" and rule(found, known, _PRECISION.get(tensor.dtype.itemsize, _FINE))
