"""Reads tokenizer.json, the form of the library `tokenizers`."""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from converter.errors import ManifestError, UnsupportedError
from converter.models.tokenizers import pre as pres
from converter.models.tokenizers.checks import checked_charsmap, checked_ids, flag, mapping, sequence
from converter.models.tokenizers.pieces import scores_of
from converter.models.tokenizers.tokenizer import (
    BYTE,
    CONTROL,
    NORMAL,
    SPACE,
    UNKNOWN,
    USER_DEFINED,
    Token,
    Tokenizer,
)
from converter.text import listed

NAME: Final = "tokenizer.json"
BYTES: Final = {f"<0x{byte:02X}>": byte for byte in range(256)}  # the tokens of single bytes
_ADDED_SCORE: Final = -1000.0  # the value of llama.cpp's converter; nothing reads it
# Tokens that models don't mark as special, but that llama.cpp's converter treats as control tokens.
_CONTROLS: Final = frozenset({"<pad>", "<mask>", "<2mass>", "[@BOS@]"})
_BRACKETS: Final = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))


def read(document: Mapping[str, Any], where: str) -> Tokenizer:
    """The tokenizer of a tokenizer.json, which messages call `where`.

    Raises ManifestError for one that contradicts itself, and UnsupportedError for one that llama.cpp has no name for.
    """
    model = mapping(document.get("model"), "model", where)
    kind = model.get("type") or ("BPE" if "merges" in model else "WordPiece")
    reader = _MODELS.get(kind) if type(kind) is str else None
    if reader is None:
        raise UnsupportedError(
            f"`{where}` is a tokenizer of the type {kind!r:.80}: llama.cpp has only {', '.join(_MODELS)}"
        )
    tokenizer = reader(document, model, where)
    if model.get("dropout"):
        note = f"`{where}` leaves out merges by chance (dropout {model['dropout']!r:.40}), but llama.cpp doesn't"
        tokenizer = replace(tokenizer, notes=(*tokenizer.notes, note))
    tokenizer = replace(tokenizer, notes=(*tokenizer.notes, *_spaced(tokenizer, document, where)))
    return _surrounded(_added(tokenizer, document, _own_ids(model), where), document, where)


# ---- models ---------------------------------------------------------------------------------------------------------


def _pairs(document: Mapping[str, Any], model: Mapping[str, Any], where: str) -> Tokenizer:
    ids = checked_ids(mapping(model.get("vocab"), "model.vocab", where), where)
    merges = tuple(_merges(model, ids, where))
    for part in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(part):
            raise UnsupportedError(f"`{where}` marks words by {part} {model[part]!r:.40}: llama.cpp has no such mark")
    if flag(model, "byte_fallback", where):
        return _characters(document, model, ids, merges, where)
    notes = tuple(_unnormalized(document.get("normalizer"), where))
    cut, whole = document.get("pre_tokenizer"), flag(model, "ignore_merges", where)
    row = pres.found(cut, ignore_merges=whole)
    obstacle = pres.obstacle(cut, ignore_merges=whole) if row is None else None
    tokens = {number: Token(text) for text, number in ids.items()}
    return Tokenizer(
        "byte-pair", tokens, merges, pre=row.name if row is not None else "", notes=notes, obstacle=obstacle
    )


def _merges(model: Mapping[str, Any], ids: Mapping[str, int], where: str) -> Iterator[tuple[str, str]]:
    for number, merge in enumerate(sequence(model.get("merges", []), "model.merges", where)):
        pair = merge.split(" ") if type(merge) is str else merge
        match pair:
            case [str(left), str(right)] if left and right:
                for token in (left, right, left + right):
                    if token not in ids:
                        raise ManifestError(f"`{where}`: merge {number:,} needs `{token[:80]}`, which is not a token")
                yield left, right
            case _:
                raise ManifestError(f"`{where}`: merge {number:,} is {merge!r:.80}: two tokens were expected")


def _unnormalized(normalizer: Any, where: str) -> Iterator[str]:
    """A note on NFC, which most texts are in anyway. Raises UnsupportedError for another normalizer."""
    steps = list(_flat(normalizer, "normalizers"))
    for step in steps:
        if step != {"type": "NFC"}:
            raise UnsupportedError(
                f"`{where}` changes text by the normalizer {_type(step)}, which llama.cpp doesn't have for byte-level BPE"
            )
    if steps:
        yield (
            f"`{where}` puts text into the form NFC, but llama.cpp doesn't, and would split text in another form differently"
        )


