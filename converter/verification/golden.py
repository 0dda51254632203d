"""The golden manifest: digests of a checkpoint's tensors, which can take its place. They are the same in every form.

Names are without a prefix. Masks and a tied head are left out, because they follow from the architecture.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from converter.dtypes import BY_NAME
from converter.errors import ManifestError
from converter.formats.folders import is_index
from converter.formats.said import Hyperparameters
from converter.io.local import LocalFile
from converter.io.strict_json import load_json
from converter.verification import beside, documents

if TYPE_CHECKING:
    from converter.tensors.tensor import Tensor

SCHEMA: Final = "cerebras-tool/golden/v1"
HEAD: Final = b'{\n "schema": "cerebras-tool/golden/'  # how every manifest begins
_HEX: Final = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class GoldenTensor:
    """What a tensor must be: the SHA-256 of its canonical bytes.

    `converted` has the digests of copies in other dtypes (`F16`, `Q8_0`) that were found equivalent when the manifest
    was written. The digest of blocks is that of the F32 elements that they decode to.
    """

    dtype: str
    shape: tuple[int, ...]
    sha256: str
    converted: Mapping[str, str] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """The bytes of its elements."""
        return math.prod(self.shape) * BY_NAME[self.dtype].itemsize

    def digest_as(self, encoding: str) -> str | None:
        """The digest of a right copy in that dtype or encoding; None if the manifest has none."""
        return self.sha256 if encoding == self.dtype else self.converted.get(encoding)


@dataclass(frozen=True, slots=True)
class Golden:
    """A manifest. `tied` are groups of names, `settings` what config.json means for the family, and `config` all of it.

    `tokenizer` describes the tokenizer, or is None. `tokenizer_files` describes what else its tokenizer.json says, and
    `beside` the other files beside the weights. `hyperparameters` are those of a GGUF file. A manifest that an older version
    wrote has only some of these.

    `provenance` says which program made it, when, from what and how. Nothing is decided by it.
    """

    location: str
    tensors: Mapping[str, GoldenTensor]
    tied: tuple[tuple[str, ...], ...]
    settings: Mapping[str, Any] | None
    tokenizer: Mapping[str, Any] | None
    config: Mapping[str, Any] | None = None
    hyperparameters: Hyperparameters | None = None
    tokenizer_files: Mapping[str, Any] | None = None
    beside: Mapping[str, Any] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """The document as JSON."""
        document = {
            "schema": SCHEMA,
            **self.provenance,
            "settings": self.settings,
            "config": self.config,
            "hyperparameters": None if self.hyperparameters is None else self.hyperparameters._asdict(),
            "tokenizer": self.tokenizer,
            "tokenizer_files": self.tokenizer_files,
            "beside": self.beside,
            "tied": [list(names) for names in self.tied],
            "tensors": {
                name: {"dtype": tensor.dtype, "shape": list(tensor.shape), "sha256": tensor.sha256}
                | ({"converted": dict(sorted(tensor.converted.items()))} if tensor.converted else {})
                for name, tensor in sorted(self.tensors.items())
            },
        }
        return json.dumps(document, indent=1) + "\n"


def is_golden(path: Path) -> bool:
    """Whether a file begins like a JSON document, as no checkpoint does but the index of one."""
    if not path.is_file() or is_index(path.name):
        return False
    source = LocalFile(path)
    head = bytes(source.read(0, min(64, source.size)))
    return head.lstrip()[:1] == b"{" and b"\0" not in head


def load(path: Path) -> Golden:
    """Load a manifest. Raises ManifestError for any other document."""
    document = load_json(path)
    if document.get("schema") != SCHEMA:
        raise ManifestError(f"`{path}` has the schema {document.get('schema')!r:.80}: `{SCHEMA}` was expected")
    try:
        tensors = {name: _tensor(name, entry) for name, entry in document["tensors"].items()}
        tied = tuple(tuple(str(name) for name in names) for names in document["tied"])
        settings, tokenizer, config = document["settings"], document["tokenizer"], document.get("config")
        for part in (settings, tokenizer, config):
            if part is not None and type(part) is not dict:
                raise TypeError("`settings`, `tokenizer` and `config` are objects or null")
        files = document.get("tokenizer_files")
        if files is not None and not documents.is_said(files):
            raise TypeError("`tokenizer_files` does not describe a tokenizer")
        others = document.get("beside")
        if others is not None and not beside.is_described(others):
            raise TypeError("`beside` does not describe files")
        hyperparameters = _hyperparameters(document.get("hyperparameters"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ManifestError(f"`{path}` lacks a field, or has one of the wrong type: {error}") from error
    return Golden(str(path), tensors, tied, settings, tokenizer, config, hyperparameters, files, others)


def encoding(tensor: Tensor) -> str:
    """The form that a tensor's elements are stored in: the encoding of blocks, else the dtype."""
    return tensor.storage.encoding or tensor.dtype.name


def digest(tensor: Tensor) -> str:
    """The SHA-256 of a tensor's canonical bytes."""
    found = hashlib.sha256()
    for tile in tensor.tiles():
        found.update(tile)
    return found.hexdigest()


def digest_in_parts(tensor: Tensor, order: tuple[int, ...]) -> str:
    """The SHA-256 that a tensor would have with the equal parts of its last dimension in another order."""
    import numpy as np

    found = hashlib.sha256()
    width = f"<u{tensor.dtype.itemsize}"
    matrix = len(tensor.shape) == 2
    for row in range(tensor.shape[0] if matrix else 1):
        view = tensor.rows(row, row + 1) if matrix else tensor
        line = np.frombuffer(b"".join(bytes(tile) for tile in view.tiles()), width)
        found.update(line.reshape(len(order), -1)[list(order)].tobytes())
    return found.hexdigest()


def _hyperparameters(said: Any) -> Hyperparameters | None:
    if said is None:
        return None
    key, name = said["architecture"]
    if not all(type(part) is dict for part in (said["said"], said["defaults"])) or type(key) is not str:
        raise TypeError("`hyperparameters` has objects and the name of an architecture")
    return Hyperparameters((key, name), said["said"], said["defaults"])


def _tensor(name: str, entry: Any) -> GoldenTensor:
    converted = entry.get("converted", {})
    shape = tuple(entry["shape"])
    digests = (entry["sha256"], *converted.values())
    if entry["dtype"] not in BY_NAME or any(type(size) is not int or size < 0 for size in shape):
        raise ValueError(f"the entry of `{name:.120}` has no dtype or shape")
    if any(type(text) is not str or len(text) != 64 or not _HEX.issuperset(text) for text in digests):
        raise ValueError(f"the entry of `{name:.120}` has a digest that is not a SHA-256")
    return GoldenTensor(entry["dtype"], shape, entry["sha256"], converted)
