"""Small JSON documents beside the weights, read strictly."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from converter.errors import ConverterError, ManifestError
from converter.io.local import LocalFile
from converter.limits import limits
from converter.text import plural

_UNREAD: Final = "{}; the weights are read without it"


def config_beside(path: Path) -> tuple[dict[str, Any] | None, str | None]:
    """The config.json in a folder as `lenient_json` reads it; None if there is none."""
    file = path / "config.json"
    if file.is_dir():
        return None, _UNREAD.format(f"`{file}` is a folder: a file was expected")
    if not file.is_file():
        return None, None
    try:
        return lenient_json(load_bytes(file), str(file))
    except ConverterError as error:
        return None, _UNREAD.format(error)


def lenient_json(data: bytes, name: str) -> tuple[dict[str, Any] | None, str | None]:
    """A JSON object that programs wrote in their own way, and a sentence about its fault; None if it can't be read.

    A byte order mark and the numbers Infinity and NaN are read as Python's own programs read them.
    """
    faults, constants = [], dict[str, None]()

    def constant(text: str) -> float:
        constants[text] = None
        return float(text)

    if data.startswith(codecs.BOM_UTF8):
        data = data.removeprefix(codecs.BOM_UTF8)
        faults.append("begins with a byte order mark")
    try:
        value = parse_json(data, name, constant)
    except ManifestError as error:
        return None, _UNREAD.format(error)
    if constants:
        faults.append(f"holds {' and '.join(constants)}")
    return value, f"`{name}` {' and '.join(faults)}: other programs may refuse it" if faults else None


def any_json_beside(path: Path) -> Any:
    """The value of a small JSON document of any kind; None if there is none, or if it can't be read."""
    try:
        return strict_json(load_bytes(path).decode()) if path.is_file() else None
    except (ConverterError, ValueError, RecursionError):
        return None


def load_json(path: Path) -> dict[str, Any]:
    """Load a small JSON document as `parse_json` does."""
    return parse_json(load_bytes(path), str(path))


def load_bytes(path: Path) -> bytes:
    """Load a small file. Raises ManifestError for one that is larger than a JSON document may be."""
    source = LocalFile(path)
    if source.size > limits().json_bytes:
        raise ManifestError(f"`{path}` has {plural(source.size, 'byte')}: at most {limits().json_bytes:,} are read")
    return bytes(source.read(0, source.size))


def parse_json(data: bytes, name: str, constant: Callable[[str], float] | None = None) -> dict[str, Any]:
    """Parse a JSON document strictly: an object, UTF-8, no key twice, no NaN unless `constant` turns it into a number.

    `name` is what messages call it.
    """
    try:
        value = strict_json(data.decode(), constant)
        json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair can neither be written nor shown
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"`{name}` is not a valid JSON document: {str(error)[:200]}") from error
    if type(value) is not dict:
        raise ManifestError(f"`{name}` holds a JSON {type(value).__name__}, not an object")
    return value


def strict_json(text: str, constant: Callable[[str], float] | None = None) -> Any:
    """The value of a JSON text. Raises ValueError for a repeated key, half a surrogate or NaN, and RecursionError.

    With `constant`, that gives the numbers that NaN, Infinity and -Infinity stand for.
    """
    integer = _integer if "-0" in text else int
    return json.loads(text, object_pairs_hook=_object, parse_constant=constant or _constant, parse_int=integer)


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
