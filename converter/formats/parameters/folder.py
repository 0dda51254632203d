"""The parameters folder: plain files, and a manifest that reads back."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from converter.dtypes import BY_NAME
from converter.errors import ManifestError, ModelError, OutputError, UnsupportedError
from converter.formats.marks import MANIFEST, PARAMETERS
from converter.formats.parameters import properties as client_properties
from converter.formats.parameters.properties import PROPERTIES
from converter.formats.planned import Options, Planned
from converter.io.local import Descriptors, FolderFile
from converter.io.parts import Digests, Part
from converter.io.publish import Piece, PlannedFile, literal
from converter.io.source import Joined, Source
from converter.io.strict_json import load_json
from converter.models.called import proven_model
from converter.models.masks import droppable
from converter.models.recognition import Recognition
from converter.models.rows import Parameter
from converter.tensors.catalogue import Catalogue, File, Origin
from converter.tensors.guards import check_expansion
from converter.tensors.parts import storage_parts, tensor_parts
from converter.tensors.tensor import Storage, Tensor, row_major
from converter.words import FORMS, Root, check, option

SCHEMA: Final = "cerebras-tool/manifest/v1"
_SAFE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,119}")
_CRC: Final = re.compile(r"[0-9a-f]{8}")
_STEP: Final = re.compile(r"[A-Za-z0-9_%][A-Za-z0-9._%-]*")  # a step in the path of a file in the folder


@dataclass(slots=True)
class Written:
    """What is known about an output file when its bytes have been written."""

    path: str
    nbytes: int
    key: str
    shard: int | None
    digests: Digests
    byteorder: str = "little"


def plan(catalogue: Catalogue, recognition: Recognition | None, options: Options) -> Planned:
    """Plan the folder. Only masks are read, which may have to be left out.

    Raises UnsupportedError if the catalogue holds no tensors, WordError for an unknown form.
    """
    check("form", options.form, FORMS)
    if options.max_shard_size is not None:
        raise OutputError(
            f"a parameters folder has a file for each tensor or storage: leave {option('max-shard-size')} out"
        )
    if not catalogue:
        raise UnsupportedError(f"`{catalogue.location}` holds no tensors to extract")
    form, sha256 = options.form, options.sha256
    layout = _storages_form(catalogue) if form == "storages" else _named_form(catalogue, recognition)
    _check_paths(layout)
    properties: str | None
    try:
        places = {name: (place.parts[0], place.byteorder) for name, place in layout.places.items()}
        rows = _rows(recognition)
        properties = client_properties.text(catalogue, recognition, rows, places, form, _origin(catalogue))
        refused = None
    except ModelError as error:
        properties, refused = None, str(error)
    written = []
    planned = []
    for file in layout.files:
        parts = file.parts(sha256)
        digests = Digests([part.nbytes for part in parts], sha256=sha256)
        parts = tuple(replace(part, seen=partial(digests.take, index)) for index, part in enumerate(parts))
        written.append(Written(file.path, file.nbytes, file.key, file.shard, digests, file.byteorder))
        planned.append(PlannedFile(file.path, (Piece(file.path, parts),) if parts else ()))

    def finish() -> Sequence[PlannedFile]:
        manifest = _manifest(catalogue, recognition, layout, written, form)
        documents = [(MANIFEST, json.dumps(manifest, indent=1) + "\n")]
        if properties is not None and options.properties_inside:
            documents.append((PROPERTIES, properties))
        return [PlannedFile(path, (literal(path, text.encode()),)) for path, text in documents]

    return Planned(
        tuple(planned),
        len(layout.places),
        dropped=tuple(layout.dropped),
        notes=() if refused is None else (f"no {PROPERTIES}: {refused}",),
        finish=finish,
        properties=properties,
        refused=refused,
    )


def read_folder(path: Path, *, root: Root = None) -> Catalogue:
    """Read a folder by its manifest. A file is opened when one of its tensors is read.

    Raises ManifestError if the manifest contradicts itself or the files beside it.
    """
    if root is not None:
        raise ManifestError(f"`{path}` is a parameters folder: it holds one set of names, and no other to choose")
    descriptors = Descriptors()
    return read_entries(
        str(path), load_json(path / MANIFEST), lambda name, size: FolderFile(path, name, size, descriptors)
    )


def read_entries(place: str, manifest: dict[str, Any], opened: Callable[[str, int], Source]) -> Catalogue:
    """Read a folder at a place by its manifest. `opened` opens a file by its path in the folder and by its size.

    Raises ManifestError if the manifest contradicts itself.
    """
    what = f"`{_inside(place, MANIFEST)}`"
    if manifest.get("schema") != SCHEMA:
        raise ManifestError(f"{what} has the schema {manifest.get('schema')!r:.80}: `{SCHEMA}` was expected")
    try:
        return _from_manifest(place, manifest, opened)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ManifestError(f"{what} lacks a field, or has one of the wrong type: {error}") from error


# ---- laying out ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _File:
    """A planned file. `parts` returns its bytes as parts, or as one part if its argument is true."""

    path: str
    nbytes: int
    key: str
    shard: int | None
    byteorder: str
    parts: Callable[[bool], tuple[Part, ...]]


@dataclass(frozen=True, slots=True)
class _StoredTensor:
    """Where a tensor is stored: in the files `parts`, joined, as a view with this stride and offset (elements)."""

    parts: tuple[str, ...]
    stride: tuple[int, ...]
    offset: int
    byteorder: str


@dataclass(slots=True)
class _Layout:
    files: list[_File] = field(default_factory=list)
    places: dict[str, _StoredTensor] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)


def _storages_form(catalogue: Catalogue) -> _Layout:
    layout = _Layout()
    paths: dict[tuple[int | None, str], str] = {}
    for storage in _used_storages(catalogue):
        path = _escaped(storage.key)
        if storage.shard is not None:
            path = f"{storage.shard}/{path}"
        paths[storage.shard, storage.key] = path
        layout.files.append(
            _File(
                path,
                storage.nbytes,
                storage.key,
                storage.shard,
                storage.byteorder,
                partial(storage_parts, storage),
            )
        )
    for name, tensor in catalogue.items():
        storage = tensor.storage
        path = paths[storage.shard, storage.key]
        layout.places[name] = _StoredTensor((path,), tensor.stride, tensor.offset, storage.byteorder)
    return layout


def _used_storages(catalogue: Catalogue) -> Iterable[Storage]:
    """The storages of the tensors, in the order of the file. Those of an optimizer are left out, because the optimizer is.

    safetensors and GGUF have a storage for each tensor, which tied names share.
    """
    used = {(t.storage.shard, t.storage.key): t.storage for t in catalogue.values()}
    return [one for one in catalogue.storages if (one.shard, one.key) in used] or used.values()


def _named_form(catalogue: Catalogue, recognition: Recognition | None) -> _Layout:
    layout = _Layout()
    rows = _rows(recognition)
    dropped = set(droppable(catalogue, recognition)) if recognition else set()
    known: dict[Tensor, _StoredTensor] = {}
    for name, tensor in catalogue.items():
        if name in dropped:
            layout.dropped.append(name)
            continue
        if tensor in known:
            layout.places[name] = known[tensor]
            continue
        row = rows.get(name)
        stored = tensor.t() if row is not None and row.gguf_transposed else tensor
        if row is not None and row.client_parts:
            part_rows = stored.shape[0] // len(row.client_parts)
            pieces = [
                (f"{part}.dat", stored.rows(index * part_rows, (index + 1) * part_rows))
                for index, part in enumerate(row.client_parts)
            ]
        else:
            pieces = [(f"{row.client if row is not None and row.client else _escaped(name)}.dat", stored)]
        for path, view in pieces:
            layout.files.append(_File(path, view.nbytes, path, None, "little", partial(tensor_parts, view)))
        stride = row_major(stored.shape)
        place = _StoredTensor(
            tuple(path for path, _ in pieces), stride[::-1] if stored is not tensor else stride, 0, "little"
        )
        known[tensor] = layout.places[name] = place
    check_expansion({place.parts[0]: tensor for tensor, place in known.items()})
    return layout


def _rows(recognition: Recognition | None) -> dict[str, Parameter]:
    """The family's rows by the names that they have in the catalogue; none if no family is known."""
    if recognition is None:
        return {}
    shapes = recognition.family.rows(recognition.sizes) if recognition.sized else []
    wrong = {mismatch.name for mismatch in recognition.mismatched}
    named = {row.named(recognition.prefix): row for row in shapes if row.kind == "parameter"}
    return {name: row for name, row in named.items() if name not in wrong}


