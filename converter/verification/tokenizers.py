"""What differs between two tokenizers, whichever files they came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any, Final

from converter.formats.said import Finding
from converter.models.tokenizers import pre
from converter.models.tokenizers.pieces import merges_of
from converter.models.tokenizers.tokenizer import (
    CONTROL,
    NORMAL,
    TITLES,
    TYPES,
    UNKNOWN,
    Token,
    Tokenizer,
)

_WHAT: Final = "another tokenizer"
_SCORED: Final = ("scored-pair", "unigram")
_MARKS: Final = (CONTROL, UNKNOWN)  # no program shows either, and some converters write one for the other
_FLAGS: Final[Mapping[str, Callable[[Tokenizer], bool | None]]] = {
    "add_space_prefix": lambda tokenizer: tokenizer.space_prefix,
    "remove_extra_whitespaces": lambda tokenizer: tokenizer.merge_spaces,
    "lowercase": lambda tokenizer: tokenizer.lowercase,
    "strip_accents": lambda tokenizer: tokenizer.strip_accents,
}


def differences(expected: Tokenizer, found: Tokenizer) -> Iterator[Finding]:
    """Yield what differs: kind, tokens, types, scores, merges, special tokens, cut into words, chat templates.

    What one of the two doesn't say is not compared. Raises LimitError for SentencePiece's tokens that are too long to
    be merged.
    """
    if expected.kind != found.kind:
        yield Finding(
            "tokenizer.kind", _WHAT, f"the tokenizer is {TITLES[found.kind]}: expected {TITLES[expected.kind]}"
        )
        return
    yield from _tokens(expected, found)
    if expected.merges != found.merges:
        pairs = zip(expected.merges, found.merges, strict=False)
        first = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(expected.merges), len(found.merges)))
        yield Finding(
            "tokenizer.merges",
            _WHAT,
            f"the merges differ from number {first + 1:,} on: {len(found.merges):,}, expected {len(expected.merges):,}",
        )
    if expected.pre and found.pre is not None and not pre.alike(expected.pre, found.pre):
        yield Finding(
            "tokenizer.pre", _WHAT, f"text is cut into words as {found.pre!r:.80} does: expected {expected.pre!r:.80}"
        )
    for role, number in expected.special.items():
        if role in found.special and found.special[role] != number:
            yield _special(role, expected.tokens.get(number), found.tokens.get(found.special[role]), number, found)
    for role, value in expected.adds.items():
        if role in found.adds and found.adds[role] != value:
            yield Finding(
                f"tokenizer.add_{role}_token", _WHAT, f"`add_{role}_token` is {found.adds[role]}: expected {value}"
            )
    for name, flag in _FLAGS.items():
        one, other = flag(expected), flag(found)
        if one is not None and other is not None and one != other:
            yield Finding(f"tokenizer.{name}", _WHAT, f"`{name}` is {other}: expected {one}")
    if expected.charsmap != found.charsmap:
        yield Finding("tokenizer.charsmap", _WHAT, "the table by which text is normalized is another one")
    for name, text in expected.templates.items():
        if name not in found.templates:
            yield Finding("tokenizer.chat_template", "absent", f"there is no chat template `{name[:80]}`", counts=False)
        elif found.templates[name] != text:
            yield Finding("tokenizer.chat_template", _WHAT, f"the chat template `{name[:80]}` is another one")


def described(tokenizer: Tokenizer) -> dict[str, Any]:
    """What a manifest says about a tokenizer: digests of what is long, everything else as it is."""
    typed = sorted((number, _kind(token)) for number, token in tokenizer.tokens.items())
    return tokenizer.digests() | {
        "types": digest(typed),
        "scores": digest(_scores(tokenizer)) if tokenizer.kind in _SCORED else None,
        "charsmap": hashlib.sha256(tokenizer.charsmap).hexdigest(),
        "templates": {name: digest(text) for name, text in tokenizer.templates.items()},
        "kind": tokenizer.kind,
        "pre": tokenizer.pre,
        "special": dict(tokenizer.special),
        "adds": dict(tokenizer.adds),
        "flags": {name: flag(tokenizer) for name, flag in _FLAGS.items()},
    }


def unlike(expected: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what differs between two descriptions. What either of them doesn't say is not compared."""
    for part, wanted in expected.items():
        got = known.get(part)
        if isinstance(wanted, Mapping) and isinstance(got, Mapping):
            for name, value in wanted.items():
                other = got.get(name)
                if value != other and None not in (value, other):
                    detail = f"`{name}` is {other!r:.80} in the tokenizer: expected {value!r:.80}"
                    yield Finding(f"tokenizer.{part}", _WHAT, detail)
        elif wanted != got and None not in (wanted, got) and not (part == "pre" and _cut_alike(wanted, got)):
            yield Finding(f"tokenizer.{part}", _WHAT, f"the tokenizer's {part} are not those of the manifest")


