"""One frozen dataclass per report, and its JSON. schemas/reports/ describes each; a test holds the two together."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from itertools import chain, islice
from typing import Any, Final

from converter.text import json_without_commands

_TOKENS: Final = 1 << 10  # tokens of JSON in a piece


def to_json(report: Any) -> str:
    """Return a report as one JSON document: ASCII, its schema first, no NaN, nothing that a CI takes for a command."""
    return "".join(json_pieces(report)).removesuffix("\n")


def json_pieces(report: Any) -> Iterator[str]:
    """Yield that document in pieces of some kilobytes, and a newline at its end."""
    encoder = json.JSONEncoder(indent=2, allow_nan=False, default=_plain)
    tokens = chain(encoder.iterencode({"schema": report.schema} | _plain(report)), "\n")
    while piece := "".join(islice(tokens, _TOKENS)):
        yield json_without_commands(piece)


def _plain(value: Any) -> dict[str, Any]:
    """A value that JSON has no form for, as a dict of its fields."""
    if isinstance(value, Mapping):
        return dict(value)
    if not is_dataclass(value):
        raise TypeError(f"{type(value).__name__} has no place in a report")
    found = ((field, getattr(value, field.name)) for field in fields(value))
    return {
        field.name: inner
        for field, inner in found
        # Some fields are left out where others would be null, and some are only for other documents.
        if (inner is not None or "absent" not in field.metadata) and "unprinted" not in field.metadata
    }
