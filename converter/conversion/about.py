"""What the files around the weights say about a model: its name, who made it, its licence, its tags.

Facts come from a README's front matter, from the place on the Hub, from config.json, and from the folder's name, in this
order. Shapes say nothing: another model of the same size has them, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from converter.errors import ConverterError
from converter.formats.companions import CONFIG
from converter.io.local import LocalFile
from converter.models.called import CACHED
from converter.models.declared import HUB

if TYPE_CHECKING:
    from converter.formats.planned import About

_README: Final = "README.md"
_FENCE: Final = "---"
_MOST: Final = 64 << 10  # bytes of a front matter
_LISTED: Final = 1000  # elements of a list
_PLACE: Final = re.compile(
    r"(?:hf://)?([A-Za-z0-9][\w.-]{0,95})/([A-Za-z0-9][\w.-]{0,95})(?:@[^/]+)?(?:/.*)?", re.ASCII
)


class _Row(NamedTuple):
    """A key of GGUF, and the keys of a front matter that give its value: the first one that is there, or with `many` all."""

    key: str
    names: tuple[str, ...]
    many: bool = False


_ROWS: Final = (
    _Row("general.name", ("model_name", "name")),
    _Row("general.author", ("model_creator", "model_author", "author")),
    _Row("general.license", ("license",)),
    _Row("general.license.name", ("license_name",)),
    _Row("general.license.link", ("license_link",)),
    _Row("general.tags", ("tags", "pipeline_tag"), many=True),
    _Row("general.languages", ("languages", "language"), many=True),
)

# A key of a front matter with models or datasets, the beginning of GGUF's keys for them, and where they are on the Hub.
_SOURCES: Final = (("base_model", "general.base_model", HUB), ("datasets", "general.dataset", f"{HUB}/datasets"))
_REPOSITORY: Final = re.compile(r"(?:([A-Za-z0-9][\w.-]{0,95})/)?([A-Za-z0-9][\w.-]{0,95})", re.ASCII)


def about(folder: Path | None, location: str, config: Mapping[str, Any] | None) -> dict[str, About]:
    """What is known about a model at a location, by GGUF's keys. `folder` is the one with its small files."""
    said = _front_matter(folder / _README) if folder is not None else {}
    found: dict[str, About] = {}
    for row in _ROWS:
        values = [value for name in row.names for value in said.get(name, ()) if value]
        if values:
            found[row.key] = values if row.many else values[0]
    named = next(_places(folder, location, config), None)
    if named is not None:
        owner, name = named
        found.setdefault("general.name", titled(name))
        if owner:
            found["general.organization"] = titled(owner)
            found["general.source.repo_url"] = f"{HUB}/{owner}/{name}"
    for key, begin, hub in _SOURCES:
        found |= _sources(said.get(key, ()), begin, hub)
    return found


def _sources(places: Iterable[str], begin: str, hub: str) -> Iterator[tuple[str, About]]:
    """The keys of models or datasets that a model was made from: how many there are, and each by its number from 0."""
    matches = [match for place in places if (match := _REPOSITORY.fullmatch(place.removeprefix(f"{hub}/")))]
    if matches:
        yield f"{begin}.count", len(matches)
    for number, match in enumerate(matches):
        yield f"{begin}.{number}.name", titled(match[2])
        if match[1]:
            yield f"{begin}.{number}.organization", titled(match[1])
        yield f"{begin}.{number}.repo_url", f"{hub}/{match[0]}"


def titled(name: str) -> str:
    """A name of a repository for people: `tiny-llama-1.1b` is `Tiny Llama 1.1b`."""
    return " ".join(
        word.title() if word.isalpha() and word.islower() else word for word in name.replace("-", " ").split()
    )


def _places(folder: Path | None, location: str, config: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    """Owner and name of the repository; a folder's name has no owner."""
    if location.startswith("hf://") and (match := _PLACE.fullmatch(location)):
        yield match[1], match[2]
    for parent in folder.absolute().parents if folder is not None else ():
        if match := CACHED.fullmatch(parent.name):
            yield match[1], match[2]
    path = (config or {}).get("_name_or_path")
    if type(path) is str and path.count("/") == 1 and (match := _PLACE.fullmatch(path)):
        yield match[1], match[2]
    # A lone file lies anywhere; a folder with a config.json is a model's.
    if folder is not None and (Path(location) == folder or (folder / CONFIG).is_file()) and folder.absolute().name:
        yield "", folder.absolute().name


def _front_matter(path: Path) -> dict[str, list[str]]:
    """The texts and lists of texts of a front matter, by name. What is deeper, or on several lines, is not read."""
    try:
        if not path.is_file():
            return {}
        with LocalFile(path) as file:
            lines = bytes(file.read(0, min(file.size, _MOST))).decode("utf-8", "replace").splitlines()
    except (ConverterError, OSError):
        return {}
    if not lines or lines[0].rstrip() != _FENCE or _FENCE not in (line.rstrip() for line in lines[1:]):
        return {}
    found: dict[str, list[str]] = {}
    into: list[str] = []
    for line in lines[1:]:
        if line.rstrip() == _FENCE:
            break
        name, colon, rest = line.partition(":")
        item = line.strip()
        if item.startswith("- "):
            if len(into) < _LISTED:
                into += _text(item[2:])
        elif colon and name and not name[0].isspace():
            inner = rest.strip()
            parts = inner[1:-1].split(",")[:_LISTED] if inner.startswith("[") and inner.endswith("]") else [inner]
            into = found.setdefault(name.strip(), [])
            into += [text for part in parts for text in _text(part)]
        else:
            into = []  # a value on several lines
    return found


def _text(written: str) -> list[str]:
    """A scalar of YAML as a list of one text; none for what is not plain text."""
    text = written.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return [text[1:-1]]
    return [text] if text and text[0] not in "|>{}[&*!#%@`" and ": " not in text else []
