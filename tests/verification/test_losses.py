"""Lossy copies: how much each tensor and each layer lost, against the numbers of numpy."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from converter.conversion.convert import convert
from converter.opening import open_checkpoint
from converter.reports import to_json
from converter.sample import write_sample
from converter.verification.verify import verify


@pytest.mark.parametrize("elements", [7, 3_000_000])
def test_an_error_is_the_share_of_the_root_of_the_squares(elements: int, tmp_path: Path) -> None:
    """3 million elements take several steps and two threads."""
    rng = np.random.default_rng(1)
    tensors = {
        "layers.0.w": rng.standard_normal((elements,)).astype("<f4"),
        "layers.0.b": rng.standard_normal((elements,)).astype("<f4") * np.float32(100),
        "layers.10.w": np.zeros(3, "<f4"),
        "head.w": np.array([1.5, -2], "<f4"),
    }
    save_file(tensors, tmp_path / "a.safetensors")
    save_file({name: array.astype("<f2") for name, array in tensors.items()}, tmp_path / "b.safetensors")

    output = verify(open_checkpoint(tmp_path / "a.safetensors"), [tmp_path / "b.safetensors"]).outputs[0]

    losses = {loss.name: loss for loss in output.losses}
    errors = {name: array.astype("<f2").astype("<f8") - array for name, array in tensors.items()}
    for name in ("layers.0.w", "layers.0.b"):
        wanted = math.sqrt((errors[name] ** 2).sum() / (tensors[name].astype("<f8") ** 2).sum())
        assert losses[name].relative == pytest.approx(wanted, rel=1e-3)
        assert losses[name].largest == pytest.approx(np.abs(errors[name]).max(), rel=1e-5)
        assert (losses[name].dtype, losses[name].elements) == ("F16", elements)
    assert (losses["layers.10.w"].relative, losses["layers.10.w"].largest) == (0, 0)
    assert (losses["head.w"].relative, losses["head.w"].largest) == (0, 0)
    layers = {loss.name: loss for loss in output.layer_losses}
    assert list(layers) == ["layers.0", "layers.10"]
    lost = sum((errors[name] ** 2).sum() for name in ("layers.0.w", "layers.0.b"))
    energy = sum((tensors[name].astype("<f8") ** 2).sum() for name in ("layers.0.w", "layers.0.b"))
    assert layers["layers.0"].relative == pytest.approx(math.sqrt(lost / energy), rel=1e-3)
    assert layers["layers.0"].elements == 2 * elements


def test_what_is_not_finite_has_no_error(tmp_path: Path) -> None:
    save_file({"w": np.array([1, np.inf, np.nan], "<f4")}, tmp_path / "a.safetensors")
    save_file({"w": np.array([1, np.inf, np.nan], "<f2")}, tmp_path / "b.safetensors")

    output = verify(open_checkpoint(tmp_path / "a.safetensors"), [tmp_path / "b.safetensors"]).outputs[0]

    assert [(loss.relative, loss.largest) for loss in output.losses] == [(None, None)]


def test_identical_tensors_are_not_listed_and_blocks_are(tmp_path: Path) -> None:
    write_sample(tmp_path / "source", "tiny")
    convert(open_checkpoint(tmp_path / "source"), tmp_path / "x.gguf", dtype="q4_0")

    report = verify(open_checkpoint(tmp_path / "source"), [tmp_path / "x.gguf"])

    output = report.outputs[0]
    assert {loss.dtype for loss in output.losses} == {"Q4_0"}
    assert len(output.losses) == output.tensors.converted == 17
    assert all(0.05 < (loss.relative or 0) < 0.12 for loss in output.losses)  # Q4_0 of normal numbers: about 0.09
    assert [loss.name for loss in output.layer_losses] == ["h.0", "h.1", "h.2", "h.3"]
    said = json.loads(to_json(report))["outputs"][0]["layer_losses"][0]
    assert set(said) == {"name", "dtype", "elements", "relative", "largest"}


def test_the_numbers_are_the_same_in_every_run(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    save_file({"w": rng.standard_normal((3000, 1000)).astype("<f4")}, tmp_path / "a.safetensors")
    convert(open_checkpoint(tmp_path / "a.safetensors"), tmp_path / "b.safetensors", dtype="bf16")

    reports = {
        to_json(verify(open_checkpoint(tmp_path / "a.safetensors"), [tmp_path / "b.safetensors"])) for _ in range(3)
    }

    assert len(reports) == 1
