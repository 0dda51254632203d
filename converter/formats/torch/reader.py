"""Reads the zip form of torch.save, as torch 1.4 to 2.13 write it, and recognises zips that only look like it.

Source: torch/serialization.py `_save` and `_load`; caffe2/serialize/inline_container.cc.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from converter.errors import ConverterError, ForeignFileError, FormatError, LayoutError, PickleError, ProgramError
from converter.formats.marks import PUBLISHED_WRITER, TORCH_ZIP
from converter.formats.torch.records import CONSTANTS, SCRIPTED, TORCHSCRIPT, another_case, program
from converter.io.source import NOWHERE
from converter.io.zip_directory import first_record
from converter.io.zip_records import Archive
from converter.limits import limits
from converter.pickles.closed_table import TABLE, StorageClass, Typed, is_meta, storage_class
from converter.pickles.flatten import facts, flatten
from converter.pickles.loop import run
from converter.tensors.catalogue import Catalogue, File, GlobalUse, Origin
from converter.tensors.tensor import Storage
from converter.text import plural
from converter.words import Root

if TYPE_CHECKING:
    from converter.formats.torch.torchscript import Script
    from converter.io.source import Source

_FOLDERS: Final = ("data/", "tensors/")  # torch 1.5 and later; 1.4
_WRITERS: Final = (  # records, and the versions that write them; the first one that is there counts
    (".format_version", "torch 2.7 or later"),
    ("byteorder", "torch 2.1 to 2.6"),
    ("version", PUBLISHED_WRITER),
)
_CUT_OFF: Final = 4 << 20  # bytes of data.pkl that are read in a file that lost its directory
_KEPT: Final = frozenset(
    (
        "data.pkl",
        "version",
        "byteorder",
        ".format_version",
        ".storage_alignment",
        ".data/serialization_id",
        ".data/version",
    )
)


def read(source: Source, *, root: Root = None, shard: int | None = None) -> Catalogue:
    """Read a checkpoint's names and layouts, and no tensor's bytes."""
    archive = Archive(source)
    script = _check_kind(archive)
    storages = _Storages(archive, shard, SCRIPTED if script is not None else (), script=script is not None)
    record = archive.records["data.pkl"]
    data = archive.read("data.pkl", limits().pickle_bytes, check=record.crc32 != 0)
    pickled = run(data, TABLE, storages.persistent)
    if pickled.end != len(data):
        raise PickleError(
            f"`data.pkl` in `{source.name}` goes on for {plural(len(data) - pickled.end, 'byte')} after its end"
        )
    flattened = flatten(pickled.value, root) if script is None else flatten(pickled.value, root, script.state_dict)
    every = [*storages.storages.values(), *(tensor.storage for tensor in flattened.arrays.values())]
    return Catalogue(
        flattened.tensors,
        Origin(source.name, TORCH_ZIP, (File(source.name, source.size),), (source,)),
        storages=tuple(every),
        others=(*flattened.others, *(script.extras() if script is not None else ())),
        unsupported=tuple(flattened.unsupported),
        globals=tuple(
            GlobalUse(module, name, (module, name) in TABLE, at, source.name)
            for (module, name), at in pickled.globals.items()
        ),
        problems=tuple(storages.problems()),
        unchecked=any(s.crc32 is None and s.nbytes for s in storages.storages.values()),
        facts={
            **facts(flattened),
            "program": None if script is None else TORCHSCRIPT,
            "folder": storages.folder,
            "writer": next((writer for record, writer in _WRITERS if record in archive), None),
        },
    )


def read_cut_off(source: Source) -> Catalogue | None:
    """Read the names and shapes of a checkpoint that was cut off before its directory, since torch writes data.pkl first.

    None if data.pkl was cut off as well. The tensors have no bytes.
    """
    try:
        name, data = first_record(source, _CUT_OFF)
        if not name.endswith("/data.pkl"):
            return None
        pickled = run(data, TABLE, _promised)
        return Catalogue(
            flatten(pickled.value).tensors,
            Origin(source.name, TORCH_ZIP, (File(source.name, source.size),), (source,)),
        )
    except ConverterError:
        return None


def _promised(value: Any) -> object:
    """A storage of the size that a persistent id claims."""
    if type(value) is not tuple or len(value) != 5 or type(value[4]) is not int or type(value[2]) is not str:
        raise PickleError("a persistent id is not ('storage', class, key, location, number of elements)")
    kind = storage_class(value[1])
    return Typed(Storage(NOWHERE, 0, value[4] * kind.dtype.itemsize, value[2]), kind.dtype, kind.untyped)


class _Storages:
    """The records below `data/` as storages, in the order of the archive's directory. The pickle refers to them by key."""

    def __init__(
        self, archive: Archive, shard: int | None, known: tuple[str, ...] = (), *, script: bool = False
    ) -> None:
        self.archive = archive
        self.script = script
        self.known = known  # other allowed beginnings of its records' names
        self.folder = next((f for f in _FOLDERS if any(name.startswith(f) for name in archive.records)), _FOLDERS[0])
        byteorder = _byteorder(archive)
        self.storages = {
            # A CRC of 0 on data is how torch writes "not computed".
            (key := name[len(self.folder) :]): Storage(
                archive.content(record), 0, record.nbytes, key, shard,
                record.crc32 if record.crc32 or not record.nbytes else None, byteorder,
            )
            for name, record in archive.records.items()
            if name.startswith(self.folder)
        }  # fmt: skip
        self.mentioned: dict[str, tuple[StorageClass, bool]] = {}

    def persistent(self, value: Any) -> object:
        """The storage that a persistent id stands for: ('storage', class, key, location, numel)."""
        if self.script and type(value) is tuple and value[5:] == (None,):
            value = value[:5]  # torch.jit.save before 1.5 wrote that there is no view
        if type(value) is not tuple or len(value) != 5 or value[0] != "storage":
            raise PickleError("a persistent id is not ('storage', class, key, location, number of elements)")
        _, known, key, location, numel = value
        if type(key) is not str or type(numel) is not int or not 0 <= numel < 1 << 63:
            raise PickleError("a persistent id has a key that is not text, or no count of elements")
        kind = storage_class(known)
        storage = self.storages.get(key)
        if storage is None:
            raise LayoutError(
                f"storage `{key[:80]}` is missing: there is no `{self.folder}{key[:80]}` in `{self.archive.name}`"
            )
        mention = (kind, is_meta(location))
        first = self.mentioned.setdefault(key, mention)
        if first != mention:
            raise LayoutError(f"storage `{key}` is {_said(*first)} in one place and {_said(*mention)} in another")
        if numel * kind.dtype.itemsize != storage.nbytes:
            raise LayoutError(
                f"storage `{key}` in `{self.archive.name}` should have {plural(numel, 'element')} of {kind.dtype.name}, "
                f"{plural(numel * kind.dtype.itemsize, 'byte')}; its record has {storage.nbytes:,}"
            )
        return Typed(storage, kind.dtype, kind.untyped, mention[1])

    def problems(self) -> list[str]:
        """Say which records nothing refers to: they waste space, and something could be hidden in them."""
        found = []
        unused = [self.folder + key for key in self.storages if key not in self.mentioned]
        strange = [n for n in self.archive.records if not n.startswith((self.folder, *self.known)) and n not in _KEPT]
        for names, what in (
            (unused, "storages that no tensor refers to"),
            (strange, "records that torch.save does not write"),
        ):
            if names:
                nbytes = sum(self.archive.records[name].nbytes for name in names)
                listed = ", ".join(f"`{name}`" for name in names[:5]) + (", …" if len(names) > 5 else "")
                found.append(f"`{self.archive.name}` holds {len(names):,} {what} ({plural(nbytes, 'byte')}): {listed}")
        return found


