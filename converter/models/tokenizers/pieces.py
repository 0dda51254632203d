"""SentencePiece's BPE has scores, and the library `tokenizers` has merges: computes each from the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from converter.errors import LimitError, UnsupportedError
from converter.models.tokenizers.tokenizer import NORMAL, Token
from converter.text import plural

_LONGEST: Final = 256  # characters of a token that is merged: real ones have up to 100, and each is cut at all places


def scores_of(merges: Sequence[tuple[str, str]], where: str) -> dict[str, float]:
    """The score of each token that is made by merging: 0, -1, -2, … in order, as SentencePiece trains them.

    Raises UnsupportedError for merges that scores can't express: those that make the same token at two places.
    """
    scores: dict[str, float] = {}
    last = ""
    for left, right in merges:
        made = left + right
        if made != last and made in scores:
            raise UnsupportedError(
                f"`{where}` makes `{made[:80]}` at two places of its merges: SentencePiece's scores, which llama.cpp needs, "
                "don't follow from them; put the model's `tokenizer.model` beside it"
            )
        if made != last:
            scores[made] = -float(len(scores))
        last = made
    return scores


def merges_of(tokens: Mapping[int, Token]) -> list[tuple[str, str]]:
    """The merges that have the effect of the scores: for each token, by falling score, every two tokens that it consists of.

    Raises LimitError for a token that is too long to be cut everywhere.
    """
    ids = {token.text: number for number, token in tokens.items() if token.type == NORMAL}
    made: list[tuple[float, int, int, int]] = []
    for text, number in ids.items():
        if len(text) > _LONGEST:
            raise LimitError(
                f"a token of {plural(len(text), 'character')}, `{text[:40]}…`: at most {_LONGEST} are merged"
            )
        score = tokens[number].score
        for at in range(1, len(text)):
            left, right = ids.get(text[:at]), ids.get(text[at:])
            if left is not None and right is not None:
                made.append((-score, number, left, right))
    made.sort()
    return [(tokens[left].text, tokens[right].text) for _, _, left, right in made]
