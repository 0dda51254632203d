"""What `diff` says where tensors have other names, other places or another order, and something else happened, too."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from converter.conversion.convert import convert
from converter.difference.diff import diff
from converter.difference.three_way import three_way
from converter.opening import open_checkpoint
from converter.reports.difference import Change, DiffReport
from tests.difference.arrays import Arrays, base, write

BASE = base(31)
RANDOM = np.random.default_rng(32)


def found(folder: Path, after: Arrays, before: Arrays = BASE) -> DiffReport:
    one, other = write(folder / "before.safetensors", before), write(folder / "after.safetensors", after)
    return diff(open_checkpoint(one), open_checkpoint(other))


def said(report: DiffReport) -> list[tuple[str, str, str]]:
    return [(change.what, change.name, change.detail) for change in report.changes]


def only(report: DiffReport) -> Change:
    (change,) = report.changes
    return change


def half(array: NDArray[Any]) -> NDArray[Any]:
    """The nearest BF16, as torch and numpy's integers make it."""
    bits = array.view("<u4")
    rounded: NDArray[Any] = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    return rounded


def arrays(folder: Path) -> dict[str, NDArray[Any]]:
    """The tensors of the tiny model that have numbers of 32 bits: all but its masks."""
    tensors = open_checkpoint(folder).items()
    return {name: np.asarray(tensor).copy() for name, tensor in tensors if tensor.dtype.name == "F32"}


def named(old: str, new: str, array: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """The base with a tensor of another name, in its place."""
    return {new if name == old else name: array if name == old else kept for name, kept in BASE.items()}


# ---- another name and something else -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "make", "detail"),
    [
        ("layers.1.wide", half, "F32 to BF16, rounded"),
        ("layers.1.norm", half, "F32 to BF16, rounded"),
        ("layers.1.wide", lambda x: x.astype("<f2"), "F32 to F16, rounded"),
        ("layers.1.wide", lambda x: x.astype("<f8"), "F32 to F64, every number equal"),
        ("layers.1.wide", lambda x: x.T.copy(), "transposed, every element is equal"),
        ("layers.1.wide", lambda x: half(x.T.copy()), "transposed, F32 to BF16, rounded"),
        ("layers.1.wide", lambda x: x[::-1].copy(), "rows in reverse order, every element is equal"),
        ("layers.1.wide", lambda x: x[:, ::-1].copy(), "columns in reverse order, every element is equal"),
        (
            "layers.1.wide",
            lambda x: x[::-1, ::-1].copy(),
            "rows in reverse order, columns in reverse order, every element is equal",
        ),
        ("layers.1.wide", lambda x: half(x[::-1].copy()), "rows in reverse order, F32 to BF16, rounded"),
        (
            "layers.1.wide",
            lambda x: x.T[::-1].copy(),
            "transposed, rows in reverse order, every element is equal",
        ),
        ("layers.1.norm", lambda x: x[::-1].copy(), "elements in reverse order, every element is equal"),
        ("layers.1.wide", lambda x: x * np.float32(-1.5), "multiplied by -1.5"),
        ("layers.1.wide", lambda x: x.T * np.float32(2), "transposed, multiplied by 2"),
        ("layers.1.wide", lambda x: x + np.float32(1e-3) * x**2, "3,072 of 3,072 elements differ"),
    ],
)
def test_a_tensor_of_another_name_is_found_whatever_else_happened(
    tmp_path: Path, name: str, make: Any, detail: str
) -> None:
    change = only(found(tmp_path, named(name, "other", np.ascontiguousarray(make(BASE[name])))))

    assert (change.what, change.name, change.detail) == ("renamed", "other", f"it was called {name}; {detail}")


def test_a_renamed_tensor_with_one_other_element_has_its_figures(tmp_path: Path) -> None:
    after = BASE["layers.1.wide"].copy()
    after[20, 3] = 9

    change = only(found(tmp_path, named("layers.1.wide", "other", after)))

    before = BASE["layers.1.wide"][20, 3]
    assert (
        change.detail == f"it was called layers.1.wide; 1 of 3,072 elements differs, at [20, 3]: {before:.6g} became 9"
    )
    assert (change.differing, change.index) == (1, (20, 3))
    assert change.largest == pytest.approx(9 - before, rel=1e-3)