def _scores(tokenizer: Tokenizer) -> list[Any]:
    """What is used of the scores: all of Unigram's, and the order of the tokens that BPE makes by merging."""
    normal = {number: token for number, token in tokenizer.tokens.items() if token.type == NORMAL}
    if tokenizer.kind == "unigram":
        return sorted((number, token.score) for number, token in normal.items())
    return [number for _, number in sorted((normal[number].score, number) for number in _made(normal))]


def _cut_alike(one: Any, other: Any) -> bool:
    return not one or (type(one) is str and type(other) is str and pre.alike(one, other))


def digest(value: Any) -> str:
    """The SHA-256 of a value, as JSON."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _special(role: str, wanted: Token | None, got: Token | None, number: int, found: Tokenizer) -> Finding:
    return Finding(
        f"tokenizer.{role}_token_id",
        _WHAT,
        f"`{role}_token_id` is {found.special[role]:,}, {_text(got)!r:.80}: expected {number:,}, {_text(wanted)!r:.80}",
    )


def _tokens(expected: Tokenizer, found: Tokenizer) -> Iterator[Finding]:
    numbers = sorted(expected.tokens.keys() | found.tokens.keys())
    one, other = expected.tokens, found.tokens

    def differ(numbers: list[int], part: str, of: Callable[[Token | None], Any]) -> Iterator[Finding]:
        if numbers:
            first = numbers[0]
            yield Finding(
                f"tokenizer.{part}",
                _WHAT,
                f"{len(numbers):,} {part} differ, the first with the id {first}: {of(other.get(first))!r:.80}, expected "
                f"{of(one.get(first))!r:.80}",
            )

    yield from differ([n for n in numbers if _text(one.get(n)) != _text(other.get(n))], "tokens", _text)
    both = [n for n in numbers if n in one and n in other and one[n].text == other[n].text]
    yield from differ([n for n in both if _kind(one[n]) != _kind(other[n])], "types", _type)
    if expected.kind in _SCORED:
        normal = [n for n in both if one[n].type == other[n].type == NORMAL]
        unlike = [n for n in normal if one[n].score != other[n].score]
        if expected.kind == "unigram" or (unlike and not _ordered_alike(one, other, normal)):
            yield from differ(unlike, "scores", _score)


def _ordered_alike(one: Mapping[int, Token], other: Mapping[int, Token], numbers: list[int]) -> bool:
    """Whether the scores of all tokens that are made by merging are in the same order: BPE uses nothing else of them.

    A tokenizer.json has the order only, so scores that were told from it are other numbers, and equal ones are none.
    """
    made = _made({number: one[number] for number in numbers})
    scores = sorted((one[number].score, other[number].score) for number in made)
    return all(before[1] <= after[1] for before, after in pairwise(scores))


def _made(tokens: Mapping[int, Token]) -> set[int]:
    """The tokens that two others make."""
    ids = {token.text: number for number, token in tokens.items()}
    return {ids[left + right] for left, right in merges_of(tokens)}


def _kind(token: Token) -> int:
    return CONTROL if token.type in _MARKS else token.type


def _text(token: Token | None) -> str | None:
    return token.text if token is not None else None


def _type(token: Token | None) -> str | None:
    return TYPES.get(token.type, str(token.type)) if token is not None else None


def _score(token: Token | None) -> float | None:
    return token.score if token is not None else None
