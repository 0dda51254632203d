"""Every file that holds a tokenizer, read; and the files that transformers reads, written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from converter.errors import ConverterError, LimitError, ManifestError, SourceError, UnsupportedError
from converter.models.tokenizers import hashes, json_file, library, pre, sentencepiece
from converter.models.tokenizers.files import files
from converter.models.tokenizers.folder import document, is_beside, read
from converter.models.tokenizers.pieces import merges_of, scores_of
from converter.models.tokenizers.tokenizer import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Token,
    Tokenizer,
    is_padding,
)
from tests.build import tokenizers as made


def folder(tmp_path: Path, **more: Any) -> Path:
    return made.folder(tmp_path / "m", **more)


# ---- tokenizer.json ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("merges", [[["a", "b"], ["ab", "c"]], ["a b", "ab c"]], ids=["pairs", "texts"])
def test_byte_pairs(tmp_path: Path, merges: Any) -> None:
    found = read(folder(tmp_path, tokenizer__json=made.byte_pair(merges=merges)))

    assert found.kind == "byte-pair"
    assert [found.tokens[n].text for n in range(6)] == ["a", "b", "c", "ab", "abc", "<|endoftext|>"]
    assert [found.tokens[n].type for n in range(6)] == [NORMAL] * 5 + [CONTROL]
    assert found.merges == (("a", "b"), ("ab", "c"))
    assert found.pre == "gpt-2"
    assert found.adds == {"bos": False, "eos": False}


def test_added_tokens_have_types(tmp_path: Path) -> None:
    additions = [
        made.added(5, "<|endoftext|>", special=True),
        made.added(6, "<pad>"),
        made.added(7, "<think>"),
        made.added(8, "  "),
        made.added(9, "<|tool|>"),
    ]
    found = read(folder(tmp_path, tokenizer__json=made.byte_pair(added_tokens=additions)))

    assert {n: found.tokens[n] for n in range(5, 10)} == {
        5: Token("<|endoftext|>", CONTROL, 0.0),
        6: Token("<pad>", CONTROL, -1000.0),  # not special, but no program shows it
        7: Token("<think>", USER_DEFINED, -1000.0),
        8: Token("  ", USER_DEFINED, -1000.0),
        9: Token("<|tool|>", CONTROL, -1000.0),
    }


def test_what_gguf_has_no_place_for_is_noted(tmp_path: Path) -> None:
    additions = [made.added(5, "<mask>", special=True, lstrip=True)]

    found = read(folder(tmp_path, tokenizer__json=made.byte_pair(added_tokens=additions)))

    assert found.notes == (
        "GGUF can't say that a token takes the spaces around it, or matches whole words only, as these do: `<mask>`",
    )


FIRST = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
ONCE = (
    "puts a space only before a text, but llama.cpp puts one behind each special token, too, and would split texts with such "
    "tokens differently"
)
TWO = "puts no space before a text that begins with one, but llama.cpp does, and would split such texts differently"
ONE = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
CHANCE = "leaves out merges by chance (dropout 0.1), but llama.cpp doesn't"


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (made.characters(normalizer=None, pre_tokenizer=FIRST), [ONCE, TWO]),
        (made.unigram(pre_tokenizer=FIRST), [ONCE, TWO]),
        (made.unigram(pre_tokenizer={"type": "Sequence", "pretokenizers": [FIRST]}), [ONCE, TWO]),
        (made.characters(normalizer=None, pre_tokenizer={**FIRST, "prepend_scheme": "always"}), [TWO]),
        (made.unigram(), [TWO]),
        (made.unigram(normalizer=ONE), []),
        (made.characters(normalizer=None, pre_tokenizer={**FIRST, "prepend_scheme": "never"}), []),
        (made.characters(), []),
        (made.byte_pair(dropout=0.1), [CHANCE]),
        (made.byte_pair(dropout=0.0), []),
        (made.byte_pair(dropout=None), []),
    ],
)
def test_what_llama_cpp_does_otherwise_is_noted(tmp_path: Path, document: dict[str, Any], said: list[str]) -> None:
    place = folder(tmp_path, tokenizer__json=document)

    assert read(place).notes == tuple(f"`{place / 'tokenizer.json'}` {one}" for one in said)


@pytest.mark.parametrize(
    ("normalizer", "noted"),
    [
        (None, False),
        ({"type": "Sequence", "normalizers": []}, False),
        ({"type": "NFC"}, True),
        ({"type": "Sequence", "normalizers": [{"type": "NFC"}]}, True),
    ],
)
def test_a_form_that_llama_cpp_does_not_put_text_into_is_noted(tmp_path: Path, normalizer: Any, noted: bool) -> None:
    place = folder(tmp_path, tokenizer__json=made.byte_pair(normalizer=normalizer))

    said = "puts text into the form NFC, but llama.cpp doesn't, and would split text in another form differently"
    assert read(place).notes == ((f"`{place / 'tokenizer.json'}` {said}",) if noted else ())


def test_characters_get_sentencepiece_scores(tmp_path: Path) -> None:
    found = read(folder(tmp_path, tokenizer__json=made.characters()))

    assert found.kind == "scored-pair"
    assert found.tokens[0] == Token("<unk>", UNKNOWN, 0.0)
    assert found.tokens[1].type == CONTROL
    assert found.tokens[3] == Token("<0x00>", BYTE, 0.0)
    assert found.tokens[259] == Token("▁a", NORMAL, 0.0)
    assert found.tokens[260] == Token("▁ab", NORMAL, -1.0)
    assert found.tokens[262].score < -1
    assert (found.special, found.adds, found.space_prefix) == (
        {"unk": 0, "bos": 1},
        {"bos": True, "eos": False},
        True,
    )


@pytest.mark.parametrize(
    ("last", "steps", "kind"),
    [
        (["a b", "▁a bb", "b b", "▁ ab"], [made.ESCAPE], "merged-pair"),  # makes `▁ab` at two places
        (["a b", "▁a bb", "b b", "▁ ab"], [{"type": "Prepend", "prepend": "▁"}, made.ESCAPE], None),
        (["a b", "▁a bb", "b b", "▁ ab", "a \n"], [made.ESCAPE], None),  # llama.cpp cuts at newlines
    ],
)
def test_merges_that_no_scores_stand_for_are_kept_where_llama_cpp_has_a_kind_for_them(
    last: list[str], steps: list[dict[str, Any]], kind: str | None, tmp_path: Path
) -> None:
    document = made.characters(normalizer={"type": "Sequence", "normalizers": steps})
    vocab = document["model"]["vocab"]
    for text in ("bb", "ab", "▁abb", "a\n", "\n"):
        vocab.setdefault(text, len(vocab))
    document["model"]["merges"] = ["▁ a", "▁a b", *last]
    path = folder(tmp_path, tokenizer__json=document)

    if kind is None:
        with pytest.raises(UnsupportedError, match="at two places of its merges"):
            read(path)
        return
    found = read(path)

    assert (found.kind, found.space_prefix, found.pre) == (kind, False, None)
    assert found.merges == (("▁", "a"), ("▁a", "b"), ("a", "b"), ("▁a", "bb"), ("b", "b"), ("▁", "ab"))
    assert found.tokens[0] == Token("<unk>", CONTROL, 0.0)
    assert found.tokens[3] == Token("<0x00>", BYTE, 0.0)
    assert found.tokens[260] == Token("▁ab", NORMAL, 0.0)


def test_scores_of_the_model_beside_it_are_taken(tmp_path: Path) -> None:
    document = made.characters()
    pieces = [*made.PIECES[:259], made.piece("▁a", -7), made.piece("▁ab", -9)]
    found = read(folder(tmp_path, tokenizer__json=document, tokenizer__model=made.model(*pieces)))

    assert [found.tokens[n].score for n in (259, 260)] == [-7.0, -9.0]


def test_unigram(tmp_path: Path) -> None:
    found = read(folder(tmp_path, tokenizer__json=made.unigram()))

    assert found.kind == "unigram"
    assert found.tokens[2].type == UNKNOWN
    assert found.tokens[3] == Token("▁a", NORMAL, -1.5)
    assert (found.charsmap, found.space_prefix, found.merge_spaces) == (made.CHARSMAP, True, False)
    assert (found.special, found.adds) == ({"unk": 2, "eos": 1}, {"bos": False, "eos": True})


def test_the_id_in_a_template_counts(tmp_path: Path) -> None:
    said = {"special_tokens": {"a": {"id": "a", "ids": [1], "tokens": ["a"]}}}

    found = read(folder(tmp_path, tokenizer__json=made.byte_pair(post_processor=made.template("a") | said)))

    assert (found.special["bos"], found.adds) == (1, {"bos": True, "eos": False})


def test_words_are_spelled_as_llama_cpp_does(tmp_path: Path) -> None:
    found = read(folder(tmp_path, tokenizer__json=made.words()))

    assert [found.tokens[n].text for n in range(8)] == [
        *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "▁on", "ly", "▁[unused0]"),
    ]
    assert [found.tokens[n].type for n in range(8)] == [CONTROL] * 5 + [NORMAL] * 3
    assert found.special == {"cls": 2, "sep": 3, "pad": 0, "mask": 4, "unk": 1, "bos": 2, "eos": 3}
    assert (found.lowercase, found.strip_accents) == (True, True)
    assert found.adds == {"bos": True, "sep": True}


@pytest.mark.parametrize(
    ("document", "error", "words"),
    [
        ({}, ManifestError, "has no object `model`"),
        ({"model": {"type": "WordLevel"}}, UnsupportedError, "of the type 'WordLevel'"),
        (made.byte_pair(merges=[["a", "x"]]), ManifestError, "merge 0 needs `x`, which is not a token"),
        (made.byte_pair(merges=["a b c"]), ManifestError, "merge 0 is"),
        (made.byte_pair(merges=[["a", ""]]), ManifestError, "merge 0 is"),
        (made.byte_pair(merges=[["a", 1]]), ManifestError, "merge 0 is"),
        (made.byte_pair(merges={}), ManifestError, "has no array `model.merges`"),
        (made.byte_pair(vocab={"a": 0, "b": 0}), ManifestError, "gives the id 0 to `a` and `b`"),
        (made.byte_pair(vocab={"a": -1}), ManifestError, "the id -1"),
        (made.byte_pair(vocab={"a": 10**30}), ManifestError, "the id 1000"),
        (made.byte_pair(vocab=[["a", 0]]), ManifestError, "has no object `model.vocab`"),
        (made.byte_pair(byte_fallback="yes"), ManifestError, "`byte_fallback` is 'yes'"),
        (made.byte_pair(end_of_word_suffix="</w>"), UnsupportedError, "marks words by end_of_word_suffix"),
        (made.byte_pair(normalizer={"type": "Lowercase"}), UnsupportedError, "the normalizer Lowercase"),
        (made.byte_pair(added_tokens=[{"content": "x"}]), ManifestError, "in added_tokens: an id and a content"),
        (made.byte_pair(added_tokens=[made.added(5, "x"), made.added(5, "y")]), ManifestError, "two tokens with the id 5"),
        (made.byte_pair(post_processor=made.template("nobody")), ManifestError, "puts 'nobody' around a text"),
        (made.byte_pair(post_processor=made.template("a", "b")), UnsupportedError, "more than one token before"),
        (made.byte_pair(post_processor={"type": "Own"}), UnsupportedError, "the step Own"),
        (
            made.byte_pair(post_processor=made.template("a") | {"special_tokens": {"a": {"id": "a", "ids": [0, 0]}}}),
            UnsupportedError,
            r"puts `a` around a text as \[0, 0\], where llama.cpp has the id of one token",
        ),
        (
            made.words(post_processor={"type": "BertProcessing", "cls": ["[CLS]", 2], "sep": ["[SEP]", 99]}),
            UnsupportedError,
            r"puts `\[SEP\]` around a text as \[99\], where llama.cpp has",
        ),
        (made.unigram(pre_tokenizer=None), UnsupportedError, "doesn't write ▁ for a space"),
        (made.unigram(pre_tokenizer={"type": "WhitespaceSplit"}), UnsupportedError, "doesn't write ▁ for a space"),
        (made.characters() | {"normalizer": {"type": "NFKC"}}, UnsupportedError, "the step NFKC"),
        (made.byte_pair(byte_fallback=True, pre_tokenizer=None), UnsupportedError, "doesn't write ▁ for a space"),
        (made.byte_pair(byte_fallback=True, pre_tokenizer=None, normalizer=made.ESCAPE), UnsupportedError, "no token `<0x00>`"),
        (made.unigram(normalizer={"type": "Precompiled", "precompiled_charsmap": "?"}), ManifestError, "is not base64"),
        (
            made.unigram(normalizer={"type": "Precompiled", "precompiled_charsmap": "BAAAAHRyaWU="}),
            ManifestError,
            "a table of 8 bytes by which text is normalized, and says that 4 bytes of it are its trie: it is cut off",
        ),
        (made.unigram(normalizer={"type": "Lowercase"}), UnsupportedError, "the step Lowercase"),
        (made.unigram(model={"type": "Unigram", "vocab": [["a", "b"]]}), ManifestError, "token 0 is"),
        (made.unigram(model={"type": "Unigram", "vocab": [["a", 1e400]]}), ManifestError, "."),
        (made.words(pre_tokenizer={"type": "Whitespace"}), UnsupportedError, "the step Whitespace"),
        (made.words(normalizer={"type": "BertNormalizer", "clean_text": False}), UnsupportedError, "the step BertNormalizer"),
    ],
)  # fmt: skip
def test_what_can_not_be_carried_over_is_refused(
    tmp_path: Path, document: Any, error: type[ConverterError], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        read(folder(tmp_path, tokenizer__json=json.dumps(document)))

    assert type(caught.value) is error


def test_merges_that_no_scores_stand_for_are_refused() -> None:
    assert scores_of([("a", "b"), ("ab", "c"), ("a", "bc")], "x") == {"ab": 0.0, "abc": -1.0}
    with pytest.raises(UnsupportedError, match="makes `abc` at two places"):
        scores_of([("ab", "c"), ("a", "b"), ("a", "bc")], "x")


def test_scores_and_merges_stand_for_each_other() -> None:
    texts = {"a": -9.0, "b": -8.0, "c": -7.0, "bc": 0.0, "ab": -1.0, "abc": -2.0}
    tokens = {number: Token(text, NORMAL, score) for number, (text, score) in enumerate(texts.items())}

    merges = merges_of(tokens)

    assert merges == [("b", "c"), ("a", "b"), ("a", "bc"), ("ab", "c")]
    assert scores_of(merges, "x") == {"bc": 0.0, "ab": -1.0, "abc": -2.0}


def test_a_token_that_is_too_long_to_be_merged_is_refused() -> None:
    with pytest.raises(LimitError, match="a token of 300 characters"):
        merges_of({0: Token("a" * 300)})


# ---- how text is cut into words ----------------------------------------------------------------------------------------


def test_every_row_is_found_by_what_is_written_for_it() -> None:
    for row in pre.ROWS:
        assert pre.found(pre.written(row), ignore_merges=row.ignore_merges) is row


def test_names_that_split_alike_are_alike() -> None:
    assert pre.alike("mpt", "gpt-2")
    assert pre.alike("glm4", "llama-bpe")
    assert not pre.alike("gpt-2", "qwen2")
    assert not pre.alike("gpt-2", None)  # llama.cpp has a cut of its own for a file that says nothing
    assert pre.alike("default", None)
    assert not pre.alike("of tomorrow", "gpt-2")


# llama.cpp's names, by the function of its llama-vocab.cpp that cuts text: the first of a line gives the line its row.
NAMES = """
gpt-2 mpt olmo jais phi-2 mellum modern-bert gigachat exaone4 trillion a.x-4.0 granite-docling jina-es jina-de jina-v2-es jina-v2-de
    jina-v1-en jina-v2-code roberta-bpe
llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano glm4 glm5
dbrx smaug-bpe chatglm-bpe
qwen2 stablelm2 deepseek-r1-qwen kormo f2llmv2 megrez hunyuan solar-open grok-2
qwen35
ufakzeka
seed-coder
minicpm5
gpt-4o llama4 kanana2 talkie minimax-m2
tekken
deepseek-llm
deepseek-coder
deepseek-v3 hunyuan-dense joyai-llm hy_v4
falcon
starcoder refact command-r smollm codeshell exaone minerva-7b mellum2
bloom poro-chat gpt3-finnish
viking
default
"""


def test_every_name_of_llama_cpp_has_its_row() -> None:
    lines = [line.split() for line in NAMES.replace("\n    ", " ").strip().splitlines()]

    assert [[row.name, *row.alike] for row in pre.ROWS] == lines
    assert [{pre.named(name) for name in names} for names in lines] == [{row} for row in pre.ROWS]


LLAMA_3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN_2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPELLED = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def cut(*patterns: str, behavior: str = "Isolated", invert: bool = False) -> dict[str, Any]:
    steps = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert} for pattern in patterns
    ]
    return {"type": "Sequence", "pretokenizers": [*steps, SPELLED]}


@pytest.mark.parametrize(
    ("pre_tokenizer", "ignore_merges", "name"),
    [
        (made.BYTES, False, "gpt-2"),
        ({"type": "Sequence", "pretokenizers": [made.BYTES]}, False, "gpt-2"),
        (cut(LLAMA_3), True, "llama-bpe"),
        (cut(LLAMA_3), False, "dbrx"),
        (cut(QWEN_2), False, "qwen2"),
        (cut(QWEN_2, behavior="Removed", invert=True), False, "qwen2"),
        (
            {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, made.BYTES]},
            False,
            "starcoder",
        ),
        (
            {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Punctuation", "behavior": "Contiguous"},
                    made.BYTES,
                    {"type": "Digits", "individual_digits": False},
                    {"type": "Split", "pattern": {"Regex": "[0-9][0-9][0-9]"}, "behavior": "Isolated", "invert": False},
                ],
            },
            False,
            "falcon",
        ),
        (cut(r" ?[^(\s|[.,!?…。，、।۔،])]+"), False, "bloom"),
        (cut(r" ?[^(\s|[.,!?…。，、।۔،])]+", behavior="Removed", invert=True), False, None),
        (cut(QWEN_2), True, None),
        (made.BYTES | {"add_prefix_space": True}, False, None),
        ({"type": "ByteLevel"}, False, None),  # the library's default puts a space before a text
        ({"type": "Metaspace"}, False, None),
        (None, False, None),
    ],
)
def test_the_cut_is_found_by_what_it_is(pre_tokenizer: Any, ignore_merges: bool, name: str | None) -> None:
    found = pre.found(pre_tokenizer, ignore_merges=ignore_merges)

    assert (found.name if found is not None else None) == name


# ---- the other files ---------------------------------------------------------------------------------------------------


def test_vocab_json_and_merges_txt_with_added_tokens(tmp_path: Path) -> None:
    place = folder(
        tmp_path,
        vocab__json=made.PAIRS,
        merges__txt="#version: 0.2\r\na b\r\nab c\r\n\r\n",
        added_tokens__json={"<|pad|>": 6, "<think>": 7, "<tool>": 8},
        special_tokens_map__json={"additional_special_tokens": ["<tool>"], "eos_token": {"content": "<|endoftext|>"}},
    )

    found = read(place)

    assert found.merges == (("a", "b"), ("ab", "c"))
    assert [found.tokens[n].type for n in range(5, 9)] == [CONTROL, CONTROL, USER_DEFINED, CONTROL]
    assert found.special == {"eos": 5}
    assert found.pre is None


# What transformers 5 gives these folders: vocabulary by AutoTokenizer.from_pretrained. "<|endoftext|>" is token 5.
LISTED_BESIDE: dict[str, tuple[dict[str, Any], list[str]]] = {
    "the ids of added_tokens.json": ({"added_tokens__json": {"<a>": 6, "<b>": 7}}, ["<a>", "<b>"]),
    "their order counts": ({"added_tokens__json": {"<a>": 300, "<b>": 299}}, ["<b>", "<a>"]),
    "an id that another token has": ({"added_tokens__json": {"<a>": 2}}, ["<a>"]),
    "a token that is there": ({"added_tokens__json": {"abc": 6, "<a>": 7}}, ["<a>"]),
    "the config's list counts alone": (
        {
            "added_tokens__json": {"<a>": 6},
            "tokenizer_config__json": {"added_tokens_decoder": {"9": made.added(9, "<d>")}},
        },
        ["<d>"],
    ),
    "by number, not by text": (
        {"tokenizer_config__json": {"added_tokens_decoder": {"10": made.added(10, "<t>"), "9": made.added(9, "<n>")}}},
        ["<n>", "<t>"],
    ),
    "roles, then tokens without one": (
        {
            "added_tokens__json": {"<a>": 6},
            "special_tokens_map__json": {"additional_special_tokens": ["<z>"], "pad_token": "<p>"},
        },
        ["<a>", "<p>", "<z>"],
    ),
}


@pytest.mark.parametrize("case", LISTED_BESIDE)
def test_tokens_that_only_files_beside_tokenizer_json_list_take_the_next_ids(case: str, tmp_path: Path) -> None:
    files, expected = LISTED_BESIDE[case]

    found = read(folder(tmp_path, tokenizer__json=made.byte_pair(), **files))

    assert [found.tokens[number].text for number in range(6, len(found.tokens))] == expected


def test_tokens_beside_tokenizer_json_that_the_embedding_has_no_rows_for_are_left_out(tmp_path: Path) -> None:
    files = {"added_tokens__json": {"<a>": 6, "<b>": 7}, "config__json": {"vocab_size": 7}}

    found = read(folder(tmp_path, tokenizer__json=made.byte_pair(), **files))

    assert [token.text for token in found.tokens.values()][6:] == ["<a>"]
    assert found.notes[-1] == "left out, because the embedding has no rows for them: `<b>`"


def test_vocab_json_has_the_control_tokens_that_the_same_tokenizer_json_names(tmp_path: Path) -> None:
    """RoBERTa's: no file says of `<unk>` that it is special, but transformers makes every token with a role one."""
    texts = ["<s>", "<pad>", "</s>", "<unk>", "a", "b", "ab", "!", "<mask>"]
    place = folder(
        tmp_path,
        vocab__json={text: number for number, text in enumerate(texts)},
        merges__txt="#version: 0.2\na b\n",
        tokenizer_config__json={"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "!"},
    )

    found = read(place)

    normal = [token.text for _, token in sorted(found.tokens.items()) if token.type == NORMAL]
    assert normal == ["a", "b", "ab", "!"]  # an ordinary token that is named for padding stays one
    assert {token.type for token in found.tokens.values()} == {NORMAL, CONTROL}


def test_sentencepiece_bpe(tmp_path: Path) -> None:
    found = read(folder(tmp_path, tokenizer__model=made.model()))

    assert found.kind == "scored-pair"
    assert found.tokens[0] == Token("<unk>", UNKNOWN, 0.0)
    assert found.tokens[258] == Token("<0xFF>", BYTE, 0.0)
    assert found.tokens[260] == Token("▁ab", NORMAL, -1.0)
    assert found.special == {"unk": 0, "bos": 1, "eos": 2}
    assert (found.space_prefix, found.merge_spaces, found.notes) == (True, None, ())


def test_sentencepiece_unigram(tmp_path: Path) -> None:
    pieces = [made.piece("<pad>", 0, 3), made.piece("</s>", 0, 3), made.piece("<unk>", 0, 2), made.piece("▁a", -1.5)]
    trainer = b"".join(made.numbered(field, value) for field, value in ((3, 1), (40, 2), (41, -1), (42, 1), (43, 0)))
    normalizer = made.message(1, b"nmt_nfkc") + made.message(2, made.CHARSMAP) + made.numbered(3, 0)

    found = read(folder(tmp_path, spiece__model=made.model(*pieces, trainer=trainer, normalizer=normalizer)))

    assert (found.kind, found.charsmap) == ("unigram", made.CHARSMAP)
    assert found.special == {"unk": 2, "eos": 1, "pad": 0}
    assert (found.space_prefix, found.merge_spaces) == (False, True)


def test_tokens_that_the_config_adds_to_sentencepiece(tmp_path: Path) -> None:
    config = {
        "added_tokens_decoder": {
            "0": made.added(0, "<unk>", special=True),
            "264": made.added(264, "<|im_end|>", special=True),
            "265": made.added(265, "<▁x>"),
        },
        "eos_token": "<|im_end|>",
        "add_bos_token": True,
        "add_eos_token": False,
        "chat_template": "{{ messages }}",
    }
    found = read(folder(tmp_path, tokenizer__model=made.model(), tokenizer_config__json=config))

    assert found.tokens[0].type == UNKNOWN
    assert found.tokens[264] == Token("<|im_end|>", CONTROL, -1000.0)
    assert found.tokens[265] == Token("< x>", USER_DEFINED, -1000.0)
    assert found.special == {"unk": 0, "bos": 1, "eos": 264}
    assert found.adds == {"bos": True, "eos": False}
    assert found.templates == {"default": "{{ messages }}"}


@pytest.mark.parametrize(
    ("config", "count"),
    [
        ({"tokenizer_class": "T5Tokenizer", "extra_ids": 3}, 3),
        ({"tokenizer_class": "T5TokenizerFast", "extra_ids": 3, "additional_special_tokens": ["<extra_id_0>"]}, 3),
        ({"tokenizer_class": "T5Tokenizer"}, 100),
        ({"tokenizer_class": "T5Tokenizer", "extra_ids": 0}, 0),
        ({"tokenizer_class": "LlamaTokenizer", "extra_ids": 3}, 0),
    ],
)
def test_the_sentinels_of_t5_stand_behind_its_model_from_the_last_to_the_first(
    config: dict[str, Any], count: int, tmp_path: Path
) -> None:
    """As in AutoTokenizer.from_pretrained(...).get_vocab() of transformers 5."""
    size = read(folder(tmp_path, tokenizer__model=made.model())).size

    found = read(folder(tmp_path, tokenizer_config__json=config))

    texts = [f"<extra_id_{number}>" for number in reversed(range(count))]
    assert [found.tokens[number] for number in range(size, found.size)] == [
        Token(text, CONTROL, -1000.0) for text in texts
    ]


@pytest.mark.parametrize("count", [-1, "3", True, 1 << 16, 1.0])
def test_a_number_of_sentinels_that_is_none_is_refused(count: Any, tmp_path: Path) -> None:
    config = {"tokenizer_class": "T5Tokenizer", "extra_ids": count}

    with pytest.raises(ManifestError, match="extra_ids"):
        read(folder(tmp_path, tokenizer__model=made.model(), tokenizer_config__json=config))


def test_vocab_txt(tmp_path: Path) -> None:
    found = read(folder(tmp_path, vocab__txt="\n".join(made.WORDS) + "\n"))
    cased = read(folder(tmp_path, tokenizer_config__json={"do_lower_case": False}))

    assert found.kind == "wordpiece"
    assert [found.tokens[n].text for n in (4, 5, 6)] == ["[MASK]", "▁on", "ly"]
    assert (found.lowercase, cased.lowercase) == (True, False)
    assert found.special["bos"] == 2


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"\n\x05\n", ManifestError, "within a field: perhaps its download"),
        (made.model()[:-1], ManifestError, "within a field: perhaps its download"),
        (made.model(made.piece(b"\xff")), ManifestError, "a token that is not UTF-8"),
        (made.model(made.piece("a", 0, 9)), ManifestError, "has a type or a score"),
        (made.model(made.piece("a", float("nan"))), ManifestError, "has the score nan"),
        (made.model(trainer=made.numbered(3, 3)), UnsupportedError, "splits text into words"),
        (made.model(trainer=made.numbered(3, 2) + made.numbered(24, 1)), UnsupportedError, "spaces after words"),
        (made.model(made.piece("a")), UnsupportedError, "has 0 tokens for single bytes"),
        (made.model(normalizer=made.numbered(5, 0)), UnsupportedError, "leaves spaces as they are"),
        (made.model() + b"\x0f", ManifestError, "begins no field"),
        (made.model() + b"\x08", ManifestError, "does not end"),
        (made.model() + b"\x08" + b"\xff" * 20, ManifestError, "does not end"),
        (made.model() + made.numbered(1, 5), ManifestError, "a number in place of a message"),
        (b"IQ== 0\nIg== 1\n", UnsupportedError, "is not a model of SentencePiece: put the `tokenizer.json`"),
        (b"", UnsupportedError, "is not a model of SentencePiece"),
    ],
)
def test_a_model_that_is_damaged_or_another_one_is_refused(
    tmp_path: Path, data: bytes, error: type[ConverterError], words: str
) -> None:
    with pytest.raises(error, match=words):
        read(folder(tmp_path, tokenizer__model=data))


