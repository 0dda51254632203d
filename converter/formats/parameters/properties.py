"""Writes `model.properties`, which tells the Java client what the files of a parameters folder are.

Source: demo-gpt-java, `models/CEREBRAS/*/model.properties` and the code that reads them. Its build of April 2023 cuts the
merged query, key and value into thirds of the file; its newest build reads only files that hold one of the three.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from converter.dtypes import F32
from converter.errors import ModelError
from converter.models.called import called, proven_model
from converter.text import more
from converter.words import option

if TYPE_CHECKING:
    from converter.models.recognition import Recognition
    from converter.models.rows import Parameter
    from converter.tensors.catalogue import Catalogue

PROPERTIES: Final = "model.properties"


def text(
    catalogue: Catalogue,
    recognition: Recognition | None,
    rows: Mapping[str, Parameter],
    places: Mapping[str, tuple[str, str]],
    form: str,
    source: str,
) -> str:
    """The text of model.properties. Raises ModelError for a checkpoint that the Java client can't run.

    `rows` are the family's by the catalogue's names, and `places` the first file and the byte order of each tensor.
    """
    if recognition is None:
        raise ModelError("it is not a GPT-2, the only architecture that the client knows")
    if not recognition.complete:
        short = [*recognition.missing, *(mismatch.name for mismatch in recognition.mismatched)]
        raise ModelError(f"`{short[0]}` is missing or has another shape{more(len(short), before=', and ')}")
    if recognition.contradictions:
        raise ModelError(recognition.contradictions[0])
    config: Mapping[str, Any] = catalogue.config or (recognition.model.config if recognition.model else {})
    model = recognition.family.client_properties(recognition.sizes, config, recognition.tied_head)
    _check_dtypes(catalogue, rows)
    if form == "storages":
        _check_storages(catalogue, rows)
    orders = {places[name][1] for name in rows if name in places}
    if len(orders) > 1:
        raise ModelError(f"its storages differ in byte order: {_named()}")
    proof = proven_model(catalogue, recognition)
    lines: list[tuple[str, object]] = [
        ("name", proof.name if proof is not None else called(catalogue.location)),
        ("source", f"https://huggingface.co/{proof.repository}" if proof is not None else source),
        *model,
        ("data.type", "FLOAT32"),
        ("byte.order", "LITTLE_ENDIAN" if orders == {"little"} else "BIG_ENDIAN"),
        ("weights.transposed", "false"),
    ]
    if form == "storages":
        lines.append(("merged.qkv", "true"))
        lines += [(f"file.{row.client}", places[name][0]) for name, row in rows.items() if row.client]
    written = "".join(f"{key} = {_value(value)}\n" for key, value in lines)
    return f"# Written by cerebras-tool: {form} form, read with the files of this folder\n{written}"


def _value(value: object) -> str:
    """Keep a value on its line, without `=`: the client's reader allows one `=` on a line."""
    return re.sub(r"[^ -~]|=", "_", str(value))


def _check_dtypes(catalogue: Catalogue, rows: Mapping[str, Parameter]) -> None:
    for name in rows:
        tensor = catalogue.get(name)
        if tensor is not None and tensor.dtype is not F32:
            raise ModelError(
                f"`{name}` is {tensor.dtype.name}, and the client reads only float32: convert it with "
                f"{option('to', 'safetensors')} and {option('dtype', 'f32')} first, and extract the result"
            )


def _named() -> str:
    """What to do: in this form, every file is written as the client reads it."""
    return f"give {option('form', 'named')}"


def _check_storages(catalogue: Catalogue, rows: Mapping[str, Parameter]) -> None:
    """Raise ModelError unless each storage is one tensor, and each matrix lies as the client reads it: [out, in]."""
    for name, row in rows.items():
        tensor = catalogue.get(name)
        if tensor is None:
            continue
        if tensor.offset or tensor.nbytes != tensor.storage.nbytes:
            raise ModelError(f"`{name}` is a part of its storage, and the client reads whole files: {_named()}")
        if row.gguf_transposed and not tensor.t().contiguous:
            # `weights.transposed` would be enough for the other matrices. But in this file query, key and value lie in turn in
            # each row, so no third of it is the query.
            raise ModelError(
                f"`{name}` lies as [in, out], and from such files the client computes something else: {_named()}"
            )
        if not row.gguf_transposed and not tensor.contiguous:
            raise ModelError(f"`{name}` does not lie row by row: {_named()}")