def test_all_tensors_renamed_and_cast_are_found(tmp_path: Path) -> None:
    after = {f"model.{name}": half(array) for name, array in BASE.items() if array.dtype == "<f4"}
    before = {name: array for name, array in BASE.items() if array.dtype == "<f4"}

    report = found(tmp_path, after, before)

    assert {(one.what, one.name, one.before.name) for one in report.changes if one.before is not None} == {
        ("renamed", f"model.{name}", name) for name in before
    }
    assert all(change.rounding and change.detail.endswith("; F32 to BF16, rounded") for change in report.changes)


def test_unrelated_tensors_of_one_shape_are_no_renamed_ones(tmp_path: Path) -> None:
    other = RANDOM.standard_normal((48, 64)).astype("<f4")

    assert [one[:2] for one in said(found(tmp_path, named("layers.1.wide", "other", other)))] == [
        ("removed", "layers.1.wide"), ("added", "other"),
    ]  # fmt: skip


def test_norms_that_are_nearly_alike_are_no_renamed_ones(tmp_path: Path) -> None:
    norms = {f"a{i}": (1 + 0.01 * RANDOM.standard_normal(64)).astype("<f4") for i in range(4)}
    others = {f"b{i}": (1 + 0.01 * RANDOM.standard_normal(64)).astype("<f4") for i in range(4)}

    assert {one[0] for one in said(found(tmp_path, others, norms))} == {"removed", "added"}


@pytest.mark.parametrize("value", [0, 1, 0.5])
@pytest.mark.parametrize("shape", [(64,), (48, 64), (1,), ()])
def test_tensors_of_one_number_are_not_taken_for_renamed_ones(
    tmp_path: Path, value: float, shape: tuple[int, ...]
) -> None:
    before = BASE | {"old": np.full(shape, value, "<f4")}

    for after in (np.full(shape, value, "<f4"), half(np.full(shape, value, "<f4").reshape(-1)).reshape(shape)):
        assert [one[:2] for one in said(found(tmp_path, BASE | {"new": after}, before))] == [
            ("removed", "old"), ("added", "new"),
        ]  # fmt: skip


def test_a_tensor_that_only_begins_with_one_number_is_found(tmp_path: Path) -> None:
    padded = np.zeros((40, 64), "<f4")
    padded[30:] = RANDOM.standard_normal((10, 64))

    change = only(found(tmp_path, BASE | {"new": padded}, BASE | {"old": padded}))

    assert (change.what, change.detail) == ("renamed", "it was called old; every bit is equal")


def test_tensors_of_one_number_follow_their_module(tmp_path: Path) -> None:
    before = BASE | {f"{name}.{part}": np.full(64, part == "b", "<f4") for name in ("old.x", "old.y") for part in "bc"}
    before |= {"old.x.w": RANDOM.standard_normal((4, 8)).astype("<f4"), "elsewhere": np.zeros(64, "<f4")}
    after = {name.replace("old.", "new.layers.").replace("elsewhere", "other"): one for name, one in before.items()}

    changes = {change.name: change for change in found(tmp_path, after, before).changes}

    assert {name: one.what for name, one in changes.items()} == {
        **{f"new.layers.{name}": "renamed" for name in ("x.w", "x.b", "x.c", "y.b", "y.c")},
        "elsewhere": "removed",
        "other": "added",
    }
    for name in ("x.b", "x.c", "y.b", "y.c"):
        before_side = changes[f"new.layers.{name}"].before
        assert before_side is not None
        assert before_side.name == f"old.{name}"


def test_a_quantised_tensor_of_another_name_is_found(tiny: Path, tmp_path: Path) -> None:
    name = "transformer.h.1.mlp.c_fc.weight"
    convert(open_checkpoint(tiny), tmp_path / "a.gguf", dtype="q4_0")
    write(tmp_path / "b.safetensors", {"odd" if one == name else one: array for one, array in arrays(tiny).items()})

    changes = {
        change.name: change
        for change in diff(*map(open_checkpoint, (tmp_path / "b.safetensors", tmp_path / "a.gguf"))).changes
    }

    assert changes["blk.1.ffn_up.weight"].what == "renamed"
    assert changes["blk.1.ffn_up.weight"].detail == "it was called odd; F32 to Q4_0, rounded"


