"""Whether files are a declared model's, by their SHA-256. Shapes prove nothing: another training has the same."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from converter.io.source import STEP

if TYPE_CHECKING:
    from converter.io.source import Source
    from converter.models.declared import Model
    from converter.tensors.catalogue import Catalogue


def proven(catalogue: Catalogue, model: Model, *, read: bool) -> bool:
    """Whether every file has the SHA-256 that is declared for the model.

    The Hub states the SHA-256 of its files. Other files are read to find it out, and only with `read`.
    """
    sources = catalogue.origin.sources
    if len(sources) != len(model.files) or not sources:
        return False
    return all(
        file.sha256 is not None
        and source.size == (file.nbytes or source.size)
        and file.sha256 == (source.sha256 or (_sha256(source) if read else None))
        for source, file in zip(sources, model.files, strict=True)
    )


def _sha256(source: Source) -> str:
    digest = hashlib.sha256()
    for offset in range(0, source.size, STEP):
        digest.update(source.read(offset, min(STEP, source.size - offset)))
    return digest.hexdigest()
