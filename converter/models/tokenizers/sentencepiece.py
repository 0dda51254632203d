"""Reads SentencePiece's tokenizer.model, a protobuf message, by hand.

Source: sentencepiece's src/sentencepiece_model.proto. Fields that are not read here are skipped by their length.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import Final

from converter.errors import ManifestError, UnsupportedError
from converter.models.tokenizers.checks import checked_charsmap
from converter.models.tokenizers.tokenizer import BYTE, TYPES, UNKNOWN, USER_DEFINED, Kind, Token, Tokenizer

NAMES: Final = ("tokenizer.model", "spiece.model")

# Fields of the messages, by number.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_TEXT, _SCORE, _TYPE = 1, 2, 3  # fields of a piece
_MODEL_TYPE, _SUFFIX = 3, 24  # fields of the trainer's settings
_IDS: Final = {"unk": (40, 0), "bos": (41, 1), "eos": (42, 2), "pad": (43, -1)}  # field, and id if it is absent
_CHARSMAP, _PREFIX, _MERGE_SPACES, _ESCAPE = 2, 3, 4, 5  # fields of the normalizer's settings
_KINDS: Final[dict[int, Kind]] = {1: "unigram", 2: "scored-pair"}
_OTHERS: Final = {3: "words", 4: "characters"}
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5  # how a field is encoded


def is_message(data: bytes) -> bool:
    """Whether a file begins as SentencePiece writes it: with a piece, which begins with a text."""
    return data[:1] == b"\n" and data[2:3] == b"\n"


def read(data: bytes, where: str) -> Tokenizer:
    """The tokenizer of a model, which messages call `where`.

    Raises ManifestError for a damaged file, and UnsupportedError for a model that llama.cpp doesn't have.
    """
    tokens: dict[int, Token] = {}
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for number, value in _fields(data, where):
        if number == _PIECES:
            tokens[len(tokens)] = _piece(_message(value, where), where)
        elif number == _TRAINER:
            trainer |= dict(_fields(_message(value, where), where))
        elif number == _NORMALIZER:
            normalizer |= dict(_fields(_message(value, where), where))
    if not tokens:
        raise ManifestError(f"`{where}` holds no token: a model of SentencePiece was expected")
    asked = trainer.get(_MODEL_TYPE, 1)
    kind = _KINDS.get(asked) if type(asked) is int else None
    if kind is None:
        raise UnsupportedError(
            f"`{where}` splits text into {_OTHERS.get(_whole(asked), asked)}, which llama.cpp can't do"
        )
    if trainer.get(_SUFFIX):
        raise UnsupportedError(f"`{where}` puts spaces after words, which GGUF can't express")
    charsmap, notes = _message(normalizer.get(_CHARSMAP, b""), where), []
    merged = bool(normalizer.get(_MERGE_SPACES, 1))
    if not normalizer.get(_ESCAPE, 1):
        raise UnsupportedError(f"`{where}` leaves spaces as they are, where llama.cpp writes ▁")
    if kind == "unigram":
        checked_charsmap(charsmap, where)
    else:
        _check_bytes(tokens, where)
        for there, what in ((bool(charsmap), "normalizes characters"), (merged, "leaves one of several spaces")):
            if there:
                notes.append(
                    f"`{where}` {what}, but llama.cpp doesn't for this kind, and would split such texts differently"
                )
        charsmap, merged = b"", False
    prefix = bool(normalizer.get(_PREFIX, 1))
    if USER_DEFINED in (token.type for token in tokens.values()) and (prefix or kind == "unigram"):
        what = (
            "treats blanks beside such a token differently" if kind == "unigram" else "puts a space behind each of them"
        )
        notes.append(f"`{where}` has user-defined tokens: llama.cpp {what}, and would split such texts differently")
    special = {name: _signed(trainer.get(field, absent)) for name, (field, absent) in _IDS.items()}
    return Tokenizer(
        kind,
        tokens,
        pre="default",
        special={name: number for name, number in special.items() if number in tokens},
        space_prefix=prefix,
        merge_spaces=merged if kind == "unigram" else None,
        charsmap=charsmap,
        notes=tuple(notes),
    )


def _check_bytes(tokens: dict[int, Token], where: str) -> None:
    """Raise UnsupportedError unless there is a token for each byte: without them, llama.cpp aborts."""
    found = sum(token.type == BYTE for token in tokens.values())
    if found != 256:
        raise UnsupportedError(
            f"`{where}` has {found} tokens for single bytes: llama.cpp needs all 256, and aborts without them; "
            "SentencePiece trains them with --byte_fallback"
        )


def _piece(data: bytes, where: str) -> Token:
    fields = dict(_fields(data, where))
    score, kind = fields.get(_SCORE, b"\0\0\0\0"), fields.get(_TYPE, 1)
    try:
        text = _message(fields.get(_TEXT, b""), where).decode()
    except UnicodeDecodeError as error:
        raise ManifestError(f"`{where}` has a token that is not UTF-8: {error.reason}") from error
    if kind not in TYPES or type(score) is not bytes or len(score) != 4:
        raise ManifestError(f"`{where}`: the token `{text[:80]}` has a type or a score that does not exist")
    (value,) = struct.unpack("<f", score)
    if not math.isfinite(value):
        raise ManifestError(f"`{where}`: the token `{text[:80]}` has the score {value}")
    return Token(text, _whole(kind), 0.0 if kind == UNKNOWN else value)


def _fields(data: bytes, where: str) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message: number and value. Raises ManifestError if the message is cut off."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at, where)
        number, layout = key >> 3, key & 7
        if layout == _VARINT:
            value, at = _varint(data, at, where)
            yield number, value
            continue
        size = {_EIGHT: 8, _FOUR: 4}.get(layout)
        if layout == _BYTES:
            size, at = _varint(data, at, where)
        if size is None:
            raise ManifestError(f"`{where}` is not a model of SentencePiece: byte {at:,} begins no field")
        if size > len(data) - at:
            raise ManifestError(f"`{where}` ends at byte {len(data):,}, within a field: perhaps its download broke off")
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int, where: str) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ManifestError(f"`{where}` is not a model of SentencePiece: a number at byte {at:,} does not end")


def _message(value: int | bytes, where: str) -> bytes:
    if type(value) is not bytes:
        raise ManifestError(f"`{where}` is not a model of SentencePiece: it has a number in place of a message")
    return value


def _whole(value: int | bytes) -> int:
    return value if type(value) is int else -1


def _signed(value: int | bytes) -> int:
    number = _whole(value)
    return number - (1 << 64) if number >= 1 << 63 else number
