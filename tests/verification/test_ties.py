"""Names of one tensor: a copy may have any of them, and says which it left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from converter.opening import open_checkpoint
from converter.reports.verification import VerifiedOutput
from converter.verification.verify import verify
from tests.build.checkpoints import floats, view, write_checkpoint
from tests.build.damage import Model, model, write_safetensors, write_source


def tied(made: Model) -> Model:
    made.tensors["lm_head.weight"] = made.tensors["wte.weight"]
    made.tied = True
    return made


def head_only(made: Model, folder: Path) -> Path:
    """The weights of a tied model whose embedding was left out, as a lone file."""
    arrays = {f"transformer.{name}": array for name, array in made.tensors.items() if name != "wte.weight"}
    arrays["lm_head.weight"] = made.tensors["wte.weight"]
    folder.mkdir()
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / "x.safetensors")
    return folder / "x.safetensors"


def check(source: Path, output: Path) -> VerifiedOutput:
    return verify(open_checkpoint(source), [output]).outputs[0]


@pytest.mark.parametrize("has_head", [True, False])
def test_a_tied_model_of_which_only_the_head_is_left_is_identical(has_head: bool, tmp_path: Path) -> None:
    source = write_source(tied(model()) if has_head else model(), tmp_path / "source")

    output = check(source, head_only(model(), tmp_path / "copy"))

    assert (output.verdict, output.tensors.missing, output.tensors.unexpected) == ("identical", (), ())


def test_the_elements_of_a_head_that_stands_for_the_embedding_are_compared(tmp_path: Path) -> None:
    source = write_source(model(), tmp_path / "source")
    made = model()
    made.tensors["wte.weight"][3, 5] += 1

    output = check(source, head_only(made, tmp_path / "copy"))

    assert [(found.name, found.index) for found in output.tensors.different] == [("wte.weight", (3, 5))]


def test_a_head_that_is_left_out_is_named(tmp_path: Path) -> None:
    source = write_source(tied(model()), tmp_path / "source")

    output = check(source, write_safetensors(tied(model()), tmp_path / "copy"))

    assert output.verdict == "identical"
    assert "lm_head.weight" in output.left_out


def test_a_model_whose_head_is_its_own_needs_both(tmp_path: Path) -> None:
    own = model()
    own.tensors["lm_head.weight"] = own.tensors["wte.weight"] + 1

    output = check(write_source(own, tmp_path / "source"), head_only(model(), tmp_path / "copy"))

    assert output.tensors.missing == ("wte.weight",)


def test_tied_names_of_a_model_of_no_known_family_may_be_left_out_but_for_one(tmp_path: Path) -> None:
    two = {"a": view("0", (2,)), "b": view("0", (2,)), "c": view("1", (2,))}
    source = write_checkpoint(tmp_path / "x.bin", two, {"0": floats(1, 2), "1": floats(3, 4)})
    a, c = np.array([1, 2], "<f4"), np.array([3, 4], "<f4")
    save_file({"b": a, "c": c}, tmp_path / "b.safetensors")
    save_file({"c": c}, tmp_path / "c.safetensors")

    assert (check(source, tmp_path / "b.safetensors").verdict, check(source, tmp_path / "b.safetensors").left_out) == (
        "identical",
        ("a",),
    )
    assert check(source, tmp_path / "c.safetensors").tensors.missing == ("a", "b")


def test_a_second_name_for_a_tensor_is_nothing_unexpected(tmp_path: Path) -> None:
    save_file({"a": np.array([1, 2], "<f4")}, tmp_path / "a.safetensors")
    names = {"a": view("0", (2,)), "b": view("0", (2,)), "c": view("1", (2,))}
    copy = write_checkpoint(tmp_path / "x.bin", names, {"0": floats(1, 2), "1": floats(1, 2)})

    assert check(tmp_path / "a.safetensors", copy).tensors.unexpected == ("c",)


@pytest.mark.parametrize(("value", "verdict"), [([1, 2], "identical"), ([1, 3], "different")])
def test_the_metadata_of_safetensors_say_which_name_stands_for_another(
    value: list[float], verdict: str, tmp_path: Path
) -> None:
    """As `safetensors.torch.save_model` writes it."""
    save_file({"embed": np.array([1, 2], "<f4")}, tmp_path / "a.safetensors")
    save_file({"head": np.array(value, "<f4")}, tmp_path / "b.safetensors", metadata={"embed": "head", "format": "pt"})

    assert check(tmp_path / "a.safetensors", tmp_path / "b.safetensors").verdict == verdict
