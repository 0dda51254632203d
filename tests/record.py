"""A record of what the program does: every command and every conversion, with everything that it prints and writes.

`python -m tests.record` runs the commands again and prints what differs from tests/data/record.json. An intended
change is recorded with `--write`; `--only GLOB` chooses entries by name. Nothing here says what is right. It says what changed.

All commands run in one temporary folder, with relative paths and without network. What could still differ from run to run
or from machine to machine is replaced before it is recorded:

* the temporary folder's absolute path becomes `<folder>`, the project's becomes `<project>`;
* decimal fractions of more than nine digits are rounded to nine, because sums of floats depend on the processor;
* the time is that of SOURCE_DATE_EPOCH, and reports then have no durations;
* fickling's version becomes `<version>`, because a new release of it is not a change of ours.

Engines and tokenizers that are optional packages are left out, because the answer would depend on what is installed.
"""

from __future__ import annotations

import argparse
import difflib
import fnmatch
import hashlib
import json
import os
import queue
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tests.build import gguf_files
from tests.build.checkpoints import (
    Call,
    Entry,
    Global,
    View,
    floats,
    legacy_bytes,
    ordered,
    view,
    write_checkpoint,
    zip_bytes,
)
from tests.build.formats import npy
from tests.build.gguf_files import Info, gguf, key
from tests.build.seeds import safetensors_file
from tests.build.small_gpt2 import CONFIG, weights

ROOT: Final = Path(__file__).resolve().parent.parent
RECORD: Final = ROOT / "tests" / "data" / "record.json"
LONGEST: Final = 4096  # characters of a text that are recorded in full
BEGINNING: Final = 10  # lines of a longer one that are recorded beside its SHA-256
WIDE: Final = {**CONFIG, "n_embd": 32, "n_inner": 64, "n_positions": 16, "vocab_size": 64}  # rows of whole blocks

SAFETENSORS: Final = ("keep", "f32", "f16", "bf16")
QUANTISED: Final = ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
GGUF: Final = (*SAFETENSORS, *QUANTISED)


@dataclass(frozen=True)
class Case:
    """Commands that run one after the other. What they write goes below `out/<name>`."""

    name: str
    commands: tuple[str, ...]  # as a user types them; `@` is the case's own folder

    @property
    def folder(self) -> str:
        return "out/" + re.sub(r"[^a-z0-9.]+", "-", self.name.lower()).strip("-")


# The inputs. They come from the tests' own writers, except those that only this program can write.

SOURCES: Final = (
    *("published", "head", "rows", "sharded", "legacy.bin", "safetensors", "safetensors-sharded", "f32.gguf", "f16.gguf"),
    *("q8_0.gguf", "q4_0.gguf", "gguf-split", "parameters", "parameters-named", "llama.gguf", "plain.bin"),
)  # fmt: skip
REFUSED: Final = ("globals.bin", "dangerous.bin", "malformed.bin")
GGUF_NAMES: Final = {
    "wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm", "lm_head": "output", "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "ln_2": "ffn_norm", "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}  # fmt: skip


def make_inputs(folder: Path, run: Runner) -> None:
    """Write every source below `in`, those of numpy below `numpy`."""
    inputs = folder / "in"
    for name in ("head", "rows", "safetensors", "safetensors-sharded", "gguf-split"):
        (inputs / name).mkdir(parents=True)
    state, tied = weights(WIDE, head=True), weights(WIDE)
    for name in ("head", "rows", "safetensors", "safetensors-sharded"):
        (inputs / name / "config.json").write_text(
            json.dumps({**WIDE, "tie_word_embeddings": name not in ("head", "rows")}, indent=1)
        )
    write_checkpoint(inputs / "head" / "pytorch_model.bin", *_views(state, transposed=True))
    write_checkpoint(inputs / "rows" / "pytorch_model.bin", *_views(state, transposed=False))
    views, storages = _views(tied, transposed=True)
    (inputs / "legacy.bin").write_bytes(legacy_bytes(ordered(**views), storages))
    _write_safetensors(inputs, tied)
    for name, type in {"f32": gguf_files.F32, "f16": gguf_files.F16, "q8_0": gguf_files.Q8_0, "q4_0": gguf_files.Q4_0}.items():  # fmt: skip
        (inputs / f"{name}.gguf").write_bytes(_gguf(_gguf_arrays(tied), type, _gpt2_keys()))
    _write_split(inputs / "gguf-split", _gguf_arrays(tied))
    (inputs / "llama.gguf").write_bytes(_llama())
    _write_others(inputs)
    _write_arrays(folder / "numpy", tied)
    # The published form is what `sample` writes, and a parameters folder has no other writer.
    made = (
        ("sample", "in/published"),
        ("sample", "in/sharded", "--model", "tiny-13B"),
        ("extract", "in/head", "in/parameters"),
        ("extract", "in/head", "in/parameters-named", "--form", "named"),
    )
    for code, _, err in _in_turn(run, made):
        assert code == 0, err
    (inputs / "cut.bin").write_bytes((inputs / "published" / "pytorch_model.bin").read_bytes()[:100_000])
    (inputs / "malformed.bin").write_bytes(_damaged((inputs / "rows" / "pytorch_model.bin").read_bytes()))


