"""The screen: no line is wider than the terminal, names are whole, and any encoding of stdout will do."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from rich.cells import cell_len
from typer.testing import CliRunner

from converter.cli.app import app
from converter.cli.render import Column, Screen
from converter.sample import write_sample
from tests.build.checkpoints import Call, Global, floats, view, write_checkpoint
from tests.build.forked import Forked
from tests.build.seeds import safetensors_file

ROOT = Path(__file__).parent.parent.parent
WIDTHS = (60, 80, 100, 120)
LAYERS = "{0..3}"
PARTS = ("attn.c_attn", "attn.c_proj", "ln_1", "ln_2", "mlp.c_fc", "mlp.c_proj")
FOLDED = [f"transformer.h.{LAYERS}.{part}.{kind}" for part in PARTS for kind in ("weight", "bias")]
ENDS = [f"transformer.{part}" for part in ("wte.weight", "wpe.weight", "ln_f.weight", "ln_f.bias")]
NAMED = ["token_embd.weight", "blk.0.attn_qkv.weight", "blk.3.ffn_down.bias", "output_norm.bias"]
MODELS = [f"Cerebras-GPT-{size}" for size in ("111M", "256M", "590M", "1.3B", "2.7B", "6.7B", "13B")]

# A command, and names that it prints.
COMMANDS = {
    "inspect tiny": [*FOLDED, *ENDS, "transformer.h.{0..3}.attn.masked_bias", "torch._utils._rebuild_tensor_v2"],
    "inspect tiny --stats": [*FOLDED, *ENDS],
    "inspect tiny --stats --sha256": ["transformer.h.3.mlp.c_proj.weight"],
    "inspect tiny --all": ["transformer.h.0.attn.c_attn.weight", "transformer.h.3.mlp.c_proj.weight"],
    "inspect tiny.gguf": ["blk.{0..3}.attn_output.weight", "gpt2.attention.layer_norm_epsilon", "tokenizer.ggml.bos_token_id"],
    "inspect long.bin": ["base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.default.weight"],
    "inspect evil.bin": ["posix.system"],
    "scan evil.bin tiny": ["posix.system", "evil.bin", "tiny/pytorch_model.bin"],
    "scan evil.bin tiny --summary": ["evil.bin"],
    "scan evil.bin --explain": ["posix.system", "evil.bin"],
    "check tiny long.bin": ["tiny", "long.bin"],
    "verify tiny tiny.gguf --level inference": ["tiny.gguf", "h.{0..3}.attn.masked_bias"],
    "verify tiny long.bin": ["long.bin", "h.{0..3}.attn.c_attn.weight"],
    "convert tiny x.gguf --dry-run": NAMED,
    "extract tiny out --force": ["out", "manifest.json"],
    "models": MODELS,
    "models 111M": ["Cerebras-GPT-111M", "https://huggingface.co/cerebras/Cerebras-GPT-111M"],
    "sample made --force": ["made/pytorch_model.bin", "made/config.json"],
}  # fmt: skip
FAILING = ("scan evil", "verify tiny long.bin", "check evil")
ONE = ("I8", (1,), b"\0")  # a tensor of a safetensors file
SGR = re.compile(r"\x1b\[([0-9;]*)m")
COLOURS = {"29", "63", "98", "131", "163", "243"}  # contrast of at least 4.5 on white and on black


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("screen")
    write_sample(folder / "tiny", "tiny")
    name = "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.default.weight"
    write_checkpoint(folder / "long.bin", {name: view("0", (2, 3))}, {"0": floats(1, 2, 3, 4, 5, 6)})
    write_checkpoint(folder / "evil.bin", {"a": Call(Global("posix", "system"), ("true",))}, {})
    with contextlib.chdir(folder):
        assert CliRunner().invoke(app, ["convert", "tiny", "tiny.gguf"]).exit_code == 0
    return folder


def printed(line: str, folder: Path, **settings: str | None) -> str:
    with contextlib.chdir(folder):
        done = CliRunner().invoke(app, shlex.split(line), env={"TERM": "xterm-256color", **settings})
    assert done.exit_code == int(line.startswith(FAILING)), done.output
    return done.stdout


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("line", COMMANDS)
def test_every_line_fits_and_every_name_is_whole(line: str, width: int, made: Path) -> None:
    lines = printed(line, made, COLUMNS=str(width)).splitlines()

    assert {name for name in COMMANDS[line] if not any(name in found for found in lines)} == set()
    assert "\x1b" not in "".join(lines)
    # Only a name that is longer than a line is wider than the terminal, and it stands alone.
    too_wide = [found for found in lines if cell_len(found) > width]
    assert [found for found in too_wide if len(found.split()) > 1 or cell_len(found.strip()) <= width - 14] == []


@pytest.mark.parametrize("line", COMMANDS)
def test_only_marks_have_colours_and_they_are_legible_on_white_and_on_black(line: str, made: Path) -> None:
    coloured = printed(line, made, COLUMNS="80", FORCE_COLOR="1")
    none = printed(line, made, COLUMNS="80", FORCE_COLOR="1", NO_COLOR="1")

    assert SGR.sub("", coloured) == none
    assert "\x1b" not in none
    used = {code.rpartition("38;5;")[2] for code in SGR.findall(coloured) if "38;5;" in code}
    assert used <= COLOURS
    # What is coloured in other colours than grey is a word or a mark, never a sentence.
    marks = re.findall(r"\x1b\[(?:1;)?38;5;(?!243)\d+m([^\x1b]*)", coloured)
    assert [mark for mark in marks if len(mark.split()) > 4] == []


@pytest.fixture(scope="module")
def ascii_only() -> Iterator[Forked]:
    with Forked(os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii", "COLUMNS": "80"}) as forked:
        yield forked


@pytest.mark.parametrize("line", COMMANDS)
def test_a_stream_for_ascii_gets_the_same_words(line: str, made: Path, ascii_only: Forked) -> None:
    code, out, err = ascii_only(shlex.split(line), made)

    assert code == int(line.startswith(FAILING)), err
    assert out.isascii()
    assert {name for name in COMMANDS[line] if name not in out} == set()
    assert [found for found in out.splitlines() if len(found) > 80 and len(found.split()) > 1] == []


def laid_out(width: int, *, encoding: str = "utf-8") -> tuple[Screen, io.BytesIO]:
    written = io.BytesIO()
    return Screen(io.TextIOWrapper(written, encoding, write_through=True), width), written


def test_a_table_measures_columns_of_the_terminal_and_not_characters() -> None:
    screen, written = laid_out(40)
    rows = [("層.0.重み", "F32", "1 B"), ("e\u0301te\u0301", "F32", "22 B"), ("שלום", "I8", "3 B")]

    screen.table((Column("name"), Column("dtype"), Column("size", right=True)), rows, indent=0)

    assert written.getvalue().decode().splitlines() == [
        "name       dtype  size",
        "層.0.重み  F32     1 B",
        "e\u0301te\u0301        F32    22 B",
        "שלום       I8      3 B",
    ]


def test_columns_that_matter_less_are_left_out_and_named() -> None:
    heads = (Column("name"), Column("stride", rank=2), Column("storage", rank=1), Column("size", right=True))
    rows = [("h.0.weight", "1,64", "data/0", "49.2 kB"), ("h.1.weight", "", "data/1", "49.2 kB")]

    assert shown(60, heads, rows) == [
        "name        stride  storage     size",
        "h.0.weight  1,64    data/0   49.2 kB",
        "h.1.weight          data/1   49.2 kB",
    ]
    assert shown(30, heads, rows) == [
        "name        storage     size",
        "h.0.weight  data/0   49.2 kB",
        "h.1.weight  data/1   49.2 kB",
        "not shown in 30 columns:",
        "  stride",
    ]
    assert shown(20, heads, [(name, *rest[:2], "9 B") for name, *rest in rows]) == [
        "name        size",
        "h.0.weight   9 B",
        "h.1.weight   9 B",
        "not shown in 20",
        "  columns: stride,",
        "  storage",
    ]


def test_a_name_without_room_beside_the_others_stands_above_them() -> None:
    heads = (Column("name"), Column("size", right=True))
    rows = [("transformer.h.0.attn.weight", "49.2 kB"), ("lm_head.weight", "1 B")]

    assert shown(26, heads, rows) == [
        "name                  size",
        "transformer.h.0.attn.weight",
        "                   49.2 kB",
        "lm_head.weight         1 B",
    ]


def test_what_is_wrapped_goes_on_below_itself_or_below_the_name() -> None:
    heads = (Column("key"), Column("value", wrap=True))
    rows = [("general.name", "one two three four five six seven"), ("a", "x" * 30)]

    assert shown(34, heads, rows) == [
        "key           value",
        "general.name  one two three four",
        "              five six seven",
        "a             " + "x" * 20,
        "              " + "x" * 10,
    ]
    assert shown(28, heads, rows) == [
        "key",
        "    value",
        "general.name",
        "    one two three four five",
        "    six seven",
        "a",
        "    " + "x" * 24,
        "    " + "x" * 6,
    ]


def shown(width: int, heads: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[str]:
    screen, written = laid_out(width)
    screen.table(heads, rows, indent=0)
    return written.getvalue().decode().splitlines()


def test_words_stay_whole_and_lines_go_on_farther_to_the_right() -> None:
    screen, written = laid_out(20)

    screen.line("! the model of ", ("somebody", "1"), " else; transformer.h.0.weight too", indent=2)

    assert written.getvalue().decode().splitlines() == [
        "  ! the model of",
        "    somebody else;",
        "    transformer.h.0.weight",
        "    too",
    ]


@pytest.mark.parametrize(
    ("encoding", "said"), [("ascii", "4x49 kB | 0.1 ... 0.2 caf\\xe9"), ("latin-1", "4×49 kB · 0.1 ... 0.2 café")]
)
def test_what_an_encoding_lacks_becomes_something_similar(encoding: str, said: str) -> None:
    screen, written = laid_out(80, encoding=encoding)

    screen.line("4×49 kB · 0.1 … 0.2 café")

    assert written.getvalue().decode(encoding) == said + "\n"


@pytest.mark.parametrize(
    ("columns", "width"), [("60", 60), ("3", 20), ("0", 160), ("", 160), ("wide", 160), ("-5", 160), ("9" * 30, 160)]
)
def test_columns_holds_on_pipes_where_it_makes_sense(columns: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)

    assert Screen(io.StringIO()).width == width


# ---- what the report of `inspect` adds up to, and its order ----------------------------------------------------------


def facts(out: str) -> dict[str, str]:
    return dict(re.findall(r"(?m)^  (\w+(?: \w+)?)  +(.+)$", out.split("\n\n")[1]))


def test_the_dtypes_add_up_to_the_data_and_what_a_filter_chose_stands_apart(made: Path) -> None:
    everything, chosen = printed("inspect tiny", made), printed("inspect tiny --filter *mlp*", made)

    assert facts(everything)["data"] == facts(chosen)["data"] == "898.8 kB (882.4 kB F32, 16.4 kB U8)"
    assert facts(everything)["sizes"] == "4 heads, a context of 64 tokens, a vocabulary of 257"
    assert "shown" not in facts(everything)
    # 4 layers of two matrices of 64 × 256 and two biases, of 256 and 64, in four bytes each: 529,408
    assert facts(chosen)["shown"] == "16 of 60 tensors, 529.4 kB: the others do not fit --filter"


def test_tied_tensors_count_once_in_the_data_and_in_its_dtypes(tmp_path: Path) -> None:
    tensors = {"wte": view("0", (2, 3)), "lm_head": view("0", (2, 3)), "n": view("1", (2,), dtype="I64")}
    write_checkpoint(tmp_path / "t.bin", tensors, {"0": floats(1, 2, 3, 4, 5, 6), "1": bytes(16)})

    found = facts(printed("inspect t.bin", tmp_path))

    assert (found["data"], found["tied"]) == ("40 B (24 B F32, 16 B I64)", "wte = lm_head, counted once")


def test_a_file_in_the_order_of_the_alphabet_is_shown_in_the_order_of_the_layers(tmp_path: Path) -> None:
    names = [f"h.{layer}.w" for layer in range(12)]
    by_alphabet = safetensors_file(dict.fromkeys(sorted(names), ONE))
    mixed = safetensors_file(dict.fromkeys(["h.10.w", "h.9.w", *names[:9], "h.11.w"], ONE))
    (tmp_path / "a.safetensors").write_bytes(by_alphabet)
    (tmp_path / "m.safetensors").write_bytes(mixed)

    def order(line: str) -> list[str]:
        return re.findall(r"h\.\d+\.w", printed(line, tmp_path))

    assert order("inspect a.safetensors --all") == names
    assert order("inspect m.safetensors --all") == ["h.10.w", "h.9.w", *names[:9], "h.11.w"]
    assert order("inspect m.safetensors --all --sort name") == names


def test_one_is_singular(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "one.bin", {"w": view("0", (3, 2), (1, 3))}, {"0": floats(1, 2, 3, 4, 5, 6)})

    assert facts(printed("inspect one.bin", tmp_path))["layout"].startswith(
        "1 tensor is a view that doesn't lie row by row"
    )
    assert "1 tensor in 1 file" in printed("convert one.bin one.safetensors", tmp_path)
    assert "1 tensor compared" in printed("verify one.bin one.safetensors", tmp_path)


# ---- -q ----------------------------------------------------------------------------------------------------------------


QUIET = (
    "inspect tiny",
    "check tiny",
    "convert tiny q.safetensors --force",
    "extract tiny q --force",
    "scan tiny",
    "verify tiny tiny.gguf",
)


@pytest.mark.parametrize("line", QUIET)
def test_quiet_leaves_errors_only_and_the_document_of_json(line: str, made: Path) -> None:
    assert printed(f"{line} -q", made) == ""
    assert printed(f"{line} -q --json", made).startswith("{")


def test_what_fails_still_fails_without_a_report(made: Path) -> None:
    assert printed("scan evil.bin -q", made) == ""
    with contextlib.chdir(made):
        done = CliRunner().invoke(app, ["inspect", "absent.bin", "-q"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
