"""verify computes what the Java client would: from the files that model.properties names, in the order that it says."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.conversion.extract import extract
from converter.opening import open_checkpoint
from converter.sample import write_sample
from converter.verification.verify import Options, verify

INFERENCE = Options(level="inference")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Samples by name, with their parameters folders `storages` and `named` beside them."""
    made = {}
    for name in ("tiny", "tiny-13B"):
        folder = made[name] = tmp_path_factory.mktemp("source")
        write_sample(folder / "checkpoint", name)
        for form in ("storages", "named"):
            extract(open_checkpoint(folder / "checkpoint"), folder / form, form=form)
    return made


def edit(folder: Path, changes: dict[str, str | None]) -> None:
    """Set entries of a model.properties, or take them out."""
    path = folder / "model.properties"
    lines = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in lines if line.partition(" =")[0] not in changes]
    path.write_text("\n".join([*kept, *(f"{key} = {value}" for key, value in changes.items() if value is not None)]))


def found(source: Path, output: Path, options: Options | None = None) -> dict[str, str]:
    report = verify(open_checkpoint(source), [output], options).outputs[0]
    return {wrong.what: wrong.detail for wrong in report.tensors.different}


@pytest.mark.parametrize("form", ["storages", "named"])
@pytest.mark.parametrize("name", ["tiny", "tiny-13B"])
def test_what_is_written_is_identical_and_computes_the_same(name: str, form: str, sources: dict[str, Path]) -> None:
    source = open_checkpoint(sources[name] / "checkpoint")

    output = verify(source, [sources[name] / form], INFERENCE).outputs[0]

    assert (output.verdict, output.tensors.different) == ("identical", ())
    assert output.inference is not None
    assert output.inference["max_difference"] == 0


def storages_with_thirds(folder: Path) -> dict[str, str | None]:
    """The properties that make the client take thirds of files that lie as [in, out]."""
    named = (folder.parent / "named" / "model.properties").read_text().splitlines()[1:]
    keys: dict[str, str | None] = {}
    for line in named:
        key, value = line.split(" = ")
        keys[key] = value
    shard = {"input/wte": "1/0", "input/wpe": "1/1", "output/norm.w": "2/28", "output/norm.b": "2/29"}
    order = ["att.norm.w", "att.norm.b", "", "", "att.query.key.value.w", "att.query.key.value.b", "att.proj.w", "att.proj.b",
             "mlp.norm.w", "mlp.norm.b", "mlp.layer1.w", "mlp.layer1.b", "mlp.layer2.w", "mlp.layer2.b"]  # fmt: skip
    first = len(list((folder / "1").iterdir()))
    every = ["", "", *(f"decoder{layer + 1}/{name}" if name else "" for layer in range(4) for name in order), "", ""]
    for number, name in enumerate(every):
        if name:
            shard[name] = f"1/{number}" if number < first else f"2/{number - first}"
    shard |= {f"output/norm.{x}": f"2/{len(every) - first - 2 + i}" for i, x in enumerate("wb")}
    return keys | {f"file.{name}": key for name, key in shard.items()} | {
        "weights.transposed": "true", "merged.qkv": "true",
    }  # fmt: skip


