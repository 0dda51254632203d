"""What a checkpoint of ours must have in common with what torch loads: names, order, dtypes, shapes and bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import library

from converter.opening import open_checkpoint

_LIBRARIES: list[Any] = []


def define_vision_operators() -> None:
    """Let torchvision be imported even if its compiled operators don't fit this torch: its models don't need them."""
    operators = library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _LIBRARIES.append(operators)  # its definitions go with it


def difference(path: Path, expected: dict[str, Any]) -> str:
    """The first thing that differs from a state dict, in words; empty if nothing does."""
    with open_checkpoint(path) as catalogue:
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
            raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
            if mine.bits().tobytes() != raw.tobytes():
                return f"the bytes of `{name}`"
    return ""
