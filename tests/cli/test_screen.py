"""The screen: no line is wider than the terminal, names are whole, and any encoding of stdout will do."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
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
from tests.build.depth import share
from tests.build.forked import Forked

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
    "diff tiny long.bin": ["transformer.h.0.attn.c_attn.weight", "transformer.wte.weight"],
    "diff tiny tiny.gguf": ["tiny", "tiny.gguf"],
    "convert tiny x.gguf --dry-run": NAMED,
    "extract tiny out --force": ["out", "manifest.json"],
    "models": MODELS,
    "models 111M": ["Cerebras-GPT-111M", "https://huggingface.co/cerebras/Cerebras-GPT-111M"],
    "sample made --force": ["made/pytorch_model.bin", "made/config.json"],
    "diff tiny tiny-8.gguf": ["transformer.h.3.mlp.c_proj.weight", "transformer.wte.weight"],
    "diff tiny tiny-8.gguf long.bin": ["transformer.h.3.mlp.c_proj.weight", "long.bin"],
    "check tiny tiny.gguf evil.bin": ["tiny.gguf", "evil.bin"],
}  # fmt: skip
FAILING = (
    "scan evil",
    "verify tiny long.bin",
    "check evil",
    "check tiny tiny.gguf evil",
    "diff tiny long.bin",
    "diff tiny tiny-8",
)
# A command line that is refused, and what stands in its one sentence.
REFUSED = {
    "browse tiny": "browse needs a terminal: use inspect",
    "download 111M --offline": "--offline belongs before the command: `cerebras-tool --offline download …`",
    "inspect tiny --limit rank=3": "--limit belongs before the command: `cerebras-tool --limit NAME=VALUE inspect …`",
    "inspec tiny": "did you mean `cerebras-tool inspect tiny`?",
    "convert tiny x --to foo": "'foo' is not one of 'safetensors', 'gguf', 'parameters', 'npz'",
    "sample": "missing argument 'folder'",
    "inspect tiny --filter *nothing*": "*nothing*",
}
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
        assert CliRunner().invoke(app, ["convert", "tiny", "tiny-8.gguf", "--dtype", "q8_0"]).exit_code == 0
    return folder


def printed(line: str, folder: Path, **settings: str | None) -> str:
    with contextlib.chdir(folder):
        done = CliRunner().invoke(app, shlex.split(line), env={"TERM": "xterm-256color", **settings})
    assert done.exit_code == int(line.startswith(FAILING)), done.output
    return done.stdout


def missing(names: Sequence[str], lines: Sequence[str]) -> set[str]:
    """The names that stand neither in one line nor, if they are longer than a line, in several."""
    joined = "".join(line.strip() for line in lines)
    return {name for name in names if not any(name in line for line in (*lines, *([joined] if len(name) > 56 else [])))}


@pytest.mark.parametrize(("line", "width"), share([(line, width) for line in COMMANDS for width in WIDTHS], 0, 3))
def test_every_line_fits_and_every_name_is_whole(line: str, width: int, made: Path) -> None:
    lines = printed(line, made, COLUMNS=str(width)).splitlines()

    assert missing(COMMANDS[line], lines) == set()
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
    assert missing(COMMANDS[line], out.splitlines()) == set()
    assert [found for found in out.splitlines() if len(found) > 80 and len(found.split()) > 1] == []


HELPED = (
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
    "sample",
    "demo",
)


@pytest.mark.parametrize("width", share([60, 80, 120], 0, 3))
def test_help_fits_except_for_examples_which_are_to_be_copied(width: int, tmp_path: Path) -> None:
    with Forked(os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": str(width), "NO_COLOR": "1"}) as forked:
        pages = {command: forked(["help", *([command] if command else [])], tmp_path) for command in ("", *HELPED)}

    assert {code for code, _, _ in pages.values()} == {0}
    for command, (_, out, _) in pages.items():
        wide = [line.strip() for line in out.splitlines() if cell_len(line) > width]
        # The dtypes that an option takes are one word.
        assert [line for line in wide if not line.startswith("cerebras-tool ")] == [], command
        assert "\x1b" not in out
        assert (command or "inspect") in out


@pytest.mark.parametrize("line", REFUSED)
def test_what_is_refused_takes_one_line_and_changes_nothing(line: str, made: Path) -> None:
    before = sorted(made.iterdir())

    with contextlib.chdir(made):
        done = CliRunner().invoke(app, shlex.split(line), env={"COLUMNS": "60", "NO_COLOR": "1"})

    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert REFUSED[line] in done.stderr
    assert sorted(made.iterdir()) == before


def test_the_labels_of_a_comparison_stand_above_each_other(made: Path) -> None:
    for line in ("diff tiny tiny-8.gguf", "diff tiny tiny-8.gguf long.bin"):
        top = printed(line, made, COLUMNS="100").split("\n\n")[0].splitlines()[1:]

        labels = [row[2:10].strip() for row in top if row[2:10].strip()]
        assert labels[:2] == ["before", "after"]
        assert "left out" in labels
        assert {row[10:12] for row in top} == {"  "}
        assert all(row[12:13].strip() for row in top)


def test_statistics_are_columns_in_markdown_too(made: Path) -> None:
    rows = printed("inspect tiny --stats --markdown --filter *ln_f* --filter *wte*", made).split("#### Tensors\n\n")[1]

    head, _, *tensors = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows.splitlines()]
    assert head[:7] == ["name", "dtype", "shape", "size", "min", "max", "mean"]
    assert head[-1] == "distribution"
    assert {len(row) for row in tensors} == {len(head)}
    assert all(float(row[4]) <= float(row[6]) <= float(row[5]) for row in tensors)


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
        "transformer.h.0.attn.weigh",
        "  t",
        "                   49.2 kB",
        "lm_head.weight         1 B",
    ]


def test_a_name_longer_than_the_line_goes_on_in_the_next() -> None:
    rows = [("x" * 20 + "层" * 6 + "y z", "F32"), ("x" * 13 + " y" + "z" * 9, "F32")]

    assert shown(20, (Column("name"), Column("dtype")), rows) == [
        "name           dtype",
        "x" * 20,
        "  " + "层" * 6 + "y z",
        "               F32",
        "x" * 13 + " y" + "z" * 5,
        "  zzzz",
        "               F32",
    ]  # fmt: skip


def test_names_are_in_one_piece_where_no_width_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, "utf-8", write_through=True)
    Screen(stream).table((Column("name"), Column("dtype")), [("x" * 300, "F32")], indent=0)

    assert written.getvalue().decode().splitlines()[1] == "x" * 300


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


def test_a_word_longer_than_a_line_is_cut_where_that_is_wanted() -> None:
    screen, written = laid_out(20)

    screen.line("run: ", ("x" * 33, "1"), " and y", indent=2, hang=2, cut=True)

    assert written.getvalue().decode().splitlines() == [
        "  run:",
        "    xxxxxxxxxxxxxxxx",
        "    xxxxxxxxxxxxxxxx",
        "    x and y",
    ]


@pytest.mark.parametrize("width", [60, 80])
def test_all_but_addresses_fits(width: int, tmp_path: Path) -> None:
    command = "echo " + "QUJD" * 60
    write_checkpoint(tmp_path / "evil.bin", {"a": Call(Global("posix", "system"), (command,))}, {})

    for line in ("models 13B", "models 111M", "scan evil.bin --explain"):
        lines = printed(line, tmp_path, COLUMNS=str(width)).splitlines()

        wide = [found for found in lines if cell_len(found) > width]
        assert [found for found in wide if not found.startswith("  https://")] == []


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


def test_one_is_singular(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "one.bin", {"w": view("0", (3, 2), (1, 3))}, {"0": floats(1, 2, 3, 4, 5, 6)})

    assert "1 tensor in 1 file" in printed("convert one.bin one.safetensors", tmp_path)
    assert "1 tensor compared" in printed("verify one.bin one.safetensors", tmp_path)


def test_one_byte_is_singular(tmp_path: Path) -> None:
    (tmp_path / "one.bin").write_bytes(pickle.dumps({"a": 1}) + b"!")

    with contextlib.chdir(tmp_path):
        scanned = CliRunner().invoke(app, ["scan", "one.bin", "--no-fickling"])

    assert "it goes on for 1 byte after the last pickle" in scanned.stdout


# ---- -q ----------------------------------------------------------------------------------------------------------------


QUIET = (
    "inspect tiny",
    "check tiny",
    "convert tiny q.safetensors --force",
    "extract tiny q --force",
    "scan tiny",
    "verify tiny tiny.gguf",
    *share(["demo shown"], 1, 2),  # seconds
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
