"""Checks of a tokenizer's files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from converter.errors import ManifestError

_MOST: Final = 1 << 31


def checked_ids(ids: Mapping[str, Any], where: str) -> Mapping[str, int]:
    """Ids by token. Raises ManifestError for an id that is not a number, or that two tokens have."""
    names: dict[str, str] = {}  # by the id as text, because a file can't choose a text's hash
    for token, number in ids.items():
        if type(number) is not int or not 0 <= number < _MOST:
            raise ManifestError(
                f"`{where}` gives `{token[:80]}` the id {number!r:.80}: a number from 0 to 2^31 was expected"
            )
        if (other := names.setdefault(str(number), token)) is not token:
            raise ManifestError(f"`{where}` gives the id {number:,} to `{other[:80]}` and `{token[:80]}`")
    return ids


def mapping(value: Any, name: str, where: str) -> Mapping[str, Any]:
    """A JSON object."""
    if type(value) is not dict:
        raise ManifestError(f"`{where}` has no object `{name}`, which a tokenizer needs")
    return value


def sequence(value: Any, name: str, where: str) -> list[Any]:
    """A JSON array."""
    if type(value) is not list:
        raise ManifestError(f"`{where}` has no array `{name}`, which a tokenizer needs")
    return value


def checked_charsmap(table: bytes, where: str) -> bytes:
    """The table by which text is normalized: the size of a trie in bytes, the trie, and texts."""
    size = int.from_bytes(table[:4], "little")
    if table and size + 4 >= len(table):  # llama.cpp loads no file with such a table
        raise ManifestError(
            f"`{where}` has a table of {len(table):,} bytes by which text is normalized, and says that {size:,} bytes of it are "
            "its trie: it is cut off"
        )
    return table


def flag(document: Mapping[str, Any], name: str, where: str, *, default: bool = False) -> bool:
    """True, false, or the default if it is absent or null."""
    value = document.get(name)
    if value is None:
        return default
    if type(value) is not bool:
        raise ManifestError(f"`{where}` says `{name}` is {value!r:.80}: true or false was expected")
    return value
