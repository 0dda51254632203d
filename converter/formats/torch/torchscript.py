"""The weights of a TorchScript archive: its code declares which attributes are parameters, buffers and modules.

The code is in TorchScript's own language, one file for each namespace, below `code/`. It is read as text and never run.
Only the lines that give a class's name, its base, `__parameters__` and `__buffers__` are used.

Source: torch/csrc/jit/serialization/python_print.cpp (`printModuleMetadata`), import_source.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from converter.dtypes import U8
from converter.errors import FormatError, LimitError
from converter.formats.torch.records import CODE, EXTRA
from converter.limits import limits
from converter.pickles.closed_table import Typed
from converter.pickles.modules import INNER, Level, packed_weights
from converter.pickles.values import Dict, Opaque
from converter.tensors.catalogue import Other
from converter.tensors.tensor import Storage

if TYPE_CHECKING:
    from converter.io.zip_records import Archive

_ROOT: Final = "__torch__"
_SMALL: Final = 1 << 20  # bytes of extra files that are read: no more values are carried over
_CLASS: Final = re.compile(r"class (\w{1,1000})\((\w{0,1000})\):")
_NAMES: Final = re.compile(r"  (__parameters__|__buffers__) = \[(.*)\]")
_TEXT: Final = re.compile(r'"((?:[^"\\]|\\.){1,4096})"')


@dataclass(frozen=True, slots=True)
class _Declared:
    """The names of a module's parameters and buffers, as its class declares them."""

    parameters: tuple[str, ...] = ()
    buffers: tuple[str, ...] = ()


class Script:
    """The classes of a TorchScript archive. A file of code is read when one of its classes is asked for."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.files = 0  # files of code that were read
        self.nbytes = 0
        self._found: dict[str, dict[str, _Declared]] = {}

    def state_dict(self, value: object) -> Level | None:
        """One level of a module's `state_dict()`: parameters, buffers, then inner modules in the order of its attributes.

        None if the value is not a module of this archive.
        """
        if type(value) is not Opaque or value.args is None or not value.state or type(value.state[-1]) is not Dict:
            return None
        declared = self._class(value)
        if declared is None:
            return None
        attributes = {key: inner for key, inner in value.state[-1].pairs() if type(key) is str}
        made, rest = Dict(), Dict()
        for name in (*declared.parameters, *declared.buffers):
            made += [name, attributes[name]] if attributes.get(name) is not None else []
        for name, inner in attributes.items():
            if (packed := packed_weights(inner)) is not None:
                made += [name, packed]
            elif type(inner) is Opaque and inner.args is not None and self._class(inner) is not None:
                made += [name, inner]
            elif name not in INNER and name not in declared.parameters and name not in declared.buffers:
                rest += [name, inner]
        return Level(made, frozenset(declared.buffers), rest)

    def extras(self) -> Iterator[Other]:
        """The files that torch.jit.save put beside the program, by the names of their records: texts, or bytes that are no text.

        Only the first megabyte of them is read. For files beyond that, only the name is known.
        """
        left = _SMALL
        for name, record in self.archive.records.items():
            if not name.startswith(EXTRA):
                continue
            if record.nbytes > left:
                content = Storage(self.archive.content(record), 0, record.nbytes, name)
                yield Other(name, "file", Typed(content, U8, True))
                continue
            left -= record.nbytes
            data = self.archive.read(name, _SMALL, check=record.crc32 != 0)
            try:
                yield Other(name, "str", data.decode())
            except UnicodeDecodeError:
                yield Other(name, "bytes", data)

    def _class(self, value: Opaque) -> _Declared | None:
        if value.module != _ROOT and not value.module.startswith(f"{_ROOT}."):
            return None
        if value.module not in self._found:
            self._found[value.module] = self._read(value.module)
        return self._found[value.module].get(value.name)

    def _read(self, module: str) -> dict[str, _Declared]:
        """The modules among the classes of one namespace. Raises FormatError if the archive lacks its code."""
        name = f"{CODE}{module.replace('.', '/')}.py"
        record = self.archive.records.get(name)
        if record is None:
            raise FormatError(
                f"`{self.archive.name}` has no `{name[:200]}`, which says what the attributes of `{module[:200]}` are"
            )
        self.nbytes += record.nbytes
        if self.nbytes > limits().pickle_bytes:
            raise LimitError(f"`{self.archive.name}` has more than {limits().pickle_bytes:,} bytes of code")
        text = self.archive.read(name, limits().pickle_bytes, check=record.crc32 != 0).decode("utf-8", "replace")
        found: dict[str, _Declared] = {}
        current, names = "", dict[str, tuple[str, ...]]()
        for line in text.splitlines():
            if (match := _CLASS.fullmatch(line)) is not None:
                current, names = match[1] if match[2] == "Module" else "", {}
                if current:
                    found[current] = _Declared()
            elif current and (match := _NAMES.fullmatch(line)) is not None:
                names[match[1]] = tuple(_unescaped(text) for text in _TEXT.findall(match[2]))
                found[current] = _Declared(names.get("__parameters__", ()), names.get("__buffers__", ()))
        return found


def _unescaped(text: str) -> str:
    return text.replace('\\"', '"').replace("\\\\", "\\")
