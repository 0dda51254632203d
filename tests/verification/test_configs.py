"""config.json is compared by what it means: absent keys, other names for keys, and keys that change nothing."""

from __future__ import annotations

from typing import Any

import pytest

from converter.verification.configs import differences

LLAMA = {
    "model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 99,
    "intermediate_size": 128, "rope_theta": 500000.0, "rms_norm_eps": 1e-5, "torch_dtype": "float32",
}  # fmt: skip
NEWER = {key: value for key, value in LLAMA.items() if key != "rope_theta"} | {
    "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"},
}  # fmt: skip
GPT2 = {"model_type": "gpt2", "n_embd": 64, "n_head": 4, "n_layer": 2, "vocab_size": 99, "torch_dtype": "float32"}
T5 = {"model_type": "t5", "d_model": 64, "vocab_size": 99, "feed_forward_proj": "gated-gelu"}


def keys(expected: dict[str, Any], found: dict[str, Any], stored: str = "F32") -> list[tuple[str, bool]]:
    return [(change.key, change.counts) for change in differences(expected, found, {stored})]


# Both mean the same.
ALIKE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "the version": (GPT2, GPT2 | {"transformers_version": "5.24.0"}),
    "who saved it": (GPT2, GPT2 | {"_name_or_path": "gpt2", "architectures": ["GPT2LMHeadModel"]}),
    "the cache": (GPT2, GPT2 | {"use_cache": False}),
    "heads for summaries": (GPT2, GPT2 | {"summary_type": "mean", "summary_use_proj": False}),
    "dropout": (GPT2, GPT2 | {"attn_pdrop": 0.5, "resid_pdrop": 0.0}),
    "labels": (GPT2, GPT2 | {"id2label": {"0": "a"}, "label2id": {"a": 0}}),
    "defaults that are written": (GPT2, GPT2 | {"layer_norm_epsilon": 1e-5, "tie_word_embeddings": True, "n_inner": None}),
    "defaults that are left out": (GPT2 | {"activation_function": "gelu_new", "is_decoder": False}, GPT2),
    "the dtype's newer name": (GPT2, {**GPT2, "dtype": "float32", "torch_dtype": "float32"}),
    "the dtype's newer name alone": (GPT2, {key: value for key, value in GPT2.items() if key != "torch_dtype"} | {"dtype": "float32"}),
    "a dtype where there was none": (T5, T5 | {"dtype": "float32"}),
    "another name for a key": (GPT2, {"hidden_size" if key == "n_embd" else key: value for key, value in GPT2.items()}),
    "a base in its newer place": (
        LLAMA, {key: value for key, value in LLAMA.items() if key != "rope_theta"} | {"rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}},
    ),
    "scaling in its newer place": (
        LLAMA | {"rope_scaling": {"type": "linear", "factor": 2.0}},
        LLAMA | {"rope_parameters": {"rope_theta": 500000.0, "rope_type": "linear", "factor": 2.0}},
    ),
    "scaling before what stands in the newer place": (
        LLAMA | {"rope_scaling": {"type": "linear", "factor": 2.0}},
        LLAMA | {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_theta": 7.0, "rope_type": "default"}},
    ),
    "empty scaling beside the newer place": (LLAMA, LLAMA | {"rope_scaling": {}, "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}}),
    "a base inside scaling": (LLAMA, LLAMA | {"rope_theta": 1.0, "rope_scaling": {"rope_theta": 500000.0, "rope_type": "default"}}),
    "a base in the newer place before the older": (LLAMA, LLAMA | {"rope_theta": 1.0, "rope_parameters": {"rope_theta": 500000.0}}),
    "a size that follows": (LLAMA, LLAMA | {"head_dim": 16, "num_key_value_heads": 4}),
    "a whole number with a point": (LLAMA | {"rope_theta": 500000}, LLAMA),
    "what another key decides": (T5, T5 | {"dense_act_fn": "gelu_new", "is_gated_act": True}),
    "null for no quantisation": ({"model_type": "x"}, {"model_type": "x", "quantization_config": None}),
    "null for nothing": (GPT2, GPT2 | {"something_new": None}),
    "null for a width that follows": (GPT2 | {"n_inner": None}, GPT2 | {"n_inner": 256}),
    "null for heads that follow": (LLAMA | {"num_key_value_heads": None, "head_dim": None}, LLAMA | {"num_key_value_heads": 4, "head_dim": 16}),
    "T5 1.1 as transformers 5 saves it": (T5 | {"tie_word_embeddings": False}, T5 | {"tie_word_embeddings": True, "scale_decoder_outputs": False}),
    "T5 1.1 in one place": (T5 | {"tie_word_embeddings": False}, T5 | {"scale_decoder_outputs": False}),
    "mT5, which never ties": (T5 | {"model_type": "mt5", "tie_word_embeddings": False}, T5 | {"model_type": "mt5", "tie_word_embeddings": True}),
    "NaN": (GPT2 | {"own": float("nan"), "more": [1, {"a": float("nan")}]}, GPT2 | {"own": float("nan"), "more": [1, {"a": float("nan")}]}),
    "a summary without its head": (
        GPT2 | {"architectures": ["GPT2LMHeadModel"], "summary_type": "first"}, GPT2 | {"architectures": ["GPT2LMHeadModel"], "summary_type": "mean"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ALIKE)
def test_what_means_the_same_is_the_same(kind: str) -> None:
    one, other = ALIKE[kind]

    assert keys(one, other) == []
    assert keys(other, one) == []


# The keys that differ, and whether they count.
UNLIKE: dict[str, tuple[dict[str, Any], dict[str, Any], list[tuple[str, bool]]]] = {
    "a base": (LLAMA, LLAMA | {"rope_theta": 10000.0}, [("rope_theta", True)]),
    "a base left out": (LLAMA, {key: value for key, value in LLAMA.items() if key != "rope_theta"}, [("rope_theta", True)]),
    "a base in its newer place": (LLAMA, LLAMA | {"rope_parameters": {"rope_theta": 1.0}, "rope_theta": 1.0}, [("rope_theta", True)]),
    "scaling beside the newer place": (
        NEWER, NEWER | {"rope_scaling": {"type": "linear", "factor": 2.0}}, [("rope_theta", True), ("rope_scaling", True)],
    ),
    "scaling beside the newer place in the source": (
        NEWER | {"rope_scaling": {"type": "linear", "factor": 2.0}}, NEWER, [("rope_scaling", True), ("rope_theta", True)],
    ),
    "two kinds of scaling": (
        LLAMA | {"rope_parameters": {"rope_theta": 500000.0, "rope_type": "linear", "factor": 2.0}},
        LLAMA | {"rope_parameters": {"rope_theta": 500000.0, "rope_type": "linear", "factor": 2.0}, "rope_scaling": {"type": "linear", "factor": 4.0}},
        [("rope_scaling.factor", True)],
    ),
    "a base inside scaling": (LLAMA, LLAMA | {"rope_scaling": {"rope_theta": 1.0, "rope_type": "default"}}, [("rope_theta", True)]),
    "scaling": (LLAMA, LLAMA | {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, [("rope_scaling", True)]),
    "a factor of the scaling": (
        LLAMA | {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, LLAMA | {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
        [("rope_scaling.factor", True)],
    ),
    "groups of heads": (LLAMA, LLAMA | {"num_key_value_heads": 2}, [("num_key_value_heads", True)]),
    "an activation": (GPT2, GPT2 | {"activation_function": "gelu"}, [("activation_function", True)]),
    "an epsilon": (GPT2, GPT2 | {"layer_norm_epsilon": 1e-6}, [("layer_norm_epsilon", True)]),
    "the heads left out": (GPT2, {key: value for key, value in GPT2.items() if key != "n_head"}, [("n_head", True)]),
    "a tie": (GPT2, GPT2 | {"tie_word_embeddings": False}, [("tie_word_embeddings", True)]),
    "a token for padding": (GPT2, GPT2 | {"pad_token_id": 3}, [("pad_token_id", True)]),
    "another model": (GPT2, GPT2 | {"model_type": "gpt_neo"}, [("model_type", True)]),
    "a gate": (T5, T5 | {"feed_forward_proj": "relu"}, [("feed_forward_proj", True)]),
    "outputs that are scaled": (T5 | {"tie_word_embeddings": False}, T5, [("scale_decoder_outputs", True)]),
    "a truth value for a number": (GPT2 | {"n_layer": 1}, GPT2 | {"n_layer": True}, [("n_layer", True)]),
    "NaN for a number": (GPT2 | {"layer_norm_epsilon": 1e-5}, GPT2 | {"layer_norm_epsilon": float("nan")}, [("layer_norm_epsilon", True)]),
    "a truth value in a list": (GPT2 | {"own": [1, 0]}, GPT2 | {"own": [True, 0]}, [("own", True)]),
    "a list with more": (GPT2 | {"own": [1]}, GPT2 | {"own": [1, 1]}, [("own", True)]),
    "a width that does not follow": (GPT2 | {"n_inner": None}, GPT2 | {"n_inner": 255}, [("n_inner", True)]),
    "the start of an answer": (T5, T5 | {"decoder_start_token_id": 5}, [("decoder_start_token_id", True)]),
    "another model inside": (
        {"model_type": "x", "text_config": LLAMA}, {"model_type": "x", "text_config": LLAMA | {"model_type": "mistral"}},
        [("text_config.model_type", True)],
    ),
    "a summary with its head": (
        GPT2 | {"architectures": ["GPT2DoubleHeadsModel"], "summary_type": "first"}, GPT2 | {"summary_type": "mean"}, [("summary_type", True)],
    ),
    "a key nobody knows": (GPT2 | {"alibi": True}, GPT2 | {"alibi": False}, [("alibi", True)]),
    "a key nobody knows left out": (GPT2 | {"alibi": True}, GPT2, [("alibi", False)]),
    "a family nobody knows": ({"model_type": "x", "a": 1}, {"model_type": "x"}, [("a", False)]),
    "a quantised copy": (LLAMA, LLAMA | {"quantization_config": {"quant_method": "fp8"}}, [("quantization_config", True)]),
    "a quantised source": (GPT2 | {"quantization_config": {"quant_method": "gptq"}}, GPT2, [("quantization_config", True)]),
    "a quantised family nobody knows": (
        {"model_type": "x"}, {"model_type": "x", "quantization_config": {"bits": 4}}, [("quantization_config", True)],
    ),
    "a quantised part": (
        {"model_type": "x", "text_config": {"model_type": "y"}},
        {"model_type": "x", "text_config": {"model_type": "y", "quantization_config": {"bits": 4}}},
        [("text_config.quantization_config", True)],
    ),
    "a part of a model": (
        {"model_type": "x", "text_config": LLAMA}, {"model_type": "x", "text_config": LLAMA | {"rms_norm_eps": 1e-6, "use_cache": False}},
        [("text_config.rms_norm_eps", True)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNLIKE)
def test_what_means_something_else_is_named(kind: str) -> None:
    one, other, expected = UNLIKE[kind]

    assert keys(one, other) == expected


# Keys of other families that sound like ones that never count, and change what is computed; and what never counts.
COUNTS = (
    "attn_logit_softcapping", "attn_config", "attn_type", "attn_layers", "final_logit_softcapping", "output_hidden_size", "output_dim", "output_stride",
    "output_multiplier", "output_channels", "output_embedding_size", "output_gate_type", "output_logit_soft_cap", "output_vocab_size", "init_values",
    "init_trk_keep_alive", "initial_context_length", "mask_feature_size", "mask_feature_channels", "summary_idxs", "ctc_blank_id", "token_dropout",
    "speech_decoder_prenet_dropout", "loss", "loss_weighting_hidden_size", "lossless", "forced_alignment", "moe_top_k", "rope_theta", "layer_norm_epsilon",
    "pad_token_id", "tie_word_embeddings", "logit_scale", "scale_attn_weights", "use_parallel_residual", "sliding_window", "layer_types", "mlp_bias",
)  # fmt: skip
NEVER = (
    "transformers_version", "architectures", "_name_or_path", "use_cache", "gradient_checkpointing", "attn_implementation", "attn_impl", "attn_pdrop",
    "attn_dropout", "attention_dropout", "hidden_dropout_prob", "classifier_dropout_rate", "encoder_layerdrop", "embd_pdrop", "output_attentions",
    "output_hidden_states", "output_router_logits", "initializer_range", "init_std", "mask_time_prob", "ctc_loss_reduction", "router_aux_loss_coef",
    "auxiliary_loss_weight", "router_z_loss_coef", "summary_type", "summary_first_dropout", "forced_eos_token_id", "top_k", "temperature", "id2label",
)  # fmt: skip


@pytest.mark.parametrize("key", COUNTS)
def test_a_key_that_changes_what_is_computed_counts(key: str) -> None:
    assert keys({"model_type": "x", key: 1}, {"model_type": "x", key: 2}) == [(key, True)]
    assert keys({"model_type": "x", key: {"a": 1}}, {"model_type": "x", key: {"a": 2}}) == [(f"{key}.a", True)]


@pytest.mark.parametrize("key", NEVER)
def test_a_key_that_changes_nothing_that_is_computed_never_counts(key: str) -> None:
    assert keys({"model_type": "x", key: 1}, {"model_type": "x", key: 2}) == []
    assert keys({"model_type": "x", key: 1}, {"model_type": "x"}) == []


@pytest.mark.parametrize(
    ("family", "key"),
    [("tapas", "temperature"), ("audio-spectrogram-transformer", "max_length"), ("pvt", "num_labels")],
)
def test_a_family_may_use_a_key_for_something_else(family: str, key: str) -> None:
    assert keys({"model_type": family, key: 1}, {"model_type": family, key: 2}) == [(key, True)]
    assert keys({"model_type": "gpt2", key: 1}, {"model_type": "gpt2", key: 2}) == []


def test_a_dtype_counts_if_the_tensors_have_another_one() -> None:
    half = GPT2 | {"torch_dtype": "float16"}

    assert keys(GPT2, half, "F32") == [("dtype", True)]
    assert keys(GPT2, half, "F16") == []
    assert keys(half, half, "F32") == []
    assert keys(GPT2, GPT2, "F16") == []


def test_sentences_say_what_an_absent_key_means() -> None:
    without = {key: value for key, value in LLAMA.items() if key != "rope_theta"}

    assert [change.sentence for change in differences(LLAMA, without, {"F32"})] == [
        "`rope_theta` is absent, which means 10000.0: expected 500000.0"
    ]
    assert [change.sentence for change in differences(without, LLAMA, {"F32"})] == [
        "`rope_theta` is 500000.0: expected 10000.0, the default"
    ]


@pytest.mark.parametrize("value", [[], {}, "", 1, None, {"rope_theta": {}}, {"type": []}, {"rope_type": "default"}])
@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling", "model_type", "dtype", "num_attention_heads"])
def test_a_value_of_another_type_is_a_difference_at_most(key: str, value: Any) -> None:
    assert len(keys(LLAMA, LLAMA | {key: value})) <= 3