def _characters(
    document: Mapping[str, Any],
    model: Mapping[str, Any],
    ids: Mapping[str, int],
    merges: tuple[tuple[str, str], ...],
    where: str,
) -> Tokenizer:
    """SentencePiece's BPE, as the library writes it: merges in the order of the scores."""
    prefix = None
    for step in _flat(document.get("normalizer"), "normalizers"):
        match step:
            case {"type": "Prepend", "prepend": "▁"}:
                prefix = True
            case {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}:
                prefix = bool(prefix)
            case _:
                raise _unknown_step(step, where)
    for step in _flat(document.get("pre_tokenizer"), "pretokenizers"):
        match step:
            case {"type": "Metaspace", "replacement": "▁"}:
                prefix = _prepends(step)
            case {"type": "Split", "pattern": {"String": " "}}:  # the normalizer has left no spaces to split at
                pass
            case _:
                raise _unknown_step(step, where)
    if prefix is None:
        raise UnsupportedError(
            f"`{where}` has tokens for bytes, but doesn't write {SPACE} for a space, as SentencePiece does"
        )
    absent = BYTES.keys() - ids.keys()
    if absent:
        raise UnsupportedError(
            f"`{where}` has no token `{min(absent)}`: llama.cpp needs one for each byte, and aborts without it"
        )
    unknown = model.get("unk_token")
    special = {"unk": ids[unknown]} if type(unknown) is str and unknown in ids else {}
    try:
        scores = scores_of(merges, where)
    except UnsupportedError:
        if prefix or any(_crosses_lines(left + right) for left, right in merges):
            raise
        # llama.cpp has a kind that keeps the merges, made for Gemma 4. It puts no space before a text, and splits at newlines.
        kinds = dict.fromkeys(BYTES, BYTE) | ({unknown: UNKNOWN} if special else {})
        plain = {number: Token(text, kinds.get(text, NORMAL)) for text, number in ids.items()}
        return Tokenizer("merged-pair", plain, merges=merges, special=special, space_prefix=False)
    lowest = -float(len(scores) + 1)

    def token(text: str) -> Token:
        if text == unknown:
            return Token(text, UNKNOWN)
        return Token(text, BYTE) if text in BYTES else Token(text, NORMAL, scores.get(text, lowest))

    tokens = {number: token(text) for text, number in ids.items()}
    return Tokenizer("scored-pair", tokens, pre="default", special=special, space_prefix=prefix, ordered=True)


def _unigram(document: Mapping[str, Any], model: Mapping[str, Any], where: str) -> Tokenizer:
    pieces = sequence(model.get("vocab"), "model.vocab", where)
    unknown, falls_back = model.get("unk_id"), flag(model, "byte_fallback", where)
    tokens = {}
    for number, piece in enumerate(pieces):
        match piece:
            case [str(text), float() | int() as score] if score == score and abs(score) < 1e30:  # noqa: PLR0124
                kind = UNKNOWN if number == unknown else BYTE if falls_back and text in BYTES else NORMAL
                tokens[number] = Token(text, kind, float(score))
            case _:
                raise ManifestError(f"`{where}`: token {number:,} is {piece!r:.80}: a text and its score were expected")
    charsmap, merged, prefix = b"", False, None
    for step in _flat(document.get("normalizer"), "normalizers"):
        match step:
            case {"type": "Precompiled", "precompiled_charsmap": str(encoded)}:
                charsmap = _decoded(encoded, where)
            case {"type": "Precompiled", "precompiled_charsmap": None}:
                pass
            case {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " " | "▁"}:
                merged = True
            case {"type": "Strip"}:
                merged = True
            case _:
                raise _unknown_step(step, where)
    for step in _flat(document.get("pre_tokenizer"), "pretokenizers"):
        match step:
            case {"type": "Metaspace", "replacement": "▁"}:
                prefix = _prepends(step)
            case {"type": "WhitespaceSplit"}:
                merged = True
            case _:
                raise _unknown_step(step, where)
    if prefix is None:
        raise UnsupportedError(
            f"`{where}` doesn't write {SPACE} for a space, as SentencePiece and llama.cpp do for Unigram"
        )
    special = {"unk": unknown} if type(unknown) is int and unknown in tokens else {}
    return Tokenizer(
        "unigram", tokens, pre="default", special=special, space_prefix=prefix, merge_spaces=merged, charsmap=charsmap
    )


def _decoded(encoded: str, where: str) -> bytes:
    try:
        return checked_charsmap(b64decode(encoded, validate=True), where)
    except (binascii.Error, ValueError) as error:
        raise ManifestError(f"`{where}`: its precompiled_charsmap is not base64: {error}") from error