def test_what_llama_cpp_leaves_out_of_a_model_is_noted() -> None:
    normalizer = made.message(2, b"table")

    found = sentencepiece.read(made.model(normalizer=normalizer), "x.model")

    assert [note.partition(",")[0] for note in found.notes] == [
        "`x.model` normalizes characters",
        "`x.model` leaves one of several spaces",
    ]


BEHIND = "`x.model` has user-defined tokens: llama.cpp puts a space behind each of them, and would split such texts differently"
BESIDE = (
    "`x.model` has user-defined tokens: llama.cpp treats blanks beside such a token differently, and would split such texts "
    "differently"
)


def test_a_table_that_is_cut_off_is_refused_where_it_is_used() -> None:
    normalizer = made.message(2, made.CHARSMAP[:-1])

    assert sentencepiece.read(made.model(normalizer=normalizer), "x.model").charsmap == b""
    with pytest.raises(ManifestError, match=r"`x.model` has a table of 8 bytes"):
        sentencepiece.read(made.model(trainer=made.numbered(3, 1), normalizer=normalizer), "x.model")


@pytest.mark.parametrize("name", [["LlamaTokenizer"], {}, 5, True])
def test_a_class_that_is_no_name_says_nothing(name: Any, tmp_path: Path) -> None:
    place = folder(
        tmp_path, tokenizer__json=made.byte_pair(post_processor=None), tokenizer_config__json={"tokenizer_class": name}
    )

    assert read(place).adds == {}


