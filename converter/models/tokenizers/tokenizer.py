"""What a tokenizer is, whichever files it came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

# The types of tokens, as SentencePiece and llama.cpp number them.
NORMAL: Final = 1
UNKNOWN: Final = 2
CONTROL: Final = 3
USER_DEFINED: Final = 4
UNUSED: Final = 5
BYTE: Final = 6
TYPES: Final = {
    NORMAL: "normal",
    UNKNOWN: "unknown",
    CONTROL: "control",
    USER_DEFINED: "user-defined",
    UNUSED: "unused",
    BYTE: "byte",
}

# byte-pair: GPT-2's, on bytes that are spelled as printable characters, merged in the order of `merges`
# scored-pair: SentencePiece's BPE, where the pair that makes the token with the highest score is merged first
# merged-pair: a byte-pair tokenizer on characters, with `▁` for a space and tokens for single bytes
# unigram: SentencePiece's Unigram, which takes the tokens whose scores add up to most
# wordpiece: BERT's, which takes the longest token; a token that begins a word starts with `▁`, others are bare
Kind = Literal["byte-pair", "scored-pair", "merged-pair", "unigram", "wordpiece"]

TITLES: Final[Mapping[Kind, str]] = {
    "byte-pair": "byte-level BPE",
    "scored-pair": "SentencePiece BPE",
    "merged-pair": "BPE on characters",
    "unigram": "Unigram",
    "wordpiece": "WordPiece",
}
SPACE: Final = "▁"  # what SentencePiece writes for a space
DEFAULT: Final = "default"  # the name of the chat template that is taken unless another one is asked for


class Token(NamedTuple):
    """A token. `score` has a meaning only for SentencePiece's kinds."""

    text: str
    type: int = NORMAL
    score: float = 0.0


class Obstacle(NamedTuple):
    """A setting that a tokenizer has, as a sentence's end, and the name of its cut into words without that setting."""

    said: str
    pre: str


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """Tokens by id, and everything that decides how a text is split.

    `merges` are in order. `pre` is llama.cpp's name for the way in which text is cut into words before it is merged; None
    if the files don't say. `special` are ids by what they are for: bos, eos, unk, sep, pad, cls, mask and others.
    `adds` says whether bos, eos and sep are put around a text; what is absent is not known. `templates` are chat templates
    by name, of which one is DEFAULT.

    SentencePiece's kinds: `space_prefix` puts a space before a text, `merge_spaces` leaves one of several spaces, and
    `charsmap` is the table of its normalisation. `ordered`: the file has merges and no
    scores, so the scores here only stand for an order. WordPiece: `lowercase` and `strip_accents`.

    `supposed` are the ids of tokens that are taken for control tokens only because they look like `<|this|>`.

    `notes` are what was in the files and has no place here, for people. `obstacle` is the one setting because of
    which llama.cpp has no name for the cut into words.
    """

    kind: Kind
    tokens: Mapping[int, Token]
    merges: tuple[tuple[str, str], ...] = ()
    pre: str | None = None
    special: Mapping[str, int] = field(default_factory=dict)
    adds: Mapping[str, bool] = field(default_factory=dict)
    templates: Mapping[str, str] = field(default_factory=dict)
    space_prefix: bool | None = None
    merge_spaces: bool | None = None
    ordered: bool = False
    charsmap: bytes = b""
    lowercase: bool | None = None
    strip_accents: bool | None = None
    supposed: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()
    obstacle: Obstacle | None = None

    @property
    def ids(self) -> dict[str, int]:
        """Ids by token."""
        return {token.text: number for number, token in self.tokens.items()}

    @property
    def size(self) -> int:
        """How many rows an embedding needs for it."""
        return max(self.tokens, default=-1) + 1

    def digests(self) -> dict[str, str]:
        """SHA-256 of the tokens and of the merges, as JSON."""
        tokens = sorted((number, token.text) for number, token in self.tokens.items())
        parts = {"tokens": tokens, "merges": [f"{left} {right}" for left, right in self.merges]}
        return {name: hashlib.sha256(json.dumps(part).encode()).hexdigest() for name, part in parts.items()}


def padding(number: int) -> str:
    """The token of a row of the embedding that has none, as llama.cpp's converter names it."""
    return f"[PAD{number}]"


def is_padding(token: Token) -> bool:
    """Whether a token only fills a row of the embedding.

    llama.cpp's converter calls it after its row, or after its place among those that it adds to a SentencePiece model.
    """
    if token.type != UNUSED:
        return False
    digits = token.text.removeprefix("[PAD").removesuffix("]")
    return token.text == f"[PAD{digits}]" and digits.isascii() and digits.isdecimal()
