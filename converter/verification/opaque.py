"""Tensors of a type that is not decoded here: their bytes are compared, if source and copy have them in the same type."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from converter.dtypes import U8
from converter.errors import UnsupportedError
from converter.tensors.tensor import Tensor
from converter.text import plural

if TYPE_CHECKING:
    from converter.tensors.catalogue import Unsupported


def as_bytes(other: Unsupported) -> Tensor:
    """The tensor's bytes, [nbytes]. Raises UnsupportedError if it has no bytes that another file could have."""
    if other.storage is None or other.code is None:
        raise UnsupportedError(f"`{other.name}` is a tensor of the kind {other.kind}: its elements can't be read")
    return Tensor(U8, (other.nbytes,), (1,), 0, replace(other.storage, encoding=None))


def unlike(expected: Unsupported | None, found: Unsupported) -> tuple[str, str] | None:
    """Why the bytes of a tensor in a copy can't be compared, as a name and as a sentence; None if they can."""
    if expected is None:
        return "unreadable", f"it is of a kind that is not decoded here: {found.dtype or found.kind}"
    if found.code != expected.code:
        return "another dtype", f"it is {found.dtype or found.kind}: expected {expected.dtype or expected.kind}"
    if found.shape != expected.shape:
        return "another shape", f"its shape is {list(found.shape or ())}: expected {list(expected.shape or ())}"
    if found.nbytes != expected.nbytes:
        return "another size", f"it has {plural(found.nbytes, 'byte')}: expected {expected.nbytes:,}"
    return None
