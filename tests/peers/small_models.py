"""Tiny models of the families that people have, with tokenizers of their own, made offline.

A maker writes the files of a tokenizer into a folder, as its family has them, and returns a model for it with weights at
random. `seed` chooses sizes and options, so that neighbours differ.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sentencepiece
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from tests.peers.texts import texts

Maker = Callable[[Path, int], transformers.PreTrainedModel]

TEXT = [
    "the quick brown fox jumps over the lazy dog",
    "hello world, how are you today? fine 123",
    "tokenizers split text into pieces and merge them again",
]
END = "<|endoftext|>"
SPEECH = ("<|startoftranscript|>", "<|en|>", "<|translate|>", "<|transcribe|>", "<|startofprev|>", "<|notimestamps|>")


# ---- tokenizers: each returns the number of its tokens ------------------------------------------------------------


def byte_level(folder: Path, special: tuple[str, ...] = (END,), **settings: Any) -> int:
    """vocab.json and merges.txt, as GPT-2 has them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=list(special), initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXT * 3, trainer)
    tokenizer.model.save(str(folder))
    settings = settings or dict.fromkeys(("bos_token", "eos_token", "unk_token"), END)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 64}))
    return int(tokenizer.get_vocab_size())


def word_pieces(folder: Path) -> int:
    """vocab.txt, as BERT has it."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(TEXT * 3, trainers.WordPieceTrainer(vocab_size=150, special_tokens=special))
    tokenizer.model.save(str(folder))
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, "model_max_length": 64}))
    return int(tokenizer.get_vocab_size())


def unigram(folder: Path, special: list[str], settings: dict[str, Any]) -> int:
    """tokenizer.json in the form of the model's class."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>")
    tokenizer.train_from_iterator(TEXT * 3, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    return int(tokenizer.get_vocab_size())


def sentence_pieces(folder: Path, name: str, settings: dict[str, Any], **options: Any) -> int:
    """A model of SentencePiece under the name that the family has for it."""
    written = io.BytesIO()
    lines = iter([line for text in texts(300, 5, wild=False) for line in text.split("\n") if line.strip()])
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines,
        model_writer=written,
        vocab_size=600,
        minloglevel=2,
        character_coverage=0.98,
        hard_vocab_limit=False,
        **options,
    )
    (folder / name).write_bytes(written.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return int(sentencepiece.SentencePieceProcessor(model_proto=written.getvalue()).get_piece_size())


def characters(folder: Path) -> int:
    """tokenizer.json, as the library writes LLaMA's."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special + [f"<0x{byte:02X}>" for byte in range(256)])
    tokenizer.train_from_iterator(TEXT * 3, trainer)
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = document["added_tokens"][: len(special)]
    start = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    text = [start, {"Sequence": {"id": "A", "type_id": 0}}]
    known = {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
    document["post_processor"] = {"type": "TemplateProcessing", "single": text, "pair": text, "special_tokens": known}
    (folder / "tokenizer.json").write_text(json.dumps(document))
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps(settings | {"add_bos_token": True, "add_eos_token": False})
    )
    return int(tokenizer.get_vocab_size())


# ---- models -------------------------------------------------------------------------------------------------------


def gpt2(folder: Path, seed: int) -> transformers.PreTrainedModel:
    sizes = {"n_layer": 1 + seed % 3, "n_head": 2, "n_embd": 16, "n_positions": 64, "vocab_size": byte_level(folder)}
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            **sizes,
            bos_token_id=0,
            eos_token_id=0,
            activation_function=("gelu_new", "gelu")[seed % 2],
            tie_word_embeddings=seed % 4 != 3,
        )
    )


_SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}


def bert(folder: Path, seed: int) -> transformers.PreTrainedModel:
    sizes = _SIZES | {"num_hidden_layers": 1 + seed % 3, "max_position_embeddings": 64}
    config = transformers.BertConfig(**sizes, vocab_size=word_pieces(folder))
    kinds = (transformers.BertForMaskedLM, transformers.BertModel, transformers.BertForSequenceClassification)
    return kinds[seed % 3](config)


def roberta(folder: Path, seed: int) -> transformers.PreTrainedModel:
    special = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    names = dict(
        zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), special, strict=True),
        cls_token="<s>",
        sep_token="</s>",
        tokenizer_class="RobertaTokenizer",
    )
    sizes = _SIZES | {"num_hidden_layers": 1 + seed % 3, "max_position_embeddings": 66}
    config = transformers.RobertaConfig(**sizes, vocab_size=byte_level(folder, special, **names), type_vocab_size=1)
    return (transformers.RobertaForMaskedLM, transformers.RobertaModel)[seed % 2](config)


def _albert(size: int, seed: int) -> transformers.PreTrainedModel:
    sizes = _SIZES | {"embedding_size": 8, "num_hidden_layers": 2, "max_position_embeddings": 64}
    config = transformers.AlbertConfig(**sizes, vocab_size=size, pad_token_id=0, bos_token_id=2, eos_token_id=3)
    return (transformers.AlbertForMaskedLM, transformers.AlbertModel)[seed % 2](config)


def albert(folder: Path, seed: int) -> transformers.PreTrainedModel:
    special = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    return _albert(unigram(folder, special, {"do_lower_case": True, "tokenizer_class": "AlbertTokenizer"}), seed)


def albert_spiece(folder: Path, seed: int) -> transformers.PreTrainedModel:
    settings = {"tokenizer_class": "AlbertTokenizer", "do_lower_case": bool(seed % 2), "keep_accents": True}
    size = sentence_pieces(
        folder,
        "spiece.model",
        settings,
        pad_id=0,
        unk_id=1,
        bos_id=-1,
        eos_id=-1,
        control_symbols=["[CLS]", "[SEP]"],
        user_defined_symbols=["[MASK]"],
    )
    return _albert(size, seed)


def _t5(size: int, seed: int) -> transformers.PreTrainedModel:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1 + seed % 2, "num_heads": 2, "vocab_size": size}
    gate = ("relu", "gated-gelu")[seed % 2]
    config = transformers.T5Config(**sizes, decoder_start_token_id=0, feed_forward_proj=gate)
    return transformers.T5ForConditionalGeneration(config)


_T5_TOKENS = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "tokenizer_class": "T5Tokenizer"}


def t5(folder: Path, seed: int) -> transformers.PreTrainedModel:
    return _t5(unigram(folder, ["<pad>", "</s>", "<unk>"], _T5_TOKENS | {"extra_ids": 0}), seed)


def t5_spiece(folder: Path, seed: int) -> transformers.PreTrainedModel:
    settings = _T5_TOKENS | {"extra_ids": 10}
    size = sentence_pieces(folder, "spiece.model", settings, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    return _t5(size + 10, seed)


def llama(folder: Path, seed: int) -> transformers.PreTrainedModel:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1 + seed % 3, "num_attention_heads": 4, "intermediate_size": 32}
    more = {"num_key_value_heads": (1, 2, 4)[seed % 3], "rope_theta": (10000.0, 500000.0)[seed % 2]}
    config = transformers.LlamaConfig(**sizes, **more, vocab_size=characters(folder), tie_word_embeddings=seed % 4 == 1)
    return transformers.LlamaForCausalLM(config)


def whisper(folder: Path, seed: int) -> transformers.PreTrainedModel:
    """It has a processor: a tokenizer, and what makes features of sound."""
    tokens = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), END)
    size = byte_level(
        folder, (END, *SPEECH), **tokens, tokenizer_class="WhisperTokenizer", processor_class="WhisperProcessor"
    )
    (folder / "normalizer.json").write_text(json.dumps({"colour": "color"}))
    sound = {"feature_size": 8, "n_fft": 400, "hop_length": 160, "chunk_length": 1, "sampling_rate": 16000}
    transformers.WhisperFeatureExtractor(**sound).save_pretrained(folder)
    layers = {
        "encoder_layers": 1 + seed % 2,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
    }
    config = transformers.WhisperConfig(
        **layers, d_model=16, encoder_ffn_dim=32, decoder_ffn_dim=32, vocab_size=size, num_mel_bins=8,
        max_source_positions=50, max_target_positions=32, decoder_start_token_id=1, pad_token_id=0, bos_token_id=0,
        eos_token_id=0, suppress_tokens=[5], begin_suppress_tokens=[6],
    )  # fmt: skip
    return transformers.WhisperForConditionalGeneration(config)


FAMILIES: dict[str, Maker] = {
    "gpt2": gpt2, "bert": bert, "albert": albert, "t5": t5, "llama": llama, "roberta": roberta, "whisper": whisper,
    "albert with spiece.model": albert_spiece, "t5 with spiece.model": t5_spiece,
}  # fmt: skip


def inputs(model: transformers.PreTrainedModel, folder: Path) -> Iterator[dict[str, torch.Tensor]]:
    """Some inputs for a model, the same each time."""
    chance = torch.Generator().manual_seed(4)
    for length in (1, 7, 20):
        ids = torch.randint(0, model.config.vocab_size, (2, length), generator=chance)
        if model.config.model_type == "whisper":
            sound = torch.randn((2, model.config.num_mel_bins, 100), generator=chance)
            yield {"input_features": sound, "decoder_input_ids": ids}
        elif model.config.is_encoder_decoder:
            yield {"input_ids": ids, "decoder_input_ids": ids.flip(1)}
        else:
            yield {"input_ids": ids}
