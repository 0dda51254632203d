"""Checks of a catalogue before its tensors are carried over or read whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from converter.errors import ManifestError, UnsafeError, UnsupportedError
from converter.limits import limits
from converter.text import listed, more, plural
from converter.words import OPTIMIZER, option

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
            f"the tensors are views that expand {plural(held, 'byte')} to {wanted:,}, above all `{name}`: at most "
            f"{limits().expansion} times the bytes of the file are read"
        )


def without_tensors(catalogue: Catalogue) -> str:
    """The sentence for a checkpoint without weights, with what it holds instead."""
    root = catalogue.facts.get("root")
    where = f"`{root}` in `{catalogue.location}`" if root else f"`{catalogue.location}`"
    return f"{where} holds no tensors to convert{held_instead(catalogue)}"


def held_instead(catalogue: Catalogue) -> str:
    """The end of such a sentence: what the checkpoint holds, and how to reach it. Empty if it holds nothing."""
    if catalogue.facts.get("program"):
        return f": it is {catalogue.facts['program']} whose weights are constants of its code (frozen)"
    if any(not other.name and other.kind == "storage" for other in catalogue.others):
        return ": it is a bare storage, without a name or a shape: make a tensor of it, and save that with torch.save"
    if catalogue.facts.get("root"):
        return f": {option('root', 'NAME')} takes another part" if catalogue.storages else ", and neither does the rest"
    held = [other.name for other in catalogue.others if other.name]
    if not held:
        return ""
    if not catalogue.storages:
        return f": it has {listed(held)}, and no tensor among them"
    way = f"{option('root', 'NAME')} reads below one of them"
    if {*held} == OPTIMIZER:
        return f": it is the state of an optimizer, {listed(held)}, which belongs beside a model's weights; {way}"
    return f": it has {listed(held)}, none of which looks like a model's weights; {way}"


def check_portable(catalogue: Catalogue, *, ignore_globals: bool, no_crc: bool, alike: bool = False) -> None:
    """Raise unless every tensor can be carried over whole, and the pickle names nothing outside the table.

    It raises UnsafeError, UnsupportedError or ManifestError. The message names the option that goes on regardless, if
    there is one.
    """
    unknown = catalogue.unknown_globals()
    if unknown and not ignore_globals:
        raise UnsafeError(
            f"`{catalogue.location}` names {listed(unknown)}, which a checkpoint of tensors alone does not need; nothing was "
            f"executed: give {option('ignore-globals', True)} to carry over the tensors and drop the rest"
        )
    lost = [other for other in catalogue.unsupported if not alike or other.storage is None]
    if lost:
        first = lost[0]
        others = f" ({more(len(lost), before='and ')})" if len(lost) > 1 else ""
        what = first.what or f"a {first.kind} tensor{others}, which has no plain bytes to carry over"
        raise UnsupportedError(f"`{first.name}` is {what}: {first.way_out}, or leave it out with {option('exclude')}")
    if catalogue.missing:
        raise ManifestError(
            f"`{catalogue.location}` is not whole: its index promises `{catalogue.missing[0]}`, which no shard holds"
            + more(len(catalogue.missing), before=", and ")
        )
    if catalogue.unchecked and not no_crc:
        raise UnsupportedError(
            f"`{catalogue.location}` was saved without CRCs, so damage to it can't be noticed: give "
            f"{option('no-crc', True)} to go on"
        )
