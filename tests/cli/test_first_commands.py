"""What people type first: it does what they meant, or one sentence says what they perhaps meant."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from converter.cli.app import app
from converter.conversion.convert import convert
from converter.errors import RootError
from converter.opening import open_checkpoint
from converter.sample import write_sample
from tests.build.checkpoints import floats, view, write_checkpoint

RUN = CliRunner()

DTYPES = ("Q8_0", "fp16", "float16", "half", "bfloat16", "Q4_K_M", "q4km", "Q80", "q4-k-m", "q6k")
RIGHT = (
    *(f"convert bare o.gguf --no-tokenizer --dtype {word}" for word in DTYPES),
    "convert bare --to gguf --no-tokenizer --dtype q5km",
    "inspect odd --root transformer.h.0", "check odd --root transformer.h",
    "", "--help", "-h", "help", "help convert", "help inspect", "--version", "-V", "inspect odd odd",
    "inspect odd --filter wte", "inspect odd --filter 'h.0.*'", "inspect odd --filter 'h.{0..2}.mlp.c_fc.weight'",
    "inspect odd --filter wte --filter wpe", "inspect odd.gguf --filter h.0.ln_1.weight",
    "inspect odd.gguf --filter 'blk.{0..3}.attn_norm.weight'", "inspect st/model.safetensors", "inspect odd odd.gguf --json",
    "convert odd --to npz", "convert bare --to gguf --no-tokenizer", "convert bare out.gguf --no-tokenizer --dtype fp16", "convert odd --to safetensors", "convert odd out.npz", "convert odd.gguf back --to safetensors",
    "extract odd", "verify odd st", "verify odd st odd.gguf", "verify st odd", "diff odd st", "check odd", "scan odd", "scan zoo", "models 111m",
)  # fmt: skip

WRONG = {
    "version": "--version",
    "odd/pytorch_model.bin": "`cerebras-tool inspect odd/pytorch_model.bin`",
    "odd": "`cerebras-tool inspect odd`",
    "info odd": "`cerebras-tool inspect odd`",
    "show odd": "`cerebras-tool inspect odd`",
    "ls odd": "`cerebras-tool inspect odd`",
    "inpsect odd": "`cerebras-tool inspect odd`",
    "quantize odd out.gguf": "`cerebras-tool convert odd out.gguf`",
    "xyzzy": "the commands are inspect, check, ",
    "help xyzzy": "there is no command `xyzzy`",
    "inspect": "SOURCE",
    "inspect od": "did you mean `odd`",
    "inspect odd/pytorch_model.bni": "did you mean `odd/pytorch_model.bin`?",
    "inspect 111M": "`cerebras-tool download 111M`",
    "inspect Cerebras-GPT-111M": "`cerebras-tool download Cerebras-GPT-111M`",
    "inspect odd --al": "did you mean --all?",
    "inspect odd -a": "did you mean --all?",
    "inspect odd --filter nothing.like.it": "no tensor fits the filter `nothing.like.it`; did you mean `",
    "inspect odd --sort nbytes": "'size'",
    "inspect junk.bin": "Entry not found",
    "inspect st/model.safetensors.index.json": "no such file",
    "convert odd": "--to",
    "convert odd out": "--to safetensors",
    "convert odd out.safetensor": ".safetensors",
    "convert odd out.onnx": "safetensors",
    "convert odd out.npz --include nothing.like.it": "no tensor fits include `nothing.like.it`; did you mean `",
    "convert bare out.gguf": "--tokenizer",
    "convert bare out.gguf --tok": "did you mean --tokenizer?",
    "convert odd out.gguf --outtype q8_0": "say --dtype",
    "convert odd out.gguf --quantize q8_0": "say --dtype",
    "convert odd out.safetensors --dtype q8_0": "GGUF",
    "convert odd odd": "`odd` holds the input",
    "convert odd st --to safetensors": "--force",
    "inspect odd --pattern wte": "there is no option --pattern; say --filter (",
    "convert odd --pattern wte": "there is no option --pattern; say --include (",
    "diff odd st --pattern wte": "there is no option --pattern; say --filter (",
    "models 111m --outtype q8_0": "there is no option --outtype (",
    "verify odd": "OUTPUT",
    "inspect odd --root transformer.hh.0": "did you mean `transformer.h.0`?",
    "check odd --root nowhere": "there is no `nowhere` in the checkpoint: the keys of the checkpoint are `transformer.wte.weight`",
    "inspect odd --log -": "--log takes a file: --verbose writes the same lines to stderr",
    "inspect zoo": "zoo/",
    "verify odd nowhere": "no such file or folder: `nowhere`",
    "verify odd odd.ggf": "did you mean `odd.gguf`",
    "scan nowhere.pkl": "o such file",
    "models 112M": "111M",
    "download 111": "111M",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`odd`: a checkpoint; `odd.gguf` and `st`: what became of it; `zoo`: two checkpoints; `bare`: one without a tokenizer; `junk.bin`: a server's answer."""
    folder = tmp_path_factory.mktemp("made")
    for name in ("odd", "zoo/a", "zoo/b"):
        write_sample(folder / name, "tiny")
    convert(open_checkpoint(folder / "odd"), folder / "odd.gguf")
    convert(open_checkpoint(folder / "odd"), folder / "st", to="safetensors")
    (folder / "bare").mkdir()
    for name in ("config.json", "pytorch_model.bin"):
        shutil.copy(folder / "odd" / name, folder / "bare")
    (folder / "junk.bin").write_bytes(b"Entry not found")
    return folder


