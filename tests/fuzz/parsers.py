"""Every parser as a function of bytes. It returns, or raises a ConverterError; whatever else happens is a finding.

The functions compare what was accepted with another reader or with the file itself, so they find wrong results, not
only crashes. `make fuzz` feeds them, and so do the tests with the inputs that are kept.
"""

from __future__ import annotations

import atexit
import json
import pickletools
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache, lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import safetensors

from converter.conversion.extract import extract
from converter.errors import ConverterError, FormatError
from converter.formats import folders, identify, open_source, shards
from converter.formats.foreign import HEAD
from converter.formats.gguf import names
from converter.formats.gguf import reader as gguf
from converter.formats.gguf.metadata import Array
from converter.formats.parameters import check as properties
from converter.formats.parameters import folder as parameters
from converter.formats.parameters.properties import PROPERTIES
from converter.formats.safetensors import reader as safetensors_file
from converter.formats.torch import legacy
from converter.io.strict_json import parse_json
from converter.io.zip_directory import DEFLATED
from converter.io.zip_records import Archive
from converter.limits import limits
from converter.models.families import family
from converter.models.recognition import Recognition, recognise
from converter.opening import open_checkpoint
from converter.pickles import fast_tensors
from converter.pickles.closed_table import TABLE, Special, Typed, storage_class
from converter.pickles.flatten import flatten
from converter.pickles.loop import run
from converter.pickles.opcodes import NAMES, decode
from converter.pickles.values import Dict, Opaque, PersistentId, Pickled
from converter.pickles.walk import describe, inner_tensors
from converter.tensors.catalogue import Catalogue
from converter.tensors.tensor import Storage, Tensor
from converter.verification import surroundings as companions
from tests.build import damage
from tests.build.checkpoints import floats, view, write_checkpoint
from tests.build.gguf_files import Bytes

MOST = 1 << 16  # bytes of a tensor that are read: views may repeat theirs up to any size


def parse_zip(data: bytes) -> None:
    """Records lie in the file side by side, and zipfile, if it reads them, finds the same bytes; then as a checkpoint."""
    archive = Archive(Bytes(data))
    records = sorted(archive.records.values(), key=lambda record: record.header)
    for record, after in zip(records, [record.header for record in records[1:]] + [len(data)], strict=True):
        assert 0 <= record.header < record.limit <= after
    found: dict[str, bytes] = {}
    for name, record in archive.records.items():
        try:
            found[archive.root + name] = archive.read(name, MOST)
        except ConverterError as error:
            assert len(str(error)) < 1500
        else:
            start = archive.payload(record)
            assert record.header < start <= start + record.compressed <= record.limit
            assert record.method == DEFLATED or found[archive.root + name] == data[start : start + record.nbytes]
    _compare_with_zipfile(data, archive, found)
    _read_tensors(open_source(Bytes(data)))


# What zipfile refuses and we read: a `version needed` that it does not know (its own word for that is NotImplementedError), which torch
# does not look at either, and records without a CRC. In neither case do we read bytes that zipfile would not.
_REFUSED = (zipfile.BadZipFile, NotImplementedError)


def _compare_with_zipfile(data: bytes, archive: Archive, found: dict[str, bytes]) -> None:
    """If Python's zipfile reads the archive, too, it finds the same names and bytes."""
    try:
        other = zipfile.ZipFile(BytesIO(data))
    except _REFUSED:
        return
    with other:
        assert [name for name in other.namelist() if name[-1] != "/"] == [
            archive.root + name for name in archive.records
        ]
        for name, content in found.items():
            with suppress(*_REFUSED):
                assert other.read(name) == content


def parse_machine(data: bytes) -> None:
    """Pickletools reads the same opcodes, and opcode by opcode the value is the same as with tensors run in one go."""
    first = _run(data)
    with patch.object(fast_tensors, "TENSOR", lambda *_: None):
        second = _run(data)
    if isinstance(first, ConverterError) or isinstance(second, ConverterError):
        assert (type(first), str(first)) == (type(second), str(second))
        raise first  # type: ignore[misc]
    assert (first.end, first.globals) == (second.end, second.globals)
    assert _outline(first.value) == _outline(second.value)
    _compare_with_pickletools(data)
    assert len(describe(first.value)) < 200
    inner_tensors(first.value)
    flatten(first.value)


def _run(data: bytes) -> Pickled | ConverterError:
    try:
        return run(data, TABLE, _storage)
    except ConverterError as error:
        return error