# ---- another place and another dtype -----------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["wide", "norm"])
def test_exchanged_and_cast_layers_are_named(tmp_path: Path, part: str) -> None:
    places = {f"layers.{one}.{part}": f"layers.{other}.{part}" for one, other in ((0, 2), (2, 0))}
    after = BASE | {new: half(BASE[old]) for new, old in places.items()}

    changes = {change.name: change for change in found(tmp_path, after).changes}

    assert {name: (one.what, one.source, one.rounding) for name, one in changes.items()} == {
        new: ("moved", old, True) for new, old in places.items()
    }
    for new, old in places.items():
        assert changes[new].detail == f"it holds the elements that {old} had; F32 to BF16, rounded"


def test_exchanged_layers_of_a_quantised_copy_are_named(tiny: Path, tmp_path: Path) -> None:
    names = [f"transformer.h.{layer}.mlp.c_fc.weight" for layer in (0, 3)]
    swapped = arrays(tiny)
    swapped[names[0]], swapped[names[1]] = swapped[names[1]], swapped[names[0]]
    shutil.copytree(tiny, tmp_path / "swapped", ignore=shutil.ignore_patterns("*.bin"))
    write(tmp_path / "swapped" / "model.safetensors", swapped)
    convert(open_checkpoint(tmp_path / "swapped"), tmp_path / "x.gguf", dtype="q4_0")

    moved = {
        c.name: c.source
        for c in diff(open_checkpoint(tiny), open_checkpoint(tmp_path / "x.gguf")).changes
        if c.what == "moved"
    }

    assert moved == {names[0]: names[1], names[1]: names[0]}


# ---- another order -----------------------------------------------------------------------------------------------------


def heads(order: list[int], of: int) -> list[int]:
    return [head * of + i for head in order for i in range(of)]


