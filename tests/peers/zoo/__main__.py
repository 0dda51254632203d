"""`make zoo`: whole modules and TorchScript of many libraries against their `state_dict()`, as a table.

A library that is not installed, or that can't make or save its model here, is reported and skipped. Exits with 1 if a
checkpoint of ours differs from what torch loads.
"""

from __future__ import annotations

import contextlib
import copy
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from converter.errors import ConverterError
from tests.peers.zoo import families
from tests.peers.zoo.checks import define_vision_operators, difference
from tests.peers.zoo.libraries import MODELS

_WAYS = ("zip", "legacy", "half", "scripted", "traced")


def main(words: list[str]) -> int:
    """Check the models whose names have one of the words, or all models."""
    every: dict[str, Callable[[], Any]] = dict(MODELS)
    every |= {f"transformers: {name}": lambda name=name: families.make(name) for name in families.FAMILIES}
    define_vision_operators()
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, make in every.items():
            if words and not any(word in name for word in words):
                continue
            try:
                model = make()
            except Exception as error:
                print(f"{name:40} skipped: {type(error).__name__}: {error}"[:150], flush=True)
                continue
            found = [_check(model, way, Path(folder) / "m.pt") for way in _WAYS]
            bad += sum(result.startswith("DIFFERS") for result in found)
            told = "  ".join(f"{way}: {result}" for way, result in zip(_WAYS, found, strict=True))
            print(f"{name:40} {len(model.state_dict()):4} names  {told}", flush=True)
    print(f"{bad} differ")
    return min(bad, 1)


def _traced(model: Any) -> Any:
    """Trace the model with the first example that it accepts: images of two sizes, or tokens."""
    examples = (torch.zeros(1, 3, 224, 224), torch.zeros(1, 3, 16, 16), torch.zeros(1, 8, dtype=torch.long))
    for example in examples[:-1]:
        with contextlib.suppress(Exception):
            return torch.jit.trace(model, example, strict=False)
    return torch.jit.trace(model, examples[-1], strict=False)


def _check(model: Any, way: str, path: Path) -> str:
    """`equal`, what differs, or why there is nothing to compare."""
    try:
        model = copy.deepcopy(model)
        if way in ("scripted", "traced"):
            model = model.float().eval()
            script = torch.jit.script(model) if way == "scripted" else _traced(model)
            script.save(path)
            model = torch.jit.load(path)
        elif way == "half":
            torch.save({"model": model.half(), "epoch": 1}, path)
        else:
            torch.save(model, path, _use_new_zipfile_serialization=way == "zip")
        expected = model.state_dict()
    except Exception as error:
        return f"not saved ({type(error).__name__})"
    if not expected:
        return "none"
    try:
        told = difference(path, expected)
    except ConverterError as error:
        told = str(error)
    return f"DIFFERS: {told}" if told else "equal"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main(sys.argv[1:]))