@pytest.mark.parametrize(
    ("trainer", "normalizer", "said"),
    [
        (made.numbered(3, 2), made.numbered(4, 0), [BEHIND]),
        (made.numbered(3, 2), made.numbered(4, 0) + made.numbered(3, 0), []),
        (made.numbered(3, 1), made.numbered(4, 0), [BESIDE]),
        (made.numbered(3, 1), made.numbered(4, 0) + made.numbered(3, 0), [BESIDE]),
    ],
)
def test_user_defined_tokens_of_a_model_are_noted(trainer: bytes, normalizer: bytes, said: list[str]) -> None:
    pieces = (*made.PIECES, made.piece("<tool>", 0, USER_DEFINED))

    assert (
        list(sentencepiece.read(made.model(*pieces, trainer=trainer, normalizer=normalizer), "x.model").notes) == said
    )


def test_chat_templates_lie_in_several_places(tmp_path: Path) -> None:
    place = folder(tmp_path, tokenizer__json=made.byte_pair(), chat_template__jinja="A")
    (place / "additional_chat_templates").mkdir()
    (place / "additional_chat_templates" / "rag.jinja").write_text("B")
    assert read(place).templates == {"default": "A", "rag": "B"}

    listed = [{"name": "default", "template": "C"}, {"name": "tool_use", "template": "D"}]
    assert read(folder(tmp_path, tokenizer_config__json={"chat_template": listed})).templates == {
        "default": "C",
        "tool_use": "D",
    }


