"""Reads npz and npy: names and layouts from the headers, and no tensor's bytes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from converter.dtypes import DTYPES, Dtype
from converter.errors import ArchiveError, ConverterError, FormatError, LayoutError
from converter.formats.marks import ARRAY, NPY, NPZ
from converter.formats.npz.header import NATIVE, Header, descr, parse, start_of_data
from converter.io.checksums import crc32, crc32_combine
from converter.io.local import LocalFile
from converter.io.zip_directory import Record
from converter.io.zip_records import Archive
from converter.tensors.catalogue import Catalogue, File, Origin
from converter.tensors.tensor import Storage, Tensor
from converter.text import absent, plural
from converter.words import Root

if TYPE_CHECKING:
    from converter.io.source import Source

# A name that ends in one of these holds the bits of a dtype that numpy lacks: `w@bf16` is the BF16 tensor `w`.
BITS: Final = {f"@{dtype.name.lower()}": dtype for dtype in DTYPES if dtype not in NATIVE}
NAMELESS: Final = "arr_0"  # numpy.savez gives this name to an array without one
_FIRST: Final = 128  # nearly every header fits into this many bytes


def read(source: Source, *, root: Root = None, shard: int | None = None) -> Catalogue:
    """Read the headers of an npz archive's arrays.

    Raises FormatError for records that are not arrays and for impossible names, and LayoutError if an array does not
    fill its record.
    """
    if root is not None:
        raise FormatError(f"`{source.name}` is a numpy archive: it holds one set of names, and no other to choose")
    archive = Archive(source)
    strange = next((archive.root + name for name in archive.records if not name.endswith(ARRAY)), None)
    if strange is not None:
        raise FormatError(
            f"`{source.name}` holds numpy arrays and `{strange:.200}`, which is not one: two readers would see two "
            "different files in it"
        )
    tensors: dict[str, Tensor] = {}
    storages = []
    for record in archive.records.values():
        key = (archive.root + record.name).removesuffix(ARRAY)
        head = _head(archive, record)
        what = f"`{key:.200}` in `{source.name}`"
        header = parse(head, what)
        _check_filled(header, record.nbytes, what)
        # The archive has the CRC-32 of the whole record. The CRC-32 of the data follows from that and the header's.
        crc = crc32_combine(crc32(head), record.crc32, header.nbytes)
        if crc and not header.nbytes:
            raise ArchiveError(f"{what} is damaged: its header has another CRC-32 than the archive says")
        name, dtype = _meant(key, header.dtype)
        content = archive.content(record)
        storage = Storage(content, header.start, header.nbytes, name, shard, crc, header.byteorder)
        if name in tensors:
            raise LayoutError(f"`{source.name}` holds `{name:.200}` twice, once as bits of {dtype.name}")
        tensors[name] = Tensor(dtype, header.shape, header.stride, 0, storage)
        storages.append(storage)
    return Catalogue(
        tensors,
        Origin(source.name, NPZ, (File(source.name, source.size),), (source,)),
        storages=tuple(storages),
    )


def read_array(source: Source, *, root: Root = None, shard: int | None = None) -> Catalogue:
    """Read the header of an npy file, whose one array gets the name that numpy.savez would give it."""
    if root is not None:
        raise FormatError(f"`{source.name}` is a numpy array: it is one tensor, and there is no other to choose")
    header = _header(source)
    _check_filled(header, source.size, f"`{source.name}`")
    storage = Storage(source, header.start, header.nbytes, NAMELESS, shard, byteorder=header.byteorder)
    return Catalogue(
        {NAMELESS: Tensor(header.dtype, header.shape, header.stride, 0, storage)},
        Origin(source.name, NPY, (File(source.name, source.size),), (source,)),
        storages=(storage,),
    )


def truncated_array(path: Path) -> bool:
    """Whether an npy file ends inside its header or its data."""
    source = LocalFile(path)
    try:
        if source.size < 12 or start_of_data(bytes(source.read(0, 12)), "") > source.size:
            return True
        header = _header(source)
        return header.start + header.nbytes > source.size
    except ConverterError:
        return False


def _head(archive: Archive, record: Record) -> bytes:
    """The bytes before a record's data."""
    what = f"`{archive.root}{record.name:.200}` in `{archive.name}`"
    head = archive.head(record.name, _FIRST)
    start = start_of_data(head, what)
    if start > len(head):
        head = archive.head(record.name, start)
    return _cut(head, start, what)


def _header(source: Source) -> Header:
    what = f"`{source.name}`"
    start = start_of_data(bytes(source.read(0, min(12, source.size))), what)
    return parse(_cut(bytes(source.read(0, min(start, source.size))), start, what), what)


def _cut(head: bytes, start: int, what: str) -> bytes:
    if len(head) < start:
        lacking = absent(start - len(head), "byte")
        raise LayoutError(f"{what} ends inside the header of the numpy array: {lacking}")
    return head[:start]


def _check_filled(header: Header, nbytes: int, what: str) -> None:
    """Refuse data that are cut off, and bytes after the data, so that nothing can be hidden there."""
    if header.start + header.nbytes != nbytes:
        raise LayoutError(
            f"{what}: a numpy array of {header.dtype.name} and shape {header.shape!s:.300} takes "
            f"{plural(header.nbytes, 'byte')}; {nbytes - header.start:,} follow its header"
        )


def _meant(key: str, held: Dtype) -> tuple[str, Dtype]:
    """The name and dtype of the tensor that an array holds, as numbers or as bits."""
    name, mark, kind = key.rpartition("@")
    dtype = BITS.get(mark + kind)
    if dtype is None or descr(dtype) != descr(held):
        return key, held
    return name, dtype
