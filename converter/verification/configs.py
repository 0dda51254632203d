"""Compares two config.json by what they mean: a key that is left out has the default of its family.

Keys that change neither what is computed nor how text is split are not compared. Defaults and other names of keys are
those of transformers, in schemas/config-defaults.json.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Any, Final, NamedTuple

from converter.resources import load_json

# Keys of config.json that change nothing that is computed from a text.
_KEYS: Final = (
    # who wrote the file, and for which class
    "transformers_version name_or_path _name_or_path architectures auto_map _commit_hash model_type tokenizer_class license "
    "language tags torchscript use_bfloat16 tf_legacy_loss torch_dtype dtype attn_implementation _attn_implementation "
    "_attn_implementation_internal _attn_implementation_autoset attn_impl attn_pdrop "
    # how it is called, and what a call returns
    "use_cache return_dict use_return_dict chunk_size_feed_forward gradient_checkpointing pretraining_tp "
    # training
    "apply_spec_augment reorder_and_upcast_attn tie_encoder_decoder layerdrop "
    # heads on top of the model
    "id2label label2id num_labels problem_type finetuning_task task_specific_params "
    # generation, for which generation_config.json is there
    "prefix max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k "
    "top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids "
    "num_return_sequences exponential_decay_length_penalty suppress_tokens begin_suppress_tokens remove_invalid_values "
    # what another key decides
    "dense_act_fn is_gated_act sep_token_id cross_attention_hidden_size"
)
_NOT_COMPARED: Final = frozenset(_KEYS.split())
_BEGINNINGS: Final = ("output_", "initializer_", "init_", "mask_time_", "mask_feature_", "ctc_", "summary_", "forced_")
_ENDINGS: Final = ("pdrop", "_layerdrop")
_WITHIN: Final = ("dropout", "loss")


def _is_not_compared(key: str) -> bool:
    return (
        key in _NOT_COMPARED
        or key.startswith(_BEGINNINGS)
        or key.endswith(_ENDINGS)
        or any(word in key for word in _WITHIN)
    )


_STORED: Final = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_NESTED: Final = 4  # configurations inside each other: a model of several has two


class Change(NamedTuple):
    """A key that differs. It `counts` if it changes what is computed; else it can't be compared."""

    key: str
    sentence: str
    counts: bool


def differences(expected: Mapping[str, Any], found: Mapping[str, Any], stored: Set[str]) -> Iterator[Change]:
    """Yield the keys whose meanings differ. `stored` are the dtypes of the copy's tensors."""
    wanted, got = _dtype(expected), _dtype(found)
    if got is not None and got != wanted and _STORED.get(got, got) not in stored:
        # transformers 5 loads a model in this dtype, whatever the dtype of its tensors is.
        yield Change("dtype", f"`dtype` is {got!r:.80}: expected {wanted!r:.80}, as the tensors are", counts=True)
    yield from _changes(expected, found, "", _NESTED)


def _changes(expected: Mapping[str, Any], found: Mapping[str, Any], prefix: str, depth: int) -> Iterator[Change]:
    kind = expected.get("model_type", found.get("model_type"))
    if prefix == "" and found.get("model_type", kind) != kind:
        sentence = f"`model_type` is {found.get('model_type')!r:.80}: expected {kind!r:.80}"
        yield Change("model_type", sentence, counts=True)
        return
    one, other = _Meaning(expected, kind), _Meaning(found, kind)
    for key in dict.fromkeys((*one.said, *other.said)):
        if _is_not_compared(key):
            continue
        wanted, got = one.value(key), other.value(key)
        if isinstance(wanted, Mapping) and isinstance(got, Mapping) and depth:
            yield from _changes(wanted, got, f"{prefix}{key}.", depth - 1)
        elif wanted is _UNKNOWN or got is _UNKNOWN:
            if (wanted if got is _UNKNOWN else got) is not None:
                lacks = "the source" if wanted is _UNKNOWN else "the copy"
                sentence = f"`{prefix}{key}` is absent in {lacks}: what that means for {kind!r:.40} is not known here"
                yield Change(f"{prefix}{key}", sentence, counts=False)
        elif not _alike(wanted, got):
            said = f"{got!r:.80}" if key in other.said else f"absent, which means {got!r:.80}"
            meant = f"{wanted!r:.80}" if key in one.said else f"{wanted!r:.80}, the default"
            yield Change(f"{prefix}{key}", f"`{prefix}{key}` is {said}: expected {meant}", counts=True)


_UNKNOWN: Final = object()


class _Meaning:
    """What a config.json says, under the names that its family uses, and what it means where it says nothing."""

    def __init__(self, config: Mapping[str, Any], kind: Any) -> None:
        table = load_json("config-defaults.json")
        family = table["families"].get(kind, {}) if type(kind) is str else {}
        self._common, self._values = table["common"], family.get("values", {})
        self._derived = family.get("derived", {})
        self._known = bool(family)
        aliases = family.get("aliases", {})
        self.said: dict[str, Any] = {}
        for key, value in config.items():
            name = aliases.get(key, key)
            if name == key or name not in config:
                self.said[name] = value
        self._take_rope_apart()

    def value(self, key: str) -> Any:
        """The value of a key, or its default; _UNKNOWN if that is not known."""
        if key in self.said:
            return self.said[key]
        if key in self._derived:
            return self._quotient(self._derived[key])
        if key in self._values:
            return self._values[key]
        return self._common.get(key, _UNKNOWN) if self._known else _UNKNOWN

    def _quotient(self, keys: list[str]) -> Any:
        """The default of a key that follows from others: one of them, four times it, or a quotient of two."""
        numbers = [4 if key == "4" else self.value(key) for key in keys]
        if any(type(number) is not int for number in numbers):
            return _UNKNOWN
        if keys[0] == "4":
            return numbers[0] * numbers[1]
        return numbers[0] if len(numbers) == 1 else numbers[0] // numbers[1] if numbers[1] else _UNKNOWN

    def _take_rope_apart(self) -> None:
        """Undo what transformers 5 does: it writes rope_theta and rope_scaling as one object."""
        together = self.said.get("rope_parameters")
        if isinstance(together, Mapping) and not any(isinstance(part, Mapping) for part in together.values()):
            del self.said["rope_parameters"]
            rest = {key: value for key, value in together.items() if key not in ("rope_theta", "partial_rotary_factor")}
            for key in together.keys() - rest.keys():
                self.said.setdefault(key, together[key])
            self.said["rope_scaling"] = rest
        scaling = self.said.get("rope_scaling")
        if isinstance(scaling, Mapping):
            named = {("rope_type" if key == "type" else key): value for key, value in scaling.items()}
            self.said["rope_scaling"] = None if named == {"rope_type": "default"} or not named else named


def _dtype(config: Mapping[str, Any]) -> str | None:
    said = config.get("dtype", config.get("torch_dtype"))
    return said.removeprefix("torch.") if type(said) is str else None


def _alike(one: Any, other: Any) -> bool:
    """Whether two values are equal. A truth value is no number."""
    return bool(one == other) and (type(one) is bool) == (type(other) is bool)