def test_a_config_json_does_not_move_what_bert_puts_around_a_text(tmp_path: Path) -> None:
    around = made.words(post_processor=None)
    place = folder(tmp_path, tokenizer__json=around, config__json={"bos_token_id": 5, "eos_token_id": 6})

    found = read(place)

    assert (found.special["bos"], found.special["cls"]) == (2, 2)
    assert (found.special["eos"], found.special["sep"]) == (3, 3)


def test_config_json_fills_what_the_tokenizer_does_not_say(tmp_path: Path) -> None:
    config = {"bos_token_id": 3, "eos_token_id": 99, "pad_token_id": None, "unk_token_id": "4"}
    found = read(
        folder(
            tmp_path, tokenizer__json=made.byte_pair(), config__json=config, tokenizer_config__json={"bos_token": "a"}
        )
    )

    assert found.special == {"bos": 0}  # there is no token 99


@pytest.mark.parametrize(
    ("document", "config", "adds"),
    [
        (made.byte_pair(post_processor=None), {}, {"bos": False, "eos": False}),
        (made.characters(post_processor=None), {}, {"bos": False, "eos": False}),
        (made.unigram(post_processor=None), {}, {"bos": False, "eos": False}),
        (made.words(post_processor=None), {}, {"bos": False, "sep": False}),
        (
            made.characters(post_processor=None),
            {"tokenizer_class": "PreTrainedTokenizerFast"},
            {"bos": False, "eos": False},
        ),
        (made.characters(post_processor=None), {"add_bos_token": True}, {"bos": True, "eos": False}),
        (made.characters(), {}, {"bos": True, "eos": False}),
        (made.unigram(), {}, {"bos": False, "eos": True}),
        # This class puts <s> before a text even if the file doesn't say it, as llama.cpp does.
        (made.characters(post_processor=None), {"tokenizer_class": "LlamaTokenizer"}, {}),
    ],
)
def test_a_tokenizer_json_that_puts_no_token_around_a_text_says_so(
    tmp_path: Path, document: dict[str, Any], config: dict[str, Any], adds: dict[str, bool]
) -> None:
    assert read(folder(tmp_path, tokenizer__json=document, tokenizer_config__json=config)).adds == adds


