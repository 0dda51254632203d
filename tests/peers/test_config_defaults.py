"""schemas/config-defaults.json says what the installed transformers takes for a key that config.json leaves out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from converter.resources import load_json
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
