"""The stream that torch.save wrote before 1.6: five pickles back to back, then the storages.

Source: torch/serialization.py `_legacy_save` and `_legacy_load`; torch/csrc/serialization.cpp (`THPStorage_writeFileRaw`:
counts and elements are little-endian on every machine).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from converter.errors import CutOffError, FormatError, LayoutError, LimitError, PickleError, TruncatedPickleError
from converter.formats.marks import LEGACY_MAGICS, TORCH_LEGACY
from converter.io.source import NOWHERE
from converter.limits import limits
from converter.pickles.closed_table import TABLE, StorageClass, Typed, is_meta, storage_class
from converter.pickles.flatten import facts, flatten
from converter.pickles.loop import run
from converter.pickles.values import Dict, PersistentId, Pickled
from converter.tensors.catalogue import Catalogue, File, GlobalUse, Origin
from converter.tensors.tensor import Storage, Tensor
from converter.text import plural
from converter.words import Root

if TYPE_CHECKING:
    from converter.io.source import Source

_PROTOCOL: Final = 1001
_FILLED: Final = 1 << 20  # bytes of zeros that may follow the last storage
_LONGEST_MARK: Final = max(map(len, LEGACY_MAGICS))
_FIRST_READ: Final = 1 << 20  # bytes; four times as many if the pickle goes on


def read(source: Source, *, root: Root = None, shard: int | None = None) -> Catalogue:
    """Read a checkpoint's names and layouts, and no tensor's bytes."""
    stream = _Stream(source)
    stream.next()  # the magic number, which `matches` has checked
    version = stream.next().value
    if type(version) is not int or version != _PROTOCOL:
        from converter.pickles.walk import describe  # only this message needs it

        raise FormatError(
            f"`{source.name}` is a legacy stream of protocol {describe(version)}: {_PROTOCOL} was expected"
        )
    if type(stream.next().value) is not Dict:
        raise FormatError(f"`{source.name}` has no description of the machine it was written on")
    start = stream.position
    # The positions of the storages are only known after the pickle that mentions them, so that pickle runs twice.
    mentioned = _Mentioned(shard)
    stream.next(persistent=mentioned.persistent)
    keys = stream.next().value
    if type(keys) is not list or any(type(key) is not str for key in keys):
        raise PickleError(f"`{source.name}`: the list of storage keys is not a list of text")
    mentioned.place(source, stream.position, keys)
    stream.position = start
    pickled = stream.next(persistent=mentioned.persistent)
    flattened = flatten(pickled.value, root)
    return Catalogue(
        {
            name: mentioned.whole(tensor) if tensor.storage.key in mentioned.numbered else tensor
            for name, tensor in flattened.tensors.items()
        },
        Origin(source.name, TORCH_LEGACY, (File(source.name, source.size),), (source,)),
        storages=(*mentioned.placed.values(), *(tensor.storage for tensor in flattened.arrays.values())),
        others=tuple(flattened.others),
        unsupported=tuple(flattened.unsupported),
        globals=tuple(
            GlobalUse(module, name, (module, name) in TABLE, at, source.name)
            for (module, name), at in stream.used.items()
        ),
        facts=facts(flattened),
    )


class _Stream:
    """Pickles in a row. Only the bytes that they take are read from the file."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.position = 0
        self.used: dict[tuple[str, str], int] = {}
        self._data = b""

    def next(self, persistent: Callable[[object], object] = PersistentId) -> Pickled:
        """Run the next pickle."""
        while True:
            most = min(self.source.size, limits().pickle_bytes)
            try:
                pickled = run(self._data, TABLE, persistent, self.position, used=self.used)
            except TruncatedPickleError as error:
                if len(self._data) >= most:
                    if self.source.size > most:
                        raise LimitError(f"`{self.source.name}` has more than {most:,} bytes of pickles") from None
                    raise CutOffError(str(error)) from error
                size = min(most, max(_FIRST_READ, 4 * len(self._data)))
                self._data = bytes(self.source.read(0, size))
            else:
                self.position = pickled.end
                return pickled


