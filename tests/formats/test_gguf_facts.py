"""What `inspect` says about a file's own keys, its tokenizer, its types and the memory that llama.cpp needs."""

from __future__ import annotations

import json
import re
import struct
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from typer.testing import CliRunner

from converter import reports
from converter.cli.app import app
from converter.errors import UnsupportedError, WordError
from converter.inspection.report import inspect
from converter.opening import open_checkpoint
from converter.reports.details import KeyReport, MemoryReport, TokenizerReport
from converter.reports.inspection import Inspection, TypeReport
from tests.build.gguf_files import F16, F32, Q8_0, Info, gguf, key

MIB = 1 << 20
SIZES = {"block_count": 32, "embedding_length": 4096, "attention.head_count": 32, "context_length": 2048}


def inspected(tmp_path: Path, *keys: bytes, context: int | None = None) -> Inspection:
    infos = [Info("a.weight", (32, 4), Q8_0), Info("b.weight", (4, 2), F16, 160), Info("c.weight", (2,), F32, 192)]
    (tmp_path / "x.gguf").write_bytes(gguf(keys, infos, bytes(224)))
    return inspect(open_checkpoint(tmp_path / "x.gguf"), context=context)


def test_every_key_is_there_with_its_type(tmp_path: Path) -> None:
    found = inspected(
        tmp_path, key("u8", "u8", 255), key("i64", "i64", -1 << 63), key("u64", "u64", (1 << 64) - 1),
        key("f32", "f32", 0.1), key("f64", "f64", 0.1), key("nan", "f32", float("nan")), key("inf", "f64", float("-inf")),
        key("yes", "bool", 1), key("text", "string", "ü\n"), key("none", "array:u32", []),
        key("many", "array:f32", [0.1, *range(99)]), key("words", "array:string", ["a", b"\xff", "c"]),
    )  # fmt: skip

    assert found.metadata == (
        KeyReport("u8", "u8", 255), KeyReport("i64", "i64", -1 << 63), KeyReport("u64", "u64", (1 << 64) - 1),
        KeyReport("f32", "f32", 0.1), KeyReport("f64", "f64", 0.1), KeyReport("nan", "f32", "nan"),
        KeyReport("inf", "f64", "-inf"), KeyReport("yes", "bool", True), KeyReport("text", "string", "ü\n"),
        KeyReport("none", "array of u32", [], 0), KeyReport("many", "array of f32", [0.1, 0, 1, 2, 3, 4, 5, 6], 100),
        KeyReport("words", "array of string", ["a"], 3),
    )  # fmt: skip
    document = json.loads(reports.to_json(found))
    assert document["metadata"][-2] == {
        "key": "many", "type": "array of f32", "value": [0.1, 0, 1, 2, 3, 4, 5, 6], "length": 100,
    }  # fmt: skip
    assert "memory" not in document
    assert "tokenizer" not in document


def test_types_are_counted_in_bits_per_weight(tmp_path: Path) -> None:
    assert inspected(tmp_path).types == (
        TypeReport("Q8_0", 1, 128, 136, 8.5), TypeReport("F16", 1, 8, 16, 16), TypeReport("F32", 1, 2, 8, 32),
    )  # fmt: skip


def test_the_tokenizer_is_counted(tmp_path: Path) -> None:
    found = inspected(
        tmp_path, key("tokenizer.ggml.model", "string", "gpt2"), key("tokenizer.ggml.pre", "string", "llama-bpe"),
        key("tokenizer.ggml.tokens", "array:string", ["a", "b", "ab"]),
        key("tokenizer.ggml.merges", "array:string", ["a b"]), key("tokenizer.ggml.bos_token_id", "u32", 2),
        key("tokenizer.ggml.add_bos_token", "bool", 0), key("tokenizer.chat_template", "string", "{{ x }}"),
    )  # fmt: skip

    assert found.tokenizer == TokenizerReport("gpt2", "llama-bpe", 3, 1, {"bos": 2}, template=True)


