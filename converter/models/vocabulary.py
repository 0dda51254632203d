"""GPT-2's byte-pair vocabulary, as vocab.json and merges.txt hold it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from converter.errors import LimitError, ManifestError, SourceError
from converter.io.local import LocalFile
from converter.io.strict_json import load_json
from converter.limits import limits

FILES: Final = ("vocab.json", "merges.txt")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Ids by token, and the merges in order. Tokens have the printable form that GPT-2 gives bytes (`Ġ` for a space)."""

    ids: dict[str, int]
    merges: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """Tokens by id, and merges in order (two tokens with a space between them)."""

    tokens: Mapping[int, str]
    merges: tuple[str, ...]

    def digests(self) -> dict[str, str]:
        """SHA-256 of the tokens and of the merges, as JSON."""
        parts = {"tokens": sorted(self.tokens.items()), "merges": list(self.merges)}
        return {name: hashlib.sha256(json.dumps(part).encode()).hexdigest() for name, part in parts.items()}


def is_beside(folder: Path) -> bool:
    """Whether a folder holds a vocabulary of this kind."""
    return all((folder / name).is_file() for name in FILES)


def load(folder: Path) -> Vocabulary:
    """Load the two files. Raises SourceError if one is absent, and ManifestError if they contradict themselves."""
    for name in FILES:
        if not (folder / name).is_file():
            raise SourceError(f"`{folder}` has no `{name}`: a GPT-2 tokenizer is {' and '.join(FILES)}")
    ids = load_json(folder / FILES[0])
    names: dict[str, str] = {}  # by the id as text, because a file cannot choose its hash
    for token, number in ids.items():
        if type(number) is not int or not 0 <= number < 1 << 31:
            raise ManifestError(
                f"`{folder / FILES[0]}` gives `{token[:80]}` the id {number!r:.80}: a number from 0 to 2^31 was expected"
            )
        if (other := names.setdefault(str(number), token)) is not token:
            raise ManifestError(f"`{folder / FILES[0]}` gives the id {number:,} to `{other[:80]}` and `{token[:80]}`")
    return Vocabulary(ids, tuple(_merges(folder / FILES[1], ids)))


def _merges(path: Path, ids: dict[str, int]) -> list[tuple[str, str]]:
    source = LocalFile(path)
    if source.size > limits().json_bytes:
        raise LimitError(f"`{path}` has {source.size:,} bytes: at most {limits().json_bytes:,} are read")
    try:
        lines = bytes(source.read(0, source.size)).decode().split("\n")
    except UnicodeDecodeError as error:
        raise ManifestError(f"`{path}` is not UTF-8: {error.reason}") from error
    merges = []
    for number, line in enumerate(lines, 1):
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
                    f"`{path}`, line {number:,}: `{token[:80]}` is not in `{FILES[0]}`: are they of one model?"
                )
        merges.append((left, right))
    return merges