@pytest.mark.parametrize("names", [("vocab.json",), ("merges.txt",), ("tokenizer_config.json",), ()])
def test_a_folder_without_a_tokenizer(tmp_path: Path, names: tuple[str, ...]) -> None:
    place = folder(tmp_path)
    for name in names:
        (place / name).write_text("{}")

    assert not is_beside(place)
    with pytest.raises(SourceError, match=r"has no tokenizer: `tokenizer\.json`"):
        read(place)


def test_json_of_the_library_is_read_strictly(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="a name occurs twice"):
        read(folder(tmp_path, tokenizer__json='{"model": {"type": "BPE", "vocab": {"a": 0, "a": 1}, "merges": []}}'))
    with pytest.raises(ManifestError, match="not a valid JSON"):
        read(folder(tmp_path, tokenizer__json="[" * 100_000))


# ---- written -----------------------------------------------------------------------------------------------------------


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    documents = (made.byte_pair(), made.characters(), made.unigram(), made.words())
    for number, written in enumerate(documents):
        place = made.folder(tmp_path / str(number), tokenizer__json=written, chat_template__jinja="{{ x }}")
        before = read(place)
        there = tmp_path / f"{number}-again"
        there.mkdir()
        for name, data in files(before).items():
            (there / name).write_bytes(data)

        after = read(there)

        for part in ("kind", "merges", "pre", "special", "templates", "space_prefix", "lowercase", "charsmap"):
            assert vars_of(after, part) == vars_of(before, part), (number, part)
        # SentencePiece's scores of single characters have no effect, and come back in another order
        assert {n: t[:2] for n, t in after.tokens.items()} == {n: t[:2] for n, t in before.tokens.items()}


