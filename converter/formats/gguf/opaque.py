"""Tensors in types that are not decoded here: a copy of a GGUF file has them byte for byte."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from converter.dtypes import F32
from converter.errors import UnsupportedError
from converter.formats.gguf.encodings import Encoding
from converter.tensors.tensor import Tensor

if TYPE_CHECKING:
    from converter.tensors.catalogue import Catalogue


def carried(catalogue: Catalogue) -> tuple[Catalogue, dict[str, Encoding]]:
    """The catalogue with these tensors in their places, and their types by name; the whole tensor counts as one block.

    They have a shape and a place in the file, but their elements must not be read.
    """
    tensors, types = dict(catalogue), dict[str, Encoding]()
    for other in catalogue.unsupported:
        if other.storage is None or other.shape is None or other.code is None or other.nbytes < F32.itemsize:
            raise UnsupportedError(f"`{other.name}` is a tensor of the kind {other.kind}, which can't be carried over")
        tensors[other.name] = Tensor(F32, other.shape, (0,) * len(other.shape), 0, other.storage)
        types[other.name] = Encoding(other.dtype or other.kind, other.code, math.prod(other.shape) or 1, other.nbytes)
    if not types:
        return catalogue, types

    def place(name: str) -> tuple[int, int]:
        storage = tensors[name].storage
        return storage.shard or 0, min((extent.start for extent in storage.spans()), default=0)

    ordered = {name: tensors[name] for name in sorted(tensors, key=place)}
    return replace(catalogue, tensors=ordered, unsupported=()), types
