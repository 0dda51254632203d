"""Which tensors a text means that a person typed."""

from __future__ import annotations

import pytest

from converter.models.selection import meant, unknown

NAMES = ["transformer.wte.weight", *(f"transformer.h.{n}.{k}.weight" for n in (0, 1, 2, 10) for k in ("ln_1", "mlp.c_fc")), "lm_head.weight"]  # fmt: skip
SPELT = {name: (name, name.removeprefix("transformer.")) for name in NAMES}


@pytest.mark.parametrize(
    ("glob", "found"),
    [
        ("transformer.wte.weight", ["transformer.wte.weight"]),
        ("wte.weight", ["transformer.wte.weight"]),
        ("wte", ["transformer.wte.weight"]),
        ("*wte*", ["transformer.wte.weight"]),
        ("lm_head", ["lm_head.weight"]),
        ("h.1", ["transformer.h.1.ln_1.weight", "transformer.h.1.mlp.c_fc.weight"]),
        ("h.1.", ["transformer.h.1.ln_1.weight", "transformer.h.1.mlp.c_fc.weight"]),
        ("h.1.*", ["transformer.h.1.ln_1.weight", "transformer.h.1.mlp.c_fc.weight"]),
        ("h.{0..2}.ln_1.weight", [f"transformer.h.{n}.ln_1.weight" for n in (0, 1, 2)]),
        ("transformer.h.{0..2,10}.ln_1.weight", [f"transformer.h.{n}.ln_1.weight" for n in (0, 1, 2, 10)]),
        ("h.{0,10}.mlp", [f"transformer.h.{n}.mlp.c_fc.weight" for n in (0, 10)]),
        ("h.{3..9}.ln_1.weight", []),
        ("c_fc.weight", [f"transformer.h.{n}.mlp.c_fc.weight" for n in (0, 1, 2, 10)]),
        ("fc.weight", []),  # a part of a word
        ("weight", NAMES),
        ("H.1", []),
        ("*.h.{1..2}.*", [f"transformer.h.{n}.{k}.weight" for n in (1, 2) for k in ("ln_1", "mlp.c_fc")]),
        ("h.?.ln_1.weight", [f"transformer.h.{n}.ln_1.weight" for n in (0, 1, 2)]),
        ("", []),
        (".", []),
    ],
)  # fmt: skip
def test_a_text_means_the_names_that_were_printed(glob: str, found: list[str]) -> None:
    assert meant(glob, SPELT) == found


def test_a_whole_name_is_only_itself() -> None:
    spelt = {name: (name,) for name in ("w", "a.w", "a.w.b", "w.{0..3}", "w.1", "a[0].w", "a\nb")}
    assert meant("w", spelt) == ["w"]
    assert meant("w.{0..3}", spelt) == ["w.{0..3}"]
    assert meant("a[0].w", spelt) == ["a[0].w"]
    assert meant("a\\x0ab", spelt) == ["a\nb"]  # as it is printed


@pytest.mark.parametrize(
    ("printed", "found"),
    [
        ('""', [""]),
        ("\\x20a", [" a"]),
        ("a\\x20", ["a "]),
        ("\\x20b.{0,1}.w", [" b.0.w", " b.1.w"]),
        ("c[0]*.{0,1}.w", ["c[0]*.0.w", "c[0]*.1.w"]),
        ("d.{0,1}.w", ["d.0.w", "d.1.w"]),
        ("d.00.w", ["d.00.w"]),
    ],
)
def test_names_that_are_printed_with_escapes_or_folded_are_taken_back(printed: str, found: list[str]) -> None:
    several = [f"{name}.{number}.w" for name in (" b", "c[0]*", "c0x", "d") for number in ("0", "1", "00", "01")]
    assert meant(printed, {name: (name,) for name in ("", " a", "a", "a ", *several)}) == found


@pytest.mark.parametrize(
    ("printed", "found"),
    [
        ("a{1,2}.{0,1}.w", ["a{1,2}.0.w", "a{1,2}.1.w"]),
        ("a{1,2}.0.w", ["a{1,2}.0.w"]),
        ("a{1,2}.{0..1}", ["a{1,2}.0.w", "a{1,2}.1.w"]),
        ("a{1,2}", ["a{1,2}.0.w", "a{1,2}.1.w"]),
        ("*.{1..2}.{3,4}.w", ["x.{1..2}.3.w", "x.{1..2}.4.w", "x.1.3.w"]),
        ("{7}", ["{7}.w", "7.w"]),
    ],
)
def test_braces_in_a_name_itself_are_taken_back(printed: str, found: list[str]) -> None:
    names = ["a{1,2}.0.w", "a{1,2}.1.w", "a3.0.w", "x.{1..2}.3.w", "x.{1..2}.4.w", "x.1.3.w", "{7}.w", "7.w"]

    assert meant(printed, {name: (name,) for name in names}) == found


def test_a_text_that_means_nothing_gets_near_names() -> None:
    assert str(unknown("the filter", "wte.wieght", ["wte.weight", "wpe.weight", "ln_f.bias"])) == (
        "no tensor fits the filter `wte.wieght`; did you mean `wte.weight`, `wpe.weight`, `ln_f.bias`?"
    )


@pytest.mark.parametrize("glob", ["H.1.ATTN", "*.h.1.Attn.*", "TRANSFORMER.H.1.ATTN.C_ATTN.WEIGHT"])
def test_names_that_fit_but_for_capitals_are_near(glob: str) -> None:
    names = ["transformer.h.1.ln_2.bias", "transformer.h.1.attn.c_attn.weight", "transformer.h.1.mlp.c_fc.bias"]

    assert str(unknown("the filter", glob, names)) == (
        f"no tensor fits the filter `{glob}`; did you mean `transformer.h.1.attn.c_attn.weight`?"
    )


def test_long_names_take_no_longer_than_short_ones() -> None:
    """A name of a million dots, and a glob that could begin at each of them."""
    name = "a." * 500_000
    assert meant("a*b*c", {name: (name,)}) == []
    assert meant("a.b", {name: (name,)}) == []
