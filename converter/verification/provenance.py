"""Where a golden manifest comes from: which program made it, when, from what and how."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Final

from converter import formats
from converter.io.local import LocalFile
from converter.models.recognition import recognise
from converter.reports import maker
from converter.reports.verification import PASSING

if TYPE_CHECKING:
    from converter.reports.verification import VerifiedOutput
    from converter.tensors.catalogue import Catalogue
    from converter.verification.verify import Options

_STEP: Final = 1 << 20  # bytes that are hashed at a time


def provenance(source: Catalogue, options: Options, outputs: Sequence[VerifiedOutput]) -> dict[str, Any]:
    """The fields of a manifest that say it. Local files are read whole, for their SHA-256.

    Where a local source lay is nobody's business: it is named without its folders, and so are the copies.
    """
    known = formats.canonical(source)
    recognition = recognise(known, known.config)
    given = {"tokens": options.tokens, "imatrix": options.imatrix}
    return {
        "made": {"by": maker.NAME, "version": maker.version(), "date": maker.stamp()},
        "model": recognition.model.name if recognition is not None and recognition.model is not None else None,
        "architecture": None if recognition is None else recognition.family.described(recognition.sizes),
        "source": {
            "location": _named(source.location),
            "format": source.format,
            "revision": _revision(source.location),
            "files": [*_files(source)],
        },
        "options": {
            "level": options.level,
            "engine": options.engine,
            "tokens": None if options.tokens is None else options.tokens.name,
            "prompt": options.prompt,
            **({} if options.imatrix is None else {"imatrix": options.imatrix.name}),
            **{f"{name}_sha256": _sha256(path) for name, path in given.items() if path is not None},
            **{name: value for name, value in options.chosen.items() if value},
        },
        "policy": {
            "verdicts": list(PASSING),
            "copies": [
                {"name": _named(one.location), "format": one.format, "verdict": one.verdict}
                | ({} if one.inference is None else {"threshold": one.inference["threshold"]})
                for one in outputs
            ],
        },
    }


def _named(location: str) -> str:
    return location if "://" in location else PurePath(location).name


def _revision(location: str) -> str | None:
    """The revision in `hf://owner/name@revision/…`; None for other places."""
    scheme, _, rest = location.partition("://")
    revision = rest.partition("@")[2].partition("/")[0]
    return revision if scheme == "hf" and revision else None


def _files(source: Catalogue) -> Iterator[dict[str, Any]]:
    remote = "://" in source.location
    for file in source.origin.files:
        path = source.origin.path_of(file.name)
        digest = None if remote or not path.is_file() else _sha256(path)
        yield {"name": PurePath(file.name).name, "nbytes": file.nbytes, "sha256": digest}


def _sha256(path: Path) -> str:
    found = hashlib.sha256()
    with LocalFile(path) as file:
        for offset in range(0, file.size, _STEP):
            found.update(file.read(offset, min(_STEP, file.size - offset)))
    return found.hexdigest()
