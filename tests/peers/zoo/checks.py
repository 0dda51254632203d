"""What a checkpoint of ours has to have in common with what torch loads: names, order, dtypes, shapes and bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import library

from converter.api import convert, inspect, scan, verify
from converter.opening import open_checkpoint

_LIBRARIES: list[Any] = []


def define_vision_operators() -> None:
    """Let torchvision be imported where its compiled operators don't fit this torch: its models need none of them."""
    operators = library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _LIBRARIES.append(operators)  # what it defined goes with it


def difference(path: Path, expected: dict[str, Any], root: str | None = None) -> str:
    """The first thing that differs from a state dict, in words; empty where nothing does."""
    with open_checkpoint(path, root=root) as catalogue:
        ours, theirs = list(catalogue), list(expected)
        if ours != theirs:
            lacking, more = (
                [name for name in a if name not in set(b)][:3] for a, b in ((theirs, ours), (ours, theirs))
            )
            return (
                f"names: {len(ours)} and not {len(theirs)}; it lacks {lacking} and has {more}"
                if lacking or more
                else "the order of names"
            )
        for name, tensor in expected.items():
            mine = catalogue[name]
            if (mine.shape, mine.dtype.torch) != (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")):
                return f"`{name}` is {mine.dtype.torch} {mine.shape}"
            if mine.bits().tobytes() != raw(tensor):
                return f"the bytes of `{name}`"
    return ""


def raw(tensor: torch.Tensor) -> bytes:
    """A tensor's elements in row-major order."""
    octets: bytes = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return octets


def copied(path: Path, expected: dict[str, Any], root: str | None, folder: Path, *, flag: bool = False) -> str:
    """Inspect it, convert it to safetensors and verify the copy: the first thing that is wrong, in words.

    Every name of the state dict has to be in the copy with its bytes, or tied to one that is; a buffer may be left
    out if the report names it. With `flag`, what else the pickle names is left out.
    """
    if (shown := inspect(path, root=root).totals.tensors) != len(expected):
        return f"inspect shows {shown} tensors"
    to = folder / "copy.safetensors"
    report = convert(path, to, root=root, force=True, ignore_globals=flag)
    if not verify(path, to, root=root).ok:
        return "verify calls the copy different"
    tied, dropped = dict(report.tied), {part.name for part in report.dropped}
    with safe_open(to, "pt") as copy:  # type: ignore[no-untyped-call]
        written = set(copy.keys())
        for name, tensor in expected.items():
            found = tied.get(name, name)
            if found in written and raw(copy.get_tensor(found)) != raw(tensor):
                return f"the copy's bytes of `{name}`"
            if found not in written and name not in dropped:
                return f"the copy lacks `{name}`"
    return ""


def verdict(path: Path) -> str:
    """What `scan` says about a file or a folder."""
    return scan(path, fickling=False).verdict
