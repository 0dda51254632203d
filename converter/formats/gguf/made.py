"""Tensors that llama.cpp needs and checkpoints lack: zeros for absent biases, and factors of rotary frequencies."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from converter.dtypes import F32
from converter.formats.gguf.keys import Packed, array, string, strings
from converter.formats.gguf.names import FAMILY, KIND, ROWS, SCALING, UNTIED, ZEROS
from converter.io.source import Memory
from converter.models.rope import NOTED_WHOLE, divisors
from converter.models.rows import at, evaluated
from converter.tensors.tensor import Storage, Tensor, row_major

if TYPE_CHECKING:
    from converter.models.families import Family
    from converter.models.recognition import Recognition
    from converter.tensors.catalogue import Catalogue


def made(family: Family, sizes: Mapping[str, int], settings: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that a family's table says, by their names in GGUF; without rope factors that change nothing.

    Raises UnsupportedError for a form of rotary positions that llama.cpp does not have.
    """
    known = family.known(sizes, settings)
    for row in family.made:
        if row.value == "rope factors":
            rotary = family.forward.rotary if family.forward is not None else None
            if rotary is None or family.setting("rope_kind", settings) != "llama3":
                continue
            size, base = evaluated(rotary.size, known), evaluated(rotary.base, known)
            yield row.gguf, _floats(divisors(size, base, known))
            continue
        shape = tuple(known(size) if isinstance(size, str) else size for size in row.shape)
        for layer in range(sizes[family.layers]) if "{layer}" in row.gguf else (None,):
            yield at(layer, row.gguf), zeros(shape)


def zeros(shape: Sequence[int]) -> Tensor:
    """A tensor of zeros in F32."""
    return _tensor(bytes(F32.itemsize * math.prod(shape)), shape)


def noted(family: Family, settings: Mapping[str, Any], absent: Sequence[str]) -> Iterator[Packed]:
    """What the way back needs, and llama.cpp does not read: the family, and what was made because it was `absent`."""
    if family.gguf is not None and not family.gguf.default:
        yield string(FAMILY, family.name)
    kind = settings.get("model_type")
    if isinstance(kind, str) and kind != family.model_type and family.is_called(kind):
        yield string(KIND, kind)
    factors = [each.gguf for each in family.made if each.value == "rope factors"]
    if filled := [name for name in absent if name not in factors]:
        yield strings(ZEROS, filled)
    if not set(factors).isdisjoint(absent) or family.setting("rope_kind", settings) in NOTED_WHOLE:
        yield string(SCALING, json.dumps(settings.get("rope_scaling") or settings.get("rope_parameters")))


def first_rows(catalogue: Catalogue, recognition: Recognition, settings: Mapping[str, Any]) -> Iterator[Packed]:
    """What the way back needs about tensors that GGUF has in part, or twice: the rows that it lacks, and which are tied."""
    rows = recognition.family.rows(recognition.sizes, config=settings)
    for row in rows:
        if row.rows_from and row.gguf is not None and recognition.name(row) in catalogue:
            yield array(ROWS + row.gguf, "f32", row.first_rows(catalogue[recognition.name(row)]))
    if recognition.tied_head != "untied" and (untied := [row.gguf for row in rows if row.gguf_untied and row.gguf]):
        yield strings(UNTIED, untied)


def _floats(values: Sequence[float]) -> Tensor:
    return _tensor(struct.pack(f"<{len(values)}f", *values), (len(values),))


def _tensor(data: bytes, shape: Sequence[int]) -> Tensor:
    return Tensor(F32, tuple(shape), row_major(shape), 0, Storage(Memory(data), 0, len(data), "made"))
