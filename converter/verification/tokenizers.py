"""What differs between two tokenizers, whichever files they came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from ctypes import c_float
from itertools import groupby, pairwise
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
    USER_DEFINED,
    Token,
    Tokenizer,
)

_WHAT: Final = "another tokenizer"
_SCORED: Final = ("scored-pair", "unigram")
_ENDS: Final = ("eos", "eot", "eom")  # tokens at which a program stops writing
_MARKS: Final = (CONTROL, UNKNOWN)  # programs show neither, and some converters write one instead of the other
# A token that only looks like a control token may have another type in a copy, because older converters of llama.cpp gave it one.
_OPEN: Final = ({CONTROL, USER_DEFINED}, {CONTROL, NORMAL})
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
        said, wanted = f"{len(found.merges):,}", f"{len(expected.merges):,}"
        if said == wanted:
            said, wanted = (f"{' '.join(one.merges[first])!r:.80}" for one in (found, expected))
        yield Finding(
            "tokenizer.merges", _WHAT, f"the merges differ from number {first + 1:,} on: {said}, expected {wanted}"
        )
    if expected.pre and found.pre is not None and not pre.alike(expected.pre, found.pre):
        said = f"as {found.pre!r:.80} does" if found.pre else "in a way that llama.cpp has no name for"
        yield Finding("tokenizer.pre", _WHAT, f"text is cut into words {said}: expected {expected.pre!r:.80}")
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
        yield Finding("tokenizer.charsmap", _WHAT, "another table is used to normalize text")
    for name, text in expected.templates.items():
        if name not in found.templates:
            yield Finding("tokenizer.chat_template", "absent", f"there is no chat template `{name[:80]}`", counts=False)
        elif found.templates[name] != text:
            yield Finding("tokenizer.chat_template", _WHAT, f"the chat template `{name[:80]}` differs")


def lacking_roles(expected: Mapping[str, int], found: Mapping[str, int], *, counts: bool) -> Iterator[Finding]:
    """Name the special tokens that a copy lacks. With `counts`, those at which a program stops are differences."""
    for role, number in expected.items():
        if role not in found:
            detail = f"there is no token for `{role}`: expected {number:,}"
            yield Finding(f"tokenizer.{role}_token_id", "absent", detail, counts=counts and role in _ENDS)


def further_roles(expected: Mapping[str, int], found: Mapping[str, int]) -> Iterator[Finding]:
    """Name the special tokens that only a copy has. Those at which a program stops are differences."""
    for role, number in found.items():
        if role not in expected:
            detail = f"`{role}_token_id` is {number:,}: the source does not say it"
            yield Finding(f"tokenizer.{role}_token_id", _WHAT, detail, counts=role in _ENDS)


def described(tokenizer: Tokenizer) -> dict[str, Any]:
    """What a manifest says about a tokenizer: digests of what is long, everything else as it is."""
    typed = sorted((number, _kind(token)) for number, token in tokenizer.tokens.items())
    return tokenizer.digests() | {
        "types": digest(typed),
        **(_scores(tokenizer) if tokenizer.kind in _SCORED else {"scores": None, "used_scores": None}),
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
    both = expected.keys() & known.keys()
    for part, wanted in expected.items():
        got = known.get(part) if part != "scores" or "used_scores" not in both else wanted
        if isinstance(wanted, Mapping) and isinstance(got, Mapping):
            for name, value in wanted.items():
                other = got.get(name)
                if value != other and None not in (value, other):
                    detail = f"`{name}` is {other!r:.80} in the tokenizer: expected {value!r:.80}"
                    yield Finding(f"tokenizer.{part}", _WHAT, detail)
        elif wanted != got and None not in (wanted, got) and not (part == "pre" and _cut_alike(wanted, got)):
            said = part.replace("_", " ")
            yield Finding(f"tokenizer.{part}", _WHAT, f"the tokenizer's {said} are not those of the manifest")


def _scores(tokenizer: Tokenizer) -> dict[str, str]:
    """The scores that are used: for Unigram all of them, and for BPE the order of the tokens that are made by merging.

    `used_scores` are F32, and say which tokens have the same score. `scores` are what older versions compare.
    """
    normal = {number: token for number, token in tokenizer.tokens.items() if token.type == NORMAL}
    if tokenizer.kind == "unigram":
        scores = sorted((number, token.score) for number, token in normal.items())
        return {"scores": digest(scores), "used_scores": digest([(n, _single(score)) for n, score in scores])}
    order = sorted((normal[number].score, number) for number in _made(normal))
    singles = sorted((_single(score), number) for score, number in order)
    groups = [[number for _, number in group] for _, group in groupby(singles, key=lambda entry: entry[0])]
    return {"scores": digest([number for _, number in order]), "used_scores": digest(groups)}


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
            first, count = numbers[0], len(numbers)
            unlike = f"1 {part[:-1]} differs" if count == 1 else f"{count:,} {part} differ"
            yield Finding(
                f"tokenizer.{part}",
                _WHAT,
                f"{unlike}, the first with the id {first}: {of(other.get(first))!r:.80}, expected {of(one.get(first))!r:.80}",
            )

    yield from differ([n for n in numbers if _text(one.get(n)) != _text(other.get(n))], "tokens", _text)
    both = [n for n in numbers if n in one and n in other and one[n].text == other[n].text]
    supposed = expected.supposed | found.supposed
    unlike = [n for n in both if _kind(one[n]) != _kind(other[n])]
    yield from differ(
        [n for n in unlike if n not in supposed or {one[n].type, other[n].type} not in _OPEN], "types", _type
    )
    if expected.kind in _SCORED:
        normal = [n for n in both if one[n].type == other[n].type == NORMAL]
        unlike = [n for n in normal if _single(one[n].score) != _single(other[n].score)]
        if expected.kind == "unigram" or (unlike and not _ordered_alike(expected, found, normal)):
            yield from differ(unlike, "scores", _score)


def _ordered_alike(expected: Tokenizer, found: Tokenizer, numbers: list[int]) -> bool:
    """Whether the scores of all tokens that are made by merging are in the same order: BPE uses nothing else of them.

    If two pairs have the same score, the first one in the text is merged first, so equal scores must stay equal. A tokenizer.json
    that was made from such a tokenizer still puts them in an order.
    """
    told = expected.ordered or found.ordered  # the order comes from merges, whose two parts are always tokens
    made = _made({number: expected.tokens[number] for number in numbers}, characters=not told)
    scores = sorted((_single(expected.tokens[number].score), _single(found.tokens[number].score)) for number in made)
    return all(
        after[1] > before[1] if after[0] > before[0] else after[1] == before[1] or found.ordered
        for before, after in pairwise(scores)
    )


def _made(tokens: Mapping[int, Token], *, characters: bool = False) -> set[int]:
    """The tokens that two others make, or two `characters` that need not be tokens.

    llama.cpp begins with the characters of a text, and only looks up what it has merged.
    """
    ids = {token.text: number for number, token in tokens.items()}
    made = {ids[left + right] for left, right in merges_of(tokens)}
    if not characters:
        return made
    return made | {
        number
        for text, number in ids.items()
        if any(_is_part(text[:at], ids) and _is_part(text[at:], ids) for at in range(1, len(text)))
    }


def _is_part(text: str, ids: Mapping[str, int]) -> bool:
    return len(text) == 1 or text in ids


def _single(score: float) -> float:
    """The F32 that is nearest to a score. GGUF and SentencePiece store no more digits; JSON does."""
    return c_float(score).value


def _kind(token: Token) -> int:
    return CONTROL if token.type in _MARKS else token.type


def _text(token: Token | None) -> str | None:
    return token.text if token is not None else None


def _type(token: Token | None) -> str | None:
    return TYPES.get(token.type, str(token.type)) if token is not None else None


def _score(token: Token | None) -> float | None:
    return token.score if token is not None else None