def _storage(value: object) -> object:
    """A storage of 64 bytes, whatever a persistent id says about it, as long as it names a class."""
    if type(value) is not tuple or len(value) not in (5, 6):
        return PersistentId(value)
    kind = storage_class(value[1])
    return Typed(Storage(Bytes(bytes(64)), 0, 64, "0"), kind.dtype, kind.untyped)


def _outline(value: object) -> list[object]:
    """List what can be reached, each node once: values may contain themselves, and be shared without end."""
    seen: dict[int, int] = {}
    waiting, outline = [value], []
    while waiting:
        node = waiting.pop()
        # Equal sizes and strides may be one tuple: nobody can change it.
        if type(node) is tuple and len(node) <= limits().rank and all(type(inner) is int for inner in node):
            outline.append(node)
            continue
        if id(node) in seen:
            outline.append(seen[id(node)])
            continue
        if isinstance(node, list | tuple):
            seen[id(node)] = len(seen)
            outline.append((type(node), len(node)))
            waiting += [*node, getattr(node, "state", None)] if type(node) is Dict else node
        elif isinstance(node, Opaque):
            seen[id(node)] = len(seen)
            outline.append((node.module, node.name, node.how))
            waiting += [node.args, node.kwargs, node.state, node.items, node.callee]
        elif isinstance(node, Special):
            seen[id(node)] = len(seen)
            outline.append((node.kind, node.function, node.dtype, node.shape))
            waiting.append(node.args)
        elif isinstance(node, Tensor):
            outline.append((node.dtype.name, node.shape, node.stride, node.offset))
        elif isinstance(node, PersistentId):
            waiting.append(node.value)
        else:
            outline.append(repr(node) if isinstance(node, str | int | float | bytes | None) else type(node))
    return outline


def _compare_with_pickletools(data: bytes) -> None:
    ours = [(NAMES[code], at) for code, _, at in decode(data)]
    try:
        theirs = [(op.name, at) for op, _, at in pickletools.genops(data)]
    except (ValueError, UnicodeDecodeError):  # STRINGs that are not ASCII, NaN as text and so on
        return
    assert ours == theirs


def parse_legacy(data: bytes) -> None:
    """Storages lie in the file side by side, and tensors within them."""
    if identify(data[:HEAD], "memory").name != "torch-legacy":
        raise FormatError("no legacy stream")
    catalogue = legacy.read(Bytes(data))
    end = 0
    for storage in catalogue.storages:
        assert end <= storage.offset <= storage.offset + storage.nbytes <= len(data)
        end = storage.offset + storage.nbytes
    _read_tensors(catalogue)


def parse_safetensors(data: bytes) -> None:
    """The safetensors library accepts whatever we accept, with the same names, dtypes, shapes and bytes."""
    catalogue = safetensors_file.read(Bytes(data))
    _read_tensors(catalogue)
    # Dtypes that the library does not have yet are listed here and refused there.
    if catalogue.unsupported:
        return
    theirs = dict(safetensors.deserialize(data))
    tied = set(json.loads(catalogue.metadata.get(safetensors_file.TIED, "{}")))
    assert {name for name in catalogue if name not in tied} == set(theirs)
    for name, other in theirs.items():
        tensor = catalogue[name]
        packed = tensor.dtype.packed
        assert (*tensor.shape[:-1], *(size * packed for size in tensor.shape[-1:])) == tuple(other["shape"])
        assert tensor.dtype.safetensors == other["dtype"]
        assert bytes(tensor.storage.source.read(tensor.storage.offset, tensor.storage.nbytes)) == other["data"]


def parse_gguf(data: bytes) -> None:
    """Arrays and tensors can be read, and lie in the file."""
    if identify(data[:HEAD], "memory").name != "gguf":
        raise FormatError("no GGUF file")
    catalogue = gguf.read(Bytes(data))
    for value in catalogue.metadata.values():
        if isinstance(value, Array):
            assert sum(1 for _ in value) == len(value) <= len(data)
    for tensor in catalogue.values():
        if tensor.storage.encoding is None and tensor.size:
            assert 0 <= tensor.storage.offset <= tensor.storage.offset + tensor.storage.nbytes <= len(data)
    _read_tensors(catalogue)
    names.canonical(catalogue)


