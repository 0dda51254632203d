"""How a tokenizer.json has texts padded, and what differs between two of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from converter.formats.said import Finding
from converter.models.tokenizers import json_file

_KEYS: Final = ("length", "multiple", "id", "token")


def described(padding: Any) -> dict[str, Any] | None:
    """The token that fills texts up, and to which length (None: the longest one's); None if texts are not padded."""
    if not isinstance(padding, Mapping):
        return None
    strategy = padding.get("strategy")
    length = strategy.get("Fixed") if isinstance(strategy, Mapping) else None
    values = (length, padding.get("pad_to_multiple_of"), padding.get("pad_id"), padding.get("pad_token"))
    return dict(zip(_KEYS, values, strict=True))


def is_said(value: Any) -> bool:
    """Whether a value from a manifest is such a description."""
    return value is None or (type(value) is dict and value.keys() == set(_KEYS))


def unlike(expected: Mapping[str, Any] | None, found: Mapping[str, Any] | None) -> Iterator[Finding]:
    """Say what differs. It counts if a single text gets other tokens, or if another token is used.

    transformers pads several texts to the longest of them anyway, and saves that once it was done.
    """
    if expected == found:
        return
    longer = found is not None and any(found[key] not in (None, (expected or {}).get(key)) for key in _KEYS[:2])
    other = expected is not None and found is not None and any(found[key] != expected[key] for key in _KEYS[2:])
    detail = f"texts are {_padded(found)}: expected {_padded(expected) if expected is not None else 'no padding'}"
    counts = longer or other
    yield Finding(json_file.NAME, "padding is wrong" if counts else "another padding", detail, counts=counts)


def _padded(said: Mapping[str, Any] | None) -> str:
    if said is None:
        return "not padded"
    length, multiple = said["length"], said["multiple"]
    until = "to the longest" if length is None else f"to {length!s:.20} tokens"
    more = "" if multiple is None else f" and to a multiple of {multiple!s:.20}"
    return f"padded {until}{more} with `{said['token']!s:.40}` (id {said['id']!s:.20})"