def _views(state: Mapping[str, NDArray[Any]], *, transposed: bool) -> tuple[dict[str, View], dict[str, bytes]]:
    """Views with their storages; `transposed` keeps the layers' matrices as [out, in], as the published files do."""
    views, storages = {}, {}
    for number, (name, array) in enumerate(state.items()):
        turned = transposed and name.startswith("h.") and array.ndim == 2
        stride = (1, array.shape[0]) if turned else None
        full = name if name.startswith("lm_head") else f"transformer.{name}"
        views[full] = view(str(number), array.shape, stride)
        storages[str(number)] = np.ascontiguousarray(array.T if turned else array).tobytes()
    return views, storages


def _write_safetensors(inputs: Path, state: Mapping[str, NDArray[Any]]) -> None:
    entries = {f"transformer.{name}": ("F32", array.shape, array.tobytes()) for name, array in state.items()}
    (inputs / "safetensors" / "model.safetensors").write_bytes(safetensors_file(entries, {"format": "pt"}))
    names = list(entries)
    where: dict[str, str] = {}
    for number, part in enumerate((names[:9], names[9:]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        data = safetensors_file({name: entries[name] for name in part}, {"format": "pt"})
        (inputs / "safetensors-sharded" / file).write_bytes(data)
        where |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": sum(len(data) for _, _, data in entries.values())}, "weight_map": where}
    (inputs / "safetensors-sharded" / "model.safetensors.index.json").write_text(json.dumps(index))


def _gguf_arrays(state: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """GGUF's names and orientation of the arrays."""
    arrays = {}
    for name, array in state.items():
        stem, kind = name.rsplit(".", 1)
        layer = re.match(r"h\.(\d+)\.", stem)
        named = GGUF_NAMES[stem[layer.end() :] if layer else stem]
        arrays[f"blk.{layer[1]}.{named}.{kind}" if layer else f"{named}.{kind}"] = (
            array.T if layer and array.ndim == 2 else array
        )
    return arrays


def _gpt2_keys() -> list[bytes]:
    return [
        key("general.architecture", "string", "gpt2"),
        key("gpt2.context_length", "u32", WIDE["n_positions"]),
        key("gpt2.embedding_length", "u32", WIDE["n_embd"]),
        key("gpt2.block_count", "u32", WIDE["n_layer"]),
        key("gpt2.feed_forward_length", "u32", WIDE["n_inner"]),
        key("gpt2.attention.head_count", "u32", WIDE["n_head"]),
        key("gpt2.attention.layer_norm_epsilon", "f32", 1e-5),
    ]


def _gguf(arrays: Mapping[str, NDArray[Any]], type: int, keys: Sequence[bytes]) -> bytes:
    """A GGUF file whose matrices have the type; vectors and positions are F32, as llama.cpp requires."""
    infos, data = [], b""
    for name, array in arrays.items():
        own = type if array.ndim == 2 and name != "position_embd.weight" else gguf_files.F32
        infos.append(Info(name, array.shape[::-1], own, len(data)))
        data += _encoded(array, own)
        data += bytes(-len(data) % 32)
    return gguf(keys, infos, data)


def _encoded(array: NDArray[Any], type: int) -> bytes:
    if type in (gguf_files.F32, gguf_files.F16):
        return np.ascontiguousarray(array, "<f4" if type == gguf_files.F32 else "<f2").tobytes()
    # Blocks need not come from the array: any bytes are numbers, if their scales are.
    width = 32 if type == gguf_files.Q8_0 else 16
    count = array.size // 32
    blocks = np.empty((count, 2 + width), np.uint8)
    blocks[:, :2] = (np.arange(1, count + 1) % 7 * np.float32(1 / 512)).astype("<f2").view(np.uint8).reshape(-1, 2)
    blocks[:, 2:] = (np.arange(count * width) * 37 % 251).reshape(-1, width)
    return blocks.tobytes()


def _write_split(folder: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    names = list(arrays)
    for number, part in enumerate((names[:9], names[9:])):
        keys = [
            *(_gpt2_keys() if number == 0 else ()),
            key("split.no", "u16", number),
            key("split.count", "u16", 2),
            key("split.tensors.count", "i32", len(names)),
        ]
        data = _gguf({name: arrays[name] for name in part}, gguf_files.F32, keys)
        (folder / f"split-{number + 1:05}-of-00002.gguf").write_bytes(data)


def _llama() -> bytes:
    wide, inner, vocabulary = 32, 64, 64
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (vocabulary, wide), "blk.0.attn_norm.weight": (wide,), "blk.0.attn_q.weight": (wide, wide),
        "blk.0.attn_k.weight": (wide // 2, wide), "blk.0.attn_v.weight": (wide // 2, wide),
        "blk.0.attn_output.weight": (wide, wide), "blk.0.ffn_norm.weight": (wide,),
        "blk.0.ffn_gate.weight": (inner, wide), "blk.0.ffn_up.weight": (inner, wide),
        "blk.0.ffn_down.weight": (wide, inner), "output_norm.weight": (wide,), "output.weight": (vocabulary, wide),
    }  # fmt: skip
    arrays = {
        name: ((np.arange(np.prod(shape)) * 29 % 61 - 30) / np.float32(64)).astype(np.float32).reshape(shape)
        for name, shape in shapes.items()
    }
    keys = [
        key("general.architecture", "string", "llama"),
        key("llama.context_length", "u32", 16),
        key("llama.embedding_length", "u32", wide),
        key("llama.block_count", "u32", 1),
        key("llama.feed_forward_length", "u32", inner),
        key("llama.attention.head_count", "u32", 4),
        key("llama.attention.head_count_kv", "u32", 2),
        key("llama.attention.layer_norm_rms_epsilon", "f32", 1e-5),
    ]
    return _gguf(arrays, gguf_files.F32, keys)


def _write_others(inputs: Path) -> None:
    """Checkpoints of no known architecture, and those that are refused."""
    tensors = {
        "encoder.weight": view("0", (3, 4), (1, 3)), "encoder.bias": view("1", (3,), dtype="F16"),
        "decoder.weight": view("0", (3, 4), (1, 3)), "half.weight": view("3", (2,), dtype="BF16"),
        "steps": view("2", (), dtype="I64"),
    }  # fmt: skip
    numbers = floats(*range(11), float("nan"))
    storages = {"0": numbers, "1": b"\0\x3c\0\x40\0\x44", "2": bytes([9, *[0] * 7]), "3": b"\x80\x3f\x80\xbf"}
    write_checkpoint(inputs / "plain.bin", {"epoch": 3, "state_dict": ordered(**tensors)}, storages)
    one = {"w": view("0", (3, 4))}
    unknown = Call(Global("somewhere.models", "Settings"), (), {"rate": 0.5})
    write_checkpoint(inputs / "globals.bin", {**one, "settings": unknown}, {"0": numbers})
    payload = Call(Global("posix", "system"), ("echo no",))
    write_checkpoint(inputs / "dangerous.bin", {**one, "x": payload}, {"0": numbers})
    (inputs / "notes.txt").write_text("nothing to read here\n")


def _write_arrays(folder: Path, state: Mapping[str, NDArray[Any]]) -> None:
    """A model as npz, half of it deflated and in Fortran's order; arrays of every kind; one array; and one of objects."""
    folder.mkdir()
    records = []
    for number, (name, array) in enumerate(state.items()):
        odd = number % 2 == 1
        header = f"{{'descr': '<f4', 'fortran_order': {odd}, 'shape': {array.shape}, }}"
        data = array.tobytes("F" if odd else "C")
        records.append(Entry(f"transformer.{name}.npy", npy(header, data), deflated=odd))
    (folder / "model.npz").write_bytes(zip_bytes(records))
    header = "{'descr': '%s', 'fortran_order': False, 'shape': (2,), }"
    kinds = {"half": "<f2", "big": ">i2", "bits@bf16": "<u2", "truth/bool": "|b1"}
    arrays = [Entry(f"{name}.npy", npy(header % kind, b"\1\0\0\1"[: 2 * int(kind[2])])) for name, kind in kinds.items()]
    (folder / "kinds.npz").write_bytes(zip_bytes(arrays))
    (folder / "one.npy").write_bytes(npy(header % "<f4", floats(1, 2)))
    (folder / "objects.npy").write_bytes(npy(header % "|O", b"\x80\2]."))


def _damaged(data: bytes) -> bytes:
    """The archive with a byte of its first storage changed, so that its CRC is wrong."""
    at = data.index(b"/data/0") + 200
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


# The commands.


def cases() -> list[Case]:
    """All entries of the record."""
    found = [*_conversions(), *_rules(), *_commands()]
    names = [case.name for case in found]
    assert len({case.folder for case in found}) == len(found), "two cases share a folder"
    assert len(set(names)) == len(names)
    return found


def _rules() -> Iterator[Case]:
    """Rules on names, for every target and the commands that take them."""
    some = "--exclude *wpe* --exclude *bias --rename transformer.h.*=layers.* --rename *.ln_*.weight={1}.norm.{2}"
    for output in (
        "@/model.safetensors",
        "@/folder --to safetensors --max-shard-size 300kB",
        "@/model.npz",
        "@/folder --to parameters",
    ):
        yield Case(f"rules published -> {output[2:]}", (f"convert in/published {output} {some}",))
    gguf = "--dtype q4_0 --tensor-type blk.*=f16 --tensor-type *.attn_*.weight=q8_0 --tensor-type *h.0.mlp*=keep"
    yield Case("rules published -> gguf", (f"convert in/published @/model.gguf {gguf}",))
    yield Case("rules --json", (f"convert in/head @/model.npz {some} --strip optimizer --json",))
    yield Case("rules extract", (f"extract in/head @/folder --form named {some}", f"verify in/head @/folder {some}"))
    yield Case(
        "rules merge",
        (
            "convert in/head @/a.npz --include *wte*",
            "convert in/head @/b.npz --exclude *wte*",
            "convert @/a.npz @/c.safetensors --merge @/b.npz",
            "convert @/a.npz @/d.npz --merge @/a.npz",
            "verify in/head @/c.safetensors",
        ),
    )
    for wrong in (
        "--include none",
        "--rename a",
        "--rename *=*.*",
        "--rename transformer.*=x",
        "--tensor-type *=x",
        "--strip x",
    ):
        yield Case(f"rules {wrong} refused", (f"convert in/head @/model.npz {wrong}",))


def _conversions() -> Iterator[Case]:
    """Every source to every target. From `published` every dtype goes into every form, from the others each goes into one."""
    for source in SOURCES:
        name, path = source.removesuffix(".bin"), f"in/{source}"
        size = "300kB" if source in ("published", "sharded") else "40kB"
        cut = f" --max-shard-size {size}"
        forms = {
            "safetensors": {
                "file": "@/model.safetensors",
                "folder": "@/folder --to safetensors",
                "sharded": "@/folder --to safetensors" + cut,
            },
            "gguf": {
                "file": "@/model.gguf",
                "folder": "@/folder --to gguf",
                "sharded": "@/model.gguf" + cut,
                "sharded folder": "@/folder --to gguf" + cut,
            },
        }
        for target, dtypes in (("safetensors", SAFETENSORS), ("gguf", GGUF)):
            ways = forms[target]
            pairs = [(dtype, form) for dtype in dtypes for form in ways]
            if source != "published":
                pairs = [(dtype, list(ways)[at % len(ways)]) for at, dtype in enumerate(dtypes)]
            for dtype, form in pairs:
                chosen = "" if dtype == "keep" else f" --dtype {dtype}"
                if target == "gguf" and source not in ("published", "sharded"):  # these two have a tokenizer
                    chosen += " --no-tokenizer"
                written = ways[form]
                yield Case(f"convert {name} -> {target} {dtype} {form}", (f"convert {path} {written}{chosen}",))
        yield Case(f"convert {name} -> parameters", (f"convert {path} @/folder --to parameters",))
        for form in ("storages", "named"):
            yield Case(f"extract {name} -> {form}", (f"extract {path} @/folder --form {form} --sha256",))
    for dtype in SAFETENSORS:
        chosen = "" if dtype == "keep" else f" --dtype {dtype}"
        yield Case(f"convert published -> npz {dtype}", (f"convert in/published @/model.npz{chosen}",))
    for source in ("head", "plain.bin", "q8_0.gguf", "parameters"):
        yield Case(f"convert {source.removesuffix('.bin')} -> npz folder", (f"convert in/{source} @/folder --to npz",))
    for source in ("model.npz", "kinds.npz", "one.npy", "objects.npy"):
        for output in ("model.safetensors", "model.npz", "folder --to parameters"):
            yield Case(f"convert {source} -> {output}", (f"convert numpy/{source} @/{output}",))
    yield Case("convert model.npz -> gguf", ("convert numpy/model.npz @/model.gguf --no-tokenizer",))
    yield Case("convert published -> npz sharded refused", ("convert in/published @/model.npz --max-shard-size 40kB",))
    for source in REFUSED:
        name, path = source.removesuffix(".bin"), f"in/{source}"
        for target, output in (("safetensors", "model.safetensors"), ("gguf", "model.gguf"), ("parameters", "folder --to parameters")):  # fmt: skip
            yield Case(f"convert {name} -> {target} refused", (f"convert {path} @/{output}",))
        yield Case(f"extract {name} -> refused", (f"extract {path} @/folder",))
    yield Case("convert globals -> ignored", ("convert in/globals.bin @/model.safetensors --ignore-globals",))
    yield Case("extract globals -> ignored", ("extract in/globals.bin @/folder --ignore-globals",))
    yield Case("convert malformed -> no-crc", ("convert in/malformed.bin @/model.safetensors --no-crc",))
    for dtype in ("f16", "q8_0"):
        yield Case(f"convert published -> parameters {dtype} refused", (f"convert in/published @/folder --to parameters --dtype {dtype}",))  # fmt: skip
    yield Case("convert published -> safetensors q4_0 refused", ("convert in/published @/model.safetensors --dtype q4_0",))  # fmt: skip


def _commands() -> Iterator[Case]:
    """What the commands print, with all their options."""

    def case(name: str, *commands: str) -> Case:
        return Case(name, commands)

    for source in (*SOURCES, *REFUSED, "cut.bin", "notes.txt"):
        yield case(f"inspect {source}", f"inspect in/{source}")
    for source in ("published", "q8_0.gguf", "plain.bin", "parameters", "llama.gguf"):
        yield case(f"inspect {source} --stats", f"inspect in/{source} --stats")
        yield case(f"inspect {source} --json", f"inspect in/{source} --json")
    for source in (*SOURCES, *REFUSED, "cut.bin", "notes.txt"):
        yield case(f"check {source}", f"check in/{source}")
    yield case("check plain --json", "check in/plain.bin --json")
    yield case("inspect plain --stats --sha256", "inspect in/plain.bin --stats --sha256")
    # What a job does takes time, and its journal is not the same twice.
    yield case(
        "batch --dry-run",
        "sample @/checkpoints/first --quiet",
        "batch init @/job.toml",
        "batch @/job.toml --dry-run",
        "batch status @/job.toml",
        "batch report @/job.toml --prometheus",
    )
    yield case("inspect head --all", "inspect in/head --all")
    yield case("inspect head --all --sort size", "inspect in/head --all --sort size")
    yield case("inspect head --sort name --json", "inspect in/head --sort name --json")
    yield case("inspect head --filter", "inspect in/head --filter *.attn.*")
    yield case("inspect head --filter nothing", "inspect in/head --filter no.such.*")
    yield case("inspect plain --stats --json", "inspect in/plain.bin --stats --json")
    yield case("inspect plain --root", "inspect in/plain.bin --root state_dict")
    yield case("inspect plain --root absent", "inspect in/plain.bin --root model")

    yield case("extract published default folder", "extract in/published")
    yield case("extract head --json", "extract in/head @/folder --json")
    yield case("extract head --properties", "extract in/head @/folder --properties @/own.properties")
    yield case("extract head twice", "extract in/head @/a", "extract in/head @/a", "extract in/head @/a --force")  # fmt: skip

    yield case("convert head --dry-run", "convert in/head @/model.gguf --dtype q8_0 --dry-run --no-tokenizer")
    yield case("convert head without a tokenizer", "convert in/head @/model.gguf --dtype q8_0")
    yield case("convert head both", "convert in/head @/model.gguf --tokenizer in/published --no-tokenizer")
    yield case("convert head --dry-run --json", "convert in/head @/folder --to safetensors --dry-run --json")
    yield case("convert plain --json", "convert in/plain.bin @/model.safetensors --dtype f16 --json")
    yield case("convert published --json gguf", "convert in/published @/model.gguf --dtype q4_0 --json")
    yield case("convert published --keep-buffers", "convert in/published @/model.safetensors --keep-buffers")
    yield case("convert head --tokenizer", "convert in/head @/model.gguf --tokenizer in/published")
    yield case("convert head twice", "convert in/head @/m.gguf --no-tokenizer", "convert in/head @/m.gguf --no-tokenizer", "convert in/head @/m.gguf --no-tokenizer --force")  # fmt: skip
    yield case("convert head --resume", "convert in/head @/folder --to safetensors --resume")

    for source in ("published", "legacy.bin", "plain.bin", "globals.bin", "dangerous.bin", "malformed.bin", "notes.txt", "safetensors"):  # fmt: skip
        yield case(f"scan {source}", f"scan in/{source} --no-fickling")
    yield case("scan with fickling", "scan in/dangerous.bin in/globals.bin in/plain.bin")
    yield case("scan with fickling --json", "scan in/dangerous.bin --json")
    yield case("scan everything --json", "scan in --no-fickling --json")
    yield case("scan everything --explain", "scan in --no-fickling --explain")
    yield case("scan everything --sarif", "scan in --no-fickling --sarif @/found.sarif")
    yield case("scan globals --fail-on dangerous", "scan in/globals.bin --no-fickling --fail-on dangerous")

    forms = (
        "convert in/head @/st --to safetensors", "convert in/head @/m.gguf --no-tokenizer", "extract in/head @/named --form named",
        "convert in/head @/q.gguf --dtype q8_0 --no-tokenizer", "convert in/head @/h.safetensors --dtype f16",
    )  # fmt: skip
    outputs = "@/st @/m.gguf @/named @/q.gguf @/h.safetensors"
    yield case(
        "verify head, every form",
        *forms,
        f"verify in/head {outputs}",
        f"verify in/head {outputs} --json --junit @/junit.xml",
        f"verify in/head {outputs} --level inference",
        f"verify in/head {outputs} --level inference --json",
        "verify in/head @/st @/named --write-manifest @/golden.json",
        "verify @/golden.json @/st @/m.gguf @/q.gguf",
        "inspect @/named",
    )
    yield case("verify parameters", "verify in/head in/parameters in/parameters-named")
    yield case("verify published -> gguf inference", "convert in/published @/m.gguf --dtype q4_0", "verify in/published @/m.gguf --level inference")  # fmt: skip
    yield case("diff, every kind", "convert in/head @/st --to safetensors --rename *ln_f.bias=b --tensor-type *wpe*=bf16", "diff in/head @/st", "diff in/head @/st --json", "diff in/head in/head", "diff in/head in/q4_0.gguf --rank")  # fmt: skip
    yield case("verify another model", "verify in/head in/published --junit @/junit.xml --write-manifest @/g.json")
    yield case("verify another model --json", "verify in/head in/safetensors --json")
    yield case("verify another model inference", "verify in/head in/rows in/safetensors --level inference")
    yield case("verify malformed", "verify in/rows in/malformed.bin")
    yield case("verify llama inference", "verify in/llama.gguf in/llama.gguf --level inference")
    yield case("verify plain inference", "verify in/plain.bin in/plain.bin --level inference")
    yield case("verify quantised with itself", "verify in/q4_0.gguf in/q4_0.gguf")
    yield case("verify --prompt without inference", "verify in/head in/head --prompt a")

    for source in ("model.npz", "kinds.npz", "one.npy", "objects.npy"):
        yield case(f"inspect {source}", f"inspect numpy/{source}", f"inspect numpy/{source} --json")
        yield case(f"scan {source}", f"scan numpy/{source} --no-fickling")
    yield case("verify npz", "convert in/head @/m.npz", "convert in/head @/b.npz --dtype bf16", "verify in/head @/m.npz @/b.npz")  # fmt: skip

    yield case("models", "models", "models --json")
    for name in ("111M", "Cerebras-GPT-13B", "7B"):
        yield case(f"models {name}", f"models {name}", f"models {name} --json")
    for name in ("7B", "111M", "someone/something", "someone/something@main"):
        yield case(f"download {name}, offline", f"download {name} @/folder")
    yield case("inspect of the Hub, offline", "inspect hf://someone/something", "inspect someone/something")

    yield case("sample tiny", "sample @/tiny", "sample @/tiny", "sample @/tiny --force --seed 5")
    yield case("sample tiny-13B", "sample @/tiny --model tiny-13B")
    yield case("sample sparse", "sample @/tiny --sparse")
    yield case("sample unknown", "sample @/tiny --model 14B")
    yield case("demo", "demo @/demo")

    yield case("help", "", "--help", "--version")
    for command in (
        "inspect",
        "check",
        "extract",
        "convert",
        "scan",
        "verify",
        "diff",
        "browse",
        "models",
        "download",
        "schema",
        "sample",
        "demo",
    ):
        yield case(f"help {command}", f"{command} --help")
    usage = (
        "convert", "convert in/head", "convert in/head @/x", "convert in/head @/x.gguf --to safetensors",
        "convert in/head @/x.gguf --dtype f8", "convert in/head @/x.gguf --max-shard-size much",
        "convert in/head in/head --to safetensors --force", "convert in/absent @/x.gguf", "extract",
        "extract in/head in/head", "extract in/head @/x --form other", "inspect", "inspect in/absent.bin",
        "inspect in/head --sort colour", "inspect in/head --no-such-option", "scan", "scan in/absent.bin",
        "scan in/plain.bin --fail-on nothing", "verify in/head", "verify in/absent.bin in/head",
        "verify in/head in/absent.bin", "no-such-command", "--limit much=1 inspect in/head",
        "--limit tensors inspect in/head", "download", "sample",
    )  # fmt: skip
    for line in usage:
        yield case(f"usage {line.replace('@/', '')}", line)


# Running and recording.


def environment(folder: Path) -> dict[str, str]:
    """The environment of a command: as little as it needs."""
    kept = ("PATH", "LD_LIBRARY_PATH", "TMPDIR", "PYTHONHASHSEED")
    own = {
        "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb", "LC_ALL": "C.UTF-8", "PYTHONPATH": str(ROOT),
        "HOME": str(folder / "home"), "HF_HOME": "home/hub", "HF_HUB_OFFLINE": "1", "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1", "SOURCE_DATE_EPOCH": "1700000000",
    }  # fmt: skip
    return {name: os.environ[name] for name in kept if name in os.environ} | own


class Runner:
    """Runs commands in the folder, as many at a time as there are workers. Each command is a process of its own."""

    def __init__(self, folder: Path, workers: int = 2) -> None:
        self._folder = folder
        self._idle: queue.Queue[tuple[int, subprocess.Popen[str]]] = queue.Queue()
        self._workers = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.build.forked"], cwd=folder, env=environment(folder), text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )
            for _ in range(workers)
        ]  # fmt: skip
        for number, worker in enumerate(self._workers):
            self._idle.put((number, worker))

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.communicate(timeout=120)

    def __call__(self, arguments: Sequence[str]) -> tuple[int, str, str]:
        """Run one command and return its exit code, stdout and stderr."""
        number, worker = self._idle.get()
        streams = [self._folder / f".{name}-{number}" for name in ("stdout", "stderr")]
        assert worker.stdin is not None
        assert worker.stdout is not None
        print(json.dumps([list(arguments), *map(str, streams)]), file=worker.stdin, flush=True)
        code = int(worker.stdout.readline())
        out, err = (path.read_text(encoding="utf-8") for path in streams)
        self._idle.put((number, worker))
        return code, out, err


def make(chosen: Sequence[Case]) -> dict[str, Any]:
    """Run the cases, two at a time, and return their record."""
    with tempfile.TemporaryDirectory(prefix="record-") as temporary:
        folder = Path(temporary).resolve()
        with Runner(folder) as run:
            make_inputs(folder, run)
            before = _digests(folder / "in")
            made = dict(_in_turn(lambda case: (case.name, _recorded(case, folder, run)), chosen))
        assert _digests(folder / "in") == before, "a command changed its input"
    return {"inputs": {"files": before}} | made


def _in_turn(work: Any, items: Sequence[Any]) -> list[Any]:
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(work, items))


def _recorded(case: Case, folder: Path, run: Runner) -> dict[str, Any]:
    own = folder / case.folder
    own.mkdir(parents=True)
    elsewhere = own if case.name != "extract published default folder" else folder / "parameters"
    runs = []
    for command in case.commands:
        line = command.replace("@/", f"{case.folder}/")
        code, out, err = run(line.split())
        written: dict[str, Any] = {"command": line, "exit": code}
        for stream, text in (("stdout", out), ("stderr", err)):
            if text:
                written[stream] = _text(normalised(text, folder))
        runs.append(written)
    return {"runs": runs, "files": _digests(elsewhere, folder)}


def normalised(text: str, folder: Path) -> str:
    """The text without what differs between machines; the module's description lists it."""
    text = text.replace(str(folder), "<folder>").replace(str(ROOT), "<project>")
    text = re.sub(r"(?<![\w.])-?\d+\.\d+(?:e[+-]?\d+)?(?![\w.])", _rounded, text)
    return re.sub(r"(fickling[ \":,\w]*?)\d+\.\d+\.\d+", r"\1<version>", text)


def _rounded(match: re.Match[str]) -> str:
    digits = re.sub(r"e.*", "", match[0]).replace(".", "").lstrip("-0")
    return match[0] if len(digits) <= 9 else f"{float(match[0]):.9g}"


def _text(text: str) -> Any:
    """Lines, so that the record can be read; for a long text, the first ones and the SHA-256 of all."""
    lines = text.splitlines()
    if len(text) <= LONGEST:
        return lines
    digest = hashlib.sha256(text.encode()).hexdigest()
    return {"sha256": digest, "lines": len(lines), "first": [line[:400] for line in lines[:BEGINNING]]}


def _digests(folder: Path, root: Path | None = None) -> dict[str, str]:
    """The digest of each file. Reports name the folder that a command ran in, which is `root`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _digest(path, root) for path in files}


def _digest(path: Path, root: Path | None) -> str:
    data = path.read_bytes()
    if root is not None and path.suffix in (".sarif", ".json"):
        data = data.replace(str(root).encode(), b"<folder>")
    return hashlib.sha256(data).hexdigest()


def read() -> dict[str, Any]:
    """The record as it was written."""
    return dict(json.loads(RECORD.read_text(encoding="utf-8")))


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One readable text for every entry that differs."""
    found = []
    for name in sorted({*was, *now}):
        old, new = (_lines(record[name]) if name in record else [] for record in (was, now))
        if old != new:
            found.append("\n".join(difflib.unified_diff(old, new, f"{name} (recorded)", f"{name} (now)", lineterm="")))
    return found


def _lines(entry: Any) -> list[str]:
    return json.dumps(entry, indent=1, sort_keys=True, ensure_ascii=False).splitlines()


def compare(only: str = "*") -> tuple[list[str], int]:
    """Differences of the chosen entries from the record, and how many entries were compared."""
    now = make([case for case in cases() if fnmatch.fnmatchcase(case.name, only)])
    was = {name: entry for name, entry in read().items() if name in now or fnmatch.fnmatchcase(name, only)}
    return differences(was, now), len(now)


def main() -> int:
    """Compare, or write."""
    parser = argparse.ArgumentParser(prog="python -m tests.record", description="Compare with the record.")
    parser.add_argument("--write", action="store_true", help="record what the program does now")
    parser.add_argument("--only", metavar="GLOB", default="*", help="only entries whose name matches")
    options = parser.parse_args()
    if options.write:
        now = make([case for case in cases() if fnmatch.fnmatchcase(case.name, options.only)])
        was = read() if options.only != "*" else {}
        kept = {name: entry for name, entry in was.items() if not fnmatch.fnmatchcase(name, options.only)}
        text = json.dumps(kept | now, indent=1, sort_keys=True, ensure_ascii=False)
        RECORD.write_text(text + "\n", encoding="utf-8")
        print(f"{len(now)} entries recorded")
        return 0
    found, count = compare(options.only)
    for text in found:
        print(text, end="\n\n")
    print(f"{count} entries, {len(found)} differ")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
