"""What `verify` found as an in-toto statement, which sigstore can sign; and a statement held against files.

Sources: in-toto's attestation framework, Statement v1 (github.com/in-toto/attestation, spec/v1/statement.md), and DSSE, the
envelope of what was signed (github.com/secure-systems-lab/dsse). Signatures are not checked here: that is the work of the program
that made them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from converter.errors import FormatError
from converter.formats.gguf.recipes import RECIPES
from converter.io.strict_json import load_json, parse_json
from converter.opening import open_checkpoint
from converter.reports import maker
from converter.reports.in_toto import TYPE
from converter.reports.verification import Difference, Verification
from converter.verification.golden import encoding

if TYPE_CHECKING:
    from converter.io.source import Source
    from converter.tensors.catalogue import Catalogue

PREDICATE: Final = "urn:cerebras-tool:attestation:verification:v1"
_STEP: Final = 4 << 20  # bytes that are read at once
_BY_FILE_TYPE: Final = {recipe.file_type: recipe.word for recipe in RECIPES}


def statement(source: Catalogue, report: Verification) -> bytes:
    """The statement about all outputs of a report. The files are read again, for their digests."""
    outputs = [(output, open_checkpoint(Path(output.location))) for output in report.outputs]
    subjects = [subject for _, catalogue in outputs for subject in _files(catalogue)]
    predicate = {
        "tool": {"name": maker.NAME, "version": maker.version()},
        "source": {"name": Path(source.location).name, "files": _files(source)},
        "outputs": [
            {
                "files": [subject["name"] for subject in _files(catalogue)],
                "format": output.format,
                "verdict": output.verdict,
                "types": dict(Counter(encoding(tensor) for tensor in catalogue.values())),
                "recipe": _BY_FILE_TYPE.get(_number(catalogue, "general.file_type")),
                "derived": dict(Counter(tensor.origin or "" for tensor in output.derived)),
            }
            for output, catalogue in outputs
        ],
    }
    said = {"_type": TYPE, "subject": subjects, "predicateType": PREDICATE, "predicate": predicate}
    return (json.dumps(said, indent=2, ensure_ascii=False) + "\n").encode()


def load(path: Path) -> Mapping[str, Any]:
    """Read a statement: bare, or in the envelope of what was signed. Raises FormatError for anything else."""
    said: Any = load_json(path)
    if isinstance(said, dict) and isinstance(said.get("dsseEnvelope"), dict):  # a bundle of sigstore
        said = said["dsseEnvelope"]
    if isinstance(said, dict) and isinstance(said.get("payload"), str):
        try:
            said = parse_json(base64.b64decode(said["payload"], validate=True), str(path))
        except binascii.Error as error:
            raise FormatError(f"`{path}` has a payload that is not base64: {error}") from error
    if not isinstance(said, dict) or said.get("_type") != TYPE or said.get("predicateType") != PREDICATE:
        raise FormatError(
            f"`{path}` is no attestation of verify: expected the statement that verify writes, or that in its signed envelope"
        )
    return said


def held(report: Verification, said: Mapping[str, Any], source: Catalogue) -> Verification:
    """The report with what does not fit a statement: files with other digests, and files that it is not about."""
    attested = said.get("predicate", {})
    origins = attested.get("source", {}).get("files", []) if isinstance(attested, dict) else []
    wrong = [f"the source's {name}" for name in _unlike(source, origins)]
    outputs = []
    for output in report.outputs:
        catalogue = open_checkpoint(Path(output.location))
        found = tuple(
            Difference(output.location, "attestation", f"the attestation is not about these bytes: {name}")
            for name in (*wrong, *_unlike(catalogue, said.get("subject", [])))
        )
        tensors = replace(output.tensors, different=(*output.tensors.different, *found))
        verdict = "different" if found else output.verdict
        outputs.append(replace(output, verdict=verdict, tensors=tensors))
    return replace(report, outputs=tuple(outputs))


def _unlike(catalogue: Catalogue, subjects: object) -> list[str]:
    """The files whose digest is not among those of a statement."""
    known = {
        (subject["digest"].get("sha256"))
        for subject in (subjects if isinstance(subjects, list) else [])
        if isinstance(subject, dict) and isinstance(subject.get("digest"), dict)
    }
    return [file["name"] for file in _files(catalogue) if file["digest"]["sha256"] not in known]


def _files(catalogue: Catalogue) -> list[dict[str, Any]]:
    """The files of a checkpoint's weights, and their digests."""
    sources: Sequence[Source] = catalogue.origin.sources
    return [{"name": Path(source.name).name, "digest": {"sha256": _sha256(source)}} for source in sources]


def _sha256(source: Source) -> str:
    digest = hashlib.sha256()
    for start in range(0, source.size, _STEP):
        digest.update(source.read(start, min(_STEP, source.size - start)))
    return digest.hexdigest()


def _number(catalogue: Catalogue, key: str) -> int:
    value = catalogue.metadata.get(key) if catalogue.metadata else None
    return value if isinstance(value, int) else -1