@pytest.mark.parametrize(
    ("changes", "context", "expected"),
    [
        # 32 layers of 32 heads of 128 elements, for keys and for values, 2 bytes each: 512 kB for each token
        ({}, None, (2048, 1024 * MIB, True)),
        ({}, 4096, (4096, 2048 * MIB, True)),
        ({}, 1, (1, 128 * MIB, True)),  # the cache has at least 256 cells
        ({}, 257, (257, 256 * MIB, True)),
        ({"attention.head_count_kv": 8}, None, (2048, 256 * MIB, True)),
        ({"attention.head_count_kv": [8] * 16 + [0] * 16}, None, (2048, 128 * MIB, True)),
        ({"attention.key_length": 256, "attention.value_length": 128}, None, (2048, 1536 * MIB, True)),
        ({"attention.causal": False}, None, (2048, 0, True)),
        ({"attention.sliding_window": 512}, None, (2048, 1024 * MIB, False)),
    ],
)
def test_the_memory_of_the_cache(tmp_path: Path, changes: dict[str, Any], context: int | None, expected: Any) -> None:
    found = inspected(tmp_path, *model(changes), context=context).memory

    assert found == MemoryReport(expected[0], 160, expected[1], expected[2])


@pytest.mark.parametrize(
    "changes",
    [
        {"block_count": None}, {"attention.head_count": None}, {"embedding_length": None}, {"context_length": None},
        {"block_count": 0}, {"block_count": 1 << 40}, {"attention.head_count": 0}, {"attention.head_count": "x"},
        {"attention.head_count": [32] * 31}, {"attention.head_count": 8192},
    ],
)  # fmt: skip
def test_without_the_sizes_nothing_is_said(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert inspected(tmp_path, *model(changes)).memory is None
    with (
        pytest.raises(UnsupportedError, match="does not say the sizes")
        if "context_length" not in changes
        else nothing()
    ):
        inspected(tmp_path, *model(changes), context=512)


def nothing() -> Any:
    import contextlib

    return contextlib.nullcontext()


def model(changes: dict[str, Any]) -> list[bytes]:
    types = {bool: "bool", int: "u64", str: "string", list: "array:u32"}
    sizes = {name: value for name, value in (SIZES | changes).items() if value is not None}
    return [
        key("general.architecture", "string", "llama"),
        *(key(f"llama.{name}", types[type(value)], value) for name, value in sizes.items()),
    ]


def test_a_context_is_a_whole_number(tmp_path: Path) -> None:
    with pytest.raises(WordError, match="context is 0"):
        inspected(tmp_path, context=0)


def put(tmp_path: Path, metadata: dict[str, str]) -> Path:
    header: dict[str, Any] = {"__metadata__": metadata, "w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    return tmp_path / "x.safetensors"


def test_the_metadata_of_safetensors_is_shown(tmp_path: Path) -> None:
    path = put(tmp_path, {"format": "pt", "ss_tag": "x" * 500})

    assert inspect(open_checkpoint(path)).metadata == (
        KeyReport("format", "string", "pt"), KeyReport("ss_tag", "string", "x" * 500),
    )  # fmt: skip
    shown = run("inspect", path)
    assert "  ss_tag  string  xxx" in shown
    assert "x" * 101 not in shown
    assert "x" * 120 in run("inspect", path, "--all").replace("\n", "").replace(" ", "")


def run(*args: object) -> str:
    done = CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_person_reads_it_in_a_few_lines(tmp_path: Path) -> None:
    inspected(
        tmp_path, *model({}), key("tokenizer.ggml.model", "string", "gpt2"),
        key("tokenizer.ggml.tokens", "array:string", ["a", "b"]), key("tokenizer.ggml.eos_token_id", "u32", 1),
    )  # fmt: skip

    lines = [line.strip() for line in run("inspect", tmp_path / "x.gguf", "--context", 512).splitlines()]

    assert "types       1 Q8_0, 1 F16, 1 F32; 9.28 bits per weight" in lines
    assert "tokenizer   gpt2, 2 tokens, eos 1" in lines
    assert (
        "memory      268.4 MB in llama.cpp for 512 tokens: 160 B of weights, 268.4 MB of keys and values, plus its "
        "buffers"
    ) in lines
    assert any(line.split(maxsplit=1) == ["tokenizer.ggml.tokens", 'array of string  2: "a", "b"'] for line in lines)


def test_markdown_has_the_same_and_nothing_in_it_is_markdown(tmp_path: Path) -> None:
    path = put(tmp_path, {"a|b": "`x` | <b>\n# evil"})

    text = run("inspect", path, "--markdown")

    assert text.splitlines()[0] == "### `Unknown architecture`"
    assert r"| `a\|b` | string | `` `x` \| <b>\x0a# evil `` |" in text.splitlines()
    assert "| `w` | `F32` | 1 | 4 B |" in text.splitlines()
    assert CliRunner().invoke(app, ["inspect", str(path), "--markdown", "--json"]).exit_code == 2


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("{% if a | b %}", "{% if a | b %}"), ("||", "||"), ("a\\|b", r"a\\x7cb"), ("`", "`"), ("a``b`|", "a``b`|"),
        ("`a`", "`a`"), ("\t\n", r"\x09\x0a"), ("a\\", "a\\"), ("<b>&amp;", "<b>&amp;"), ("*a* [b](c)", "*a* [b](c)"),
    ],
)  # fmt: skip
def test_a_reader_of_markdown_finds_each_value_in_its_cell(tmp_path: Path, value: str, shown: str) -> None:
    path = put(tmp_path, {"k": value})

    rendered = MarkdownIt("commonmark").enable("table").render(run("inspect", path, "--markdown"))

    cells = [unescape(cell) for cell in re.findall("<td><code>(.*?)</code></td>", rendered)]
    assert cells[cells.index("k") + 1] == shown


