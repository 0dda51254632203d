"""What a checkpoint is called: a declared model's name if hashes prove it, else what its file or folder is called.

Shapes prove nothing: another training has the same.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from converter.io.source import STEP

if TYPE_CHECKING:
    from converter.io.source import Source
    from converter.models.declared import Model
    from converter.models.recognition import Recognition
    from converter.tensors.catalogue import Catalogue

# Names that programs give to the weights of any model. For such a file, the folder's name says more.
_USUAL: Final = re.compile(
    r"(?:pytorch_model|model|diffusion_pytorch_model|adapter_model|consolidated|checkpoint|weights|tf_model|data)"
    r"(?:[._-][0-9]{1,9}){0,2}(?:-of-[0-9]{1,9})?"
)
# A repository in the local cache: its owner and its name.
CACHED: Final = re.compile(r"models--([A-Za-z0-9][\w.-]{0,95}?)--([A-Za-z0-9][\w.-]{0,95})", re.ASCII)


def called(location: str) -> str:
    """What a checkpoint is called: its file's name without the ending, or its folder's, if every file is called like that."""
    path = Path(location.partition("://")[2] or os.path.abspath(location))
    name = path.stem if path.suffix else path.name
    repository = next((match for parent in path.parents if (match := CACHED.fullmatch(parent.name))), None)
    if repository is not None:  # the folder is called after a revision
        name = repository[2]
    elif _USUAL.fullmatch(name) and path.parent.name:
        name = path.parent.name
    return name.partition("@")[0] or "checkpoint"


def proven_model(catalogue: Catalogue, recognition: Recognition | None) -> Model | None:
    """The declared model that the hashes of a catalogue's files prove, as far as the hashes are known without reading."""
    model = recognition.model if recognition is not None else None
    return model if model is not None and proven(catalogue, model, read=False) else None


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