def rotary(rows: int, head: int) -> list[int]:
    """Meta's rows in the order of transformers: view(heads, head / 2, 2), then the last two dimensions exchanged."""
    return np.arange(rows).reshape(rows // head, head // 2, 2).swapaxes(1, 2).reshape(-1).tolist()


@pytest.mark.parametrize(
    ("axis", "order", "words"),
    [
        (0, [0, 2, 1, *range(3, 48)], "rows 1 and 2 exchanged"),
        (1, [63, *range(1, 63), 0], "columns 0 and 63 exchanged"),
        (0, heads([0, 2, 1, 3, 4, 5], 8), "rows 8 to 15 and 16 to 23 exchanged"),
        (0, heads([2, 0, 1, 3, 4, 5], 8), "3 of 6 blocks of 8 rows in other places"),
        (1, heads([3, 1, 0, 2], 16), "3 of 4 blocks of 16 columns in other places"),
        (0, [*range(1, 48), 0], "48 of 48 rows in other places"),
        (0, rotary(48, 8), "rows of each head of 8 in the other order of rotary positions"),
        (0, np.argsort(rotary(48, 16)).tolist(), "rows of each head of 16 in the other order of rotary positions"),
        (1, [2, 0, 1, *range(3, 64)], "3 of 64 columns in other places"),
    ],
)
@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_rows_and_columns_in_another_order_are_named(
    tmp_path: Path, axis: int, order: list[int], words: str, dtype: str
) -> None:
    after = np.ascontiguousarray(np.take(BASE["layers.1.wide"], order, axis=axis))

    change = only(found(tmp_path, BASE | {"layers.1.wide": after if dtype == "F32" else half(after)}))

    few = sum(here != source for here, source in enumerate(order)) < 4
    if dtype == "F32":
        assert (change.what, change.detail) == ("changed", f"{words}, every element is equal")
    elif not few:
        assert (change.what, change.detail, change.rounding) == ("retyped", f"{words}, F32 to BF16, rounded", True)


def test_elements_of_a_vector_in_another_order_are_named(tmp_path: Path) -> None:
    after = BASE["layers.1.norm"][[5, *range(1, 5), 0, *range(6, 64)]]

    assert (
        only(found(tmp_path, BASE | {"layers.1.norm": after})).detail
        == "elements 0 and 5 exchanged, every element is equal"
    )


def test_rows_and_columns_that_both_changed_places_are_named(tmp_path: Path) -> None:
    after = np.ascontiguousarray(BASE["layers.1.wide"][::-1][:, [1, 0, *range(2, 64)]])

    change = only(found(tmp_path, BASE | {"layers.1.wide": after}))

    assert change.detail == "rows in reverse order, columns 0 and 1 exchanged, every element is equal"


def test_rows_that_are_alike_do_not_hide_the_order(tmp_path: Path) -> None:
    before = BASE["layers.1.wide"].copy()
    before[10:20] = 0
    after = before[heads([1, 0, 2], 16)]

    change = only(found(tmp_path, BASE | {"layers.1.wide": after}, BASE | {"layers.1.wide": before}))

    assert change.detail.endswith("in other places, every element is equal")


def test_rows_with_their_own_elements_in_another_order_are_no_other_order(tmp_path: Path) -> None:
    after = BASE["layers.1.wide"].copy()
    for row in range(48):
        after[row] = np.roll(after[row], row + 1)

    assert only(found(tmp_path, BASE | {"layers.1.wide": after})).detail == "3,072 of 3,072 elements differ"


def test_another_order_with_one_other_element_is_not_called_equal(tmp_path: Path) -> None:
    after = BASE["layers.1.wide"][::-1].copy()
    after[3, 3] += 1

    assert "order" not in only(found(tmp_path, BASE | {"layers.1.wide": after})).detail


def test_experts_in_another_order_are_named(tmp_path: Path) -> None:
    experts = RANDOM.standard_normal((4, 6, 8)).astype("<f4")

    change = only(found(tmp_path, {"a": experts[[0, 3, 2, 1]]}, {"a": experts}))

    assert change.detail == "rows 6 to 11 and 18 to 23 exchanged, every element is equal"


def test_heads_are_called_heads_where_the_family_says_how_long_they_are(tiny: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(tiny), tmp_path / "x.gguf", dtype="f32")
    name, after = "transformer.h.1.attn.c_proj.weight", arrays(tiny)
    after[name] = np.ascontiguousarray(after[name][heads([0, 3, 2, 1], 16)])
    swapped = write(tmp_path / "c.safetensors", after)

    for before in (tiny, tmp_path / "x.gguf"):
        change = only(diff(open_checkpoint(before), open_checkpoint(swapped)))

        assert change.detail == "heads 1 and 3 exchanged, every element is equal"


def test_a_transposed_and_cast_matrix_is_named(tmp_path: Path) -> None:
    square = RANDOM.standard_normal((24, 24)).astype("<f4")

    cast = only(found(tmp_path, {"a": half(square.T.copy())}, {"a": square}))
    long = only(found(tmp_path, BASE | {"embedding": half(BASE["embedding"].T.copy())}))

    assert (cast.what, cast.detail, cast.rounding) == ("retyped", "transposed, F32 to BF16, rounded", True)
    assert (long.what, long.rounding) == ("reshaped", True)
    assert long.detail == "40×8 became 8×40; transposed, F32 to BF16, rounded"


# ---- joined and split --------------------------------------------------------------------------------------------------

Q, K, V = (RANDOM.standard_normal((rows, 32)).astype("<f4") for rows in (24, 24, 24))
SMALL = [RANDOM.standard_normal((8, 32)).astype("<f4") for _ in range(2)]  # keys and values that several queries share
APART = {"h.0.q": Q, "h.0.k": K, "h.0.v": V}


def in_turn(size: int, *arrays: NDArray[Any]) -> NDArray[Any]:
    """A few rows of each in turn."""
    return np.concatenate([one[at : at + size] for at in range(0, len(arrays[0]), size) for one in arrays])


@pytest.mark.parametrize(
    ("parts", "whole", "how"),
    [
        (APART, np.concatenate([Q, K, V]), ""),
        (APART, np.concatenate([V, Q, K]), ""),
        (APART, np.concatenate([Q.T, K.T, V.T], axis=1), ", each transposed"),
        (APART, np.concatenate([Q, K, V]).T.copy(), ", each transposed"),
        ({name: one.T.copy() for name, one in APART.items()}, np.concatenate([Q, K, V]), ", each transposed"),
        ({name: one.T.copy() for name, one in APART.items()}, np.concatenate([Q.T, K.T, V.T], axis=1), ""),
        ({"h.0.q": Q, "h.0.k": SMALL[0], "h.0.v": SMALL[1]}, np.concatenate([Q, *SMALL]), ""),
        (APART, in_turn(8, Q, K, V), ", 8 rows of each in turn"),
        ({"gate": Q, "up": K}, in_turn(1, Q, K), ", 1 row of each in turn"),
        ({"q": Q[:, 0].copy(), "k": K[:, 0].copy(), "v": V[:, 0].copy()}, np.concatenate([Q, K, V])[:, 0].copy(), ""),
        ({"q": Q[:, 0].copy(), "k": K[:, 0].copy()}, in_turn(4, Q, K)[:, 0].copy(), ", 4 elements of each in turn"),
        (APART, np.stack([Q, K, V]), ""),
    ],
)
@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_joined_and_split_tensors_are_named(
    tmp_path: Path, parts: Arrays, whole: NDArray[Any], how: str, dtype: str
) -> None:
    def stored(arrays: Arrays) -> Arrays:
        return {name: half(one) for name, one in arrays.items()} if dtype == "BF16" else arrays

    joined = only(found(tmp_path, {**BASE, **stored({"qkv": whole})}, {**BASE, **parts}))
    split = only(found(tmp_path, {**BASE, **stored(parts)}, {**BASE, "qkv": whole}))

    kept = "every element is equal" if dtype == "F32" else "F32 to BF16, rounded"
    assert (joined.what, joined.name, split.what, split.name) == ("joined", "qkv", "split", "qkv")
    assert sorted(joined.parts) == sorted(split.parts) == sorted(parts)
    *first, last = joined.parts
    assert joined.detail == f"joined from {', '.join(first)} and {last}{how}, {kept}"
    assert split.detail == f"split into {', '.join(first)} and {last}{how}, {kept}"


def test_parts_that_do_not_all_fit_are_not_joined(tmp_path: Path) -> None:
    other = V.copy()
    other[2, 3] += 1

    report = found(tmp_path, BASE | {"qkv": np.concatenate([Q, K, other])}, BASE | APART)

    assert {change.what for change in report.changes} == {"removed", "added"}


def test_rows_in_which_elements_changed_places_are_not_joined(tmp_path: Path) -> None:
    report = found(tmp_path, BASE | {"qkv": np.concatenate([Q, K, V[:, ::-1]])}, BASE | APART)

    assert {change.what for change in report.changes} == {"removed", "added"}


def test_tensors_of_one_number_are_not_joined(tmp_path: Path) -> None:
    zeros = {f"{name}.b": np.zeros(8, "<f4") for name in "qkv"}

    report = found(tmp_path, BASE | {"qkv.b": np.zeros(24, "<f4")}, BASE | zeros)

    assert {change.what for change in report.changes} == {"removed", "added"}


def test_one_part_of_zeros_is_a_part(tmp_path: Path) -> None:
    apart = {"q.b": Q[:, 0].copy(), "k.b": np.zeros(24, "<f4"), "v.b": V[:, 0].copy()}

    change = only(found(tmp_path, BASE | {"qkv.b": np.concatenate([*apart.values()])}, BASE | apart))

    assert (change.what, change.parts) == ("joined", ("q.b", "k.b", "v.b"))


def test_what_one_joined_and_another_one_changed_is_a_conflict(tmp_path: Path) -> None:
    before = write(tmp_path / "a.safetensors", BASE | APART)
    joined = write(tmp_path / "b.safetensors", BASE | {"qkv": np.concatenate([Q, K, V])})
    trained = write(tmp_path / "c.safetensors", BASE | APART | {"h.0.k": K + np.float32(1)})

    report = three_way(*map(open_checkpoint, (before, joined, trained)))

    assert {change.name: change.by for change in report.changes} == {
        "h.0.q": "after", "h.0.k": "conflict", "h.0.v": "after", "qkv": "after",
    }  # fmt: skip


def test_what_one_renamed_and_cast_and_another_one_changed_is_a_conflict(tmp_path: Path) -> None:
    name = "layers.1.wide"
    before = write(tmp_path / "a.safetensors", BASE)
    cast = write(tmp_path / "b.safetensors", named(name, "other", half(BASE[name])))
    trained = write(tmp_path / "c.safetensors", BASE | {name: BASE[name] + np.float32(1)})

    (change,) = three_way(*map(open_checkpoint, (before, cast, trained))).changes
    (alone,) = three_way(*map(open_checkpoint, (before, cast, before))).changes

    assert (change.name, change.by) == (name, "conflict")
    assert (alone.by, alone.detail) == ("after", "now called other; F32 to BF16, rounded")


def test_a_filter_takes_a_whole_with_its_parts(tmp_path: Path) -> None:
    one = write(tmp_path / "a.safetensors", BASE | APART)
    other = write(tmp_path / "b.safetensors", BASE | {"qkv": np.concatenate([Q, K, V]), "new": Q[0]})

    for glob in ("h.0.k", "qkv"):
        report = diff(open_checkpoint(one), open_checkpoint(other), filter=glob)

        assert [(change.what, change.name) for change in report.changes] == [("joined", "qkv")]
