"""The lines of the Java client's model.properties that a family's table gives.

Source: demo-gpt-java, models/CEREBRAS/*/model.properties.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from converter.errors import ModelError

if TYPE_CHECKING:
    from converter.models.families import Family, TiedHead


def client_lines(
    family: Family, sizes: Mapping[str, int], settings: Mapping[str, Any], head: TiedHead
) -> list[tuple[str, object]]:
    """What the client must be told, in order. Raises ModelError if it can't compute the model."""
    if head == "untied":
        raise ModelError(
            "`lm_head.weight` is not tied to the embedding; the client always uses `wte` as its output head"
        )
    if (unknown := family.unknown(sizes)) is not None:
        raise ModelError(f"the {unknown} is not known: put the model's config.json beside the weights")
    epsilon = family.setting("layer_norm_epsilon", settings)
    if type(epsilon) not in (int, float) or not 0 <= epsilon < 1:
        raise ModelError(f"`config.json` says `layer_norm_epsilon` is {epsilon!r:.80}: expected about 1e-05")
    end = settings.get("eos_token_id")
    told: dict[str, object] = {
        "layer_norm_epsilon": repr(float(epsilon)),
        "eos_token_id": end if type(end) is int else sizes["vocab_size"] - 1,
    }
    return list(_filled(family, sizes, told))


def _filled(family: Family, sizes: Mapping[str, int], told: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for line in family.client:
        yield line.key, told.get(line.value or "", sizes.get(line.value or "", line.text))
        if line.value == "n_head":
            dividend = math.sqrt(sizes["n_embd"] // sizes["n_head"])
            yield "attention.dividend", repr(dividend).removesuffix(".0")
            yield from ((f"attention.type.{decoder}", "global") for decoder in range(1, sizes["n_layer"] + 1))