def _words(document: Mapping[str, Any], model: Mapping[str, Any], where: str) -> Tokenizer:
    ids = checked_ids(mapping(model.get("vocab"), "model.vocab", where), where)
    prefix = model.get("continuing_subword_prefix", "##")
    if prefix != "##":
        raise UnsupportedError(f"`{where}` marks the middle of words by {prefix!r:.40}: llama.cpp knows only `##`")
    lowercase, accents = False, None
    for step in _flat(document.get("normalizer"), "normalizers"):
        match step:
            case {"type": "BertNormalizer"} if flag(step, "clean_text", where, default=True) and flag(
                step, "handle_chinese_chars", where, default=True
            ):
                lowercase = flag(step, "lowercase", where, default=True)
                stripped = step.get("strip_accents")
                accents = lowercase if stripped is None else bool(stripped)
            case _:
                raise _unknown_step(step, where)
    for step in _flat(document.get("pre_tokenizer"), "pretokenizers"):
        if _type(step) != "BertPreTokenizer":
            raise _unknown_step(step, where)
    return word_pieces(ids, str(model.get("unk_token", "[UNK]")), lowercase=lowercase, strip_accents=accents)


def word_pieces(ids: Mapping[str, int], unknown: str, *, lowercase: bool, strip_accents: bool | None) -> Tokenizer:
    """A WordPiece tokenizer, whose tokens begin with `##` if they continue a word."""
    frames = {*_FRAMES, unknown}
    tokens = {number: Token(text, CONTROL) if text in frames else Token(_phantom(text)) for text, number in ids.items()}
    special = {name: ids[text] for text, name in _FRAMES.items() if text in ids}
    if unknown in ids:
        special["unk"] = ids[unknown]
    return Tokenizer("wordpiece", tokens, pre=None, special=special, lowercase=lowercase, strip_accents=strip_accents)


_FRAMES: Final = {"[CLS]": "cls", "[SEP]": "sep", "[PAD]": "pad", "[MASK]": "mask"}


def _phantom(text: str) -> str:
    """How llama.cpp spells a piece of a word: a piece that begins one has `▁` before it, and others are bare."""
    return text.removeprefix("##") if text.startswith("##") else SPACE + text


_MODELS: Final[Mapping[str, Callable[[Mapping[str, Any], Mapping[str, Any], str], Tokenizer]]] = {
    "BPE": _pairs,
    "Unigram": _unigram,
    "WordPiece": _words,
}


def _flat(step: Any, inner: str) -> Iterator[Any]:
    """The steps of a normalizer or a pre-tokenizer, which may be sequences inside sequences."""
    waiting = [step]
    while waiting:
        step = waiting.pop()
        match step:
            case None:
                pass
            case {"type": "Sequence"} if type(steps := step.get(inner)) is list:
                waiting += reversed(steps)
            case _:
                yield step


def _type(step: Any) -> str:
    return str(step.get("type"))[:40] if type(step) is dict else "?"


def _prepends(step: Mapping[str, Any]) -> bool:
    scheme = "always" if step.get("add_prefix_space", True) else "never"
    return bool(step.get("prepend_scheme", scheme) != "never")


def _spaced(tokenizer: Tokenizer, document: Mapping[str, Any], where: str) -> Iterator[str]:
    """Notes on where the library puts a space before a text and llama.cpp doesn't, or the other way round."""
    for step in _flat(document.get("pre_tokenizer"), "pretokenizers"):
        if _type(step) != "Metaspace" or not tokenizer.space_prefix:
            continue
        if step.get("prepend_scheme") == "first":  # only the first of the parts that special tokens cut a text into
            yield (
                f"`{where}` puts a space only before a text, but llama.cpp puts one behind each special token, too, and would "
                "split texts with such tokens differently"
            )
        if not tokenizer.merge_spaces:
            yield (
                f"`{where}` puts no space before a text that begins with one, but llama.cpp does, and would split such texts "
                "differently"
            )


def _unknown_step(step: Any, where: str) -> UnsupportedError:
    return UnsupportedError(f"`{where}` has the step {_type(step)} in a form that llama.cpp can't express")


# ---- tokens around the model's own ----------------------------------------------------------------------------------


def seems_control(text: str) -> bool:
    """Whether a token that isn't marked as special counts as one by its form, as llama.cpp's converter decides."""
    return text in _CONTROLS or any(
        text.startswith(left) and text.endswith(right) and len(text) >= len(left + right) for left, right in _BRACKETS
    )


def added(tokenizer: Tokenizer, additions: Mapping[int, tuple[str, bool]], where: str) -> Tokenizer:
    """The tokenizer with tokens that were added to its model: texts, and whether they are special, by id."""
    tokens, spaced = dict(tokenizer.tokens), tokenizer.kind in ("scored-pair", "unigram")
    unknown, supposed = tokenizer.special.get("unk"), set(tokenizer.supposed)
    for number, (text, special) in additions.items():
        before = tokens.get(number)
        looks = seems_control(text)
        if looks and not special:
            supposed.add(number)
        if special or looks:
            kind = UNKNOWN if number == unknown and spaced else CONTROL
            tokens[number] = Token(text, kind, before.score if before is not None else _ADDED_SCORE)
        else:
            # A user-defined token is compared with the text as it is, not as SentencePiece normalises it.
            tokens[number] = Token(text.replace(SPACE, " ") if spaced else text, USER_DEFINED, _ADDED_SCORE)
    return replace(tokenizer, tokens=tokens, supposed=frozenset(supposed))


