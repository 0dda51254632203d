"""Checks of a catalogue before its tensors are carried over or read whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from converter.errors import ManifestError, UnsafeError, UnsupportedError
from converter.limits import limits
from converter.text import listed

if TYPE_CHECKING:
    from converter.tensors.catalogue import Catalogue
    from converter.tensors.tensor import Tensor

_SMALL: Final = 64 << 20  # bytes that any view may have


def check_expansion(tensors: Mapping[str, Tensor]) -> None:
    """Raise UnsupportedError if views repeat the storages' bytes so often that a small file would fill a disk."""
    held = sum({id(tensor.storage): tensor.storage.nbytes for tensor in tensors.values()}.values())
    wanted = sum(tensor.nbytes for tensor in tensors.values())
    if wanted > limits().expansion * held + _SMALL:
        name = max(tensors, key=lambda name: tensors[name].nbytes)
        raise UnsupportedError(
            f"the tensors are views that expand {held:,} bytes to {wanted:,}, above all `{name}`: at most "
            f"{limits().expansion} times the bytes of the file are read"
        )


def without_tensors(catalogue: Catalogue) -> str:
    """The sentence for a checkpoint without weights, with what it holds instead."""
    found = f"`{catalogue.location}` holds no tensors to convert"
    if catalogue.facts.get("program"):
        return f"{found}: it is {catalogue.facts['program']} whose weights are constants of its code (frozen)"
    held = [other.name for other in catalogue.others if other.name]
    if not held:
        return found
    return f"{found}: it has {listed(held)}, none of which looks like a model's weights; --root NAME reads below one of them"


def check_portable(catalogue: Catalogue, *, ignore_globals: bool, no_crc: bool, alike: bool = False) -> None:
    """Raise unless every tensor can be carried over whole, and the pickle names nothing outside the table.

    It raises UnsafeError, UnsupportedError or ManifestError. The message names the option that goes on regardless, if
    there is one.
    """
    unknown = catalogue.unknown_globals()
    if unknown and not ignore_globals:
        raise UnsafeError(
            f"`{catalogue.location}` names {listed(unknown)}, which a checkpoint of tensors alone does not need; nothing was "
            "executed: give --ignore-globals to carry over the tensors and drop the rest"
        )
    lost = [other for other in catalogue.unsupported if not alike or other.storage is None]
    if lost:
        first = lost[0]
        more = f" (and {len(lost) - 1:,} more)" if len(lost) > 1 else ""
        what = first.what or f"a {first.kind} tensor{more}, which has no plain bytes to carry over"
        raise UnsupportedError(f"`{first.name}` is {what}: {first.way_out}, or leave it out with --exclude")
    if catalogue.missing:
        raise ManifestError(
            f"`{catalogue.location}` is not whole: its index promises `{catalogue.missing[0]}`, which no shard holds"
            + (f", and {len(catalogue.missing) - 1:,} more" if len(catalogue.missing) > 1 else "")
        )
    if catalogue.unchecked and not no_crc:
        raise UnsupportedError(
            f"`{catalogue.location}` was saved without CRCs, so damage to it can't be noticed: give --no-crc to go on"
        )
