"""Weights that a pickle holds as bytes: another pickle, or a whole file of torch, in an attribute, an argument or a list.

skorch keeps a net's modules in this way, in `__cuda_dependent_attributes__`. The bytes are not opened here. This only finds out
that they hold tensors, because a copy would otherwise lack these weights without saying so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from converter.errors import ConverterError
from converter.pickles.arguments import LOAD_FROM_BYTES
from converter.pickles.closed_table import TABLE, makes_tensors
from converter.pickles.loop import run
from converter.pickles.walk import below, inner_bytes
from converter.tensors.catalogue import Unsupported

_KIND: Final = "pickled"
_WHAT: Final = "a pickle or a file of torch inside the pickle, whose tensors are not read"
_WAY_OUT: Final = (
    "if you trust the file, load it with the program that wrote it, and save the model's state_dict() with torch.save "
    "(with skorch: net.save_params(f_params='net.pt'))"
)
_PROTO: Final = 0x80
_PROTOCOLS: Final = range(2, 6)
_PICKLES: Final = 5  # pickles at the start of a file of torch before 1.6; the fourth names the tensors
_ZIP: Final = b"PK\3\4"
_ZIPPED: Final = b"/data.pkl"  # the end of the first record's name in a file of torch
_MAKERS: Final = {LOAD_FROM_BYTES, *(name for name, row in TABLE.items() if makes_tensors(row))}


class Buried:
    """Finds tensors in bytes. Each container is searched once, and each text of bytes run once, however many share it."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.known: dict[bytes, bool] = {}

    def __call__(self, name: str, value: object) -> Iterator[Unsupported]:
        """Yield what stands for bytes with tensors in them, at a value of that name or inside it."""
        for key, data in inner_bytes(value, self.seen):
            if data not in self.known:
                self.known[data] = _makes_tensors(data)
            if self.known[data]:
                yield Unsupported(below(name, key) or "tensor", _KIND, way_out=_WAY_OUT, what=_WHAT)


def _makes_tensors(data: bytes) -> bool:
    """Whether the bytes are a file of torch, or pickles that name a function of torch that makes tensors."""
    if data.startswith(_ZIP):
        return data[30 : 30 + int.from_bytes(data[26:28], "little")].endswith(_ZIPPED)
    position = 0
    for _ in range(_PICKLES):
        if len(data) < position + 2 or data[position] != _PROTO or data[position + 1] not in _PROTOCOLS:
            return False
        used: dict[tuple[str, str], int] = {}
        try:
            position = run(data, {}, position=position, used=used).end
        except ConverterError:
            return not _MAKERS.isdisjoint(used)  # the globals that it named before the error
        if not _MAKERS.isdisjoint(used):
            return True
    return False