@pytest.mark.parametrize("line", RIGHT)
def test_it_does_what_was_meant(line: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)

    done = RUN.invoke(app, shlex.split(line))

    assert done.exit_code == 0, done.stderr
    assert done.stdout
    assert "error" not in done.stderr


def test_a_folder_with_a_file_that_is_none_is_scanned_to_its_end(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)

    done = RUN.invoke(app, ["scan", "."])

    assert (done.exit_code, done.stderr) == (1, "")
    assert "junk.bin" in done.stdout


def test_a_root_is_every_beginning_of_names_that_is_printed(tmp_path: Path) -> None:
    inner = {
        "transformer.h.0.w.weight": view("0", (2,)),
        "transformer.h.1.w.weight": view("1", (2,)),
        "x": view("2", (2,)),
    }
    path = write_checkpoint(
        tmp_path / "nest.pt", {"epoch": 3, "model": inner, "ema": dict(inner)}, {key: floats(1, 2) for key in "012"}
    )

    found = {}
    for root in (
        "model",
        "model.transformer",
        "model.transformer.h.1",
        "transformer.h.1",
        "ema.transformer.h",
        "transformer",
    ):
        with open_checkpoint(path, root=root) as catalogue:
            found[root] = (catalogue.facts["root"], *catalogue)

    assert found == {
        "model": ("model", *inner),
        "model.transformer": ("model.transformer", "h.0.w.weight", "h.1.w.weight"),
        "model.transformer.h.1": ("model.transformer.h.1", "w.weight"),
        "transformer.h.1": ("model.transformer.h.1", "w.weight"),
        "ema.transformer.h": ("ema.transformer.h", "0.w.weight", "1.w.weight"),
        "transformer": ("model.transformer", "h.0.w.weight", "h.1.w.weight"),
    }
    for wrong in ("transform", "model.transformer.h.2", "w", "k" * 500):
        with pytest.raises(RootError, match="there is no `"):
            open_checkpoint(path, root=wrong)


def test_standard_input_is_inspected(made: Path) -> None:
    with (made / "odd" / "pytorch_model.bin").open("rb") as stream:
        done = subprocess.run(
            [sys.executable, "-m", "converter", "inspect", "-"],
            stdin=stream,
            capture_output=True,
            text=True,
            check=False,
        )

    assert (done.returncode, done.stderr) == (0, "")
    assert "GPT-2 with 4 layers of 64" in done.stdout


@pytest.mark.parametrize("line", WRONG)
def test_one_sentence_says_what_was_perhaps_meant(line: str, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    before = sorted(made.rglob("*"))

    done = RUN.invoke(app, shlex.split(line))

    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert WRONG[line] in done.stderr
    assert sorted(made.rglob("*")) == before


@pytest.mark.parametrize(
    ("line", "written"),
    [
        ("convert odd --to npz", "odd-npz"),
        ("convert odd --to safetensors", "odd-safetensors"),
        ("convert odd/pytorch_model.bin --to gguf --tokenizer odd", "odd-F32.gguf"),
        ("convert odd --to gguf --dtype q8_0", "odd-Q8_0.gguf"),
        ("extract odd", "parameters/odd"),
    ],
)
def test_an_output_that_nobody_named_is_called_like_its_source(
    line: str, written: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made / "odd", tmp_path / "odd")
    monkeypatch.chdir(tmp_path)

    done = RUN.invoke(app, shlex.split(line))

    assert done.exit_code == 0, done.stderr
    assert (tmp_path / written).exists()


def test_help_lists_every_command_with_a_whole_sentence() -> None:
    lines = RUN.invoke(app, ["help"], env={"COLUMNS": "80"}).stdout.partition("Commands:")[2]

    assert "..." not in lines
    assert "  inspect   Show what a checkpoint is and holds.\n" in lines
