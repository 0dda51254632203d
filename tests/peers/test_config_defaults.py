"""Our tables about models are those of the installed transformers: keys that config.json leaves out, and tied names."""

from __future__ import annotations

import json
from typing import Any

import pytest
import transformers
from transformers import CONFIG_MAPPING
from transformers.models.auto import modeling_auto

from converter.resources import load_json
from converter.verification.absences import Ties
from converter.verification.configs import differences

TABLE = load_json("config-defaults.json")


def default(family: str) -> dict[str, Any]:
    """A config.json that says everything."""
    said: dict[str, Any] = json.loads(CONFIG_MAPPING[family]().to_json_string(use_diff=False))
    return said


@pytest.mark.parametrize("family", TABLE["families"])
def test_the_defaults_are_those_of_transformers(family: str) -> None:
    said = default(family)
    rope = said.get("rope_parameters")
    said |= rope if type(rope) is dict and not any(type(part) is dict for part in rope.values()) else {}

    values = {key: said[key] for key in TABLE["families"][family]["values"]}

    assert values == TABLE["families"][family]["values"]


@pytest.mark.parametrize("family", TABLE["families"])
def test_a_config_with_all_defaults_and_one_with_none_mean_the_same(family: str) -> None:
    said = default(family)

    counted = [change for change in differences({"model_type": family}, said, {"F32"}) if change.counts]

    assert counted == []


@pytest.mark.parametrize("family", [name for name, rows in TABLE["families"].items() if "derived" in rows])
def test_what_follows_from_other_keys_does_so_there(family: str) -> None:
    rows = TABLE["families"][family]
    names = {key for keys in rows["derived"].values() for key in keys if key != "4"}
    sizes = {key: 2 * rows["values"][key] for key in names}
    sizes["num_attention_heads"] = rows["values"].get("num_attention_heads", 8)
    config = CONFIG_MAPPING[family](**{key: value for key, value in sizes.items() if key in rows["values"]})
    said = json.loads(config.to_json_string(use_diff=False))
    without = {key: value for key, value in said.items() if key not in rows["derived"]}

    assert [change for change in differences(said, without, {"F32"}) if change.counts] == []


def ties(family: str) -> set[tuple[str, str]]:
    """The names that the classes of a family tie, each with the name that is stored."""
    tables = [table for name, table in vars(modeling_auto).items() if name.endswith("_MAPPING_NAMES")]
    named = [table[family] for table in tables if family in table]
    classes = {name for names in named for name in ([names] if isinstance(names, str) else names) if name is not None}
    tied = [vars(getattr(transformers, name)).get("_tied_weights_keys") for name in sorted(classes)]
    return {pair for names in tied if isinstance(names, dict) for pair in names.items()}


@pytest.mark.parametrize("family", TABLE["families"])
def test_every_name_that_transformers_ties_is_known(family: str) -> None:
    config = {"model_type": family, "tie_word_embeddings": True}

    unknown = [pair for pair in ties(family) if pair[1] not in Ties(pair, config).leaders(pair[0])]

    assert unknown == []


def test_most_families_tie_something() -> None:
    assert sum(bool(ties(family)) for family in TABLE["families"]) > 40


_MODELS = (
    modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_PRETRAINING_MAPPING_NAMES,
)


@pytest.mark.parametrize("family", TABLE["families"])
def test_the_heads_that_a_family_ties_are_those_of_transformers(family: str) -> None:
    classes = (names[family] for names in _MODELS if family in names)
    tied: dict[str, str] = {}
    for name in classes:
        tied |= (
            getattr(getattr(transformers, name if isinstance(name, str) else name[0]), "_tied_weights_keys", None) or {}
        )
    heads = {head: name for head, name in tied.items() if head.endswith(".weight") and name.endswith(".weight")}

    ours = {row["head"]: row["embedding"] for row in load_json("tied-heads.json")["rows"] if family in row["families"]}

    assert ours == {head: name for head, name in heads.items() if not head.endswith("embed_tokens.weight")}
