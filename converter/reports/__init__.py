"""One frozen dataclass per report, and its JSON. schemas/reports/ describes each; a test holds the two together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any


def to_json(report: Any) -> str:
    """A report as one JSON document: ASCII, with its schema first, without NaN."""
    return json.dumps({"schema": report.schema} | _plain(report), indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        found = ((field, getattr(value, field.name)) for field in fields(value))
        return {
            field.name: _plain(inner)
            for field, inner in found
            if inner is not None or "absent" not in field.metadata  # rather than null
        }
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(inner) for inner in value]
    return value
