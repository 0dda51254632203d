"""The tar that torch.save wrote before 0.1.10: pickles, and the bytes of numbers between them.

Three members count. `storages` is a pickled count, then for each storage a pickle (key, location, class) and its elements,
then a pickled list of views (key, the key of the whole, offset, size). `tensors` is a pickled count, then for each tensor
a pickle (key, the key of its storage, class) and its layout. `pickle` is the object, which mentions both by their keys.

Source: torch/serialization.py, `legacy_load`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from converter.errors import (
    ArchiveError,
    CutOffError,
    ForeignFileError,
    FormatError,
    LayoutError,
    LimitError,
    PickleError,
    TruncatedPickleError,
)
from converter.formats.marks import TORCH_TAR
from converter.io.source import Source, Window
from converter.io.tar import BLOCK, Member, members
from converter.limits import limits
from converter.pickles.closed_table import TABLE, Typed, is_meta, storage_class
from converter.pickles.flatten import facts, flatten
from converter.pickles.loop import run
from converter.pickles.walk import describe
from converter.tensors.catalogue import Catalogue, File, GlobalUse, Origin
from converter.tensors.tensor import Storage, Tensor
from converter.text import plural

if TYPE_CHECKING:
    from converter.words import Root

STORAGES: Final = "storages"
TENSORS: Final = "tensors"
PICKLE: Final = "pickle"
NEEDED: Final = (STORAGES, TENSORS, PICKLE)
_OTHERS: Final = ("sys_info",)
_END: Final = 2 * BLOCK  # bytes: a tar ends with two empty blocks
_FIRST_READ: Final = 64 << 10  # bytes of a member; 16 times as many if a pickle goes on
_DIGITS: Final = 20  # digits of an address in memory
_MOST: Final = 1 << 60  # elements
_Used = dict[tuple[str, str], int]


def read(source: Source, *, root: Root = None, shard: int | None = None) -> Catalogue:
    """Read a checkpoint's names and layouts, and no tensor's bytes."""
    parts, strange = _members(source)
    used: _Used = {}
    objects = _Objects()
    objects.read_storages(_Entries(parts[STORAGES], used), shard)
    objects.read_tensors(_Entries(parts[TENSORS], used))
    last = _Entries(parts[PICKLE], used)
    value = last.next(objects.persistent)
    last.check_end()
    flattened = flatten(value, root)
    storages = [whole.storage for whole in objects.wholes.values()]
    return Catalogue(
        flattened.tensors,
        Origin(source.name, TORCH_TAR, (File(source.name, source.size),), (source,)),
        storages=(*storages, *(tensor.storage for tensor in flattened.arrays.values())),
        others=tuple(flattened.others),
        unsupported=tuple(flattened.unsupported),
        globals=tuple(
            GlobalUse(module, name, (module, name) in TABLE, at, source.name) for (module, name), at in used.items()
        ),
        problems=(*objects.problems(source.name), *strange),
        facts=facts(flattened),
    )


def is_checkpoint(names: Iterable[str]) -> bool:
    """Whether an archive with members of these names is such a checkpoint."""
    return {*NEEDED} <= {*names}


def _members(source: Source) -> tuple[dict[str, Source], list[str]]:
    """The members that count, by name, and a sentence on those that torch.save does not write.

    Raises ForeignFileError for another archive, ArchiveError for one that torch and others would read differently.
    """
    found: dict[str, Member] = {}
    end = 0
    for member in members(source):
        if member.name in found:
            raise ArchiveError(f"`{member.name:.80}` is there twice in `{source.name}`")
        found[member.name] = member
        end = member.offset + -(-member.nbytes // BLOCK) * BLOCK
    if not is_checkpoint(found):
        listed = ", ".join(f"`{name:.80}`" for name in [*found][:3]) or "nothing"
        raise ForeignFileError(
            f"`{source.name}` is a tar archive, but not a checkpoint of torch before 0.1.10: it holds {listed}, and not "
            f"all of {', '.join(f'`{name}`' for name in NEEDED)}; unpack it first"
        )
    if source.size - end < _END:
        raise CutOffError(f"`{source.name}` lacks the two empty blocks that end a tar archive: it was cut off")
    for name in NEEDED:
        if found[name].other:
            raise ArchiveError(f"`{name}` in `{source.name}` is {found[name].other}, where a file was expected")
    parts = {
        name: Window(source, found[name].offset, found[name].nbytes, f"`{name}` in `{source.name}`") for name in NEEDED
    }
    strange = [name for name in found if name not in NEEDED and name not in _OTHERS]
    if not strange:
        return dict(parts), []
    listed = ", ".join(f"`{name:.80}`" for name in strange[:5]) + (", …" if len(strange) > 5 else "")
    nbytes = sum(found[name].nbytes for name in strange)
    return dict(parts), [
        f"`{source.name}` holds {plural(len(strange), 'member')} that torch.save does not write "
        f"({plural(nbytes, 'byte')}): {listed}"
    ]


# ---- what lies between the pickles ----------------------------------------------------------------------------------


def _elements(data: bytes, where: str) -> int:
    count = int.from_bytes(data, "little", signed=True)
    if not 0 <= count < _MOST:
        raise FormatError(f"a storage in {where} has {count:,} elements: a number from 0 to 2^60 was expected")
    return count


def _rank(data: bytes, where: str) -> int:
    rank = int.from_bytes(data[:4], "little", signed=True)  # torch reads four of the eight bytes
    if not 0 <= rank <= limits().rank:
        raise FormatError(f"a tensor in {where} has {rank:,} dimensions: 0 to {limits().rank} are read")
    return rank


def _nbytes_of_storage(source: Source, position: int, value: Any) -> int:
    """The bytes after the pickle of a storage: a count (8 bytes), and the elements."""
    return 8 + _elements(_eight(source, position), source.name) * storage_class(value[2]).dtype.itemsize


def _nbytes_of_tensor(source: Source, position: int, value: Any) -> int:
    """The bytes after the pickle of a tensor: a count of dimensions (8 bytes), the sizes, the strides and an offset."""
    return 8 + 16 * _rank(_eight(source, position), source.name) + 8


def _eight(source: Source, position: int) -> bytes:
    if position + 8 > source.size:
        raise CutOffError(f"{source.name} ends at byte {source.size:,}, within the count at byte {position:,}")
    return bytes(source.read(position, 8))


# How many bytes follow each pickle of a member, by the pickle's end and its value.
LAYOUTS: Final[dict[str, Callable[[Source, int, Any], int]]] = {
    STORAGES: _nbytes_of_storage,
    TENSORS: _nbytes_of_tensor,
}


class _Entries:
    """The pickles and numbers of one member, in order. The numbers of storages are never read."""

    def __init__(self, source: Source, used: _Used) -> None:
        self.source = source
        self.position = 0
        self._used = used
        self._data = b""
        self._start = 0  # the byte of the member at which `_data` starts

    def next(self, persistent: Callable[[object], object] | None = None) -> Any:
        """The value of the next pickle."""
        if not self._start <= self.position < self._start + len(self._data):
            self._load(_FIRST_READ)
        while True:
            at = self.position - self._start
            try:
                made = run(self._data, TABLE, persistent or _no_persistent, at, used=self._used)
            except TruncatedPickleError as error:
                rest = self.source.size - self.position
                most = min(rest, limits().pickle_bytes)
                if len(self._data) - at >= most:
                    if rest > most:
                        raise LimitError(f"{self.source.name} has a pickle of more than {most:,} bytes") from None
                    raise CutOffError(f"{self.source.name}: {error}") from error
                self._load(min(most, max(_FIRST_READ, 16 * (len(self._data) - at))))
            else:
                self.position = self._start + made.end
                return made.value

    def count(self) -> int:
        """The count of entries, which comes first."""
        value = self.next()
        if type(value) is not int or value < 0:
            raise FormatError(f"{self.source.name} does not start with the count of its entries")
        return value

    def entry(self) -> Any:
        """The next pickle, which has to be a tuple of three."""
        value = self.next()
        if type(value) is not tuple or len(value) != 3:
            raise FormatError(
                f"{self.source.name} has {describe(value)} before byte {self.position:,}, where a tuple of three was expected"
            )
        return value

    def take(self, nbytes: int) -> bytes:
        """The numbers that follow."""
        at = self.position - self._start
        if at + nbytes > len(self._data):
            self._load(max(_FIRST_READ, nbytes))
            at = 0
        if len(self._data) < at + nbytes:
            raise CutOffError(f"{self.source.name} ends at byte {self.source.size:,}, within its numbers")
        self.position += nbytes
        return self._data[at : at + nbytes]

    def skip(self, nbytes: int) -> None:
        """Pass over numbers."""
        if self.position + nbytes > self.source.size:
            raise CutOffError(
                f"{self.source.name} has {self.source.size:,} bytes; its numbers need {self.position + nbytes:,}"
            )
        self.position += nbytes

    def check_end(self) -> None:
        """Raise FormatError if anything follows."""
        if rest := self.source.size - self.position:
            raise FormatError(f"{self.source.name} goes on for {rest:,} bytes after its last pickle")

    def _load(self, nbytes: int) -> None:
        self._start = self.position
        self._data = bytes(self.source.read(self.position, min(nbytes, self.source.size - self.position)))


def _no_persistent(value: object) -> object:
    raise PickleError("there is a persistent id outside of the member `pickle`")


class _Whole(NamedTuple):
    """A storage or a part of one, and the storage that the file holds."""

    typed: Typed
    storage: Storage


class _Objects:
    """The storages, their parts and the tensors, by key: an address in the memory of the program that wrote them."""

    def __init__(self) -> None:
        self.wholes: dict[int, _Whole] = {}  # only the storages
        self.storages: dict[int, _Whole] = {}  # the storages and their parts
        self.tensors: dict[int, Tensor] = {}
        self.used: set[str] = set()

    def read_storages(self, entries: _Entries, shard: int | None) -> None:
        """Note where each storage lies, and the parts of storages."""
        for number in range(entries.count()):
            key, location, known = entries.entry()
            if is_meta(location):
                raise LayoutError(f"storage {number} was on the device `meta`: it has no data, which a tar needs")
            kind = storage_class(known)
            nbytes = _elements(entries.take(8), entries.source.name) * kind.dtype.itemsize
            storage = Storage(entries.source, entries.position, nbytes, str(number), shard)
            entries.skip(nbytes)
            self._add(self.storages, key, _Whole(Typed(storage, kind.dtype, kind.untyped), storage))
        self.wholes = dict(self.storages)
        views = entries.next()
        if type(views) is not list:
            raise FormatError(f"{entries.source.name} has {describe(views)} where the list of views was expected")
        for view in views:
            self._view(view)
        entries.check_end()

    def _view(self, view: Any) -> None:
        if type(view) is not tuple or len(view) != 4 or any(type(number) is not int for number in view):
            raise PickleError("the view of a storage is not (key, key of the whole, offset, size)")
        key, of, offset, count = view
        whole = self.storages.get(of)
        if whole is None:
            raise LayoutError("a view belongs to a storage that the file does not hold")
        itemsize = whole.typed.dtype.itemsize
        if offset < 0 or count < 0 or (offset + count) * itemsize > whole.typed.storage.nbytes:
            raise LayoutError(f"a view reaches past the end of storage `{whole.storage.key}`")
        part = replace(
            whole.typed.storage, offset=whole.typed.storage.offset + offset * itemsize, nbytes=count * itemsize
        )
        self._add(self.storages, key, _Whole(whole.typed._replace(storage=part), whole.storage))

    def read_tensors(self, entries: _Entries) -> None:
        """Note the layout of each tensor."""
        for number in range(entries.count()):
            key, of, _ = entries.entry()
            whole = self.storages.get(of) if type(of) is int else None
            if whole is None:
                raise LayoutError(f"tensor {number} lies on a storage that the file does not hold")
            rank = _rank(entries.take(8), entries.source.name)
            numbers = struct.unpack(f"<{2 * rank + 1}q", entries.take(16 * rank + 8))
            part = whole.typed.storage
            tensor = Tensor(whole.typed.dtype, numbers[:rank], numbers[rank:-1], numbers[-1], part)
            # A tensor may be built on a part of a storage. Count from the start of the storage that the file holds.
            if part is not whole.storage:
                before = (part.offset - whole.storage.offset) // tensor.dtype.itemsize
                tensor = replace(tensor, offset=tensor.offset + before, storage=whole.storage)
            if key in self.storages:
                raise LayoutError(f"tensor {number} has the key of a storage")
            self._add(self.tensors, key, tensor)
        entries.check_end()

    def _add(self, table: dict[int, Any], key: object, value: object) -> None:
        if type(key) is not int:
            raise PickleError(f"a key is {describe(key)}, not a number")
        if key in table:
            raise LayoutError("two entries have the same key")
        table[key] = value

    def persistent(self, value: Any) -> object:
        """What an id means: (class, file, text) is a class, and a number in digits is a tensor or a storage."""
        if type(value) is tuple and len(value) == 3:
            return value[0]
        if type(value) is not str or not value.isascii() or not value.isdigit() or len(value) > _DIGITS:
            raise PickleError("a persistent id is neither a number in digits nor (class, file, text)")
        key = int(value)
        if (tensor := self.tensors.get(key)) is not None:
            self.used.add(tensor.storage.key)
            return tensor
        if (whole := self.storages.get(key)) is not None:
            self.used.add(whole.storage.key)
            return whole.typed
        raise LayoutError(
            f"the pickle mentions {value}, but the file holds neither a tensor nor a storage with that key"
        )

    def problems(self, name: str) -> list[str]:
        """Say which storages nothing refers to: they waste space, and something could be hidden in them."""
        unused = [whole.storage for whole in self.wholes.values() if whole.storage.key not in self.used]
        if not unused:
            return []
        listed = ", ".join(f"`{storage.key}`" for storage in unused[:5]) + (", …" if len(unused) > 5 else "")
        nbytes = sum(storage.nbytes for storage in unused)
        return [
            f"`{name}` holds {plural(len(unused), 'storage')} that no tensor refers to ({plural(nbytes, 'byte')}): {listed}"
        ]
