"""Small JSON documents beside the weights, read strictly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from converter.errors import ManifestError
from converter.io.local import LocalFile
from converter.limits import limits


def config_beside(path: Path) -> dict[str, Any] | None:
    """The config.json in a folder, or None. Raises ManifestError for one that is not a JSON object."""
    file = path / "config.json"
    return load_json(file) if file.is_file() else None


def load_json(path: Path) -> dict[str, Any]:
    """Load a small JSON document as `parse_json` does."""
    return parse_json(load_bytes(path), str(path))


def load_bytes(path: Path) -> bytes:
    """Load a small file. Raises ManifestError for one that is larger than a JSON document may be."""
    source = LocalFile(path)
    if source.size > limits().json_bytes:
        raise ManifestError(f"`{path}` has {source.size:,} bytes: at most {limits().json_bytes:,} are read")
    return bytes(source.read(0, source.size))


def parse_json(data: bytes, name: str) -> dict[str, Any]:
    """Parse a JSON document strictly: an object, UTF-8, no key twice, no NaN. `name` is what messages call it."""
    try:
        value = strict_json(data.decode())
        json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair can neither be written nor shown
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"`{name}` is not a valid JSON document: {str(error)[:200]}") from error
    if type(value) is not dict:
        raise ManifestError(f"`{name}` holds a JSON {type(value).__name__}, not an object")
    return value


def strict_json(text: str) -> Any:
    """The value of a JSON text. Raises ValueError for a repeated key, half a surrogate or NaN, and RecursionError."""
    integer = _integer if "-0" in text else int
    return json.loads(text, object_pairs_hook=_object, parse_constant=_constant, parse_int=integer)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name occurs twice in one object")
    for key in value:
        key.encode()  # refuses half of a surrogate pair
    return value


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _integer(text: str) -> int | float:
    """Read -0 as a float: other readers have no such integer, and the safetensors library refuses it as an offset."""
    return -0.0 if text == "-0" else int(text)
