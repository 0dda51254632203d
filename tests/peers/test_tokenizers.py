"""Tokenizers in the GGUF files that we write: llama.cpp splits text as the libraries that made them do."""

from __future__ import annotations

import io
import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from converter.conversion.convert import convert
from converter.models.tokenizers.pre import ROWS, Pre, written
from converter.opening import open_checkpoint
from tests.peers.llama import Model
from tests.peers.texts import texts

END, PAD, TOOL = "<|endoftext|>", "<|pad|>", "<tool_call>"
CORPUS = texts(1000, seed=5)


def converted(folder: Path, rows: int) -> Model:
    """A GGUF with the tokenizer in the folder, made from a model with so many rows, as llama.cpp loads it."""
    torch.manual_seed(1)
    sizes = {"n_layer": 1, "n_head": 1, "n_embd": 32, "n_inner": 64, "n_positions": 64}
    GPT2LMHeadModel(GPT2Config(**sizes, vocab_size=rows, bos_token_id=None, eos_token_id=None)).save_pretrained(folder)
    convert(open_checkpoint(folder), folder / "x.gguf", dtype="keep")
    return Model(folder / "x.gguf")


def check(
    folder: Path, rows: int, expected: Callable[[str], list[int]], *marks: str, first: bool = True, **limits: Any
) -> None:
    """Compare how llama.cpp and a library split 1,000 texts, which `limits` limit. `first`: a space may begin one."""
    loaded = converted(folder, rows)
    made = [text if first else text.lstrip(" ") for text in texts(1000, 6, marks, **limits)]
    found = [loaded.tokens(text, special=True, around=True) for text in made]
    loaded.close()
    wanted = [expected(text) for text in made]
    different = [(t, one, two) for t, one, two in zip(made, found, wanted, strict=True) if one != two]
    assert not different, f"{len(different)} of {len(made)} differ: {different[:3]}"


def saved(tokenizer: Tokenizer, folder: Path, **special: str) -> Callable[[str], list[int]]:
    """Save a tokenizer as transformers does, and return how it splits."""
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return lambda text: tokenizer.encode(text).ids


def around(tokenizer: Tokenizer, single: str, *names: str) -> Any:
    return processors.TemplateProcessing(single=single, special_tokens=[(n, tokenizer.token_to_id(n)) for n in names])


def byte_pair(row: Pre) -> Tokenizer:
    empty = json.loads(Tokenizer(models.BPE(ignore_merges=row.ignore_merges)).to_str())
    tokenizer = Tokenizer.from_str(json.dumps(empty | {"pre_tokenizer": written(row)}))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1500, special_tokens=[END, PAD], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([TOOL])
    return tokenizer


def unmarked(character: str) -> bool:
    category = unicodedata.category(character)
    return category[0] != "M" and (character.isascii() or category != "Lu")


def whole(character: str) -> bool:
    """Whether a character doesn't come apart: llama.cpp removes marks that the library keeps, and keeps Hangul whole."""
    control = unicodedata.category(character) == "Cc" and character not in "\t\r\n"
    return not control and unicodedata.category(character) not in ("Mc", "Me") and not "\uac00" <= character <= "\ud7a3"


def plain_blank(character: str) -> bool:
    return character.isascii() or not character.isspace()


# llama.cpp has regular expressions of its own for these. They have no \p{M} and only ASCII's capitals, or a \s that is not Unicode's.
LIMITS: dict[str, dict[str, Any]] = {
    "falcon": {"wild": False},  # cut at punctuation, and the two programs know different versions of Unicode
    "gpt-4o": {"allowed": unmarked, "wild": False},
    "tekken": {"allowed": unmarked, "wild": False},
    "deepseek-llm": {"allowed": plain_blank, "wild": False},
    "deepseek-coder": {"allowed": plain_blank, "wild": False},
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_byte_level_bpe(tmp_path: Path, row: Pre) -> None:
    tokenizer = byte_pair(row)

    expected = saved(tokenizer, tmp_path, eos_token=END, pad_token=PAD)

    check(tmp_path, tokenizer.get_vocab_size() + 3, expected, END, PAD, TOOL, **LIMITS.get(row.name, {}))


def test_byte_level_bpe_with_tokens_around_a_text(tmp_path: Path) -> None:
    tokenizer = byte_pair(ROWS[0])
    tokenizer.post_processor = around(tokenizer, f"{PAD} $A {END}", PAD, END)

    expected = saved(tokenizer, tmp_path, bos_token=PAD, eos_token=END)

    assert len(expected("")) == 2
    check(tmp_path, tokenizer.get_vocab_size(), expected, END, PAD, TOOL)


MARKS = ("<unk>", "<s>", "</s>")
LITTLE = {  # how a text is made ready in the tokenizer.json of LLaMA's kind
    "a normalizer": {"normalizer": normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])},
    "no space before a text": {"pre_tokenizer": pre_tokenizers.Metaspace(prepend_scheme="never")},
    "a space before a text": {"pre_tokenizer": pre_tokenizers.Metaspace(prepend_scheme="always")},
}
# Where Metaspace puts a space before a text, llama.cpp does so before spaces, too, and behind each token from outside the text.
AT_SPACES = ("a space before a text",)


