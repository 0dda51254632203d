"""Checks the model.properties of a parameters folder, by the settings and the files that it names."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.formats.format import Finding
from converter.formats.parameters.folder import PROPERTIES
from converter.io.strict_json import load_bytes
from converter.models import recognition as models

if TYPE_CHECKING:
    from converter.tensors.catalogue import Catalogue
    from converter.tensors.tensor import Tensor


def check(output: Catalogue, settings: Mapping[str, Any] | None) -> Iterator[Finding]:
    """Compare the model.properties of a parameters folder with the source's settings and the files that it names."""
    folder = Path(output.location)
    path = folder / PROPERTIES
    recognition = models.recognise(output, output.config)
    if not path.is_file() or recognition is None:
        return
    found: dict[str, str] = {}
    for line in load_bytes(path).decode("ascii", "replace").replace("\r", "\n").split("\n"):
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found[key.strip()] = value.strip()
    known, family = dict(settings or {}), recognition.family
    for wanted in family.client:
        if wanted.value in known and not _same_number(found.get(wanted.key), known[wanted.value]):
            yield _property(wanted.key, found.get(wanted.key), known[wanted.value])
    head_size = family.head_size(known)
    if head_size is not None and head_size < 1 << 63:
        dividend = math.sqrt(head_size)
        if not _same_number(found.get("attention.dividend"), dividend):
            yield _property("attention.dividend", found.get("attention.dividend"), f"{dividend:.12g}")
    merged = found.get("merged.qkv") == "true"
    for row in family.rows(recognition.sizes):
        tensor = output.get(row.named(recognition.prefix))
        if tensor is None or row.client is None or row.kind == "buffer":
            continue
        if merged:
            files = [found.get(f"file.{row.client}", "")]
        else:
            files = [f"{part}.dat" for part in row.client_parts or (row.client,)]
        if tensor.storage.source.name != " + ".join(str(folder / file) for file in files):
            yield (
                PROPERTIES,
                f"file.{row.client} is wrong",
                f"`{row.client}` is read from `{files[0]}`, which does not hold `{row.named(recognition.prefix)}`",
            )
        if row.gguf_transposed and found.get("weights.transposed") != ("true" if tensor.contiguous else "false"):
            yield _property("weights.transposed", found.get("weights.transposed"), str(tensor.contiguous).lower())
            break
    texts = {wanted.key: wanted.text for wanted in family.client if wanted.text is not None}
    for key, value in (texts | {"data.type": "FLOAT32", "byte.order": _order(output)}).items():
        if found.get(key) != value:
            yield _property(key, found.get(key), value)


def _order(output: Catalogue) -> str:
    tensors: list[Tensor] = list(output.values())
    return "BIG_ENDIAN" if tensors and tensors[0].storage.byteorder == "big" else "LITTLE_ENDIAN"


def _property(key: str, found: Any, expected: Any) -> Finding:
    return PROPERTIES, f"{key} is wrong", f"`{key}` is {found!r:.80}: expected {expected!r:.80}"


def _same_number(text: str | None, value: Any) -> bool:
    try:
        return text is not None and math.isclose(float(text), float(value), rel_tol=1e-9)
    except (ValueError, TypeError, OverflowError):
        return False