def _escaped(name: str) -> str:
    """A file name for a tensor's name or a storage's key: plain characters stay, others are percent-encoded."""
    if _SAFE.fullmatch(name):
        return name
    encoded = "".join(
        chr(byte) if chr(byte).isascii() and (chr(byte).isalnum() or (byte in b"._-" and index)) else f"%{byte:02X}"
        for index, byte in enumerate(name.encode("utf-8", "surrogatepass"))
    )
    if len(encoded) > 200 or not encoded:
        start = encoded[:120].rpartition("%")[0] or encoded[:120] or "unnamed"
        encoded = f"{start}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return encoded


def _check_paths(layout: _Layout) -> None:
    seen: dict[str, str] = {MANIFEST: MANIFEST, PROPERTIES: PROPERTIES}
    for file in layout.files:
        other = seen.setdefault(file.path.casefold(), file.path)
        if other is not file.path:
            raise OutputError(
                f"`{file.path}` and `{other}` would be the same file on a disk that ignores case: rename one tensor"
            )


# ---- manifest -------------------------------------------------------------------------------------------------------


def _origin(catalogue: Catalogue) -> str:
    """Where a checkpoint came from: a URL, or a file's name without its folders, which mean nothing elsewhere."""
    return catalogue.location if "://" in catalogue.location else Path(catalogue.location).name


