"""GPT-2: what the code must know about it in addition to its rows.

Sources: llama.cpp, src/models/gpt2.cpp; transformers, models/gpt2; demo-gpt-java, models/CEREBRAS/*/model.properties.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from converter.errors import ModelError, UnsupportedError
from converter.models.family import Family, TiedHead

# What llama.cpp computes, whatever a config.json says.
_LLAMA: Final = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False}


class Gpt2(Family):
    """GPT-2 and models of its form, such as Cerebras-GPT."""

    __slots__ = ()

    def gguf_notes(self, settings: Mapping[str, Any]) -> list[str]:
        """Sentences about what llama.cpp computes differently. Raises UnsupportedError if that would be wrong."""
        activation = self.activation_of(settings)
        if activation is None:
            said = self.setting("activation_function", settings)
            raise UnsupportedError(f"`config.json` has the activation {said!r:.80}: llama.cpp's GPT-2 has only GELU")
        for key, meant in _LLAMA.items():
            if (said := self.setting(key, settings)) is not meant:
                raise UnsupportedError(f"`config.json` says `{key}` is {said!r:.80}: llama.cpp's GPT-2 has {meant}")
        if activation == "tanh":
            return []
        exact = "the model was trained with the exact GELU"
        return [f"{exact}; llama.cpp computes the tanh form, so logits differ by about 0.001"]

    def client_properties(
        self, sizes: Mapping[str, int], settings: Mapping[str, Any], head: TiedHead
    ) -> list[tuple[str, object]]:
        """The lines of model.properties that tell the Java client what to compute. ModelError if the client can't."""
        if head == "untied":
            raise ModelError(
                "`lm_head.weight` is not tied to the embedding; the client always uses `wte` as its output head"
            )
        if (unknown := self.unknown(sizes)) is not None:
            raise ModelError(f"the {unknown} is not known: put the model's config.json beside the weights")
        epsilon = self.setting("layer_norm_epsilon", settings)
        if type(epsilon) not in (int, float) or not 0 <= epsilon < 1:
            raise ModelError(f"`config.json` says `layer_norm_epsilon` is {epsilon!r:.80}: expected about 1e-05")
        end = settings.get("eos_token_id")
        told: dict[str, object] = {
            "layer_norm_epsilon": repr(float(epsilon)),
            "eos_token_id": end if type(end) is int else sizes["vocab_size"] - 1,
        }
        return list(self._client_lines(sizes, told))

    def _client_lines(self, sizes: Mapping[str, int], told: Mapping[str, object]) -> Iterator[tuple[str, object]]:
        for line in self.client:
            yield line.key, told.get(line.value or "", sizes.get(line.value or "", line.text))
            if line.value == "n_head":
                dividend = math.sqrt(sizes["n_embd"] // sizes["n_head"])
                yield "attention.dividend", repr(dividend).removesuffix(".0")
                yield from ((f"attention.type.{decoder}", "global") for decoder in range(1, sizes["n_layer"] + 1))

    def engine(self) -> str:
        """The name of the engine that computes it."""
        return "numpy-gpt2"
