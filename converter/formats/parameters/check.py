"""Checks the model.properties of a parameters folder, by the settings and the files that it names."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.errors import ModelError
from converter.formats.parameters.client import GLOBAL, UNUSED, Properties, attention_keys, load, number
from converter.formats.parameters.properties import PROPERTIES
from converter.formats.said import Finding
from converter.models import recognition as models
from converter.words import option

if TYPE_CHECKING:
    from converter.models.families import Family
    from converter.models.recognition import Recognition
    from converter.tensors.catalogue import Catalogue


def check(output: Catalogue, settings: Mapping[str, Any] | None) -> Iterator[Finding]:
    """Compare the model.properties of a parameters folder with the source's settings and the files that it names."""
    told = load(output.path)
    recognition = models.recognise(output, output.config)
    if told is None or recognition is None:
        return
    yield from _settings(told, recognition.family, settings or {})
    if not recognition.contradictions:
        for key in attention_keys(recognition.sizes[recognition.family.layers]):
            if told.entries.get(key) != GLOBAL:
                yield _property(key, told.entries.get(key), GLOBAL)
    yield from _files(output, told, recognition)
    texts = {wanted.key: wanted.text for wanted in recognition.family.client if wanted.text is not None}
    for key, value in (texts | {"data.type": "FLOAT32", "byte.order": _order(output)}).items():
        if told.entries.get(key) != value:
            yield _property(key, told.entries.get(key), value)
    for key in filter(told.is_true, UNUSED):
        yield _property(key, told.entries[key], "false")


def _settings(told: Properties, family: Family, known: Mapping[str, Any]) -> Iterator[Finding]:
    for wanted in family.client:
        found = told.entries.get(wanted.key)
        if wanted.value is not None and wanted.value in known and not _same_number(found, known[wanted.value]):
            yield _property(wanted.key, found, known[wanted.value])
    head_size = family.head_size(known)
    if head_size is not None and head_size < 1 << 63:
        dividend = math.sqrt(head_size)
        if not _same_number(told.entries.get("attention.dividend"), dividend):
            yield _property("attention.dividend", told.entries.get("attention.dividend"), f"{dividend:.12g}")


def _files(output: Catalogue, told: Properties, recognition: Recognition) -> Iterator[Finding]:
    """Name the parameters that the client would get wrong, because it would read another file, or in another order."""
    folder, lies = Path(output.location), True
    for row in recognition.family.rows(recognition.sizes):
        name = row.named(recognition.prefix)
        tensor = output.get(name)
        if tensor is None or row.client is None or row.kind == "buffer":
            continue
        pieces = told.pieces(row)
        files = dict.fromkeys(piece.file for piece in pieces)
        if tensor.storage.source.name != " + ".join(str(folder / file) for file in files):
            key, file = pieces[0].key, pieces[0].file
            yield Finding(
                PROPERTIES, f"file.{key} is wrong", f"`{key}` is read from `{file}`, which does not hold `{name}`"
            )
        elif tensor.offset or tensor.nbytes != tensor.storage.nbytes:
            yield Finding(
                PROPERTIES, f"file.{row.client} is wrong", f"`{name}` is a part of its file, which is read whole"
            )
        if not (row.gguf_transposed and lies):
            continue
        if told.transposed != tensor.contiguous:
            lies = False
            yield _property(
                "weights.transposed", told.entries.get("weights.transposed"), str(tensor.contiguous).lower()
            )
        elif told.transposed and told.merged and row.client_parts:
            lies = False
            yield Finding(
                PROPERTIES,
                "merged.qkv is wrong",
                f"the client takes thirds of the file of `{name}`, which lies as [in, out], so that a third is not the "
                f"query: extract it with {option('form', 'named')}",
            )


def _order(output: Catalogue) -> str:
    tensors = list(output.values())
    return "BIG_ENDIAN" if tensors and tensors[0].storage.byteorder == "big" else "LITTLE_ENDIAN"


def _property(key: str, found: Any, expected: Any) -> Finding:
    return Finding(PROPERTIES, f"{key} is wrong", f"`{key}` is {found!r:.80}: expected {expected!r:.80}")


def _same_number(text: str | None, value: Any) -> bool:
    try:
        return text is not None and math.isclose(number(text), float(value), rel_tol=1e-9)
    except (ValueError, TypeError, OverflowError, ModelError):
        return False