BYTES_OF_A = [*made.unigram()["model"]["vocab"], *([f"<0x{byte:02X}>", -9.0] for byte in range(256))]


@pytest.mark.parametrize(("falls_back", "type"), [(True, BYTE), (False, NORMAL)])
def test_unigram_takes_bytes_where_it_says_so(falls_back: bool, type: int, tmp_path: Path) -> None:
    model = {"type": "Unigram", "unk_id": 2, "vocab": BYTES_OF_A, "byte_fallback": falls_back}
    found = read(folder(tmp_path, tokenizer__json=made.unigram(model=model)))

    assert {token.type for number, token in found.tokens.items() if number >= 5} == {type}
    assert json.loads(files(found)["tokenizer.json"])["model"]["byte_fallback"] is falls_back


def vars_of(tokenizer: Tokenizer, part: str) -> Any:
    return {field: getattr(tokenizer, field) for field in tokenizer.__slots__}[part]


def test_a_cut_without_a_row_can_not_be_written() -> None:
    with pytest.raises(UnsupportedError, match="cuts text as `of tomorrow` does"):
        files(Tokenizer("byte-pair", {0: Token("a")}, pre="of tomorrow"))


def test_padding_is_known_by_its_number_and_type() -> None:
    assert is_padding(Token("[PAD7]", UNUSED))
    assert not is_padding(Token("[PAD7]", CONTROL))
    assert not any(
        is_padding(Token(text, UNUSED)) for text in ("[PAD]", "[PADx]", "[PAD٣]", "[PAD7", "PAD7]", "[PAD-7]")
    )


