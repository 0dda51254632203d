"""Reads an importance matrix, in both of llama.cpp's forms: its older file (imatrix.dat), and GGUF.

It has a number for each column of a matrix: the mean square of what the column is multiplied by. Sources:
common/imatrix-loader.cpp; tools/quantize/quantize.cpp, which divides the sums by the counts.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from converter.dtypes import F32
from converter.errors import FormatError
from converter.formats.gguf.cursor import Cursor
from converter.formats.gguf.keys import Packed, scalar, string
from converter.formats.gguf.reader import read as read_gguf
from converter.formats.marks import GGUF_MAGIC
from converter.io.local import LocalFile
from converter.limits import limits
from converter.text import plural

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.io.source import Source

_SUMS: Final = ".in_sum2"
_COUNTS: Final = ".counts"
_INT: Final = struct.Struct("<i")
_NAME: Final = 1024  # bytes of a tensor's name, or of the data set's


@dataclass(frozen=True, slots=True)
class Entry:
    """The importance of a matrix's columns: `count` F32 numbers, those of one expert after those of another."""

    count: int
    read: Callable[[], NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Importance:
    """Entries by the names of matrices in GGUF; and the data that they were computed from, if the file says it."""

    path: Path
    entries: Mapping[str, Entry] = field(default_factory=dict)
    dataset: str | None = None
    chunks: int = 0

    def of(self, name: str) -> NDArray[Any] | None:
        """The importance for a matrix; None if the file does not have it."""
        return self.entries[name].read() if name in self.entries else None


def read(path: Path) -> Importance:
    """Read which matrices a file has, and check their numbers. Raises FormatError for anything else."""
    source = LocalFile(path)
    legacy = bytes(source.read(0, min(4, source.size))) != GGUF_MAGIC
    found = _legacy(source, path) if legacy else _gguf(source, path)
    if not found.entries:
        raise FormatError(f"`{path}` has no entries: expected an importance matrix that llama-imatrix wrote")
    import numpy as np

    for name, entry in found.entries.items():
        if not np.isfinite(entry.read()).all():
            raise FormatError(f"`{path}` holds NaN or infinity for `{name:.200}`: make it again")
    return found


def about(importance: Importance) -> Iterator[Packed]:
    """The keys by which llama-quantize says which importance matrix a file was made with."""
    yield string("quantize.imatrix.file", importance.path.name)
    if importance.dataset is not None:
        yield string("quantize.imatrix.dataset", importance.dataset)
    yield scalar("quantize.imatrix.entries_count", "u32", len(importance.entries))
    if importance.chunks:
        yield scalar("quantize.imatrix.chunks_count", "u32", importance.chunks)


def _legacy(source: Source, path: Path) -> Importance:
    """Entries one after another: name, number of calls, count, and the means times the calls."""
    cursor, entries = Cursor(source, 0), {}
    count = _number(cursor, path, "the number of entries", least=1)
    for _ in range(count):
        size = _number(cursor, path, "the length of a name")
        if size > _NAME:
            raise _strange(path, f"a name of {plural(size, 'byte')}")
        name = cursor.take(size, "a name").decode("utf-8", "replace")
        calls = _number(cursor, path, "a number of calls", least=-(1 << 31))
        columns = _number(cursor, path, "a number of columns", least=1)
        start = cursor.position
        cursor.skip(columns * F32.itemsize, "an entry")
        entries[name] = Entry(columns, _mean(source, start, columns, calls))
    chunks, dataset = 0, None
    if cursor.left >= 2 * _INT.size:
        chunks = _number(cursor, path, "the number of chunks", least=-(1 << 31))
        size = _number(cursor, path, "the length of the data set's name", least=-(1 << 31))
        if 0 < size <= min(_NAME, cursor.left):
            dataset = cursor.take(size, "the data set's name").decode("utf-8", "replace")
    return Importance(path, entries, dataset, max(0, chunks))


def _mean(source: Source, start: int, columns: int, calls: int) -> Callable[[], NDArray[Any]]:
    def means() -> NDArray[Any]:
        import numpy as np

        sums = np.frombuffer(source.read(start, columns * F32.itemsize), "<f4")
        return sums / np.float32(calls) if calls > 0 else sums

    return means


def _gguf(source: Source, path: Path) -> Importance:
    """Tensors `NAME.in_sum2` with sums of squares, and `NAME.counts` with how many there were for each expert."""
    catalogue = read_gguf(source)
    entries = {}
    for name, sums in catalogue.items():
        if not name.endswith(_SUMS):
            continue
        matrix = name.removesuffix(_SUMS)
        counts = catalogue.get(matrix + _COUNTS)
        experts = counts.size if counts is not None else 0
        if counts is None or not experts or sums.size % experts or {sums.dtype, counts.dtype} != {F32}:
            raise _strange(path, f"sums for `{matrix:.200}` without counts that fit them")

        def means(sums: Any = sums, counts: Any = counts) -> NDArray[Any]:
            import numpy as np

            every = np.sign(number := counts.bits().reshape(-1, 1)) * np.floor(np.abs(number) + np.float32(0.5))
            squares = sums.bits().reshape(len(every), -1)
            with np.errstate(all="ignore"):
                found: NDArray[Any] = np.where(every > 0, squares / every, np.float32(1)).astype("<f4").reshape(-1)
            return found

        entries[matrix] = Entry(sums.size, means)
    keys: Mapping[str, Any] = catalogue.metadata if isinstance(catalogue.metadata, dict) else {}
    datasets = keys.get("imatrix.datasets")
    dataset = next(iter(datasets), None) if datasets is not None and not isinstance(datasets, int | float) else None
    chunks = keys.get("imatrix.chunk_count", 0)
    return Importance(
        path, entries, dataset if isinstance(dataset, str) else None, chunks if isinstance(chunks, int) else 0
    )


def _number(cursor: Cursor, path: Path, what: str, least: int = 0) -> int:
    (value,) = _INT.unpack(cursor.take(_INT.size, what))
    if not least <= value <= limits().entries + (1 << 31):
        raise _strange(path, f"{value:,} for {what}")
    found: int = value
    return found


def _strange(path: Path, found: str) -> FormatError:
    return FormatError(f"`{path}` has {found}: expected an importance matrix that llama-imatrix wrote")
