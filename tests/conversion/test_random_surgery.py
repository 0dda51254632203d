"""Random surgeries, against the same done in memory with numpy, fnmatch and safetensors' own reader."""

from __future__ import annotations

import random
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from converter.conversion.convert import convert
from converter.conversion.surgery import rules
from converter.errors import RuleError
from converter.formats import open_file
from tests.build.depth import some

NUMPY = {"f32": np.float32, "f16": np.float16}
GLOBS = ("*", "*.weight", "*.bias", "layers.0.*", "layers.?.*", "layers.[13].*", "head.*", "*.1*", "nothing")
STARTS = ("layers.", "head.", "layers.1.", "no.")
NEW = ("layers.", "model.", "head.", "x.y.")


def made(rng: np.random.Generator) -> dict[str, np.ndarray[Any, Any]]:
    names = [f"layers.{layer}.{part}" for layer in range(4) for part in ("weight", "bias")] + ["head.weight", "steps"]
    found: dict[str, np.ndarray[Any, Any]] = {name: rng.standard_normal((3, 5)).astype(np.float32) for name in names}
    return found | {"steps": rng.integers(0, 99, 4), "head.weight": rng.standard_normal(7).astype(np.float16)}


def expected(
    tensors: dict[str, np.ndarray[Any, Any]],
    include: list[str],
    exclude: list[str],
    renames: list[tuple[str, str]],
    types: list[tuple[str, str]],
) -> dict[str, np.ndarray[Any, Any]] | None:
    """The tensors after the rules; None where nothing is left, a glob of `include` fits nothing, or two get one name."""
    if not all(any(fnmatchcase(name, glob) for name in tensors) for glob in include):
        return None
    found: dict[str, np.ndarray[Any, Any]] = {}
    for name, array in tensors.items():
        if include and not any(fnmatchcase(name, glob) for glob in include):
            continue
        if any(fnmatchcase(name, glob) for glob in exclude):
            continue
        word = next((word for glob, word in reversed(types) if fnmatchcase(name, glob)), "keep")
        new = name
        for old, start in renames:
            # Until a tensor is renamed, its name in the file is its name.
            new = start + new[len(old) :] if new.startswith(old) else new
        if new in found:
            return None
        found[new] = array.astype(NUMPY[word]) if word in NUMPY and array.dtype.kind == "f" else array
    return found or None


def test_surgeries_by_chance_give_what_numpy_gives(tmp_path: Path) -> None:
    chance, rng = random.Random(15), np.random.default_rng(15)
    tensors = made(rng)
    save_file(tensors, tmp_path / "in.safetensors")
    source, refused = open_file(tmp_path / "in.safetensors"), 0
    for number in range(some(300, 100)):
        include = chance.sample(GLOBS, chance.choice((0, 0, 1, 2)))
        exclude = chance.sample(GLOBS[1:], chance.choice((0, 1, 2)))
        renames = [(chance.choice(STARTS), chance.choice(NEW)) for _ in range(chance.choice((0, 1, 2)))]
        types = [(chance.choice(GLOBS), chance.choice(("keep", "f16", "f32"))) for _ in range(chance.choice((0, 1, 3)))]
        # A collision between two rules is refused even if a later rule would end it.
        steps = [expected(tensors, include, exclude, renames[:end], types) for end in range(len(renames) + 1)]
        output = tmp_path / f"{number}.safetensors"
        try:
            surgery = rules(
                include=include, exclude=exclude, rename=[f"{old}*={new}*" for old, new in renames],
                tensor_type=[f"{glob}={word}" for glob, word in types],
            )  # fmt: skip
            convert(source, output, surgery=surgery)
        except RuleError:
            refused += 1
            assert None in [None if step is None else 1 for step in steps], (include, exclude, renames)
            assert not output.exists()
            continue
        wanted = steps[-1]
        assert wanted is not None, (include, exclude, renames)
        found = load_file(output)
        assert found.keys() == wanted.keys()
        for name, array in wanted.items():
            assert found[name].dtype == array.dtype, name
            assert np.array_equal(found[name], array), name
    assert some(20, 7) < refused < some(150, 50)