def parse_index(data: bytes) -> None:
    """The shards are plain names, and the index has the values that json reads."""
    index = parse_json(data, "memory.index.json")
    assert index == json.loads(data)
    weight_map = folders.load_weight_map(index, "memory.index.json")
    for file in weight_map.values():
        assert Path(file).name == file
        assert file not in (".", "..")
    parts = _shards()
    files = folders.of_index("memory.bin.index.json", weight_map, parts, "memory").files
    merged = shards.merge("memory", list(files), [parts[file] for file in files], weight_map)
    assert set(merged.missing) == set(weight_map) - set(merged)
    _read_tensors(merged)


@cache
def _shards() -> dict[str, Catalogue]:
    """The catalogues of two shards with a tensor each."""
    names = [f"a-0000{number}-of-00002.bin" for number in (1, 2)]
    where = _folder() / "shards"
    where.mkdir()
    for number, name in enumerate(names):
        write_checkpoint(where / name, {f"t{number}": view("0", (2,))}, {"0": floats(1, 2)})
    return {name: open_checkpoint(where / name) for name in names}


def parse_manifest(data: bytes) -> None:
    """No file outside of the folder is named, and tensors lie in the files that are named."""
    where = parameters_folder()
    (where / parameters.MANIFEST).write_bytes(data)
    catalogue = parameters.read_folder(where)
    held = {str(path) for path in where.iterdir()}
    assert {file.name for file in catalogue.origin.files} <= held
    _read_tensors(catalogue)


@cache
def parameters_folder() -> Path:
    """A parameters folder of two tensors, whose manifest is written over again and again."""
    where = _folder()
    write_checkpoint(
        where / "a.bin",
        {"w": view("0", (2, 2), (1, 2)), "b": view("1", (2,))},
        {"0": floats(1, 2, 3, 4), "1": floats(5, 6)},
    )
    extract(open_checkpoint(where / "a.bin"), where / "parameters")
    return where / "parameters"


def parse_properties(data: bytes) -> None:
    """The first line is the source's config.json, the rest model.properties: what is wrong is named, and nothing else."""
    config, _, text = data.partition(b"\n")
    output, where, right = model()
    settings = _settings(config)
    (where / PROPERTIES).write_bytes(text)
    # The tensors are known already: reading them again would take longer than everything else.
    with patch.object(properties.models, "recognise", lambda *_: _recognised(b"")):
        findings = list(properties.check(output, settings))
    assert all(len(what) < 200 and len(sentence) < 1500 for _, what, sentence, _ in findings)
    assert findings == [] or (settings, text) != (None, right)


@cache
def model() -> tuple[Catalogue, Path, bytes]:
    """The parameters folder of a GPT-2 of one layer, and its model.properties."""
    made = damage.model(n_layer=1, n_head=2, n_embd=4, n_inner=8, n_positions=4, vocab_size=4)
    where = damage.write_parameters(made, _folder() / "model")
    return open_checkpoint(where), where, (where / PROPERTIES).read_bytes()


@lru_cache(1000)
def _settings(config: bytes) -> dict[str, Any] | None:
    _recognised(config)
    return companions.settings(model()[0], parse_json(config, "config.json"), family("gpt2")) if config else None


@lru_cache(1000)
def _recognised(config: bytes) -> Recognition | None:
    output = model()[0]
    return recognise(output, parse_json(config, "config.json") if config else output.config)


def _read_tensors(catalogue: Catalogue) -> None:
    """Read the bytes of small tensors in both ways."""
    for tensor in catalogue.values():
        if tensor.nbytes <= MOST and tensor.size:
            tiled = b"".join(bytes(tile) for tile in tensor.tiles(64))
            assert tiled == np.ascontiguousarray(tensor.bits()).tobytes()


@cache
def _folder() -> Path:
    where = tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
    atexit.register(shutil.rmtree, where, ignore_errors=True)
    return Path(where)


PARSERS: dict[str, Callable[[bytes], None]] = {
    "zip": parse_zip,
    "machine": parse_machine,
    "legacy": parse_legacy,
    "safetensors": parse_safetensors,
    "gguf": parse_gguf,
    "index": parse_index,
    "manifest": parse_manifest,
    "properties": parse_properties,
}


def accepts(name: str, data: bytes) -> bool:
    """Whether the parser accepts the bytes. Anything that it raises is a finding."""
    try:
        PARSERS[name](data)
    except ConverterError as error:
        assert len(str(error)) < 1500, "a sentence without end"
        return False
    return True
