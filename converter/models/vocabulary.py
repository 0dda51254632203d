"""GPT-2's byte-pair vocabulary, as vocab.json and merges.txt hold it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from converter.errors import SourceError

FILES: Final = ("vocab.json", "merges.txt")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Ids by token, and the merges in order. Tokens have the printable form that GPT-2 gives bytes (`Ġ` for a space)."""

    ids: Mapping[str, int]
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
    from converter.models.tokenizers import pairs  # only conversions and texts need it

    return Vocabulary(*pairs.read(folder))