class _Mentioned:
    """The storages that the pickle mentions. Each gets its place when the keys after the pickle are read."""

    def __init__(self, shard: int | None) -> None:
        self.shard = shard
        self.kinds: dict[str, tuple[StorageClass, int]] = {}
        self.views: dict[str, tuple[str, int, int]] = {}  # by key: the storage's key, offset and size in elements
        self.placed: dict[str, Storage] = {}
        # By the storage's number in the list of keys. We use it as the key, because the file's own key was an address in memory.
        self.numbered: dict[str, Storage] = {}

    def persistent(self, value: Any) -> object:
        """What an id stands for: ('storage', class, key, location, numel, view) or ('module', class, file, text)."""
        if type(value) is tuple and len(value) == 4 and value[0] == "module":
            return value[1]
        if type(value) is not tuple or len(value) not in (5, 6) or value[0] != "storage":
            raise PickleError("a persistent id is not ('storage', class, key, location, number of elements, view)")
        _, known, key, location, numel, *views = value
        if type(key) is not str or type(numel) is not int or not 0 <= numel < 1 << 60:
            raise PickleError("a persistent id has a key that is not text, or no count of elements")
        if is_meta(location):
            raise LayoutError(f"storage `{key[:80]}` was on the device `meta`: it has no data, which this stream needs")
        kind = storage_class(known)
        if self.kinds.setdefault(key, (kind, numel)) != (kind, numel):
            raise LayoutError(f"storage `{key[:80]}` is mentioned twice with different classes or sizes")
        nbytes = numel * kind.dtype.itemsize
        storage = self.placed.get(key) or Storage(NOWHERE, 0, nbytes, key, self.shard)
        view = views[0] if views else None
        if view is not None:
            storage = self._view(storage, key, kind, view)
        return Typed(storage, kind.dtype, kind.untyped)

    def _view(self, storage: Storage, whole: str, kind: StorageClass, view: Any) -> Storage:
        """The part of a storage that torch before 0.4 wrote as a storage of its own; `whole` is the key of the storage."""
        if (
            type(view) is not tuple
            or len(view) != 3
            or type(view[0]) is not str
            or any(type(v) is not int for v in view[1:])
        ):
            raise PickleError("the view of a storage is not (key, offset, size)")
        key, offset, size = view
        # torch.load keeps views and storages in one table; if a key is there already, its first meaning stays.
        mention = (whole, offset, size)
        if self.views.setdefault(key, mention) != mention:
            raise LayoutError(f"the view `{key[:80]}` of a storage is mentioned twice with different places or sizes")
        itemsize = kind.dtype.itemsize
        if offset < 0 or size < 0 or (offset + size) * itemsize > storage.nbytes:
            raise LayoutError(f"the view `{key[:80]}` reaches past the end of storage `{storage.key[:80]}`")
        place = storage.offset + offset * itemsize
        return Storage(storage.source, place, size * itemsize, storage.key, storage.shard)

    def whole(self, tensor: Tensor) -> Tensor:
        """A tensor on the storage that the file holds, even if it was built on a view of that storage."""
        storage = self.numbered[tensor.storage.key]
        if tensor.storage.nbytes == storage.nbytes:
            return tensor
        before, rest = divmod(tensor.storage.offset - storage.offset, tensor.dtype.itemsize)
        if rest:
            raise LayoutError(f"a view of storage `{storage.key[:80]}` starts within an element of {tensor.dtype.name}")
        return replace(tensor, offset=tensor.offset + before, storage=storage)

    def place(self, source: Source, position: int, keys: list[str]) -> None:
        """Walk the storages after the pickles: a count of elements (8 bytes) and the elements, in the order of `keys`."""
        if (shared := next(iter(self.views.keys() & self.kinds.keys()), None)) is not None:
            raise LayoutError(f"`{source.name}`: `{shared[:80]}` is the key of a storage and of a view of one")
        if len(set(keys)) != len(keys) or set(keys) != set(self.kinds):
            raise LayoutError(
                f"`{source.name}`: its list of storages does not match the storages that its pickle mentions"
            )
        for number, key in enumerate(keys):
            kind, numel = self.kinds[key]
            nbytes = numel * kind.dtype.itemsize
            if position + 8 + nbytes > source.size:
                raise CutOffError(
                    f"`{source.name}` ends at byte {source.size:,}; storage `{key[:80]}` needs {position + 8 + nbytes:,}: "
                    "it was cut off"
                )
            count = int.from_bytes(source.read(position, 8), "little", signed=True)
            if count != numel:
                raise LayoutError(
                    f"storage `{key[:80]}` has {plural(count, 'element')} where the pickle says {numel:,}"
                )
            placed = Storage(source, position + 8, nbytes, str(number), self.shard)
            self.placed[key] = self.numbered[placed.key] = placed
            position += 8 + nbytes
        _check_rest(source, position)


def _check_rest(source: Source, position: int) -> None:
    """Raise LayoutError if something stands after the last storage; zeros that fill up a block are allowed."""
    rest = source.size - position
    if rest <= _FILLED and not any(source.read(position, rest)):
        return
    if bytes(source.read(position, min(rest, _LONGEST_MARK))).startswith(LEGACY_MAGICS):
        raise LayoutError(
            f"`{source.name}` holds two saves, one after the other, as two calls of torch.save into one open file write "
            f"them: cut it at byte {position:,}, and open each part by itself"
        )
    raise LayoutError(
        f"`{source.name}` goes on for {plural(rest, 'byte')} after its last storage: if they do not belong to it, cut it at "
        f"byte {position:,}"
    )
