"""Finds and reads the JSON files of schemas/: package data in a wheel, a folder beside the package in a checkout."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from converter.errors import SourceError


@cache
def schemas() -> Path:
    """The folder that holds architectures/, models/ and reports/."""
    return find_schemas(Path(__file__).parent)


@cache
def load_json(*parts: str) -> dict[str, Any]:
    """Read a document below `schemas()`. It is the same object every time, so copy it before you change it."""
    document: dict[str, Any] = json.loads(schemas().joinpath(*parts).read_bytes())
    return document


def find_schemas(package: Path) -> Path:
    """The folder of schemas for the package in this folder. Raises SourceError if there is none."""
    if (package / "schemas").is_dir():
        return package / "schemas"
    checkout = package.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / "schemas").is_dir():
        return checkout / "schemas"
    raise SourceError(f"`{package / 'schemas'}` is missing: install cerebras-tool again")
