"""Compares two config.json by what they mean: a key that is left out has the default of its family.

Keys that change neither what is computed nor how text is split are not compared. Defaults and other names of keys are
those of transformers, in schemas/config-defaults.json.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Any, Final, NamedTuple

from converter.errors import ModelError
from converter.models.families import families
from converter.resources import load_json

# Keys of config.json that have no effect on what is computed from a text.
_KEYS: Final = (
    # who wrote the file, and for which class
    "transformers_version name_or_path _name_or_path architectures auto_map _commit_hash tokenizer_class license language tags "
    "torchscript use_bfloat16 torch_dtype dtype attn_implementation _attn_implementation _attn_implementation_internal "
    "_attn_implementation_autoset attn_impl "
    # how programs call the model, and what a call returns
    "use_cache return_dict use_return_dict return_loss chunk_size_feed_forward gradient_checkpointing pretraining_tp "
    "output_attentions output_hidden_states output_scores output_past output_router_logits output_a3_attentions "
    "output_auxiliary_logits output_retrieved output_segmentation "
    # what the elements were before training
    "initializer_range initializer_factor initializer_std initializer_cutoff_factor initializer_bias_prior_prob init_std "
    "init_xavier_std init_method init_device init_config init_codebook init_layernorm_from_vision_encoder "
    "init_cell_selection_weights_to_zero "
    # training
    "apply_spec_augment mask_time_prob mask_time_length mask_time_min_masks mask_feature_prob mask_feature_length "
    "mask_feature_min_masks ctc_loss_reduction ctc_zero_infinity reorder_and_upcast_attn tie_encoder_decoder "
    # heads on top of the model
    "id2label label2id num_labels problem_type finetuning_task task_specific_params "
    # generation, which generation_config.json is for
    "prefix max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k "
    "top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids "
    "num_return_sequences exponential_decay_length_penalty suppress_tokens begin_suppress_tokens remove_invalid_values "
    "forced_bos_token_id forced_eos_token_id forced_decoder_ids "
    # what follows from another key
    "dense_act_fn is_gated_act sep_token_id cross_attention_hidden_size"
)
_NOT_COMPARED: Final = frozenset(_KEYS.split())
# Words in keys that matter only for training, and the keys that matter otherwise although they have such a word.
_TRAINING: Final = frozenset({"dropout", "pdrop", "layerdrop", "loss"})
_COMPARED: Final = frozenset({
    "token_dropout",  # scales the embeddings
    "speech_decoder_prenet_dropout",  # is applied outside of training, too
    "loss", "loss_weighting_hidden_size", "loss_weighting_num_layers",  # decide which layers there are
})  # fmt: skip
# Keys that other families use for something else.
_OF_FAMILY: Final[Mapping[str, frozenset[str]]] = {
    "audio-spectrogram-transformer": frozenset({"max_length"}),
    "pvt": frozenset({"num_labels"}),
    "tapas": frozenset({"temperature"}),
}
# The keys of a head that summarizes a text, and the classes that have one. GPT-2's config.json has the keys without it.
_SUMMARY: Final = frozenset({"summary_activation", "summary_proj_to_labels", "summary_type", "summary_use_proj"})
_SUMMARIZING: Final = frozenset({
    "ClvpEncoder", "ClvpModelForConditionalGeneration", "ElectraForMultipleChoice", "FlaubertForMultipleChoice",
    "FlaubertForSequenceClassification", "GPT2DoubleHeadsModel", "OpenAIGPTDoubleHeadsModel", "XLMForMultipleChoice",
    "XLMForSequenceClassification", "XLNetForMultipleChoice", "XLNetForSequenceClassification",
})  # fmt: skip


def _is_compared(key: str, kind: Any, *, summarizing: bool) -> bool:
    """Whether a key of a family `kind` can change what is computed. `summarizing`: the model has a head with summary keys."""
    if key in _COMPARED or (type(kind) is str and key in _OF_FAMILY.get(kind, ())):
        return True
    if key in _SUMMARY:
        return summarizing
    return key not in _NOT_COMPARED and _TRAINING.isdisjoint(key.split("_"))


_STORED: Final = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_BESIDE_SCALING: Final = ("rope_theta", "partial_rotary_factor")  # keys that older files have beside rope_scaling
_NESTED: Final = 4  # configurations inside each other: a model made of several models has two


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
    named = [config.get("architectures") for config in (expected, found)]
    classes = {name for names in named if type(names) is list for name in names if type(name) is str}
    yield from _changes(expected, found, "", _NESTED, summarizing=not _SUMMARIZING.isdisjoint(classes))


def meaning(config: Mapping[str, Any], key: str) -> Any:
    """What a key of config.json means: its value or its default; None if that is not known."""
    value = _Meaning(config, config.get("model_type")).value(key)
    return None if value is _UNKNOWN else value


def _changes(
    expected: Mapping[str, Any], found: Mapping[str, Any], prefix: str, depth: int, *, summarizing: bool
) -> Iterator[Change]:
    kind = expected.get("model_type", found.get("model_type"))
    if found.get("model_type", kind) != kind:
        sentence = f"`{prefix}model_type` is {found.get('model_type')!r:.80}: expected {kind!r:.80}"
        yield Change(f"{prefix}model_type", sentence, counts=True)
        return
    one, other = _Meaning(expected, kind), _Meaning(found, kind)
    for key in dict.fromkeys((*one.said, *other.said)):
        if key == "model_type" or not _is_compared(key, kind, summarizing=summarizing):
            continue
        wanted, got = one.value(key), other.value(key)
        if isinstance(wanted, Mapping) and isinstance(got, Mapping) and depth:
            yield from _changes(wanted, got, f"{prefix}{key}.", depth - 1, summarizing=summarizing)
        elif wanted is _UNKNOWN or got is _UNKNOWN:
            if (wanted if got is _UNKNOWN else got) is not None:
                lacks = "the source" if wanted is _UNKNOWN else "the copy"
                sentence = (
                    f"`{prefix}{key}` is absent in {lacks}: this program does not know what that means for {kind!r:.40}"
                )
                yield Change(f"{prefix}{key}", sentence, counts=False)
        elif not alike(wanted, got):
            said = f"{got!r:.80}" if key in other.said else f"absent, which means {got!r:.80}"
            meant = f"{wanted!r:.80}" if key in one.said else f"{wanted!r:.80}, the default"
            yield Change(f"{prefix}{key}", f"`{prefix}{key}` is {said}: expected {meant}", counts=True)


_UNKNOWN: Final = object()
# What an absent key means in a config.json of any family: the tensors are not quantised.
_ANYWHERE: Final[Mapping[str, Any]] = {"quantization_config": None}


class _Meaning:
    """What a config.json says, under the names that its family uses, and what it means where it says nothing."""

    def __init__(self, config: Mapping[str, Any], kind: Any) -> None:
        table = load_json("config-defaults.json")
        family = table["families"].get(kind, {}) if type(kind) is str else {}
        self._common, self._values = table["common"], family.get("values", {})
        self._derived = family.get("derived", {})
        self._known = bool(family)
        self._own = {} if family else _own_defaults(config, kind)
        aliases = family.get("aliases", {})
        self.said: dict[str, Any] = {}
        for key, value in config.items():
            if key in family.get("unread", ()):
                continue  # it counts only under another name, or in the rope's object
            name = aliases.get(key, key)
            if name == key or name not in config or name in family.get("unread", ()):
                self.said[name] = value
        self._take_rope_apart()
        for key, newer in family.get("instead", {}).items():
            if self.said.get(key) is False:
                del self.said[key]
                if newer is not None:
                    self.said.setdefault(newer, False)

    def value(self, key: str) -> Any:
        """The value of a key, or its default; _UNKNOWN if that is not known. If a key follows from others, null is no value."""
        if key in self._derived and self.said.get(key) is None:
            return self._quotient(self._derived[key])
        if key in self._own and self.said.get(key) is None:
            return self._own[key]
        if key in self.said:
            return self.said[key]
        if key in self._values:
            return self._values[key]
        return _ANYWHERE[key] if key in _ANYWHERE else self._common.get(key, _UNKNOWN) if self._known else _UNKNOWN

    def _quotient(self, keys: list[str]) -> Any:
        """The default of a key that follows from others: one of them, four times it, or a quotient of two."""
        numbers = [4 if key == "4" else self.value(key) for key in keys]
        if any(type(number) is not int for number in numbers):
            return _UNKNOWN
        if keys[0] == "4":
            return numbers[0] * numbers[1]
        return numbers[0] if len(numbers) == 1 else numbers[0] // numbers[1] if numbers[1] else _UNKNOWN

    def _take_rope_apart(self) -> None:
        """Undo what transformers 5 does: it writes rope_theta and rope_scaling as one object, rope_parameters.

        Where a file has both objects, transformers 5 takes rope_scaling and nothing of the other. What the object says
        comes before the same key outside of it.
        """
        together, scaling = self.said.get("rope_parameters"), self.said.get("rope_scaling")
        if isinstance(together, Mapping) and not any(isinstance(part, Mapping) for part in together.values()):
            del self.said["rope_parameters"]
            scaling = scaling or together
        if isinstance(scaling, Mapping):
            self.said |= {key: scaling[key] for key in _BESIDE_SCALING if key in scaling}
            named = {key: value for key, value in scaling.items() if key not in (*_BESIDE_SCALING, "type")}
            if "type" in scaling:
                named.setdefault("rope_type", scaling["type"])
            self.said["rope_scaling"] = None if named == {"rope_type": "default"} or not named else named


def _own_defaults(config: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    """What absent keys mean in a family that transformers does not have: by its own sizes and settings."""
    family = next((known for known in families() if known.is_called(kind)), None)
    if family is None:
        return {}
    settings = [setting for setting in family.settings if setting.compared]
    found = {key: setting.default for setting in settings for key in setting.config or (setting.name,)}
    try:
        sizes = family.sizes(config)
    except ModelError:
        return found
    return found | {size.config[0]: sizes[size.name] for size in family.size_table if size.config and size.value}


def _dtype(config: Mapping[str, Any]) -> str | None:
    said = config.get("dtype", config.get("torch_dtype"))
    return said.removeprefix("torch.") if type(said) is str else None


def alike(one: Any, other: Any) -> bool:
    """Whether two values of JSON are equal. A truth value is no number, and NaN is equal to NaN."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if type(one) is list and type(other) is list:
        return len(one) == len(other) and all(map(alike, one, other))
    if one != one and other != other:  # noqa: PLR0124
        return True
    return bool(one == other) and (type(one) is bool) == (type(other) is bool)
