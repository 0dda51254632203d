"""What `inspect` says about a checkpoint in words: the facts, and the lines that several tensors share."""

from __future__ import annotations

import contextlib
import re
import shlex
from pathlib import Path

from typer.testing import CliRunner

from converter.cli.app import app
from tests.build.checkpoints import floats, view, write_checkpoint
from tests.build.seeds import safetensors_file

ONE = ("I8", (1,), b"\0")  # a tensor of a safetensors file


def printed(line: str, folder: Path) -> str:
    with contextlib.chdir(folder):
        done = CliRunner().invoke(app, shlex.split(line))
    assert done.exit_code == 0, done.output
    return done.stdout


def facts(out: str) -> dict[str, str]:
    return dict(re.findall(r"(?m)^  (\w+(?: \w+)?)  +(.+)$", out.split("\n\n")[1]))


def test_the_dtypes_add_up_to_the_data_and_what_a_filter_chose_stands_apart(tiny: Path) -> None:
    everything, chosen = (printed(f"inspect {tiny.name}{more}", tiny.parent) for more in ("", " --filter *mlp*"))

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


def test_one_view_is_singular(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "one.bin", {"w": view("0", (3, 2), (1, 3))}, {"0": floats(1, 2, 3, 4, 5, 6)})

    assert facts(printed("inspect one.bin", tmp_path))["layout"].startswith(
        "1 tensor is a view that doesn't lie row by row"
    )


def table(out: str) -> list[str]:
    return [line.strip() for line in out.split("\n\n")[2].splitlines()[1:]]


def test_experts_of_all_layers_take_one_line_that_can_be_typed_back(tmp_path: Path) -> None:
    names = [f"layers.{a}.experts.{b}.{c}.w" for a in range(3) for b in range(12) for c in ("up", "down")]
    alone = ["layers.0.gate.w", "layers.1.gate.w", "layers.2.experts.12.up.w", "x.7.y.8.w", "top"]
    (tmp_path / "m.safetensors").write_bytes(safetensors_file(dict.fromkeys([*names, *alone], ONE)))

    rows = [line.split() for line in table(printed("inspect m.safetensors", tmp_path))]

    assert sorted(row[0] for row in rows) == sorted([
        "layers.{0..2}.experts.{0..11}.up.w", "layers.{0..2}.experts.{0..11}.down.w", "layers.{0,1}.gate.w",
        "layers.2.experts.12.up.w", "x.7.y.8.w", "top",
    ])  # fmt: skip
    for name, count in (("layers.{0..2}.experts.{0..11}.up.w", 36), ("layers.2.experts.12.up.w", 1), ("x.7.y.8.w", 1)):
        assert facts(printed(f"inspect m.safetensors --filter '{name}'", tmp_path))["shown"].startswith(
            f"{count} of 77"
        )


def test_more_lines_than_anyone_reads_are_counted(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(safetensors_file(dict.fromkeys([f"t{n}x" for n in range(350)], ONE)))

    lines = table(printed("inspect m.safetensors", tmp_path))

    assert len(lines) == 301
    assert lines[-1] == "and 50 more tensors: give --all, or --filter"
    assert len(table(printed("inspect m.safetensors --all", tmp_path))) == 350
