"""How to generate text: what a file says inside, compared with the generation_config.json on the other side.

None of it changes what a model computes, so nothing here counts.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from converter import formats
from converter.formats.marks import GENERATION
from converter.formats.said import Finding
from converter.io.strict_json import any_json_beside
from converter.opening import folder_beside

if TYPE_CHECKING:
    from converter.tensors.catalogue import Catalogue

_ID: Final = "_token_id"


def differences(source: Catalogue, output: Catalogue) -> Iterator[Finding]:
    """Yield a finding for each setting that has another value, and one for those that the output doesn't say."""
    expected, found = said(source), said(output)
    if expected is None or found is None:
        return
    for side in (source, output):
        expected, found = (formats.of(side).generation(one) for one in (expected, found))
    for setting in expected.keys() & found.keys():
        wanted, got = expected[setting], found[setting]
        if not _alike(wanted, got):
            detail = f"`{setting}` is {got!r:.80}: expected {wanted!r:.80}"
            yield Finding(GENERATION, "another value", detail, counts=False)
    # The special tokens inside a file are compared with the other side's tokenizer, not here.
    named = [setting for setting in expected if not (formats.of(source).self_contained and setting.endswith(_ID))]
    if absent := [f"`{setting}`" for setting in named if setting not in found]:
        detail = f"`{output.location}` does not say {', '.join(absent)}, but the source does"
        yield Finding(GENERATION, "absent", detail, counts=False)


def said(catalogue: Catalogue) -> Mapping[str, Any] | None:
    """The settings inside a file, or those beside it; None if there is no such file."""
    if formats.of(catalogue).self_contained:
        data = formats.of(catalogue).generation_files(catalogue).get(GENERATION)
        return {} if data is None else json.loads(data)
    folder = folder_beside(catalogue)
    value = any_json_beside(folder / GENERATION) if folder is not None else None
    return value if type(value) is dict else None


def _alike(one: Any, other: Any) -> bool:
    """Whether two settings agree: numbers when rounded to F32, and lists of end tokens if the second holds all of the first."""
    if type(one) is float or type(other) is float:
        return struct.pack("<f", one) == struct.pack("<f", other)
    if type(one) is list or type(other) is list:
        return _ids(one) <= _ids(other)
    return bool(one == other)


def _ids(value: Any) -> set[Any]:
    return set(value) if type(value) is list else {value}
