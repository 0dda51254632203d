"""Conversion between floating-point formats, tile by tile: which dtypes it takes, and what becomes of a tensor's parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from converter.dtypes import BF16, BY_NAME, F8_E4M3, F8_E4M3FNUZ, F8_E5M2, F8_E5M2FNUZ, F8_E8M0, F16, F32, F64, Dtype
from converter.errors import UnsupportedError
from converter.tensors.losses import Loss, Losses
from converter.tensors.parts import tensor_parts

if TYPE_CHECKING:
    from converter.io.parts import Buffers, Part
    from converter.tensors.tensor import Tensor

TARGETS: Final = (F64, F32, F16, BF16)
_SOURCES: Final = (*TARGETS, F8_E4M3, F8_E5M2, F8_E4M3FNUZ, F8_E5M2FNUZ, F8_E8M0)


def can_convert(source: Dtype, target: Dtype) -> bool:
    """Whether `converted` takes these dtypes. Only floating-point numbers are ever converted, and never to 8 bits."""
    return source == target or (target in TARGETS and source in _SOURCES)


def becomes(source: Dtype, word: str) -> Dtype:
    """The dtype that a word asks for. `keep` changes nothing, and no word changes a dtype that is not floating-point."""
    return source if word == "keep" or not source.floating else BY_NAME[word.upper()]


def parts_of(name: str, tensor: Tensor, target: Dtype, losses: Losses) -> tuple[Part, ...]:
    """The parts of a tensor's canonical bytes in the dtype `target`. What that loses is added to `losses`, under `name`."""
    if target == tensor.dtype:
        return tensor_parts(tensor)

    def made(view: Tensor, tiles: Iterator[memoryview], buffers: Buffers) -> Iterator[memoryview]:
        loss = Loss(dtype=target.name)
        yield from converted(tiles, view.dtype, target, loss)
        losses.add(name, loss)

    return tensor_parts(tensor, size=lambda elements: elements * target.itemsize, made=made)


def converted(tiles: Iterator[memoryview], source: Dtype, target: Dtype, loss: Loss) -> Iterator[memoryview]:
    """Yield the canonical bytes of `tiles` (whole elements each) in another dtype, and count in `loss` what is lost.

    A piece is valid until the next is asked for. Raises UnsupportedError for dtypes that `can_convert` refuses.
    """
    if not can_convert(source, target):
        raise UnsupportedError(f"{source.name} can't be converted to {target.name}")
    if source == target:
        return tiles
    from converter.tensors.cast_kernels import cast_tiles  # this imports numpy, which plans do without

    return cast_tiles(tiles, source, target, loss)