def test_a_type_that_is_not_decoded_has_its_size_and_counts_among_the_types(tmp_path: Path) -> None:
    infos = [Info("a.weight", (4,)), Info("b.weight", (8, 4), type=77, offset=32)]
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf([key("general.architecture", "string", "llama")], infos, bytes(32 + 2048)))

    lines = run("inspect", path).splitlines()

    assert "  data        2.1 kB (16 B F32, 2.0 kB that this program does not decode)" in lines
    assert "  types       1 F32; 32.00 bits per weight; 1 not decoded" in lines
    at = lines.index("Tensors that this program does not decode:")
    assert lines[at + 2].split("  ")[-1].strip() == "ggml type 77 4×8, 2.0 kB"


@pytest.mark.parametrize("keys", [[], [key("split.no", "u16", 1), key("split.count", "u16", 3)]])
def test_types_are_counted_in_a_file_without_a_tokenizer(keys: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf(keys, [Info("a", (4,)), Info("b", (32,), type=Q8_0, offset=32)], bytes(32 + 34)))

    assert "  types       1 Q8_0, 1 F32; 11.11 bits per weight" in run("inspect", path)


def test_a_separator_is_spelled_in_english(tmp_path: Path) -> None:
    keys = [
        key("tokenizer.ggml.model", "string", "bert"), key("tokenizer.ggml.tokens", "array:string", ["a", "b"]),
        key("tokenizer.ggml.seperator_token_id", "u32", 1),
    ]  # fmt: skip
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf(keys, [Info("a", (4,))], bytes(16)))

    assert "  tokenizer   bert, 2 tokens, separator 1" in run("inspect", path).splitlines()


@pytest.mark.parametrize(
    ("named", "heading"),
    [("qwen3", "Architecture qwen3"), ("a\n\x1b[1mb", "Architecture a\\x0a\\x1b[1mb")],
)
def test_the_heading_says_the_architecture_that_the_file_names(named: str, heading: str, tmp_path: Path) -> None:
    assert run("inspect", put(tmp_path, {"general.architecture": named})).splitlines()[0] == heading
