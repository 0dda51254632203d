"""SARIF 2.1.0, in which dashboards collect the findings of scanners: what the reports of several commands share.

Sources: OASIS, Static Analysis Results Interchange Format 2.1.0, errata 01; for what GitHub asks for besides,
https://docs.github.com/en/code-security/code-scanning/integrating-with-code-scanning/sarif-support-for-code-scanning
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from converter.reports import maker
from converter.text import json_without_commands, safe_text

_SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
HEAD: Final = f'{{\n  "$schema": "{_SCHEMA}"'.encode()  # how our logs begin
_ESCAPE: Final = re.compile(r"(%[0-9A-Fa-f]{2})")
_IN_PATH: Final = "/:@!$&'()*+,;="  # reserved characters that a path may hold
_IN_AUTHORITY: Final = "[]:!$&'()*+,;="
_BASE: Final = "SRCROOT"  # the id of the folder that relative addresses start from
_KIND: Final = {"error": "error", "warning": "warning", "note": "recommendation"}  # GitHub's word for each level


class Rule(NamedTuple):
    """A kind of result: its level, a title, what it means, and the page that says more.

    `severity` is how bad it is for security, from 0 to 10; None if it has nothing to do with that.
    """

    id: str
    level: str
    title: str
    meaning: str
    page: str
    severity: float | None = None
    properties: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Result:
    """Something that was found in a file. `place` is where inside it, such as a tensor or a record of an archive.

    `byte` counts from the start of the file. `subject` tells results of one rule and place apart, and is the same in every run.
    `accepted` is the reason for which somebody accepts it.
    """

    rule: str
    level: str
    message: str
    file: int
    place: str = ""
    byte: int | None = None
    subject: str = ""
    accepted: str | None = None


def log(
    rules: Sequence[Rule],
    files: Sequence[tuple[str, int | None]],
    results: Sequence[Result],
    properties: Mapping[str, Any] | None = None,
    *,
    unread: Sequence[tuple[str, str]] = (),
) -> dict[str, Any]:
    """A log with one run. `files` are the locations that were looked at, and their bytes, if known.

    `unread` has a sentence and the class of the cause for each location that could not be looked at.
    """
    places = [_location(location) for location, _ in files]
    numbers = {rule.id: number for number, rule in enumerate(rules)}
    seen: Counter[str] = Counter()
    return _document(
        rules,
        _failure(unread, 2) if unread else {"executionSuccessful": True},
        artifacts=[
            {"location": place, **({} if nbytes is None else {"length": nbytes}), "roles": ["analysisTarget"]}
            for place, (_, nbytes) in zip(places, files, strict=True)
        ],
        results=[_result(result, numbers, places, seen) for result in results],
        properties=properties,
    )


def failed(rules: Sequence[Rule], sentence: str, cause: str, exit_code: int) -> dict[str, Any]:
    """The log of something that could not be done: no results, and a notification that says why."""
    return _document(rules, _failure([(sentence, cause)], exit_code), results=[])


def _failure(errors: Sequence[tuple[str, str]], exit_code: int) -> dict[str, Any]:
    told = [
        {"level": "error", "message": {"text": printable(sentence)}, "descriptor": {"id": cause}}
        for sentence, cause in errors
    ]
    return {"executionSuccessful": False, "exitCode": exit_code, "toolExecutionNotifications": told}


def text(document: Mapping[str, Any]) -> bytes:
    """A log as it is written to a file."""
    return f"{json_without_commands(json.dumps(document, indent=2))}\n".encode()


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
    whole, here = PurePath(os.path.abspath(location)), Path.cwd()
    return _quoted(whole.relative_to(here)) if whole.is_relative_to(here) else f"file://{_quoted(whole)}"


def _location(location: str) -> dict[str, Any]:
    address = uri(location)
    return {"uri": address} if "://" in address else {"uri": address, "uriBaseId": _BASE}


def _document(rules: Sequence[Rule], invocation: Mapping[str, Any], **rest: Any) -> dict[str, Any]:
    home, version = maker.home(), maker.version()
    driver: dict[str, Any] = {"name": maker.NAME, "version": version, "semanticVersion": version}
    if home is not None:
        driver["informationUri"] = home
    driver["rules"] = [_rule(rule) for rule in rules]
    here = f"file://{_quoted(PurePath(Path.cwd()))}".rstrip("/") + "/"
    run = {
        "tool": {"driver": driver},
        "invocations": [{**invocation, "endTimeUtc": maker.stamp()}],
        "originalUriBaseIds": {_BASE: {"uri": here, "description": {"text": "The folder that the command ran in."}}},
        "columnKind": "unicodeCodePoints",
    }
    run |= {name: value for name, value in rest.items() if value is not None}
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(rule: Rule) -> dict[str, Any]:
    page = maker.page(rule.page)
    more = f" See {page}." if page is not None else ""
    markdown = f" [More]({page})." if page is not None else ""
    security = {"tags": ["security"], "security-severity": f"{rule.severity:.1f}"} if rule.severity is not None else {}
    words = rule.id.split("-")
    return {
        "id": rule.id,
        # A name that differs from the id only in case would say nothing.
        **({"name": "".join(map(str.capitalize, words))} if len(words) > 1 else {}),
        "shortDescription": {"text": f"{rule.title}."},
        "fullDescription": {"text": rule.meaning},
        "help": {"text": f"{rule.meaning}{more}", "markdown": f"**{rule.title}.** {rule.meaning}{markdown}"},
        **({"helpUri": page} if page is not None else {}),
        "defaultConfiguration": {"level": rule.level},
        "properties": {"problem.severity": _KIND[rule.level], "precision": "high", **security, **rule.properties},
    }


def _result(
    result: Result, numbers: Mapping[str, int], places: Sequence[Mapping[str, Any]], seen: Counter[str]
) -> dict[str, Any]:
    # GitHub shows a result only at a line, and files of weights have none: all results are at the first.
    region: dict[str, int] = {"startLine": 1}
    if result.byte is not None:
        region |= {"byteOffset": result.byte, "byteLength": 1}
    artifact = {**places[result.file], "index": result.file}
    location: dict[str, Any] = {"physicalLocation": {"artifactLocation": artifact, "region": region}}
    if result.place:
        location["logicalLocations"] = [{"fullyQualifiedName": printable(result.place), "kind": "member"}]
    # What stays the same when offsets move, so that a result is recognised after the file was written again.
    same = json.dumps([result.rule, places[result.file]["uri"], result.place, result.subject])
    number = seen[same] = seen[same] + 1
    digest = hashlib.sha256(same.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    found: dict[str, Any] = {
        "ruleId": result.rule,
        "ruleIndex": numbers[result.rule],
        "level": result.level,
        "message": {"text": printable(result.message)},
        "locations": [location],
        # The name that GitHub looks for; it would count the lines of the file otherwise.
        "partialFingerprints": {"primaryLocationLineHash": f"{digest}:{number}"},
    }
    if result.accepted is not None:
        reason = printable(result.accepted)
        found["suppressions"] = [{"kind": "external", "status": "accepted", "justification": reason}]
    return found


def _quoted(path: PurePath) -> str:
    # A path is bytes, so a name that is not valid text keeps its bytes.
    return quote(str(path).encode("utf-8", "surrogateescape"), safe="/")
