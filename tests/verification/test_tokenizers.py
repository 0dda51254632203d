"""What differs between two tokenizers is named, and what has no effect is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from converter.cli.app import app
from converter.models.tokenizers.tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, Token, Tokenizer
from converter.verification.tokenizers import described, differences, further_roles, lacking_roles, unlike
from tests.build.gguf_files import Info, gguf, key

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
SCORED_WITH_UNKNOWN_CHARACTERS = replace(SCORED, tokens={**SCORED.tokens, 7: Token("yz", score=-9.0)})


def tokens(tokenizer: Tokenizer, **changed: Token) -> Tokenizer:
    return replace(tokenizer, tokens={**tokenizer.tokens, **{int(name[1:]): token for name, token in changed.items()}})


@pytest.mark.parametrize(
    ("expected", "found", "words"),
    [
        (PAIRS, SCORED, ["the tokenizer is SentencePiece BPE: expected byte-level BPE"]),
        (PAIRS, tokens(PAIRS, _1=Token("c")), ["1 token differs, the first with the id 1: 'c', expected 'b'"]),
        (PAIRS, tokens(PAIRS, _4=Token("c")), ["1 token differs, the first with the id 4: 'c', expected None"]),
        (
            PAIRS,
            tokens(PAIRS, _3=Token("<e>", USER_DEFINED)),
            ["1 type differs, the first with the id 3: 'user-defined', expected 'control'"],
        ),
        (PAIRS, tokens(PAIRS, _3=Token("<e>", UNKNOWN)), []),
        # A tokenizer.json doesn't say that a token is one for control, and llama.cpp's converter once didn't suppose it.
        (replace(PAIRS, supposed=frozenset({3})), tokens(PAIRS, _3=Token("<e>", USER_DEFINED)), []),
        (tokens(PAIRS, _3=Token("<e>", USER_DEFINED)), replace(PAIRS, supposed=frozenset({3})), []),
        (replace(PAIRS, supposed=frozenset({3})), tokens(PAIRS, _3=Token("<e>", NORMAL)), []),
        (
            replace(PAIRS, supposed=frozenset({3})),
            tokens(PAIRS, _3=Token("<e>", BYTE)),
            ["1 type differs, the first with the id 3: 'byte', expected 'control'"],
        ),
        (PAIRS, replace(PAIRS, merges=()), ["the merges differ from number 1 on: 0, expected 1"]),
        (
            PAIRS,
            replace(PAIRS, merges=(("b", "a"),)),
            ["the merges differ from number 1 on: 'b a', expected 'a b'"],
        ),
        (PAIRS, replace(PAIRS, pre="qwen2"), ["text is cut into words as 'qwen2' does: expected 'gpt-2'"]),
        (PAIRS, replace(PAIRS, pre="mpt"), []),
        (PAIRS, replace(PAIRS, special={"eos": 0}), ["`eos_token_id` is 0, 'a': expected 3, '<e>'"]),
        (PAIRS, replace(PAIRS, special={}), []),
        (PAIRS, replace(PAIRS, adds={"eos": False}), ["`add_eos_token` is False: expected True"]),
        (PAIRS, replace(PAIRS, templates={}), ["there is no chat template `default`"]),
        (PAIRS, replace(PAIRS, templates={"default": "x"}), ["the chat template `default` differs"]),
        (SCORED, replace(SCORED, space_prefix=False), ["`add_space_prefix` is False: expected True"]),
        (SCORED, replace(SCORED, charsmap=b"x"), ["another table is used to normalize text"]),
        (SCORED, tokens(SCORED, _2=Token("a", score=-9.0), _5=Token("bc", score=-3.0), _6=Token("ab", score=-7.0)), []),
        (
            SCORED,
            tokens(SCORED, _5=Token("bc", score=-3.0)),
            ["1 score differs, the first with the id 5: -3.0, expected -1.0"],
        ),
        (
            SCORED,
            tokens(SCORED, _6=Token("ab", score=-1.0)),
            ["1 score differs, the first with the id 6: -1.0, expected -2.0"],
        ),
        (
            tokens(SCORED, _6=Token("ab", score=-1.0)),
            SCORED,
            ["1 score differs, the first with the id 6: -2.0, expected -1.0"],
        ),
        # A tokenizer.json has an order for tokens with one score, too.
        (tokens(SCORED, _6=Token("ab", score=-1.0)), replace(SCORED, ordered=True), []),
        (
            replace(SCORED, ordered=True),
            tokens(SCORED, _6=Token("ab", score=-1.0)),
            ["1 score differs, the first with the id 6: -1.0, expected -2.0"],
        ),
        # SentencePiece and llama.cpp merge two characters that are no tokens, and a tokenizer.json can't.
        (
            SCORED_WITH_UNKNOWN_CHARACTERS,
            tokens(SCORED_WITH_UNKNOWN_CHARACTERS, _7=Token("yz", score=-0.5)),
            ["1 score differs, the first with the id 7: -0.5, expected -9.0"],
        ),
        (
            SCORED_WITH_UNKNOWN_CHARACTERS,
            replace(tokens(SCORED_WITH_UNKNOWN_CHARACTERS, _7=Token("yz", score=-0.5)), ordered=True),
            [],
        ),
        # No two pieces make this token, so no program uses its score.
        (tokens(SCORED, _7=Token("xyz", score=-9.0)), tokens(SCORED, _7=Token("xyz", score=-0.5)), []),
        # JSON has doubles, and GGUF has F32.
        (tokens(UNIGRAM, _2=Token("a", score=-1.1)), tokens(UNIGRAM, _2=Token("a", score=-1.100000023841858)), []),
        (tokens(SCORED, _5=Token("bc", score=-1.1)), tokens(SCORED, _5=Token("bc", score=-1.100000023841858)), []),
        (
            tokens(UNIGRAM, _2=Token("a", score=-1.1)),
            tokens(UNIGRAM, _2=Token("a", score=-1.1000001430511475)),  # the next F32
            ["1 score differs, the first with the id 2: -1.1000001430511475, expected -1.1"],
        ),
        (tokens(UNIGRAM, _2=Token("a", score=-1e300)), tokens(UNIGRAM, _2=Token("a", score=float("-inf"))), []),
        (
            UNIGRAM,
            tokens(UNIGRAM, _2=Token("a", score=-9.0)),
            ["1 score differs, the first with the id 2: -9.0, expected 0.0"],
        ),
    ],
)
def test_differences(expected: Tokenizer, found: Tokenizer, words: list[str]) -> None:
    assert [finding.detail for finding in differences(expected, found)] == words


@pytest.mark.parametrize(
    ("expected", "found", "names"),
    [
        (UNIGRAM, tokens(UNIGRAM, _2=Token("a", score=-9.0)), ["tokenizer.used_scores"]),
        (tokens(UNIGRAM, _2=Token("a", score=-1.1)), tokens(UNIGRAM, _2=Token("a", score=-1.100000023841858)), []),
        (SCORED, tokens(SCORED, _6=Token("ab", score=-1.0)), ["tokenizer.used_scores"]),
        (SCORED, tokens(SCORED, _5=Token("bc", score=-3.0)), ["tokenizer.used_scores"]),
        (SCORED, tokens(SCORED, _5=Token("bc", score=-3.0), _6=Token("ab", score=-7.0)), []),
    ],
)
def test_a_manifest_has_what_is_used_of_the_scores(expected: Tokenizer, found: Tokenizer, names: list[str]) -> None:
    assert [finding.name for finding in unlike(described(expected), described(found))] == names


def test_a_manifest_of_an_older_version_has_other_digests_of_scores() -> None:
    old = described(UNIGRAM)
    del old["used_scores"]
    changed = described(tokens(UNIGRAM, _2=Token("a", score=-9.0)))

    assert list(unlike(old, described(UNIGRAM))) == []
    assert [finding.name for finding in unlike(old, changed)] == ["tokenizer.scores"]


def test_special_tokens_that_one_side_lacks_are_named_and_those_that_end_a_text_count() -> None:
    lacking = lacking_roles({"bos": 1, "eot": 3, "fim_pre": 4}, {"bos": 2}, counts=True)
    further = further_roles({"bos": 1}, {"bos": 1, "eos": 2, "unk": 0})

    assert [(finding.name, finding.counts) for finding in lacking] == [
        ("tokenizer.eot_token_id", True), ("tokenizer.fim_pre_token_id", False),
    ]  # fmt: skip
    assert [(finding.detail, finding.counts) for finding in further] == [
        ("`eos_token_id` is 2: the source does not say it", True), ("`unk_token_id` is 0: the source does not say it", False),
    ]  # fmt: skip
    assert not any(finding.counts for finding in lacking_roles({"eot": 3}, {}, counts=False))


EOT = key("tokenizer.ggml.eot_token_id", "u32", 1)
FIM = key("tokenizer.ggml.fim_pre_token_id", "u32", 0)
TEMPLATE = key("tokenizer.chat_template", "string", "{{ x }}")


def gguf_file(path: Path, *more: bytes) -> Path:
    keys = [
        key("general.architecture", "string", "llama"), key("tokenizer.ggml.model", "string", "gpt2"),
        key("tokenizer.ggml.pre", "string", "gpt-2"), key("tokenizer.ggml.tokens", "array:string", ["a", "b"]),
        key("tokenizer.ggml.merges", "array:string", []), *more,
    ]  # fmt: skip
    path.write_bytes(gguf(keys, [Info("w", (4,))], bytes(16)))
    return path


@pytest.mark.parametrize(("source", "copy", "code", "said", "agree"), [
    ([EOT], [EOT], 0, "agree", True),
    ([EOT], [], 1, "there is no token for `eot`: expected 1", False),
    ([], [EOT], 1, "`eot_token_id` is 1: the source does not say it", False),
    ([FIM], [], 0, "there is no token for `fim_pre`: expected 0", False),
    ([], [FIM], 0, "`fim_pre_token_id` is 0: the source does not say it", False),
    ([TEMPLATE], [], 0, "there is no chat template `default`", False),
])  # fmt: skip
def test_verify_names_what_a_copy_lacks_of_a_tokenizer(
    source: list[bytes], copy: list[bytes], code: int, said: str, agree: bool, tmp_path: Path
) -> None:
    one, other = gguf_file(tmp_path / "a.gguf", *source), gguf_file(tmp_path / "b.gguf", *copy)

    done = CliRunner().invoke(app, ["verify", str(one), str(other)])

    output = " ".join(done.output.split())
    assert done.exit_code == code, done.output
    assert said in output
    assert ("tokenizer agree" in output) is agree
