"""SARIF 2.1.0, in which dashboards collect the findings of scanners: what the reports of several commands share.

Source: OASIS, Static Analysis Results Interchange Format 2.1.0, errata 01.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath
from typing import Any, Final
from urllib.parse import quote

from converter.io.publish import write_report
from converter.text import json_without_commands, safe_text

_SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_ESCAPE: Final = re.compile(r"(%[0-9A-Fa-f]{2})")
_IN_PATH: Final = "/:@!$&'()*+,;="  # reserved characters that a path may hold
_IN_AUTHORITY: Final = "[]:!$&'()*+,;="


def log(
    rules: Sequence[Mapping[str, Any]],
    files: Sequence[tuple[str, int]],
    results: Sequence[Mapping[str, Any]],
    properties: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A log with one run. `files` are the locations that were looked at, and their bytes."""
    return {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "cerebras-tool", "version": _version(), "rules": [*rules]}},
                "invocations": [{"executionSuccessful": True}],
                "artifacts": [
                    {"location": {"uri": uri(location)}, "length": nbytes, "roles": ["analysisTarget"]}
                    for location, nbytes in files
                ],
                "results": [*results],
                **({"properties": properties} if properties is not None else {}),
            }
        ],
    }


def write(document: Mapping[str, Any], path: Path) -> None:
    """Write a log to a file, over an older one. Raises OutputError."""
    text = json_without_commands(json.dumps(document, indent=2))
    write_report(path, f"{text}\n".encode())


def printable(text: str) -> str:
    """A text without control characters, because dashboards show messages unchanged."""
    return safe_text(text, 2000)


def uri(location: str) -> str:
    """A location as a URI, or as one relative to the current folder. Source: RFC 3986."""
    scheme, remote, rest = location.partition("://")
    if remote:  # a path never has `://`, because repeated slashes count as one
        authority, slash, path = rest.partition("/")
        # A URL keeps its escapes; on the Hub the name of a file is plain text.
        kept = _ESCAPE.split(path) if scheme in ("https", "http") else [path]
        quoted = "".join(part if number % 2 else quote(part, safe=_IN_PATH) for number, part in enumerate(kept))
        return f"{scheme}://{quote(authority, safe=_IN_AUTHORITY)}{slash}{quoted}"
    local = PurePath(location)
    if local.is_absolute():
        here = Path.cwd()
        if not local.is_relative_to(here):
            return "file://" + _quoted(local)
        local = local.relative_to(here)
    return _quoted(local)


def _version() -> str:
    try:
        return version("cerebras-tool")
    except PackageNotFoundError:  # a checkout that was never installed
        return "0"


def _quoted(path: PurePath) -> str:
    # A path is bytes, so a name that is not valid text keeps its bytes.
    return quote(str(path).encode("utf-8", "surrogateescape"), safe="/")