def test_thirds_of_row_major_files_are_wrong_and_compute_otherwise(sources: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(sources["tiny-13B"], tmp_path / "x")
    edit(tmp_path / "x" / "storages", storages_with_thirds(tmp_path / "x" / "storages"))

    wrong = found(tmp_path / "x" / "checkpoint", tmp_path / "x" / "storages", INFERENCE)

    assert list(wrong) == ["merged.qkv is wrong", "computes otherwise"]
    assert "extract it with --form named" in wrong["merged.qkv is wrong"]


def test_properties_beside_a_folder_called_parameters_count(sources: dict[str, Path], tmp_path: Path) -> None:
    output = tmp_path / "CEREBRAS-13B" / "parameters"
    shutil.copytree(sources["tiny-13B"], tmp_path / "x")
    shutil.move(tmp_path / "x" / "storages", output)
    edit(tmp_path / "CEREBRAS-13B", storages_with_thirds_of(tmp_path / "x", output))

    assert list(found(tmp_path / "x" / "checkpoint", output)) == ["merged.qkv is wrong"]


def storages_with_thirds_of(sources: Path, output: Path) -> dict[str, str | None]:
    shutil.copytree(output, sources / "storages")
    return storages_with_thirds(sources / "storages")


def test_named_files_that_lie_as_in_out_are_computed_as_such(sources: dict[str, Path], tmp_path: Path) -> None:
    """Not what is written here, but the client can read it: every matrix turned, and `weights.transposed` true."""
    shutil.copytree(sources["tiny"], tmp_path / "x")
    shapes = {
        "query": (64, 64),
        "key": (64, 64),
        "value": (64, 64),
        "proj": (64, 64),
        "layer1": (256, 64),
        "layer2": (64, 256),
    }
    for file in (tmp_path / "x" / "named").glob("decoder*/*.w.dat"):
        if (shape := shapes.get(file.name.split(".")[1])) is not None:
            file.write_bytes(np.fromfile(file, "<f4").reshape(shape).T.tobytes())
    edit(tmp_path / "x" / "named", {"weights.transposed": "true"})

    report = verify(open_checkpoint(tmp_path / "x" / "checkpoint"), [tmp_path / "x" / "named"], INFERENCE).outputs[0]

    assert report.inference is not None
    assert report.inference["max_difference"] == 0


# A change of the properties of the `storages` or `named` form, and what is found about them, and then about what is
# computed.
CHANGES: dict[str, tuple[str, dict[str, str | None], list[str]]] = {
    "another file of the same size": (
        "named", {"file.decoder1/att.query.w": "decoder1/att.key.w.dat"},
        ["file.decoder1/att.query.w is wrong", "computes otherwise"],
    ),
    "the files of two layers": (
        "storages", {"file.decoder1/att.proj.w": "20", "file.decoder2/att.proj.w": "6"},
        ["file.decoder1/att.proj.w is wrong", "file.decoder2/att.proj.w is wrong", "computes otherwise"],
    ),
    "a file of another size": (
        "storages", {"file.decoder1/att.proj.w": "2"}, ["file.decoder1/att.proj.w is wrong", "can't be computed"],
    ),
    "a file outside": (
        "storages", {"file.input/wte": "../checkpoint/pytorch_model.bin"}, ["file.input/wte is wrong", "can't be computed"],
    ),
    "the other order of matrices": ("storages", {"weights.transposed": "true"}, ["weights.transposed is wrong", "computes otherwise"]),
    "the other order of bytes": ("storages", {"byte.order": None}, ["byte.order is wrong", "computes otherwise"]),
    "not merged": ("storages", {"merged.qkv": "false"}, ["file.decoder1/att.query.w is wrong", "can't be computed"]),
    "fewer layers": ("storages", {"decoder.count": "3"}, ["decoder.count is wrong", "computes otherwise"]),
    "far too many layers": ("storages", {"decoder.count": "9e15"}, ["decoder.count is wrong", "can't be computed"]),
    "another epsilon": ("named", {"epsilon": "1e-2f"}, ["epsilon is wrong", "computes otherwise"]),
    "another dividend": ("named", {"attention.dividend": "8"}, ["attention.dividend is wrong", "can't be computed"]),
    "the input is normalized": ("named", {"input.normalization": "true"}, ["input.normalization is wrong", "can't be computed"]),
    "local attention": ("named", {"attention.type.2": "local"}, ["attention.type.2 is wrong", "can't be computed"]),
    "another tokenizer": ("named", {"tokenizer": "GPT-1"}, ["tokenizer is wrong", "can't be computed"]),
    "no epsilon": ("named", {"epsilon": None}, ["epsilon is wrong", "can't be computed"]),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_properties_is_found_and_computed(
    change: str, sources: dict[str, Path], tmp_path: Path
) -> None:
    form, changes, expected = CHANGES[change]
    shutil.copytree(sources["tiny"], tmp_path / "x")
    edit(tmp_path / "x" / form, changes)

    wrong = list(found(tmp_path / "x" / "checkpoint", tmp_path / "x" / form, INFERENCE))

    assert wrong[0] == expected[0]
    assert wrong[-1] == expected[-1]
    assert set(expected) <= set(wrong)


SPELLINGS: dict[str, Callable[[str], str]] = {
    "no blanks": lambda text: text.replace(" = ", "="),
    "TRUE in capitals": lambda text: text.replace("= true", "= TRUE").replace("pre.normalization = TRUE", "pre.normalization = true"),
    "epsilon as Java writes it": lambda text: text.replace("1e-05", "1e-5f"),
    "ends of lines of Windows": lambda text: text.replace("\n", "\r\n"),
    "a comment and an empty line": lambda text: f"# x = y\n\n{text}",
    "a key twice: the last counts": lambda text: f"epsilon = 1\n{text}",
}  # fmt: skip


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_what_the_client_reads_alike_is_right(spelling: str, sources: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(sources["tiny"], tmp_path / "x")
    path = tmp_path / "x" / "storages" / "model.properties"
    path.write_bytes(SPELLINGS[spelling](path.read_text()).encode())

    report: Any = verify(open_checkpoint(tmp_path / "x" / "checkpoint"), [tmp_path / "x" / "storages"], INFERENCE)

    assert (report.outputs[0].verdict, report.outputs[0].tensors.different) == ("identical", ())