def test_looks_of_control_tokens() -> None:
    assert json_file.seems_control("<|x|>")
    assert json_file.seems_control("<｜x｜>")
    assert json_file.seems_control("<unused7>")
    assert not json_file.seems_control("<|>")
    assert not json_file.seems_control("<think>")


# ---- what a tokenizer makes of a text ---------------------------------------------------------------------------------

# What GPT-2 makes of llama.cpp's text, as transformers says it (ggml-vocab-gpt-2.gguf.out in llama.cpp's source).
GPT_2 = (
    198, 220, 628, 220, 628, 198, 220, 197, 220, 197, 197, 220, 197, 198, 220, 220, 198, 220, 220, 220, 198,
    220, 220, 220, 220, 198, 220, 220, 220, 220, 220, 198, 8582, 248, 222, 357, 11265, 8, 30325, 114, 447,
    235, 8582, 234, 104, 37929, 357, 48101, 795, 13210, 271, 1673, 36686, 515, 8, 14519, 227, 12520, 99, 247,
    8582, 99, 247, 513, 4747, 23460, 513, 20370, 23460, 2091, 23460, 20370, 23460, 24840, 23460, 2091, 20370,
    513, 13, 18, 513, 492, 18, 513, 986, 18, 28053, 252, 222, 157, 252, 114, 157, 252, 241, 157, 253, 233,
    157, 252, 237, 157, 253, 224, 157, 252, 244, 157, 252, 115, 157, 252, 253, 157, 253, 223, 157, 252, 253,
    157, 252, 95, 157, 252, 114, 157, 252, 227, 47249, 223, 5633, 22755, 239, 46349, 111, 28839, 101, 18040,
    32432, 98, 43291, 1485, 1415, 24309, 25465, 171, 121, 252, 40103, 1421, 18604, 12466, 121, 16843, 141,
    231, 15166, 12466, 121, 16142, 12466, 239, 141, 232, 30143, 140, 111, 16142, 21169, 21727, 31583, 18849,
    705, 39115, 6, 33153, 15506, 63, 15931, 15931, 16317, 13896, 3228, 9805, 3548, 314, 1053, 587, 705, 44040,
    339, 338, 612, 11, 705, 2200, 345, 1654, 30, 705, 44, 407, 1654, 314, 1183, 787, 340, 11, 705, 35, 345,
    588, 617, 8887, 30, 775, 6, 26979, 257, 6, 75, 43,
)  # fmt: skip
UNKNOWN_CUT = {"type": "Split", "pattern": {"Regex": "[a-c]"}, "behavior": "Isolated", "invert": False}


def test_the_name_of_a_cut_that_no_row_has_is_found_by_what_it_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package that splits may be absent here; tests/peers has it."""
    asked = []

    def split(document: str, text: str, where: str) -> list[int]:
        asked.append((json.loads(document)["pre_tokenizer"], text, where))
        return list(GPT_2)

    path = folder(tmp_path, tokenizer__json=made.byte_pair(pre_tokenizer=UNKNOWN_CUT))
    monkeypatch.setattr(library, "is_installed", lambda: True)
    monkeypatch.setattr(library, "split", split)

    assert read(path).pre == "gpt-2"
    assert asked == [(UNKNOWN_CUT, hashes.TEXT, str(path / "tokenizer.json"))]
    monkeypatch.setattr(library, "split", lambda *_: [*GPT_2, 0])
    assert read(path).pre == ""
    monkeypatch.setattr(library, "is_installed", lambda: False)
    assert read(path).pre == ""


def test_a_tokenizer_is_a_tokenizer_json_whichever_files_hold_it(tmp_path: Path) -> None:
    path = folder(tmp_path, vocab__json=made.PAIRS, merges__txt="#version: 0.2\na b\nab c\n")
    found = json.loads(document(path))

    assert found["model"]["merges"] == [["a", "b"], ["ab", "c"]]
    assert found["pre_tokenizer"] == made.BYTES | {"use_regex": True}
    text = json.dumps(made.words())
    made.folder(path, tokenizer__json=text)
    assert document(path) == text
