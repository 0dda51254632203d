"""Which type each matrix of a mixture gets.

The table is what llama-quantize chose for 16 models, with importance and without.
tests/peers/test_recipe_table.py asks it again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from converter.errors import UnsupportedError
from converter.formats.gguf.encodings import BY_NAME, ENCODINGS, fitting
from converter.formats.gguf.recipes import RECIPES, Model, described, mixture, recipe_of

TABLE: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "recipes.json").read_text())
CASES = [(model, word) for model, entry in TABLE.items() for word in entry["types"]]


def spread(runs: str) -> list[str]:
    """`Q6_K*2 Q4_K` is a type for each of three layers."""
    pairs = [run.partition("*") for run in runs.split()]
    return [name for name, _, count in pairs for _ in range(int(count or 1))]


def expected(model: str, word: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for kind, runs in TABLE[model]["types"][word].items():
        types = spread(runs)
        names = [kind] if kind.startswith(("token_embd", "output.")) else [f"blk.{n}.{kind}" for n in range(len(types))]
        found |= dict(zip(names, types, strict=True))
    return found


@pytest.mark.parametrize(("model", "word"), CASES)
def test_types_are_those_of_llama_quantize(model: str, word: str) -> None:
    entry, types = TABLE[model], expected(model, word)
    columns = {name: entry["columns"][".".join(name.split(".")[2:] or [name])] if name.startswith("blk.") else entry["columns"][name] for name in types}  # fmt: skip
    name, _, weighed = word.partition(" ")
    recipe = recipe_of(name, False)
    assert recipe is not None

    found = mixture(recipe, columns, columns, Model(**entry["model"], weighed=bool(weighed)))

    assert {name: fitting(encoding, columns[name]).name for name, encoding in found.items()} == types


def test_every_mixture_is_in_the_table() -> None:
    assert {word.partition(" ")[0] for _, word in CASES} == {recipe.word for recipe in RECIPES}


@pytest.mark.parametrize(
    ("word", "pure", "recipe"),
    [
        *(("q4_k_m", None, "q4_k_m"), ("q4_k_m", False, "q4_k_m"), ("q4_k_m", True, None), ("q4_k", None, None)),
        *(("q4_k", False, "q4_k_m"), ("q3_k", False, "q3_k_m"), ("q5_k", False, "q5_k_m"), ("q6_k", None, None)),
        *(("q6_k", False, "q6_k"), ("q2_k", False, "q2_k"), ("q8_0", None, None), ("q8_0", True, None)),
        *(("q4_0", False, "q4_0"), ("f16", None, None), ("f16", False, None), ("keep", None, None)),
        *(("iq4_xs", None, None), ("iq4_xs", False, "iq4_xs"), ("iq2_xs", None, None)),
    ],
)
def test_a_word_means_a_mixture_or_a_type(word: str, pure: bool | None, recipe: str | None) -> None:
    found = recipe_of(word, pure)

    assert (found.word if found is not None else None) == recipe


def test_a_mixture_that_is_not_made_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="mixture of IQ2_XS is not made here: give --pure"):
        recipe_of("iq2_xs", False)


def test_the_numbers_are_those_of_llama_ftype() -> None:
    assert {recipe.word: recipe.file_type for recipe in RECIPES} == {
        "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q2_k": 10, "q3_k_s": 11, "q3_k_m": 12, "q3_k_l": 13, "q4_k_s": 14,
        "q4_k_m": 15, "q5_k_s": 16, "q5_k_m": 17, "q6_k": 18, "iq4_nl": 25, "iq4_xs": 30,
    }  # fmt: skip
    assert all(recipe.base in BY_NAME for recipe in RECIPES)


def test_the_number_of_a_file_all_of_one_type_is_that_of_llama_ftype() -> None:
    assert {one.name: one.file_type for one in ENCODINGS if one.file_type is not None} == {
        "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K": 12, "Q4_K": 15, "Q5_K": 17,
        "Q6_K": 18, "IQ2_XXS": 19, "IQ2_XS": 20, "IQ3_XXS": 23, "IQ1_S": 24, "IQ4_NL": 25, "IQ3_S": 26, "IQ2_S": 28, "IQ4_XS": 30,
        "IQ1_M": 31, "BF16": 32, "TQ1_0": 36, "TQ2_0": 37, "MXFP4": 38, "NVFP4": 39, "Q1_0": 40, "Q2_0": 41,
    }  # fmt: skip


def test_a_model_is_described_by_its_keys() -> None:
    keys = {
        "general.architecture": "llama",
        "llama.block_count": 4,
        "llama.attention.head_count": 8,
        "llama.attention.head_count_kv": [2, 2, 1, 1],
        "llama.expert_count": 8,
    }

    assert described(keys, weighed=True) == Model("llama", 4, 8, 4, weighed=True)
    assert described({"general.architecture": "gpt2", "gpt2.block_count": 3}, weighed=False) == Model("gpt2", 3)
    assert described({}, weighed=False) == Model()
