"""What differs between two tokenizers is named, and what has no effect is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from converter.models.tokenizers.tokenizer import BYTE, CONTROL, UNKNOWN, USER_DEFINED, Token, Tokenizer
from converter.verification.tokenizers import differences

PAIRS = Tokenizer(
    "byte-pair",
    {0: Token("a"), 1: Token("b"), 2: Token("ab"), 3: Token("<e>", CONTROL)},
    (("a", "b"),),
    pre="gpt-2",
    special={"eos": 3},
    adds={"eos": True},
    templates={"default": "{{ x }}"},
)
# b+c is merged before a+b; single characters have scores without an effect.
SCORED = Tokenizer(
    "scored-pair",
    {
        0: Token("<unk>", UNKNOWN), 1: Token("<0x00>", BYTE), 2: Token("a", score=0.0), 3: Token("b", score=0.0),
        4: Token("c", score=0.0), 5: Token("bc", score=-1.0), 6: Token("ab", score=-2.0),
    },
    space_prefix=True,
)  # fmt: skip
UNIGRAM = replace(SCORED, kind="unigram")


def tokens(tokenizer: Tokenizer, **changed: Token) -> Tokenizer:
    return replace(tokenizer, tokens={**tokenizer.tokens, **{int(name[1:]): token for name, token in changed.items()}})


@pytest.mark.parametrize(
    ("expected", "found", "words"),
    [
        (PAIRS, SCORED, ["the tokenizer is SentencePiece BPE: expected byte-level BPE"]),
        (PAIRS, tokens(PAIRS, _1=Token("c")), ["1 tokens differ, the first with the id 1: 'c', expected 'b'"]),
        (PAIRS, tokens(PAIRS, _4=Token("c")), ["1 tokens differ, the first with the id 4: 'c', expected None"]),
        (
            PAIRS,
            tokens(PAIRS, _3=Token("<e>", USER_DEFINED)),
            ["1 types differ, the first with the id 3: 'user-defined', expected 'control'"],
        ),
        (PAIRS, tokens(PAIRS, _3=Token("<e>", UNKNOWN)), []),
        (PAIRS, replace(PAIRS, merges=()), ["the merges differ from number 1 on: 0, expected 1"]),
        (PAIRS, replace(PAIRS, pre="qwen2"), ["text is cut into words as 'qwen2' does: expected 'gpt-2'"]),
        (PAIRS, replace(PAIRS, pre="mpt"), []),
        (PAIRS, replace(PAIRS, special={"eos": 0}), ["`eos_token_id` is 0, 'a': expected 3, '<e>'"]),
        (PAIRS, replace(PAIRS, special={}), []),
        (PAIRS, replace(PAIRS, adds={"eos": False}), ["`add_eos_token` is False: expected True"]),
        (PAIRS, replace(PAIRS, templates={}), ["there is no chat template `default`"]),
        (PAIRS, replace(PAIRS, templates={"default": "x"}), ["the chat template `default` is another one"]),
        (SCORED, replace(SCORED, space_prefix=False), ["`add_space_prefix` is False: expected True"]),
        (SCORED, replace(SCORED, charsmap=b"x"), ["the table by which text is normalized is another one"]),
        (SCORED, tokens(SCORED, _2=Token("a", score=-9.0), _5=Token("bc", score=-3.0), _6=Token("ab", score=-7.0)), []),
        (
            SCORED,
            tokens(SCORED, _5=Token("bc", score=-3.0)),
            ["1 scores differ, the first with the id 5: -3.0, expected -1.0"],
        ),
        (SCORED, tokens(SCORED, _6=Token("ab", score=-1.0)), []),  # a tokenizer.json has an order for these, too
        (
            UNIGRAM,
            tokens(UNIGRAM, _2=Token("a", score=-9.0)),
            ["1 scores differ, the first with the id 2: -9.0, expected 0.0"],
        ),
    ],
)
def test_differences(expected: Tokenizer, found: Tokenizer, words: list[str]) -> None:
    assert [finding.detail for finding in differences(expected, found)] == words
