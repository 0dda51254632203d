"""What `diff` says about checkpoints that were changed by hand. Figures are numpy's on whole arrays, in float64."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

import converter
from converter.cli.app import app
from converter.conversion.convert import convert
from converter.difference import rank as ranks
from converter.difference.diff import diff
from converter.opening import open_checkpoint
from converter.reports.difference import Change, DiffReport
from converter.sample import write_sample
from tests.build import gguf_files as files
from tests.build.checkpoints import floats, view, write_checkpoint
from tests.build.seeds import safetensors_file
from tests.difference.arrays import Arrays, base, write
from tests.pages.hostile import NAMES
from tests.pages.reading import check

RUN = CliRunner()
RANDOM = np.random.default_rng(12)
BASE = base(11)


def found(folder: Path, after: Arrays, before: Arrays = BASE, *, rank: bool = False) -> DiffReport:
    one, other = write(folder / "before.safetensors", before), write(folder / "after.safetensors", after)
    return diff(open_checkpoint(one), open_checkpoint(other), rank=rank)


def only(report: DiffReport) -> Change:
    (change,) = report.changes
    return change


def apart(before: NDArray[Any], after: NDArray[Any]) -> tuple[float, float, float]:
    """Cosine, relative norm of the difference, and largest difference."""
    x, y = before.astype("f8").reshape(-1), after.astype("f8").reshape(-1)
    cosine = float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
    return cosine, float(np.linalg.norm(y - x) / np.linalg.norm(x)), float(np.abs(y - x).max())


def test_equal_checkpoints_are_the_same(tmp_path: Path) -> None:
    report = found(tmp_path, BASE)

    assert report.same
    assert (report.compared, report.identical, report.changes, report.beside) == (8, 8, (), ())
    assert {(layer.name, layer.differing, layer.relative) for layer in report.layers} == {
        (f"layers.{i}", 0, 0.0) for i in range(3)
    }


def test_the_figures_of_a_change_are_right(tmp_path: Path) -> None:
    after = BASE["layers.1.wide"] + RANDOM.standard_normal((48, 64)).astype("<f4") * np.float32(0.1)

    report = found(tmp_path, BASE | {"layers.1.wide": after})

    change = only(report)
    cosine, relative, largest = apart(BASE["layers.1.wide"], after)
    assert (change.name, change.what, change.elements, change.differing) == ("layers.1.wide", "changed", 3072, 3072)
    assert change.cosine == pytest.approx(cosine, abs=1e-6)
    assert change.relative == pytest.approx(relative, rel=1e-3)
    assert change.largest == pytest.approx(largest, rel=1e-3)
    place = np.unravel_index(np.abs(after - BASE["layers.1.wide"]).argmax(), (48, 64))
    assert change.index == tuple(map(int, place))
    layer = next(layer for layer in report.layers if layer.name == "layers.1")
    whole = [
        np.concatenate([arrays["layers.1.wide"].reshape(-1), BASE["layers.1.norm"]])
        for arrays in (BASE, {"layers.1.wide": after})
    ]
    assert (layer.tensors, layer.differing) == (2, 1)
    assert layer.relative == pytest.approx(apart(*whole)[1], rel=1e-3)


@pytest.mark.parametrize("factor", [1.25, 0.5, -2.0, 1.001])
def test_a_multiple_is_named(tmp_path: Path, factor: float) -> None:
    after = (BASE["layers.1.wide"] * np.float32(factor)).astype("<f4")

    assert only(found(tmp_path, BASE | {"layers.1.wide": after})).detail == f"multiplied by {factor:.4g}"


def test_noise_is_no_multiple(tmp_path: Path) -> None:
    noise = RANDOM.standard_normal((48, 64)).astype("<f4") * np.float32(1e-3)
    after = (BASE["layers.1.wide"] * np.float32(1.01) + noise).astype("<f4")

    assert only(found(tmp_path, BASE | {"layers.1.wide": after})).detail == "3,072 of 3,072 elements differ"


def test_one_flipped_element_is_named_with_its_place(tmp_path: Path) -> None:
    after = BASE["layers.2.wide"].copy()
    after[7, 9] = 8.5

    change = only(found(tmp_path, BASE | {"layers.2.wide": after}))

    before = BASE["layers.2.wide"][7, 9]
    assert change.detail == f"1 of 3,072 elements differs, at [7, 9]: {before:.6g} became 8.5"
    assert (change.differing, change.index) == (1, (7, 9))


def test_two_exchanged_tensors_are_named(tmp_path: Path) -> None:
    after = BASE | {"layers.0.norm": BASE["layers.2.norm"], "layers.2.norm": BASE["layers.0.norm"]}

    report = found(tmp_path, after)

    assert {(change.name, change.what, change.source) for change in report.changes} == {
        ("layers.0.norm", "moved", "layers.2.norm"),
        ("layers.2.norm", "moved", "layers.0.norm"),
    }


def test_layers_that_moved_up_have_their_sources(tmp_path: Path) -> None:
    pruned = {name: array for name, array in BASE.items() if not name.startswith("layers.2.")}
    pruned |= {f"layers.1.{name}": BASE[f"layers.2.{name}"] for name in ("wide", "norm")}

    changes = {change.name: change for change in found(tmp_path, pruned).changes}

    assert {name: (one.what, one.source) for name, one in changes.items()} == {
        "layers.1.wide": ("moved", "layers.2.wide"),
        "layers.1.norm": ("moved", "layers.2.norm"),
        "layers.2.wide": ("removed", None),
        "layers.2.norm": ("removed", None),
    }


def test_a_copied_layer_has_its_source(tmp_path: Path) -> None:
    again = BASE | {f"layers.{i}.wide": BASE["layers.0.wide"] for i in (1, 3)}

    changes = {change.name: change for change in found(tmp_path, again).changes}

    assert (changes["layers.1.wide"].what, changes["layers.1.wide"].source) == ("moved", "layers.0.wide")
    assert (changes["layers.3.wide"].what, changes["layers.3.wide"].source) == ("added", "layers.0.wide")
    assert changes["layers.3.wide"].detail == "only after: F32 48×64; it holds the elements that layers.0.wide had"


def test_a_tensor_of_one_number_has_no_source(tmp_path: Path) -> None:
    ones = BASE | {"layers.0.norm": np.ones(64, "<f4")}

    (change,) = found(tmp_path, ones | {"layers.1.norm": np.ones(64, "<f4")}, ones).changes

    assert (change.what, change.source) == ("changed", None)


def test_a_renamed_tensor_is_found_by_its_bytes(tmp_path: Path) -> None:
    after = {name.replace("embedding", "wte"): array for name, array in BASE.items()}

    change = only(found(tmp_path, after))

    assert (change.name, change.what) == ("wte", "renamed")
    assert change.before is not None
    assert change.before.name == "embedding"
    assert change.detail == "it was called embedding; every bit is equal"


def test_tensors_that_are_alike_are_renamed_one_by_one(tmp_path: Path) -> None:
    alike = np.arange(4, dtype="<f4")

    report = found(tmp_path, {f"c{i}": alike for i in range(2)}, {f"b{i}": alike for i in range(3)})

    assert [(change.what, change.name) for change in report.changes] == [
        ("removed", "b2"), ("renamed", "c0"), ("renamed", "c1"),
    ]  # fmt: skip


def test_what_was_added_and_removed_comes_first(tmp_path: Path) -> None:
    after = {name: array for name, array in BASE.items() if name != "count"} | {"new": np.ones((2, 3), "<f4")}
    after["layers.0.norm"] = after["layers.0.norm"] + np.float32(1)

    report = found(tmp_path, after)

    assert [(change.what, change.name, change.detail) for change in report.changes][:2] == [
        ("removed", "count", "only before: I64 5"),
        ("added", "new", "only after: F32 2×3"),
    ]
    assert [change.what for change in report.changes] == ["removed", "added", "changed"]


def test_changes_are_in_the_order_of_their_size(tmp_path: Path) -> None:
    after = {
        name: array + np.float32({"0": 1e-3, "1": 1, "2": 1e-2}[name.split(".")[1]]) if "wide" in name else array
        for name, array in BASE.items()
    }

    assert [change.name for change in found(tmp_path, after).changes] == [
        "layers.1.wide", "layers.2.wide", "layers.0.wide",
    ]  # fmt: skip


def test_rows_that_were_added_are_told_from_the_others(tmp_path: Path) -> None:
    more = np.concatenate([BASE["embedding"], np.ones((2, 8), "<f4")])
    other = more.copy()
    other[3, 3] += 1

    equal = only(found(tmp_path, BASE | {"embedding": more}))
    unequal = only(found(tmp_path, BASE | {"embedding": other}))

    assert (equal.what, equal.differing) == ("reshaped", 0)
    assert equal.detail == "40×8 became 42×8; the first 40 rows are equal"
    assert unequal.detail == "40×8 became 42×8; the first 40 rows differ in 1 element"
    assert only(found(tmp_path, BASE | {"embedding": BASE["embedding"].T.copy()})).detail == (
        "40×8 became 8×40; transposed, every element is equal"
    )
    assert only(found(tmp_path, BASE | {"embedding": other[:40].T.copy()})).detail == "40×8 became 8×40"


def test_a_transposed_square_matrix_is_named(tmp_path: Path) -> None:
    square = np.arange(36, dtype="<f4").reshape(6, 6)
    flipped = square.T.copy()
    flipped[4, 5] += 1

    exact = only(found(tmp_path, {"a": square.T.copy()}, {"a": square}))
    nearly = only(found(tmp_path, {"a": flipped}, {"a": square}))

    assert (exact.what, exact.differing, exact.detail) == ("changed", 30, "transposed, every element is equal")
    assert nearly.detail == "30 of 36 elements differ"


def test_the_same_elements_in_another_shape_are_named(tmp_path: Path) -> None:
    flat = np.arange(24, dtype="<f4")
    other = flat.copy()
    other[7] = 0

    equal = only(found(tmp_path, {"a": flat.reshape(2, 3, 4)}, {"a": flat.reshape(6, 4)}))
    unequal = only(found(tmp_path, {"a": other.reshape(2, 3, 4)}, {"a": flat.reshape(6, 4)}))

    assert equal.detail == "6×4 became 2×3×4; the elements are equal, in the same order"
    assert unequal.detail == "6×4 became 2×3×4"


def test_a_tensor_that_became_zero_is_named(tmp_path: Path) -> None:
    change = only(found(tmp_path, BASE | {"embedding": np.zeros_like(BASE["embedding"])}))

    assert (change.what, change.detail) == ("changed", "every element became 0")


def test_another_dtype_is_told_from_another_value(tmp_path: Path) -> None:
    array = BASE["layers.0.wide"]
    nearest = ((array.view("<u4") + 0x7FFF + ((array.view("<u4") >> 16) & 1)) >> 16).astype("<u2")

    rounded = only(found(tmp_path, BASE | {"layers.0.wide": nearest}))
    cut = only(found(tmp_path, BASE | {"layers.0.wide": (array.view("<u4") >> 16).astype("<u2")}))
    wider = only(found(tmp_path, BASE | {"layers.0.wide": array.astype("<f8")}))

    assert (rounded.what, rounded.rounding, rounded.detail) == ("retyped", True, "F32 to BF16, rounded")
    assert rounded.relative == pytest.approx(apart(array, (nearest.astype("<u4") << 16).view("<f4"))[1], rel=1e-3)
    assert (cut.rounding, cut.detail) == (False, "F32 to BF16, and the values changed")
    assert (wider.rounding, wider.differing, wider.detail) == (True, 0, "F32 to F64, every number equal")


def test_integers_have_figures_too(tmp_path: Path) -> None:
    change = only(found(tmp_path, BASE | {"count": np.array([0, 1, 2, 3, 9], "<i8")}))

    assert (change.largest, change.index) == (5.0, (4,))


def test_elements_that_are_not_finite_leave_figures_out(tmp_path: Path) -> None:
    after = BASE["embedding"].copy()
    after[1, 1] = np.nan

    change = only(found(tmp_path, BASE | {"embedding": after}))

    assert (change.cosine, change.relative, change.largest, change.differing) == (None, None, None, 1)
    json.loads(converter.reports.to_json(found(tmp_path, BASE | {"embedding": after})), parse_constant=pytest.fail)


@pytest.mark.parametrize("size", [1e-25, 1e-40, 1e25, 1e37])
def test_figures_of_very_small_and_very_large_numbers_are_right(tmp_path: Path, size: float) -> None:
    before = (RANDOM.random((20, 30)) * size).astype("<f4")
    noisy = (before.astype("f8") * (1 + RANDOM.random((20, 30)))).astype("<f4")

    doubled = only(found(tmp_path, {"a": before * np.float32(2)}, {"a": before}))
    change = only(found(tmp_path, {"a": noisy}, {"a": before}))

    assert (doubled.relative, doubled.cosine, doubled.detail) == (1.0, 1.0, "multiplied by 2")
    cosine, relative, largest = apart(before, noisy)
    assert change.cosine == pytest.approx(cosine, abs=1e-6)
    assert change.relative == pytest.approx(relative, rel=1e-3)
    assert change.largest == pytest.approx(largest, rel=1e-3)
    assert change.detail == "600 of 600 elements differ"


@pytest.mark.parametrize("size", [1e-320, 1e-300, 1e-160, 1e160, 1e250, 2e307])
def test_figures_of_numbers_whose_squares_have_no_place_in_f64_are_right(tmp_path: Path, size: float) -> None:
    random = np.random.default_rng(8)
    scale = 2.0 ** np.round(np.log2(size))
    before, noise = random.random((20, 30)) - 0.5, random.random((20, 30)) - 0.5
    layers = {"layers.0.a": before * scale, "layers.0.b": np.ones(4) * scale}
    after = layers | {"layers.0.a": (before + noise) * scale}

    report = found(tmp_path, after, layers)
    doubled = only(found(tmp_path, layers | {"layers.0.a": layers["layers.0.a"] * -2}, layers))

    change = only(report)
    # The same numbers as F64 holds them, near one: scaling by a power of two changes no digit but where F64 ends.
    x, y = (
        np.ldexp(np.ldexp(one["layers.0.a"], 500 if size < 1 else -500), 500 if size < 1 else -500)
        for one in (layers, after)
    )
    factor = 2.0 ** (1000 if size < 1 else -1000)
    cosine, relative, _ = apart(x / np.abs(x).max(), y / np.abs(x).max())
    assert change.cosine == pytest.approx(cosine, abs=1e-6)
    assert change.relative == pytest.approx(relative, rel=1e-3)
    assert change.largest == pytest.approx(np.abs(after["layers.0.a"] - layers["layers.0.a"]).max(), rel=1e-3)
    ones = np.ones(4) * scale * (factor if size < 1 else 2.0**-1000)
    whole = np.linalg.norm(np.concatenate([x.reshape(-1), ones]) / np.abs(x).max())
    assert report.layers[0].relative == pytest.approx(np.linalg.norm((y - x) / np.abs(x).max()) / whole, rel=1e-3)
    assert (doubled.cosine, doubled.relative) == (-1.0, 3.0)


def test_a_difference_that_f64_cannot_hold_is_said(tmp_path: Path) -> None:
    before = np.array([1.5e308, 1, 2, 3])
    after = np.array([-1.5e308, 1, 2, 4])

    change = only(found(tmp_path, {"a": after}, {"a": before}))

    assert change.detail == "2 of 4 elements differ; 1 by more than F64 can hold"
    assert (change.cosine, change.relative, change.largest, change.index) == (-1.0, 2.0, None, None)


def test_a_share_that_f64_cannot_hold_is_left_out(tmp_path: Path) -> None:
    change = only(found(tmp_path, {"a": np.array([1e200, 1])}, {"a": np.array([1e-200, 0])}))

    assert (change.relative, change.cosine) == (None, 1.0)


@pytest.mark.parametrize(
    ("dtype", "before", "after", "detail"),
    [
        ("<i8", 2**60, 2**60 + 1, "1152921504606846976 became 1152921504606846977"),
        ("<i8", -(2**63), 2**63 - 1, "-9223372036854775808 became 9223372036854775807"),
        ("<i8", -1, 0, "-1 became 0"),
        ("<f4", 1.0, 1.0000001, "1 became 1.00000012"),
        ("<f8", 1.0, 1.0 + 2**-52, "1 became 1.0000000000000002"),
        ("<f4", 0.5, np.nan, "0.5 became nan"),
        ("<f4", 0.5, -np.inf, "0.5 became -inf"),
        ("<f4", np.nan, 0.5, "nan became 0.5"),
        ("<f4", 0.0, -0.0, "0 became -0"),
        ("<f2", 0.5, np.inf, "0.5 became inf"),
    ],
)
def test_one_element_that_differs_is_named(
    tmp_path: Path, dtype: str, before: float, after: float, detail: str
) -> None:
    one, other = np.full((3, 4), 1, dtype), np.full((3, 4), 1, dtype)
    one[1, 2], other[1, 2] = before, after

    change = only(found(tmp_path, {"a": other}, {"a": one}))

    assert (change.differing, change.detail) == (1, f"1 of 12 elements differs, at [1, 2]: {detail}")


def test_what_became_nan_or_infinite_is_counted(tmp_path: Path) -> None:
    before = np.ones(700_000, "<f4")
    after = before.copy()
    after[[3, 500_000]], after[[400_000, 500_001, 600_000]], after[9], after[10] = np.nan, -np.inf, 2, np.nan
    before[[20, 30]], after[20], before[600_001] = np.inf, np.inf, np.nan

    change = only(found(tmp_path, {"a": after}, {"a": before}))

    assert change.detail == (
        "9 of 700,000 elements differ; 3 became NaN, the first at [3]; 3 became Inf, the first at [400000]; "
        "1 were NaN before, at [600001]; 1 were Inf before, at [30]; 1 stayed NaN or Inf"
    )
    assert (change.largest, change.index) == (1.0, (9,))


def test_other_signs_of_zero_are_said(tmp_path: Path) -> None:
    change = only(found(tmp_path, {"a": np.full(9, -0.0, "<f4")}, {"a": np.zeros(9, "<f4")}))

    assert change.detail == "9 of 9 elements differ; in nothing but the sign of zero"


def test_equal_nan_are_equal(tmp_path: Path) -> None:
    array = np.array([np.nan, 1], "<f4")

    assert found(tmp_path, {"a": array}, {"a": array}).same


# ---- rank ------------------------------------------------------------------------------------------------------------


def test_a_change_of_low_rank_is_named(tmp_path: Path) -> None:
    change = (RANDOM.standard_normal((48, 3)) @ RANDOM.standard_normal((3, 64))).astype("<f4")
    noise = RANDOM.standard_normal((48, 64)).astype("<f4")
    after = BASE | {"layers.0.wide": BASE["layers.0.wide"] + change, "layers.1.wide": BASE["layers.1.wide"] + noise}

    low, high = sorted(found(tmp_path, after, rank=True).changes, key=lambda change: change.name)

    assert (low.rank, low.energy[2]) == (3, 1.0)
    assert low.detail == "3,072 of 3,072 elements differ; 99 % of the change has rank 3, as with LoRA"
    assert high.rank is not None
    assert high.rank > 30
    assert "LoRA" not in high.detail
    assert found(tmp_path, after).changes[0].energy == ()


def test_shares_of_energy_are_those_of_a_whole_decomposition(tmp_path: Path) -> None:
    spectrum = 0.8 ** np.arange(200)
    left, _ = np.linalg.qr(RANDOM.standard_normal((3000, 200)))
    right, _ = np.linalg.qr(RANDOM.standard_normal((500, 200)))
    change = (left * spectrum @ right.T).astype("<f4")
    path = write(tmp_path / "x.safetensors", {"a": np.zeros_like(change), "b": change})
    tensors = open_checkpoint(path)

    for one, other in ((tensors["a"], tensors["b"]), (tensors["a"].t(), tensors["b"].t())):
        shares, enough = ranks.energy(one, other)

        squares = np.square(spectrum)
        assert shares == pytest.approx([squares[:rank].sum() / squares.sum() for rank in ranks.RANKS], abs=2e-3)
        assert enough == int(np.searchsorted(np.cumsum(squares) / squares.sum(), 0.99)) + 1


# ---- forms -----------------------------------------------------------------------------------------------------------


def test_forms_are_compared_by_the_names_of_the_family(tiny: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(tiny), tmp_path / "st", to="safetensors")
    convert(open_checkpoint(tiny), tmp_path / "x.gguf", dtype="f32")

    for path in (tmp_path / "st", tmp_path / "x.gguf"):
        for one, other in ((tiny, path), (path, tiny)):
            report = diff(open_checkpoint(one), open_checkpoint(other))

            assert report.changes == ()
            assert (report.compared, report.identical, len(report.left_out)) == (52, 52, 8)


def test_a_quantised_copy_has_its_cost_by_layer(tiny: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(tiny), tmp_path / "x.gguf", dtype="q4_0")

    report = diff(open_checkpoint(tiny), open_checkpoint(tmp_path / "x.gguf"))
    back = diff(open_checkpoint(tmp_path / "x.gguf"), open_checkpoint(tiny))
    verified = converter.verify(tiny, tmp_path / "x.gguf").outputs[0]

    costs = {loss.name: loss.relative for loss in verified.losses}
    assert {change.what for change in report.changes} == {"retyped"}
    assert all(change.detail == "F32 to Q4_0, rounded" for change in report.changes)
    ours = {change.name.removeprefix("transformer."): change.relative for change in report.changes}
    assert ours == pytest.approx({name: costs[name] for name in ours}, rel=1e-3)
    layers = {layer.name: layer.relative for layer in report.layers}
    squares: dict[str, list[float]] = {name: [0.0, 0.0] for name in layers}
    for name, tensor in open_checkpoint(tiny).items():
        short = name.removeprefix("transformer.")
        layer = ".".join(short.split(".")[:2])
        if layer in squares and not short.endswith((".attn.bias", ".masked_bias")):
            norm = float(np.square(tensor.numpy(), dtype="f8").sum())
            squares[layer][0] += norm
            squares[layer][1] += norm * (ours.get(short) or 0.0) ** 2
    assert layers == pytest.approx({name: (lost / norm) ** 0.5 for name, (norm, lost) in squares.items()}, rel=1e-3)
    assert {change.name for change in back.changes} >= {"blk.0.attn_qkv.weight"}
    assert all(change.largest is not None and change.largest > 0 for change in back.changes)


def test_transposed_views_are_compared_as_they_are(tmp_path: Path) -> None:
    lies = {"a": view("0", (3, 2), (1, 3)), "b": view("1", (6,))}
    bin = write_checkpoint(tmp_path / "x.bin", lies, {"0": floats(1, 2, 3, 4, 5, 6), "1": floats(*range(6))})
    rows = {"a": np.array([[1, 4], [2, 5], [3, 7]], "<f4"), "b": np.arange(6, dtype="<f4")}

    change = only(diff(open_checkpoint(bin), open_checkpoint(write(tmp_path / "x.safetensors", rows))))

    assert change.detail == "1 of 6 elements differs, at [2, 1]: 6 became 7"


def test_configuration_metadata_and_tokenizer_are_compared(tiny: Path, tmp_path: Path) -> None:
    write_sample(tmp_path, "tiny")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"layer_norm_epsilon": 1e-6, "added": "x"}))
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    swapped = dict(zip(vocabulary, [1, 0, *range(2, len(vocabulary))], strict=True))
    (tmp_path / "vocab.json").write_text(json.dumps(swapped))

    report = diff(open_checkpoint(tiny), open_checkpoint(tmp_path))

    assert not report.same
    assert report.changes == ()
    values = {one.name: (one.part, one.before, one.after) for one in report.beside}
    assert values["layer_norm_epsilon"] == ("configuration", "1e-05", "1e-06")
    assert values["added"] == ("configuration", None, "x")
    assert "tokenizer" in {one.part for one in report.beside}


def test_metadata_of_one_format_is_compared_key_by_key(tmp_path: Path) -> None:
    one, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    tensor = {"a": ("F32", (1,), bytes(4))}
    one.write_bytes(safetensors_file(tensor, {"kept": "x", "author": "me", "gone": "y"}))
    other.write_bytes(safetensors_file(tensor, {"kept": "x", "author": "you", "new": "z"}))

    found = diff(open_checkpoint(one), open_checkpoint(other)).beside

    assert [(beside.part, beside.name, beside.before, beside.after) for beside in found] == [
        ("metadata", "author", "me", "you"), ("metadata", "gone", "y", None), ("metadata", "new", None, "z"),
    ]  # fmt: skip


def test_keys_of_two_gguf_files_are_compared(tmp_path: Path) -> None:
    for name, heads, numbers in (("a", 4, [1, 2]), ("b", 8, [1, 2, 3])):
        keys = [
            files.key("general.architecture", "string", "other"),
            files.key("other.heads", "u32", heads),
            files.key("other.list", "array:u32", numbers),
        ]
        (tmp_path / f"{name}.gguf").write_bytes(files.gguf(keys, [files.Info("a")], bytes(16)))

    found = diff(open_checkpoint(tmp_path / "a.gguf"), open_checkpoint(tmp_path / "b.gguf")).beside

    assert {(beside.name, beside.before, beside.after) for beside in found} >= {
        ("other.heads", "4", "8"), ("other.list", "[1, 2] (2 values)", "[1, 2, 3] (3 values)"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "before", "after", "detail"),
    [
        ("array:u32", [*range(20)], [*range(19), 7], "element 19 was 19 and is 7"),
        ("array:string", ["a"] * 9, ["a"] * 8 + ["b"], "element 8 was a and is b"),
        ("array:f32", [0.5] * 12, [0.5] * 10 + [-0.5, 0.5], "element 10 was 0.5 and is -0.5"),
        ("array:bool", [True] * 9, [True] * 8 + [False], "element 8 was true and is false"),
        ("string", "x" * 300, "x" * 299 + "y", "they differ from character 300 on"),
        ("string", "x" * 300, "x" * 301, "they differ from character 301 on"),
    ],
)
def test_values_that_are_shown_cut_are_compared_whole(
    tmp_path: Path, kind: str, before: Any, after: Any, detail: str
) -> None:
    for name, value in (("a", before), ("b", after), ("c", before)):
        keys = [files.key("general.architecture", "string", "other"), files.key("other.value", kind, value)]
        (tmp_path / f"{name}.gguf").write_bytes(files.gguf(keys, [files.Info("a")], bytes(16)))
    a, b, c = (open_checkpoint(tmp_path / f"{name}.gguf") for name in "abc")

    (beside,) = diff(a, b).beside

    assert (beside.part, beside.name, beside.detail) == ("metadata", "other.value", detail)
    assert diff(a, c).same


def test_another_type_of_a_key_is_a_difference(tmp_path: Path) -> None:
    for name, kind in (("a", "u32"), ("b", "i32")):
        keys = [files.key("general.architecture", "string", "other"), files.key("other.value", kind, 4)]
        (tmp_path / f"{name}.gguf").write_bytes(files.gguf(keys, [files.Info("a")], bytes(16)))

    (beside,) = diff(open_checkpoint(tmp_path / "a.gguf"), open_checkpoint(tmp_path / "b.gguf")).beside

    assert (beside.name, beside.before, beside.after, beside.detail) == ("other.value", "4", "4", "u32 became i32")


def test_settings_of_generation_are_compared(tmp_path: Path) -> None:
    for name, said in (("a", {"top_k": 50, "transformers_version": "4"}), ("b", {"top_k": 5, "do_sample": True})):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "model.safetensors", BASE)
        (tmp_path / name / "generation_config.json").write_text(json.dumps(said))

    report = diff(open_checkpoint(tmp_path / "a"), open_checkpoint(tmp_path / "b"))

    assert not report.same
    assert [(one.part, one.name, one.before, one.after) for one in report.beside] == [
        ("generation", "top_k", "50", "5"), ("generation", "do_sample", None, "true"),
    ]  # fmt: skip


def test_values_in_both_checkpoints_are_compared(tmp_path: Path) -> None:
    for name, said in (("a", {"epoch": 3, "lr": 0.1, "seed": 1}), ("b", {"epoch": 4, "lr": 0.1})):
        write_checkpoint(tmp_path / f"{name}.pt", {"model": {"a": view("0", (2,))}, **said}, {"0": floats(1, 2)})

    (beside,) = diff(open_checkpoint(tmp_path / "a.pt"), open_checkpoint(tmp_path / "b.pt")).beside

    assert (beside.part, beside.name, beside.before, beside.after) == ("values", "epoch", "3", "4")


# ---- the command and the page -------------------------------------------------------------------------------------------


def test_the_command_ends_with_what_it_found(tmp_path: Path) -> None:
    one, other = (
        write(tmp_path / "a.safetensors", BASE),
        write(tmp_path / "b.safetensors", BASE | {"count": BASE["count"] + 1}),
    )

    same = RUN.invoke(app, ["diff", str(one), str(one)])
    different = RUN.invoke(app, ["diff", str(one), str(other), "--json"])
    broken = RUN.invoke(app, ["diff", str(one), str(tmp_path / "none")])

    assert (same.exit_code, different.exit_code, broken.exit_code) == (0, 1, 2)
    assert same.stdout.startswith("same\n")
    assert json.loads(different.stdout)["changes"][0]["name"] == "count"
    assert broken.stdout == ""


def test_the_page_has_what_the_terminal_has(tmp_path: Path) -> None:
    one = write(tmp_path / "a.safetensors", BASE)
    other = write(tmp_path / "b.safetensors", BASE | {"layers.1.norm": BASE["layers.1.norm"] * np.float32(2)})

    done = RUN.invoke(app, ["diff", str(one), str(other), "--html", str(tmp_path / "page.html")])

    page = check((tmp_path / "page.html").read_bytes())
    assert done.exit_code == 1
    assert "multiplied by 2" in done.stdout
    ((name, shown, what, relative, *_),) = page.data["changes"]
    assert (name, shown, what, relative) == ("layers.1.norm", "layers.1.norm", "changed", 1.0)
    layer = np.concatenate([BASE[f"layers.1.{name}"].reshape(-1) for name in ("norm", "wide")]).astype("f8")
    share = np.linalg.norm(BASE["layers.1.norm"].astype("f8")) / np.linalg.norm(layer)
    assert [layer[3] for layer in page.data["layers"]] == [0.0, pytest.approx(share, rel=1e-3), 0.0]
    assert "Along the depth" in page.text


def test_hostile_names_are_text(tmp_path: Path) -> None:
    one = write(tmp_path / "a.safetensors", {name: np.zeros(2, "<f4") for name in NAMES})
    other = write(
        tmp_path / "b.safetensors", {name: np.ones(2, "<f4") for name in NAMES[1:]} | {"<b>": np.ones(3, "<f4")}
    )

    done = RUN.invoke(app, ["diff", str(one), str(other), "--html", str(tmp_path / "page.html"), "--all"])

    page = check((tmp_path / "page.html").read_bytes())
    assert done.exit_code == 1
    assert "\x1b" not in done.stdout
    assert "\u202e" not in done.stdout
    assert {change[0] for change in page.data["changes"]} == {*NAMES, "<b>"}


def test_tensors_of_one_number_are_found_by_their_module_in_another_dtype_too(tmp_path: Path) -> None:
    before = BASE | {f"layers.{i}.norm": np.full(64, i % 2, "<f4") for i in range(3)}
    after = {name.replace("layers", "blocks"): array.astype("<f2") for name, array in before.items() if "." in name}
    kept = {name: array for name, array in before.items() if "." not in name}

    changes = {change.name: change for change in found(tmp_path, kept | after, before).changes}

    assert {change.what for change in changes.values()} == {"renamed"}
    for i in range(3):
        change = changes[f"blocks.{i}.norm"]
        assert change.detail == f"it was called layers.{i}.norm; F32 to F16, rounded"
        assert (change.rounding, change.differing) == (True, None)


def test_the_last_line_of_a_long_table_does_not_say_which_changes_are_larger(tmp_path: Path) -> None:
    names = [f"w{i}" for i in range(42)]
    write(tmp_path / "a.safetensors", {name: np.arange(4, dtype="<f4") for name in names})
    write(tmp_path / "b.safetensors", {name: np.arange(1, 5, dtype="<f4") for name in names})

    shown = RUN.invoke(app, ["diff", str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")]).stdout

    assert "and 2 more changes: give --all" in shown