def _own_ids(model: Mapping[str, Any]) -> Mapping[str, int]:
    """The ids of the model's own tokens, as its vocabulary spells them."""
    vocab = model.get("vocab")
    return vocab if type(vocab) is dict else {piece[0]: number for number, piece in enumerate(vocab or ())}


def _added(tokenizer: Tokenizer, document: Mapping[str, Any], own: Mapping[str, int], where: str) -> Tokenizer:
    """The tokenizer with its added tokens. One that the model has keeps the model's id: the library ignores the other."""
    additions: dict[int, tuple[str, bool]] = {}
    stripped = []
    for entry in sequence(document.get("added_tokens") or [], "added_tokens", where):
        match entry:
            case {"id": int(number), "content": str(text)} if 0 <= number < 1 << 31:
                number = own.get(text, number)
                if number in additions:
                    raise ManifestError(f"`{where}` adds two tokens with the id {number:,}")
                additions[number] = text, flag(entry, "special", where)
                if entry.get("lstrip") or entry.get("rstrip") or entry.get("single_word"):
                    stripped.append(text)
            case _:
                raise ManifestError(f"`{where}`: {entry!r:.80} in added_tokens: an id and a content were expected")
    tokenizer = added(tokenizer, additions, where)
    if stripped:
        names = listed([text[:40] for text in stripped], 3)
        note = (
            f"GGUF can't say that a token takes the spaces around it, or matches whole words only, as these do: {names}"
        )
        tokenizer = replace(tokenizer, notes=(*tokenizer.notes, note))
    return tokenizer


def _surrounded(tokenizer: Tokenizer, document: Mapping[str, Any], where: str) -> Tokenizer:
    """The tokenizer with the tokens that its post-processor puts around a text."""
    adds: dict[str, bool] = {}
    special = dict(tokenizer.special)
    ids = tokenizer.ids

    def put(name: str, text: Any, numbers: Any = None) -> None:
        adds[name] = text is not None
        if text is not None:
            if type(text) is not str or text not in ids:
                raise ManifestError(f"`{where}` puts {text!r:.80} around a text, but that is not a token")
            match [ids[text]] if numbers is None else numbers:
                case [int(number)] if number in tokenizer.tokens:
                    special[name] = number  # the library takes the number, even if another token has the text
                case _:
                    raise UnsupportedError(
                        f"`{where}` puts `{text[:80]}` around a text as {numbers!r:.80}, where llama.cpp has the id of one token"
                    )

    for step in _flat(document.get("post_processor"), "processors"):
        match step:
            case {"type": "ByteLevel"}:
                adds = {"bos": False, "eos": False} | adds
            case {"type": "TemplateProcessing", "single": [*single], **more}:
                for name, text in zip(("bos", "eos"), _template(single, where), strict=True):
                    put(name, text, _numbers(more.get("special_tokens"), text))
            case {"type": "BertProcessing" | "RobertaProcessing", "cls": [first, begin], "sep": [last, end]}:
                put("bos", first, [begin])
                put("eos", last, [end])
            case _:
                raise _unknown_step(step, where)
    # llama.cpp ends a text with the token that separates two texts.
    if tokenizer.kind == "wordpiece" and adds.get("eos"):
        special["sep"] = special.pop("eos")
        adds["sep"] = adds.pop("eos")
    return replace(tokenizer, adds=adds, special=special)


def _numbers(special_tokens: Any, text: Any) -> Any:
    """The ids that a template has for one of its tokens; None if it doesn't say."""
    entry = special_tokens.get(text) if type(special_tokens) is dict and type(text) is str else None
    return entry.get("ids") if type(entry) is dict else None


def _template(single: list[Any], where: str) -> tuple[Any, Any]:
    """The special token before a text and the one after it."""
    names: list[Any] = []
    for part in single:
        match part:
            case {"SpecialToken": {"id": name}}:
                names.append(name)
            case {"Sequence": {}}:
                names.append(None)
            case _:
                raise ManifestError(f"`{where}`: {part!r:.80} in a template: a token or a sequence was expected")
    at = [index for index, name in enumerate(names) if name is None]
    if len(at) != 1 or at[0] > 1 or len(names) - at[0] > 2:
        raise UnsupportedError(f"`{where}` puts more than one token before or after a text, which llama.cpp can't do")
    return (names[0] if at[0] else None), (names[-1] if len(names) - at[0] == 2 else None)


def _crosses_lines(text: str) -> bool:
    """Whether a token has newlines and something else."""
    return "\n" in text and bool(text.strip("\n"))