def _manifest(
    catalogue: Catalogue, recognition: Recognition | None, layout: _Layout, written: list[Written], form: str
) -> dict[str, Any]:
    files = []
    for out in written:
        entry: dict[str, Any] = {"path": out.path, "nbytes": out.nbytes, "crc32": f"{out.digests.crc32:08x}"}
        if out.digests.sha256 is not None:
            entry["sha256"] = out.digests.sha256
        if form == "storages":
            entry |= {"key": out.key, "shard": out.shard}
        files.append(entry)
    model = proven_model(catalogue, recognition)
    return {
        "schema": SCHEMA,
        "form": form,
        "model": model.name if model is not None else None,
        "source": {
            "location": _origin(catalogue),
            "format": catalogue.format,
            "files": [{"name": Path(file.name).name, "nbytes": file.nbytes} for file in catalogue.origin.files],
        },
        "config": catalogue.config,
        "files": files,
        "tensors": [
            {
                "name": name,
                "dtype": catalogue[name].dtype.name,
                "shape": list(catalogue[name].shape),
                "stride": list(place.stride),
                "offset": place.offset,
                "parts": list(place.parts),
                "byte_order": place.byteorder,
            }
            for name, place in layout.places.items()
        ],
        "tied": [names for names in catalogue.tied() if not set(names) & set(layout.dropped)],
        "dropped": layout.dropped,
    }


def _from_manifest(place: str, manifest: dict[str, Any], opened: Callable[[str, int], Source]) -> Catalogue:
    what = f"`{_inside(place, MANIFEST)}`"
    orders: dict[str, str] = {}
    for entry in manifest["tensors"]:
        for part in entry["parts"]:
            order = orders.setdefault(part, entry["byte_order"])
            if order not in ("little", "big") or order != entry["byte_order"]:
                raise ManifestError(
                    f"{what} gives {part!r:.120} a byte order other than `little` or `big`, or both of these"
                )
    sources: dict[str, Storage] = {}
    files: list[Source] = []
    for entry in manifest["files"]:
        name = entry["path"]
        if type(name) is not str or not all(map(_STEP.fullmatch, name.split("/"))) or name in sources:
            raise ManifestError(f"{what} names the file {name!r:.120}, which is not a plain path or occurs twice")
        nbytes, key, shard, crc = entry["nbytes"], entry.get("key", name), entry.get("shard"), entry["crc32"]
        if type(nbytes) is not int or type(key) is not str or type(crc) is not str or not _CRC.fullmatch(crc):
            raise ManifestError(f"{what}: the entry of the file `{name}` has no size, key or CRC-32 as we write them")
        if shard is not None and (type(shard) is not int or shard < 1):
            raise ManifestError(f"{what} puts the file `{name}` into the shard {shard!r:.80}: they count from 1")
        files.append(opened(name, nbytes))
        sources[name] = Storage(files[-1], 0, nbytes, key, shard, int(crc, 16), orders.get(name, "little"))
    joined: dict[tuple[str, ...], Storage] = {}
    tensors: dict[str, Tensor] = {}
    for entry in manifest["tensors"]:
        name, parts, dtype = entry["name"], tuple(entry["parts"]), entry["dtype"]
        missing = [part for part in parts if part not in sources]
        if type(name) is not str or name in tensors or missing or not parts or dtype not in BY_NAME:
            raise ManifestError(f"{what}: the entry of {name!r:.120} is incomplete, or occurs twice")
        if parts not in joined:
            joined[parts] = sources[parts[0]] if len(parts) == 1 else _join([sources[part] for part in parts])
        numbers = (*entry["shape"], *entry["stride"], entry["offset"])
        if any(type(number) is not int for number in numbers):
            raise ManifestError(f"{what}: {name!r:.120} has a size that is not an integer")
        shape, stride = tuple(entry["shape"]), tuple(entry["stride"])
        tensors[name] = Tensor(BY_NAME[dtype], shape, stride, entry["offset"], joined[parts])
    config, form = manifest["config"], manifest["form"]
    if form not in FORMS or not (config is None or type(config) is dict):
        raise ManifestError(f"{what} has an unknown form, or a configuration that is not an object")
    return Catalogue(
        tensors,
        Origin(
            place,
            PARAMETERS,
            tuple(File(_inside(place, name), storage.nbytes) for name, storage in sources.items()),
            tuple(files),
            config,
        ),
        storages=tuple(sources.values()) if form == "storages" else (),
        facts={"form": form, "source": manifest["source"]},
    )


def _inside(place: str, name: str) -> str:
    return name if place == "." else f"{place.rstrip('/')}/{name}"


def _join(parts: list[Storage]) -> Storage:
    source: Source = Joined([part.source for part in parts])
    return Storage(source, 0, source.size, parts[0].key, byteorder=parts[0].byteorder)