def not_nul(character: str) -> bool:
    return character != "\0"


@pytest.mark.parametrize("way", LITTLE)
def test_bpe_on_characters(tmp_path: Path, way: str) -> None:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    for name, step in LITTLE[way].items():
        setattr(tokenizer, name, step)
    special = [*MARKS, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=1500, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = document["added_tokens"][: len(MARKS)]
    tokenizer = Tokenizer.from_str(json.dumps(document))
    tokenizer.post_processor = around(tokenizer, "<s> $A", "<s>")

    expected = saved(tokenizer, tmp_path, bos_token="<s>", eos_token="</s>", unk_token="<unk>")

    marks = () if way in AT_SPACES else ("<s>", "</s>")
    check(tmp_path, tokenizer.get_vocab_size(), expected, *marks, allowed=not_nul, first=way not in AT_SPACES)


@pytest.mark.parametrize("scheme", ["always", "never"])
def test_unigram_of_the_library(tmp_path: Path, scheme: str) -> None:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    names = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=4000, special_tokens=names, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = around(tokenizer, "$A </s>", "</s>")

    expected = saved(tokenizer, tmp_path, eos_token="</s>", unk_token="<unk>", pad_token="<pad>")

    check(tmp_path, tokenizer.get_vocab_size(), expected, allowed=not_nul, first=scheme == "never")


def trained(kind: str, **options: Any) -> sentencepiece.SentencePieceProcessor:
    model = io.BytesIO()
    lines = iter([line for text in texts(1000, 5, wild=False) for line in text.split("\n") if line.strip()])
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines,
        model_writer=model,
        model_type=kind,
        vocab_size=800,
        hard_vocab_limit=kind == "bpe",
        minloglevel=2,
        **options,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


LLAMA = {"byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False}


@pytest.mark.parametrize("options", [{}, {"add_dummy_prefix": False}, {"split_digits": True}], ids=str)
def test_sentencepiece_bpe(tmp_path: Path, options: dict[str, Any]) -> None:
    model = trained("bpe", character_coverage=0.999, user_defined_symbols=[TOOL], **LLAMA, **options)
    (tmp_path / "tokenizer.model").write_bytes(model.serialized_model_proto())

    # Where a space is put before a text, llama.cpp puts one behind a user-defined token, too, and SentencePiece doesn't.
    marks = () if options.get("add_dummy_prefix", True) else (TOOL,)
    check(tmp_path, model.get_piece_size(), lambda text: [1, *model.encode(text)], *marks)


# llama.cpp puts a space before a text wherever it merges spaces, whatever the file says, and leaves one out of blanks alone.
@pytest.mark.parametrize("options", [{}, {"split_digits": True}], ids=str)
def test_sentencepiece_unigram(tmp_path: Path, options: dict[str, Any]) -> None:
    model = trained("unigram", character_coverage=0.999, user_defined_symbols=[TOOL], **options)
    (tmp_path / "tokenizer.model").write_bytes(model.serialized_model_proto())

    # Without the user-defined token: the two programs treat blanks beside it in different ways.
    check(tmp_path, model.get_piece_size(), lambda text: [*model.encode(text), 2])


@pytest.mark.parametrize("lowercase", [True, False])
def test_wordpiece(tmp_path: Path, lowercase: bool) -> None:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=1500, special_tokens=names, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = around(tokenizer, "[CLS] $A [SEP]", "[CLS]", "[SEP]")

    expected = saved(
        tokenizer,
        tmp_path,
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        unk_token="[UNK]",
        mask_token="[MASK]",
    )

    check(tmp_path, tokenizer.get_vocab_size(), expected, *names, allowed=whole, wild=False)
