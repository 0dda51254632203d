"""What `scan` found as a bill of materials: CycloneDX 1.6, with models, their files, hashes, licences and findings.

Source: https://cyclonedx.org/docs/1.6/json/
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from converter import formats
from converter.conversion.about import about
from converter.errors import ConverterError
from converter.formats.companions import CONFIG
from converter.io.local import LocalFile
from converter.models.recognition import recognise
from converter.opening import folder_beside, open_checkpoint
from converter.reports import maker
from converter.scanning.rules import RULES
from converter.text import json_without_commands, safe_text
from converter.words import DANGEROUS, PLAIN

if TYPE_CHECKING:
    from converter.formats.planned import About
    from converter.reports.scan import FileScan, FindingReport, ScanReport

_SCHEMA: Final = "http://cyclonedx.org/schema/bom-1.6.schema.json"
HEAD: Final = f'{{\n  "$schema": "{_SCHEMA}"'.encode()  # how our bills begin
_FOLDERS: Final = frozenset(format.title for format in formats.FORMATS if format.marker)
_STEP: Final = 1 << 20  # bytes that are hashed at a time
_TITLES: Final = frozenset(format.title for format in formats.FORMATS)
_OURS: Final = "cerebras-tool:"  # the prefix of our properties' names
# Common licences: the Hub's word and the SPDX identifier. Other licences are given by their name.
_SPDX: Final = {
    "apache-2.0": "Apache-2.0", "mit": "MIT", "bsd-2-clause": "BSD-2-Clause", "bsd-3-clause": "BSD-3-Clause", "isc": "ISC",
    "cc0-1.0": "CC0-1.0", "cc-by-4.0": "CC-BY-4.0", "cc-by-sa-4.0": "CC-BY-SA-4.0", "cc-by-nc-4.0": "CC-BY-NC-4.0",
    "cc-by-nc-sa-4.0": "CC-BY-NC-SA-4.0", "cc-by-nc-nd-4.0": "CC-BY-NC-ND-4.0", "cc-by-3.0": "CC-BY-3.0",
    "gpl-2.0": "GPL-2.0-only", "gpl-3.0": "GPL-3.0-only", "lgpl-3.0": "LGPL-3.0-only", "agpl-3.0": "AGPL-3.0-only",
    "mpl-2.0": "MPL-2.0", "unlicense": "Unlicense", "artistic-2.0": "Artistic-2.0", "zlib": "Zlib",
}  # fmt: skip
_SEVERITIES: Final = ((9.0, "critical"), (7.0, "high"), (4.0, "medium"), (0.1, "low"), (0.0, "none"))


def to_bom(report: ScanReport) -> bytes:
    """The bill. Local files are read whole, for their SHA-256; for other files it has what the scan knows."""
    models: dict[str, tuple[str, list[FileScan]]] = {}
    policy = report.policy
    scanned = {_identity(file.location): file for file in reversed(report.files)}  # a file may be named twice
    for file in reversed(scanned.values()):
        place = _model_of(file)
        models.setdefault(_identity(place) if place else "", (place, []))[1].append(file)
    components = [
        component
        for place, files in models.values()
        for component in ([_model(place, files, scanned)] if place else map(_file, files))
    ]
    document = {
        "$schema": _SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": maker.stamp(),
            "lifecycles": [{"phase": "pre-build"}],
            "tools": {"components": [{"type": "application", "name": maker.NAME, "version": maker.version()}]},
            "properties": _properties(
                {
                    "verdict": report.verdict,
                    "files-without-a-pickle": report.skipped,
                    "links-not-followed": report.links,
                    **(
                        {"policy": PurePath(policy.name).name, "policy.sha256": policy.sha256}
                        if policy is not None
                        else {}
                    ),
                }
            ),
        },
        "components": components,
        "vulnerabilities": [*_vulnerabilities(reversed(scanned.values()))],
    }
    text = json.dumps(document, indent=2)
    # Two bills have the same serial number only if they say the same.
    serial = {"serialNumber": uuid.uuid5(uuid.NAMESPACE_URL, text).urn}
    whole = {"$schema": _SCHEMA, **serial, **document}
    return f"{json_without_commands(json.dumps(whole, indent=2))}\n".encode()


def _identity(location: str) -> str:
    """One spelling for all locations that lead to the same file or folder. A link to a file counts as a file of its own."""
    if "://" in location:
        return location
    if Path(location).is_dir():
        return os.path.realpath(location)
    folder, name = os.path.split(location)
    return os.path.join(os.path.realpath(folder), name)  # noqa: PTH118 (faster)


def _ref(kind: str, location: str) -> str:
    """The name of a component within the bill. A path is bytes, which need not be valid text."""
    return f"{kind}:{quote(location.encode('utf-8', 'surrogateescape'), safe='/:@!$&()*+,;=')}"


def _model_of(file: FileScan) -> str:
    """The place of the model that a file belongs to: the folder of a model, or the file itself. Empty if it holds no weights."""
    if file.kind not in _TITLES:
        return ""
    folder = os.path.dirname(file.location) or "."  # noqa: PTH120 (it may be a URL)
    return folder if Path(folder, CONFIG).is_file() or file.kind in _FOLDERS else file.location


def _model(place: str, files: list[FileScan], known: Collection[str]) -> dict[str, Any]:
    """A model: its files, the small files beside them if it has a folder, and what is known about it.

    `known` are all files that were scanned. Those beside the model are not its small files: they are listed elsewhere.
    """
    path = Path(place)
    parts, is_folder = [_file(file) for file in files], files[0].kind in _FOLDERS
    if path.is_dir():
        beside = sorted(path.rglob("*") if is_folder else path.iterdir())
        others = (other for other in beside if _identity(str(other)) not in known and other.name[0] != ".")
        parts += [_component(str(other)) for other in others if other.is_file() and not other.is_symlink()]
    found: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": _ref("model", place),
        "name": safe_text(place if "://" in place else path.absolute().name),
    }
    facts = {} if "://" in place else _facts(place if len(files) > 1 or is_folder else files[0].location)
    return found | facts | {"components": parts}


def _facts(location: str) -> dict[str, Any]:
    """A model's licence and card, from the weights and the files beside them. Nothing if they can't be read."""
    try:
        with open_checkpoint(location) as catalogue:
            known = formats.canonical(catalogue)
            recognition = recognise(known, known.config)
            said: dict[str, About] = about(folder_beside(catalogue), catalogue.location, catalogue.config)
            said |= {key: value for key, value in catalogue.metadata.items() if key in ("general.license", "license")}
            parameters = sum(tensor.size for tensor in known.values())
            dtypes = ", ".join(sorted({tensor.dtype.name for tensor in known.values()}))
            facts = {"format": catalogue.format, "tensors": len(catalogue), "elements": parameters, "dtypes": dtypes}
    except ConverterError as error:
        return {"properties": _properties({"unread": str(error)})}
    card: dict[str, Any] = {}
    if recognition is not None:
        described = recognition.family.described(recognition.sizes)
        card = {"architectureFamily": "transformer", "modelArchitecture": described}
        if recognition.model is not None:
            facts["same-shapes-as"] = recognition.model.name
    names = (said.get(f"general.dataset.{number}.name") for number in range(1000))
    data = [{"type": "dataset", "name": safe_text(str(name))} for name in names if name is not None]
    card |= {"datasets": data} if data else {}
    licence = str(said.get("general.license", said.get("license", "")))
    return {
        **({"licenses": [_licence(licence, said)]} if licence else {}),
        **({"modelCard": {"modelParameters": card}} if card else {}),
        "properties": _properties(facts),
    }


def _licence(word: str, said: Mapping[str, Any]) -> dict[str, Any]:
    spdx = _SPDX.get(word.casefold())
    link = str(said.get("general.license.link", ""))
    address = {"url": link} if link.startswith("https://") and link.isascii() and link.isprintable() else {}
    return {"license": ({"id": spdx} if spdx is not None else {"name": safe_text(word)}) | address}


def _file(file: FileScan) -> dict[str, Any]:
    """A file that was scanned, with its verdict and the findings that are no danger."""
    harmless = {f"finding:{one.rule}": one.message for one in file.findings if RULES[one.rule].verdict == PLAIN}
    facts = {"verdict": file.verdict, "kind": file.kind, "nbytes": file.nbytes, **harmless}
    return _component(file.location) | {"properties": _properties(facts)}


def _component(location: str) -> dict[str, Any]:
    digest = _sha256(location)
    return {
        "type": "file",
        "bom-ref": _ref("file", location),
        "name": safe_text(location, 1000),
        **({"hashes": [{"alg": "SHA-256", "content": digest}]} if digest is not None else {}),
    }


def _sha256(location: str) -> str | None:
    if "://" in location or not Path(location).is_file():
        return None
    found = hashlib.sha256()
    try:
        with LocalFile(location) as file:
            for offset in range(0, file.size, _STEP):
                found.update(file.read(offset, min(_STEP, file.size - offset)))
    except ConverterError:
        return None
    return found.hexdigest()


def _vulnerabilities(files: Iterable[FileScan]) -> Iterator[dict[str, Any]]:
    """Each finding that makes a file anything but plain."""
    number = 0
    for file in files:
        for one in file.findings:
            if RULES[one.rule].verdict != PLAIN:
                number += 1
                yield _vulnerability(number, file.location, one)


def _vulnerability(number: int, location: str, one: FindingReport) -> dict[str, Any]:
    rule = RULES[one.rule]
    severity = next(word for least, word in _SEVERITIES if rule.severity >= least)
    source = {"name": f"{maker.NAME} scan"}
    if one.accepted is not None:
        analysis = {"state": "not_affected", "detail": f"accepted by a policy: {safe_text(one.accepted, 1000)}"}
    else:
        analysis = {"state": "exploitable" if rule.verdict == DANGEROUS else "in_triage"}
    where = f" [{one.place}]" if one.place else ""
    return {
        "bom-ref": f"finding:{number}",
        "id": one.rule,
        "source": source,
        "ratings": [{"source": source, "score": rule.severity, "severity": severity, "method": "other"}],
        **({"cwes": [502]} if one.name is not None else {}),  # deserialization of untrusted data
        "description": safe_text(f"{one.message}{where}", 2000),
        **({"detail": safe_text(f"called: {one.call}", 2000)} if one.call is not None else {}),
        "recommendation": rule.meaning,
        "analysis": analysis,
        "affects": [{"ref": _ref("file", location)}],
    }


def _properties(facts: Mapping[str, object]) -> list[dict[str, str]]:
    return [{"name": f"{_OURS}{name}", "value": safe_text(str(value), 2000)} for name, value in facts.items()]