def _said(kind: StorageClass, meta: bool) -> str:
    return f"{kind.name} without data (on the device `meta`)" if meta else kind.name


def _check_kind(archive: Archive) -> Script | None:
    """Raise FormatError for an archive that is not a checkpoint, ProgramError for a program without readable weights.

    Returns the code of a TorchScript archive, which says what its weights are.
    """
    name = archive.name
    script = None
    if CONSTANTS in archive and "data.pkl" in archive:
        from converter.formats.torch.torchscript import Script

        script = Script(archive)
    if (odd := next(another_case(archive), None)) is not None:
        raise FormatError(odd)
    if script is None and (what := program(archive)) is not None:
        raise ProgramError(f"`{name}` is {what}")
    if "data.pkl" not in archive and (pickle := _folder_of_one(archive)) is not None:
        raise FormatError(
            f"`{name}` was packed again: it holds the checkpoint in `{pickle}` and other folders beside it, such as `__MACOSX`; "
            "take them out, for example with `zip -d FILE '__MACOSX/*'`"
        )
    if "data.pkl" not in archive:
        held = ", ".join(f"`{archive.root}{n}`" for n in list(archive.records)[:3])
        raise ForeignFileError(
            f"`{name}` is a zip archive, but not a PyTorch checkpoint: it holds {held or 'nothing'} and no `data.pkl`"
        )
    if (array := next((n for n in archive.records if n.endswith(".npy")), None)) is not None:
        raise FormatError(
            f"`{name}` holds `data.pkl` as a PyTorch checkpoint does and `{array:.200}` as a numpy archive does: two "
            "readers would see two different files in it"
        )
    if not archive.root:
        raise FormatError(f"`{name}` has `data.pkl` outside of a folder; torch.save writes everything into one")
    version = "version" if "version" in archive else ".data/version"
    if version not in archive:
        raise FormatError(f"`{name}` has no `version` record, as every zip of torch.save has: it is not whole")
    text = archive.read(version, 64, check=archive.records[version].crc32 != 0)
    if not text.strip().isdigit() or not 1 <= int(text) <= 10:
        raise FormatError(f"`{name}` has format version {text[:20]!r}: 1 to 10 are known")
    return script


def _folder_of_one(archive: Archive) -> str | None:
    """The folder of the one checkpoint in an archive of several folders."""
    found = [record.removesuffix("data.pkl") for record in archive.records if record.endswith("/data.pkl")]
    return f"{archive.root}{found[0]}" if len(found) == 1 else None


def _byteorder(archive: Archive) -> str:
    if "byteorder" not in archive:  # torch before 2.1 wrote no such record
        for name, record in archive.records.items():
            if name not in _KEPT and not name.startswith(_FOLDERS):
                # This may be that record with a damaged name in the directory: its local header then differs.
                archive.payload(record)
        return "little"
    order = archive.read("byteorder", 64, check=archive.records["byteorder"].crc32 != 0)
    if order not in (b"little", b"big"):
        raise FormatError(f"`{archive.name}` has byte order {order[:20]!r}: `little` or `big` was expected")
    return order.decode()
