"""`make zoo`: what many libraries write, saved as their users save it, against `state_dict()`, as a table in markdown.

A library that is not installed, or that can't make or save its model here, is told and skipped. Exits with 1 where a
checkpoint of ours differs from what torch loads, or where `scan` calls one of them dangerous or malformed.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.metadata
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from torch.utils._pytree import tree_leaves

from converter.api import convert
from converter.errors import ConverterError, UnsafeError
from tests.peers.zoo import families
from tests.peers.zoo.checks import copied, define_vision_operators, difference, verdict
from tests.peers.zoo.domains import DOMAINS
from tests.peers.zoo.frameworks import FRAMEWORKS, Saved
from tests.peers.zoo.libraries import MODELS

_WAYS: Final = ("zip", "legacy", "half", "scripted", "traced")
# What `scan` may say about a file that nobody meant harm with.
_HARMLESS: Final = ("plain", "unknown-globals", "program")
# Files that load more code, so that `scan` is right to warn: of modules for torch.fx, and of functions by cloudpickle.
_CODE: Final = ("e3nn", "fastai: export")


def main(words: list[str]) -> int:
    """Check those whose names have one of the words, or all."""
    define_vision_operators()
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        for lines in (_models(words, Path(folder)), _files(words, Path(folder))):
            for line in lines:
                bad += "DIFFERS" in line
                print(line, flush=True)
            print()
    print(f"{bad} differ")
    return min(bad, 1)


def _fits(name: str, words: list[str]) -> bool:
    return not words or any(word in name for word in words)


def _models(words: list[str], folder: Path) -> Iterator[str]:
    """A line for each architecture: the module in every form against its state dict."""
    every: dict[str, Callable[[], Any]] = dict(MODELS)
    every |= {f"transformers: {name}": lambda name=name: families.make(name) for name in families.FAMILIES}
    yield f"| model | names | {' | '.join(_WAYS)} |"
    yield "|---|---:|" + "---|" * len(_WAYS)
    for name, make in every.items():
        if not _fits(name, words):
            continue
        try:
            model = make()
        except Exception as error:
            yield _skipped(name, error)
            continue
        found = [_check(model, way, folder / "m.pt", _allowed(name)) for way in _WAYS]
        yield f"| {name} | {len(model.state_dict())} | {' | '.join(found)} |"


def _files(words: list[str], folder: Path) -> Iterator[str]:
    """A line for each file as its library writes it: inspected, scanned, converted and verified."""
    yield "| library | version | file | tensors | scan | convert |"
    yield "|---|---|---|---:|---|---|"
    for number, (name, save) in enumerate({**FRAMEWORKS, **DOMAINS}.items()):
        if not _fits(name, words):
            continue
        library, _, form = name.partition(": ")
        place = folder / str(number)
        place.mkdir()
        try:
            with contextlib.redirect_stdout(sys.stderr):
                saved = save(place)
        except (Exception, SystemExit) as error:
            yield _skipped(name, error)
            continue
        said, told = _checked(saved, place, _allowed(name))
        count = len(saved.expected) if saved.expected is not None else 0
        yield f"| {library} | {importlib.metadata.version(library)} | {form} | {count} | {said} | {told} |"


def _allowed(name: str) -> tuple[str, ...]:
    """What `scan` may say about a file of this library."""
    return (*_HARMLESS, "dangerous") if name.startswith(_CODE) else _HARMLESS


def _checked(saved: Saved, folder: Path, allowed: tuple[str, ...]) -> tuple[str, str]:
    """What `scan` says, and what came of the conversion."""
    try:
        said = verdict(saved.path)
    except ConverterError as error:
        return "", f"DIFFERS: {error}"
    if said not in allowed:
        said = f"DIFFERS: {said}"
    if saved.expected is None:
        try:
            convert(saved.path, folder / "copy.safetensors")
            return said, "DIFFERS: it is converted, and holds no weights"
        except ConverterError as error:
            return said, f"refused: {error}".replace(f"{saved.path.parent}/", "")
    try:
        told = difference(saved.path, saved.expected, saved.root)
        if told:
            return said, f"DIFFERS: {told}"
        try:
            told, how = copied(saved.path, saved.expected, saved.root, folder), "equal"
        except UnsafeError:
            told, how = (
                copied(saved.path, saved.expected, saved.root, folder, flag=True),
                "equal, with `--ignore-globals`",
            )
    except ConverterError as error:
        return said, f"DIFFERS: {error}"
    return said, f"DIFFERS: {told}" if told else how


def _skipped(name: str, error: BaseException) -> str:
    return f"{name} is left out: {type(error).__name__}: {error}".replace("\n", " ")[:200]


def _traced(model: Any) -> Any:
    """Trace it with the first example that it takes: images of some sizes, tokens, or a row of numbers."""
    model.register_forward_hook(
        lambda _, __, given: tuple(leaf for leaf in tree_leaves(given) if torch.is_tensor(leaf))
    )
    quick: dict[str, Any] = {"strict": False, "check_trace": False}
    if isinstance(model, transformers.PreTrainedModel):
        return torch.jit.trace(model, example_kwarg_inputs=families.example(model), **quick)
    sizes = ((1, 3, 224, 224), (1, 3, 16, 16), (1, 1, 32, 32), (1, 2, 16, 16), (1, 2))
    examples = (*map(torch.zeros, sizes), torch.zeros(1, 8, dtype=torch.long))
    for example in examples[:-1]:
        with contextlib.suppress(Exception):
            return torch.jit.trace(model, example, **quick)
    return torch.jit.trace(model, examples[-1], **quick)


def _check(model: Any, way: str, path: Path, allowed: tuple[str, ...]) -> str:
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
        if not told and (said := verdict(path)) not in allowed:
            told = f"scan calls it {said}"
    except ConverterError as error:
        told = str(error)
    return f"DIFFERS: {told}" if told else "equal"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main(sys.argv[1:]))
