"""Reads vocab.json and merges.txt, the two files of GPT-2's byte-pair tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from converter.errors import ManifestError
from converter.io.strict_json import load_bytes, load_json
from converter.models.tokenizers.checks import checked_ids

VOCABULARY: Final = "vocab.json"
MERGES: Final = "merges.txt"


def read(folder: Path) -> tuple[Mapping[str, int], tuple[tuple[str, str], ...]]:
    """Ids by token, and the merges in order. Raises ManifestError for files that contradict themselves or each other."""
    path = folder / VOCABULARY
    ids = checked_ids(load_json(path), str(path))
    return ids, tuple(_merges(folder / MERGES, ids))


def lines(path: Path) -> list[str]:
    """The lines of a text file. Raises ManifestError if it is not UTF-8, or is larger than a JSON document may be."""
    try:
        return load_bytes(path).decode().split("\n")
    except UnicodeDecodeError as error:
        raise ManifestError(f"`{path}` is not UTF-8: {error.reason}") from error


def _merges(path: Path, ids: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines(path), 1):
        text = line.removesuffix("\r")
        if not text or (number == 1 and text.startswith("#version")):
            continue
        left, _, right = text.partition(" ")
        if not left or not right or " " in right:
            raise ManifestError(
                f"`{path}`, line {number:,}: expected two tokens and a space between, found {text!r:.80}"
            )
        for token in (left, right, left + right):
            if token not in ids:
                raise ManifestError(
                    f"`{path}`, line {number:,}: `{token[:80]}` is not in `{VOCABULARY}`: are they from the same model?"
                )
        yield left, right
