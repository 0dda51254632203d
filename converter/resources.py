"""Finds and reads the JSON files of schemas/: package data in a wheel, a folder beside the package in a checkout."""

import json
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from converter.errors import SourceError, WordError

_ENDING: Final = ".schema.json"  # the ending of schemas for documents that are only read


@cache
def schemas() -> Path:
    """The folder that holds architectures/, models/ and reports/."""
    return find_schemas(Path(__file__).parent)


@cache
def load_json(*parts: str) -> dict[str, Any]:
    """Read a document below `schemas()`. It is the same object every time, so copy it before you change it."""
    document: dict[str, Any] = json.loads(schemas().joinpath(*parts).read_bytes())
    return document


class SchemaRow(NamedTuple):
    """A schema that `schema_text` gives: its name, its title, and its file below `schemas()`."""

    name: str
    title: str
    path: tuple[str, ...]


def schema_rows() -> list[SchemaRow]:
    """The schemas of what is printed, written and read, by name."""
    found = [SchemaRow(path.stem, "", ("reports", path.name)) for path in (schemas() / "reports").glob("*.json")]
    found += [SchemaRow(path.name.removesuffix(_ENDING), "", (path.name,)) for path in schemas().glob(f"*{_ENDING}")]
    return sorted(row._replace(title=load_json(*row.path)["title"]) for row in found)


def schema_text(name: str) -> str:
    """A schema as it is in its file: `scan`, or `cerebras-tool/scan/v1`. Raises WordError."""
    rows = {row.name: row for row in schema_rows()}
    stem = name.removeprefix("cerebras-tool/").removesuffix("/v1")
    if stem not in rows:
        raise WordError("NAME", name, [*rows])
    return schemas().joinpath(*rows[stem].path).read_text("utf-8")


def find_schemas(package: Path) -> Path:
    """The folder of schemas for the package in this folder. Raises SourceError if there is none."""
    if (package / "schemas").is_dir():
        return package / "schemas"
    checkout = package.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / "schemas").is_dir():
        return checkout / "schemas"
    raise SourceError(f"`{package / 'schemas'}` is missing: install cerebras-tool again")
