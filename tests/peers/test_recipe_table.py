"""The table of tests/data/recipes.json is what the real llama-quantize chooses. UPDATE_RECIPES=1 writes it anew.

llama-quantize reads only the names and shapes of tensors to choose types (--dry-run), so the models are headers with a hole behind
them, as wide and as deep as the table says.
"""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter

from converter.formats.gguf.recipes import RECIPES
from tests.formats.test_recipes import TABLE, expected
from tests.peers.test_gguf_programs import PROGRAMS, pytestmark

__all__ = ("pytestmark",)
PATH = Path(__file__).parents[1] / "data" / "recipes.json"
WORDS = tuple(f"{recipe.word}{weighed}" for recipe in RECIPES for weighed in ("", " weighed"))
LINE = re.compile(r"\] (\S+) +- \[.*?\], type = +f32, size = +\S+ MiB(?: -> +\S+ MiB \((\w+)\))?")
ROWS = 8  # of each matrix: how many there are changes nothing


def columns(model: str) -> dict[str, int]:
    """The matrices of a model of the table, and the lengths of their rows."""
    entry: dict[str, Any] = TABLE[model]
    found: dict[str, int] = {}
    for kind, width in entry["columns"].items():
        whole = kind.startswith(("token_embd", "output."))
        found |= dict.fromkeys([kind] if whole else [f"blk.{n}.{kind}" for n in range(entry["model"]["layers"])], width)
    return found


def header(model: str, path: Path) -> Path:
    """A model of the table in F32, whose elements are a hole in the file."""
    sizes: dict[str, Any] = TABLE[model]["model"]
    architecture, heads = sizes["architecture"], 16
    writer = GGUFWriter(path, architecture)
    writer.add_block_count(sizes["layers"])
    writer.add_context_length(8)
    writer.add_embedding_length(next(iter(columns(model).values())))
    writer.add_feed_forward_length(512)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads // sizes["queries"])
    writer.add_expert_count(sizes["experts"])
    writer.add_expert_used_count(min(2, sizes["experts"]))
    writer.add_layer_norm_eps(1e-5)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(ROWS)
    writer.add_parallel_residual(use=True)
    nbytes = 0
    for name, width in columns(model).items():
        shape = (sizes["experts"], ROWS, width) if "_exps." in name else (ROWS, width)
        writer.add_tensor_info(name, shape, np.dtype("<f4"), 4 * int(np.prod(shape)))
        nbytes += 4 * int(np.prod(shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + nbytes + 4096)
    return path


def importance(model: str, path: Path) -> Path:
    """Importance in llama.cpp's older form: the same for every column."""
    experts = max(1, TABLE[model]["model"]["experts"])
    counts = {name: width * (experts if "_exps." in name else 1) for name, width in columns(model).items()}
    entries = [
        struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", 1, count) + np.ones(count, "<f4").tobytes()
        for name, count in counts.items()
    ]
    path.write_bytes(struct.pack("<i", len(entries)) + b"".join(entries) + struct.pack("<ii", 1, 1) + b"x")
    return path


def chosen(file: Path, word: str, weights: Path) -> dict[str, str]:
    """The type that llama-quantize would give each matrix."""
    name, _, weighed = word.partition(" ")
    done = subprocess.run(
        [PROGRAMS / "llama-quantize", "--dry-run", *(("--imatrix", weights) if weighed else ()), file, name.upper()],
        check=False, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return {name: (type or "f32").upper() for name, type in LINE.findall(done.stdout + done.stderr)}


def runs(model: str, types: dict[str, str]) -> dict[str, str]:
    """`Q6_K*2 Q4_K` for the layers' types, as the table has them."""
    found = {}
    for kind in TABLE[model]["columns"]:
        names = [name for name in columns(model) if name == kind or name.endswith(f".{kind}")]
        together = [(type, len([*same])) for type, same in groupby(types[name] for name in names)]
        found[kind] = " ".join(type if count == 1 else f"{type}*{count}" for type, count in together)
    return found


@pytest.mark.parametrize("model", TABLE)
def test_the_table_is_what_llama_quantize_chooses(model: str, tmp_path: Path) -> None:
    file, weights = header(model, tmp_path / "x.gguf"), importance(model, tmp_path / "x.dat")
    real = {word: chosen(file, word, weights) for word in WORDS}
    if os.environ.get("UPDATE_RECIPES"):
        table = json.loads(PATH.read_text())
        table[model]["types"] = {word: runs(model, types) for word, types in real.items()}
        PATH.write_text(text(table))
        return

    assert real == {word: expected(model, word) for word in WORDS}


def text(table: dict[str, Any]) -> str:
    """The table with a line for each recipe."""
    models = []
    for name, entry in table.items():
        lines = ",\n".join(f"   {json.dumps(word)}: {json.dumps(types)}" for word, types in entry["types"].items())
        parts = [f'  "{key}": {json.dumps(entry[key])},\n' for key in ("model", "columns")]
        models.append(f" {json.dumps(name)}: {{\n{''.join(parts)}" + f'  "types": {{\n{lines}\n  }}\n }}')
    return "{\n" + ",\n".join(models) + "\n}\n"
