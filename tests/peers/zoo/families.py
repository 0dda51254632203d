"""Tiny models of transformers with weights at random, one for each family."""

from __future__ import annotations

from typing import Any, Final

import torch
import transformers

_SMALL: Final = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 24,
    "vocab_size": 40, "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "head_dim": 8,
}  # fmt: skip
_IMAGE: Final = {"image_size": 16, "patch_size": 8, "num_labels": 3}
_TEXT: Final = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 40,
}
_EYES: Final = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
_BART: Final = {
    "vocab_size": 40, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 32,
}  # fmt: skip
_T5: Final = {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
_WAVE: Final = {
    "conv_dim": (8, 8), "conv_kernel": (4, 4), "conv_stride": (2, 2), "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2, "mask_time_prob": 0.0,
}  # fmt: skip

# A family: the class of the model, and the arguments of its config.
FAMILIES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "bert": ("BertForMaskedLM", _SMALL),
    "roberta": ("RobertaForSequenceClassification", _SMALL),
    "distilbert": ("DistilBertModel", {"vocab_size": 40, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 24}),
    "albert": ("AlbertForMaskedLM", {**_SMALL, "embedding_size": 8}),
    "electra": ("ElectraForPreTraining", {**_SMALL, "embedding_size": 8}),
    "deberta": ("DebertaV2ForMaskedLM", {**_SMALL, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    "mpnet": ("MPNetForMaskedLM", _SMALL),
    "longformer": ("LongformerModel", {**_SMALL, "attention_window": 4}),
    "xlm-roberta": ("XLMRobertaForTokenClassification", _SMALL),
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 40, "n_positions": 32}),
    "gpt-neo": (
        "GPTNeoForCausalLM",
        {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "vocab_size": 40, "max_position_embeddings": 32, "attention_types": [[["global", "local"], 1]]},
    ),
    "gpt-neox": ("GPTNeoXForCausalLM", _SMALL),
    "gptj": ("GPTJForCausalLM", {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 40, "n_positions": 32, "rotary_dim": 4}),
    "opt": ("OPTForCausalLM", {"hidden_size": 16, "num_hidden_layers": 1, "ffn_dim": 24, "num_attention_heads": 2, "vocab_size": 40, "word_embed_proj_dim": 16}),
    "bloom": ("BloomForCausalLM", {"hidden_size": 16, "n_layer": 1, "n_head": 2, "vocab_size": 40}),
    "llama": ("LlamaForCausalLM", _SMALL),
    "mistral": ("MistralForCausalLM", _SMALL),
    "mixtral": ("MixtralForCausalLM", {**_SMALL, "num_local_experts": 2}),
    "qwen2": ("Qwen2ForCausalLM", _SMALL),
    "qwen3": ("Qwen3ForCausalLM", _SMALL),
    "gemma2": ("Gemma2ForCausalLM", _SMALL),
    "phi": ("PhiForCausalLM", _SMALL),
    "phi3": ("Phi3ForCausalLM", _SMALL),
    "stablelm": ("StableLmForCausalLM", _SMALL),
    "olmo2": ("Olmo2ForCausalLM", _SMALL),
    "mamba": ("MambaForCausalLM", {"hidden_size": 16, "num_hidden_layers": 1, "state_size": 4, "vocab_size": 40}),
    "t5": ("T5ForConditionalGeneration", _T5),
    "mt5": ("MT5ForConditionalGeneration", _T5),
    "bart": ("BartForConditionalGeneration", _BART),
    "marian": ("MarianMTModel", {**_BART, "pad_token_id": 0, "decoder_start_token_id": 0}),
    "pegasus": ("PegasusForConditionalGeneration", _BART),
    "whisper": ("WhisperForConditionalGeneration", {**_BART, "num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 16, "pad_token_id": 0}),
    "wav2vec2": ("Wav2Vec2ForCTC", {**_SMALL, **_WAVE}),
    "hubert": ("HubertModel", {**_SMALL, **_WAVE}),
    "vit": ("ViTForImageClassification", {**_EYES, **_IMAGE}),
    "deit": ("DeiTForImageClassification", {**_EYES, **_IMAGE}),
    "beit": ("BeitForImageClassification", {**_EYES, **_IMAGE, "use_relative_position_bias": True}),
    "dinov2": ("Dinov2Model", {**_EYES, **_IMAGE}),
    "swin": ("SwinForImageClassification", {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2}),
    "convnext": ("ConvNextForImageClassification", {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}),
    "resnet": ("ResNetForImageClassification", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}),
    "segformer": ("SegformerForSemanticSegmentation", {"num_encoder_blocks": 2, "depths": [1, 1], "hidden_sizes": [8, 16], "num_attention_heads": [1, 2], "sr_ratios": [2, 1], "patch_sizes": [3, 3], "strides": [2, 2], "mlp_ratios": [2, 2], "decoder_hidden_size": 8}),
    "clip": ("CLIPModel", {"text_config": {**_TEXT, "eos_token_id": 2}, "vision_config": {**_EYES, "image_size": 16, "patch_size": 8}, "projection_dim": 8}),
    "siglip": ("SiglipModel", {"text_config": _TEXT, "vision_config": {**_EYES, "image_size": 16, "patch_size": 8}}),
    "speecht5": ("SpeechT5HifiGan", {"model_in_dim": 8, "upsample_initial_channel": 16, "upsample_rates": [2, 2], "upsample_kernel_sizes": [4, 4], "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3]]}),
    "vits": ("VitsModel", {**_SMALL, "flow_size": 16, "ffn_dim": 24, "spectrogram_bins": 9, "upsample_initial_channel": 16, "upsample_rates": [2, 2], "upsample_kernel_sizes": [4, 4], "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3]], "wavenet_dilation_rate": 1, "posterior_encoder_num_wavenet_layers": 1, "prior_encoder_num_flows": 1, "prior_encoder_num_wavenet_layers": 1, "speaker_embedding_size": 0, "duration_predictor_num_flows": 1}),
    "encodec": ("EncodecModel", {"num_filters": 4, "upsampling_ratios": [2, 2], "codebook_size": 8, "codebook_dim": 8, "hidden_size": 8, "num_lstm_layers": 1, "target_bandwidths": [60.0]}),
    "timesformer": ("TimesformerModel", {**_EYES, "image_size": 16, "patch_size": 8, "num_frames": 2}),
    "patchtst": ("PatchTSTModel", {"num_input_channels": 2, "d_model": 8, "num_attention_heads": 2, "ffn_dim": 8, "num_hidden_layers": 1, "context_length": 16, "patch_length": 4, "patch_stride": 4}),
}  # fmt: skip


# What `forward` takes of each kind of model, which tells us its kind in `main_input_name`.
_TOKENS: Final = torch.arange(1, 9)[None]
_PICTURE: Final = torch.zeros(1, 3, 16, 16)
_INPUTS: Final[dict[str, dict[str, torch.Tensor]]] = {
    "input_ids": {"input_ids": _TOKENS},
    "pixel_values": {"pixel_values": torch.zeros(1, 3, 32, 32)},
    "input_values": {"input_values": torch.zeros(1, 1024)},
    "input_features": {"input_features": torch.zeros(1, 8, 32)},
    "past_values": {"past_values": torch.zeros(1, 16, 2)},
    "spectrogram": {"spectrogram": torch.zeros(8, 8)},
}
# The families that take something else, by their config's `model_type`.
_OWN_INPUTS: Final[dict[str, dict[str, torch.Tensor]]] = {
    **{kind: {"pixel_values": _PICTURE} for kind in ("vit", "deit", "beit", "dinov2")},
    **{kind: {"input_ids": _TOKENS, "pixel_values": _PICTURE} for kind in ("clip", "siglip")},
    "encodec": {"input_values": torch.zeros(1, 1, 64)},
    "timesformer": {"pixel_values": torch.zeros(1, 2, 3, 16, 16)},
}


def make(name: str) -> Any:
    """The model of one family, in evaluation mode."""
    torch.manual_seed(7)
    model_class, told = FAMILIES[name]
    cls = getattr(transformers, model_class)
    return cls(cls.config_class(**told, use_cache=False)).eval()


def example(model: transformers.PreTrainedModel) -> dict[str, torch.Tensor]:
    """The arguments with which a model of transformers can be traced."""
    given = _OWN_INPUTS.get(model.config.model_type) or _INPUTS[model.main_input_name]
    return {**given, "decoder_input_ids": _TOKENS} if model.config.is_encoder_decoder else given
