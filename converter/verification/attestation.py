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
from converter.reports.verification import Difference, Verification, VerifiedOutput
from converter.verification.golden import encoding

if TYPE_CHECKING:
    from converter.io.source import Source
    from converter.tensors.catalogue import Catalogue

PREDICATE: Final = "urn:cerebras-tool:attestation:verification:v1"
_STEP: Final = 4 << 20  # bytes that are read at once
_OTHER_BYTES: Final = "the attestation is not about these bytes: "
_BY_FILE_TYPE: Final = {recipe.file_type: recipe.word for recipe in RECIPES}


def statement(source: Catalogue, report: Verification) -> bytes:
    """The statement about all outputs of a report. The files are read again, for their digests."""
    outputs = []
    for output in report.outputs:
        catalogue = open_checkpoint(Path(output.location))
        outputs.append((output, catalogue, _files(catalogue)))
    subjects = [subject for _, _, files in outputs for subject in files]
    predicate = {
        "tool": {"name": maker.NAME, "version": maker.version()},
        "source": {"name": Path(source.location).name, "files": _files(source)},
        "outputs": [_about(output, catalogue, files) for output, catalogue, files in outputs],
    }
    said = {"_type": TYPE, "subject": subjects, "predicateType": PREDICATE, "predicate": predicate}
    return (json.dumps(said, indent=2, ensure_ascii=False) + "\n").encode()


def _about(output: VerifiedOutput, catalogue: Catalogue, files: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a statement says about an output."""
    return {
        "files": [file["name"] for file in files],
        "format": output.format,
        "verdict": output.verdict,
        "types": dict(Counter(encoding(tensor) for tensor in catalogue.values())),
        "recipe": _BY_FILE_TYPE.get(_number(catalogue, "general.file_type")),
        "derived": dict(Counter(tensor.origin or "" for tensor in output.derived)),
    }


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
    if not _is_whole(said):
        raise FormatError(
            f"`{path}` lacks what an attestation of verify has, or has it in another form: take the statement as verify wrote it"
        )
    return said


def _is_whole(said: Mapping[str, Any]) -> bool:
    """Whether everything that is read from a statement has the right form."""
    predicate = said.get("predicate")
    source = predicate.get("source") if isinstance(predicate, dict) else None
    outputs = predicate.get("outputs") if isinstance(predicate, dict) else None
    if not (isinstance(source, dict) and isinstance(outputs, list)):
        return False
    return all(map(_is_list_of_files, (said.get("subject"), source.get("files")))) and all(
        isinstance(output, dict)
        and isinstance(names := output.get("files"), list)
        and all(isinstance(name, str) for name in names)
        for output in outputs
    )


def _is_list_of_files(files: object) -> bool:
    return isinstance(files, list) and all(
        isinstance(file, dict)
        and isinstance(file.get("name"), str)
        and isinstance(digest := file.get("digest"), dict)
        and isinstance(digest.get("sha256"), str)
        for file in files
    )


def held(report: Verification, said: Mapping[str, Any], source: Catalogue) -> Verification:
    """The report with what does not fit a statement: files with other digests, and false statements about them."""
    subjects, attested = said["subject"], said["predicate"]
    wrong = [_OTHER_BYTES + f"the source's {name}" for name in _unlike(_files(source), attested["source"]["files"])]
    outputs = []
    for output in report.outputs:
        if output.format is None:  # it can't be read, which the report says
            outputs.append(output)
            continue
        catalogue = open_checkpoint(Path(output.location))
        files = _files(catalogue)
        unlike = [*wrong, *(_OTHER_BYTES + name for name in _unlike(files, subjects))]
        if not unlike:
            unlike = _untrue(_about(output, catalogue, files), files, subjects, attested["outputs"])
        found = tuple(Difference(output.location, "attestation", detail) for detail in unlike)
        tensors = replace(output.tensors, different=(*output.tensors.different, *found))
        verdict = "different" if found else output.verdict
        agree = output.agree if found else (*output.agree, "attestation")
        outputs.append(replace(output, verdict=verdict, tensors=tensors, agree=agree))
    return replace(report, outputs=tuple(outputs))


def _unlike(files: Sequence[Mapping[str, Any]], subjects: Sequence[Mapping[str, Any]]) -> list[str]:
    """The files whose digest is not among those of a statement."""
    known = {subject["digest"]["sha256"] for subject in subjects}
    return [file["name"] for file in files if file["digest"]["sha256"] not in known]


def _untrue(
    about: Mapping[str, Any],
    files: Sequence[Mapping[str, Any]],
    subjects: Sequence[Mapping[str, Any]],
    outputs: Sequence[Mapping[str, Any]],
) -> list[str]:
    """What a statement says about an output that is not so. Files may have been renamed, so digests tell which is meant.

    Which tensors follow from the source is compared only if all were found to: without the importance matrix that a file was
    made with, one can't tell.
    """
    digests = Counter(file["digest"]["sha256"] for file in files)
    named: dict[str, set[str]] = {}
    for subject in subjects:
        named.setdefault(subject["name"], set()).add(subject["digest"]["sha256"])
    meant = [
        output
        for output in outputs
        if len(output["files"]) == len(files)
        and digests.keys() <= set().union(*(named.get(name, set()) for name in output["files"]))
    ]
    if not meant:
        return ["the attestation has the digests of these bytes, but says nothing about them"]
    told = {name: value for name, value in about.items() if name != "files" and not (name == "derived" and "" in value)}
    wrongs = [
        [
            f"the attestation says {json.dumps(output.get(name))} for {name}, and it is {json.dumps(value)}"
            for name, value in told.items()
            if output.get(name) != value
        ]
        for output in meant
    ]
    return min(wrongs, key=len)


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
