"""GGUF, versions 2 and 3, little-endian: read strictly, and given the names of Hugging Face where its family is known.

Sources: ggml/docs/gguf.md; ggml/src/gguf.cpp, whose rules for offsets and limits are followed.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from converter.dtypes import BY_NAME as DTYPES
from converter.dtypes import F32
from converter.errors import CutOffError, FormatError, LayoutError, LimitError, UnsupportedError
from converter.formats.gguf import GGUF
from converter.formats.gguf.blocks import BLOCK, BY_ID, QUANTISED, Encoding, dequantise
from converter.io.source import STEP, Derived, Source
from converter.limits import limits
from converter.models.vocabulary import Tokenizer
from converter.tensors.catalogue import Catalogue, File, Origin, Unsupported
from converter.tensors.tensor import Storage, Tensor, row_major

if TYPE_CHECKING:
    from converter.models.family import Family

MAGIC: Final = b"GGUF"
ALIGNMENT: Final = 32  # bytes, where general.alignment does not say
TYPES: Final = {  # of values: id, how one is packed
    "u8": (0, "<B"),
    "i8": (1, "<b"),
    "u16": (2, "<H"),
    "i16": (3, "<h"),
    "u32": (4, "<I"),
    "i32": (5, "<i"),
    "f32": (6, "<f"),
    "bool": (7, "<B"),
    "u64": (10, "<Q"),
    "i64": (11, "<q"),
    "f64": (12, "<d"),
}
STRING: Final = 8
ARRAY: Final = 9
_BY_ID: Final = {number: (name, struct.Struct(packed)) for name, (number, packed) in TYPES.items()}
_NAME: Final = 63  # bytes: ggml keeps names in 64, with a zero at the end
_DIMENSIONS: Final = 4  # GGML_MAX_DIMS
_KEY: Final = 65535  # bytes, by the specification
_SIZE: Final = struct.Struct("<Q")
_UNUSED: Final = 5  # llama_token_type
ACTIVATION: Final = "cerebras_tool.activation_function"  # a key of ours: what the model was trained with
_EMBEDDING: Final = "token_embd.weight"  # has a row for each token
TOKENIZER: Final = "tokenizer.ggml."  # what keys of the tokenizer begin with


@dataclass(frozen=True, slots=True)
class Array:
    """An array among the metadata. Its elements are read each time they are asked for."""

    source: Source
    offset: int
    count: int
    type: str

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        cursor = _Cursor(self.source, self.offset)
        if self.type == "string":
            for _ in range(self.count):
                yield cursor.text(limits().gguf_string, "an array")
        else:
            packed = struct.Struct(TYPES[self.type][1])
            for done in range(0, self.count, STEP):
                for (value,) in packed.iter_unpack(cursor.take(min(STEP, self.count - done) * packed.size, "an array")):
                    yield bool(value) if self.type == "bool" else value

    def __repr__(self) -> str:
        return f"<{self.count:,} {self.type}>"


def read(source: Source, *, root: str | None = None, shard: int | None = None) -> Catalogue:
    """Read names, layouts and metadata; no tensor's bytes. Shapes are row-major: GGUF's, in reverse.

    Blocks are decoded as they are read: such a tensor is F32, and its storage's `encoding` says what the file holds.
    """
    if root is not None:
        raise FormatError(f"`{source.name}` is a GGUF file: its names have no root to choose")
    cursor = _Cursor(source, len(MAGIC))
    version = cursor.number("<I")
    if version and version & 0xFFFF == 0:
        raise FormatError(f"`{source.name}` is a big-endian GGUF file: turn it into a little-endian one first")
    if version not in (2, 3):
        raise FormatError(f"`{source.name}` is a GGUF file of version {version}: 2 and 3 are read")
    tensors, keys = cursor.number("<Q"), cursor.number("<Q")
    # A key takes 8 + 1 + 4 + 1 bytes or more, a tensor 8 + 1 + 4 + 4 + 8.
    for count, least, most, what in (
        (keys, 14, limits().gguf_keys, "keys"),
        (tensors, 25, limits().entries, "tensors"),
    ):
        if count * least > cursor.left:
            raise CutOffError(f"`{source.name}` has no room for the {count:,} {what} that it announces")
        if count > most:
            raise LimitError(f"`{source.name}` has {count:,} {what}: at most {most:,} are read")
    metadata = dict(_metadata(cursor, keys))
    alignment = metadata.get("general.alignment", ALIGNMENT)
    infos = _infos(cursor, tensors)
    contents = _Contents(source, shard, cursor.position, alignment)
    for info in infos:
        contents.add(info)
    return Catalogue(
        contents.tensors,
        Origin(source.name, GGUF.name, (File(source.name, source.size),), (source,)),
        storages=tuple(tensor.storage for tensor in contents.tensors.values()),
        unsupported=tuple(contents.unsupported),
        problems=tuple(contents.problems(metadata)),
        metadata=metadata,
    )


def canonical(catalogue: Catalogue) -> Catalogue:
    """A GGUF catalogue with its family's names, its matrices in their shape there, and a config.json.

    Names that are no row of the family stay; where no family is known, the catalogue stays as it is.
    """
    from converter.models import families as registry

    found = catalogue.metadata.get("general.architecture")
    known = next(
        (family for family in registry.families() if family.gguf_name is not None and family.gguf_name == found), None
    )
    if known is None:
        return catalogue
    rows = {row.gguf: row for row in known.row_table if row.gguf}
    prefix = known.prefixes[-1]
    tensors: dict[str, Tensor] = {}
    for name, tensor in catalogue.items():
        number = name.split(".")[1] if name.startswith("blk.") else ""
        row = rows.get(name.replace(f"blk.{number}.", "blk.{layer}.", 1) if number.isdecimal() else name)
        if row is None:
            tensors[name] = tensor
        else:
            ours = row.named(prefix).replace("{layer}", number)
            tensors[ours] = tensor.t() if row.gguf_transposed else tensor
    if len(tensors) != len(catalogue):
        raise LayoutError(f"`{catalogue.location}` holds a tensor by its name here and by its name there")
    return catalogue.with_tensors(tensors, catalogue.storages).with_origin(config=_config(catalogue, known))


def tokenizer(catalogue: Catalogue) -> Tokenizer | None:
    """The tokenizer inside a file, without the padding that fills the embedding's last rows."""
    if TOKENIZER + "tokens" not in catalogue.metadata:
        return None
    arrays = {key: value for key, value in catalogue.metadata.items() if isinstance(value, Array)}
    tokens = dict(enumerate(arrays.get(TOKENIZER + "tokens", ())))
    kinds = list(arrays.get(TOKENIZER + "token_type", ()))
    padding = {number for number, kind in enumerate(kinds) if kind == _UNUSED}
    kept = {number: token for number, token in tokens.items() if number not in padding or token != f"[PAD{number}]"}
    return Tokenizer(kept, tuple(arrays.get(TOKENIZER + "merges", ())))


def says_activation(catalogue: Catalogue) -> bool:
    """Whether a file says which form of GELU the model was trained with: only our writer notes it."""
    return ACTIVATION in catalogue.metadata


# ---- bytes ----------------------------------------------------------------------------------------------------------


class _Cursor:
    """Reads a source from front to back through a window."""

    def __init__(self, source: Source, position: int) -> None:
        self.source = source
        self._start, self._window = position, b""
        self._at = 0  # within the window

    @property
    def position(self) -> int:
        return self._start + self._at

    @property
    def left(self) -> int:
        """Bytes up to the end of the file."""
        return self.source.size - self.position

    def take(self, size: int, what: str) -> bytes:
        """Give the next `size` bytes. Raises FormatError if the file ends before, naming `what` they belong to."""
        self._need(size, what)
        self._at += size
        return self._window[self._at - size : self._at]

    def number(self, packed: str) -> int:
        """Give the next number of the header."""
        value: int = struct.unpack(packed, self.take(struct.calcsize(packed), "the header"))[0]
        return value

    def text(self, most: int, what: str) -> str:
        """Give the next string. Raises FormatError unless it is UTF-8, LimitError beyond `most` bytes."""
        (size,) = _SIZE.unpack(self.take(8, what))
        self._fits(size, what)
        if size > most:
            raise LimitError(f"`{self.source.name}` has a text of {size:,} bytes in {what}: at most {most:,} are read")
        try:
            return self.take(size, what).decode()
        except UnicodeDecodeError as error:
            raise FormatError(f"`{self.source.name}` has a text in {what} that is no UTF-8: {error.reason}") from error

    def skip(self, size: int, what: str) -> None:
        self._fits(size, what)
        if self._at + size <= len(self._window):
            self._at += size
        else:
            self._start, self._window, self._at = self.position + size, b"", 0

    def skip_texts(self, count: int, what: str) -> None:
        """Pass over strings without making them."""
        for _ in range(count):
            if self._at + 8 > len(self._window):
                self._need(8, what)
            (size,) = _SIZE.unpack_from(self._window, self._at)
            self._at += 8
            if self._at + size <= len(self._window):
                self._at += size
            else:
                self.skip(size, what)

    def _fits(self, size: int, what: str) -> None:
        if size > self.left:
            raise CutOffError(
                f"`{self.source.name}` ends inside {what}: {size:,} bytes should follow and there are {self.left:,}"
            )
        if self.position + size > limits().gguf_bytes:
            raise LimitError(f"`{self.source.name}` has more than {limits().gguf_bytes:,} bytes of metadata")

    def _need(self, size: int, what: str) -> None:
        if self._at + size > len(self._window):
            self._fits(size, what)
            self._start, self._at = self.position, 0
            self._window = bytes(self.source.read(self._start, min(max(size, STEP), self.left)))


class _Decoded(Derived):
    """The F32 elements of a tensor that a file holds in blocks, as bytes."""

    def __init__(self, source: Source, offset: int, elements: int, encoding: Encoding) -> None:
        super().__init__(source, source.name, elements * F32.itemsize)
        self._offset, self._encoding = offset, encoding

    def _fill(self, offset: int, buffer: memoryview) -> None:
        import numpy as np

        block, done = BLOCK * F32.itemsize, 0  # bytes
        while done < len(buffer):
            first, inside = divmod(offset + done, block)
            count = min(-(-(inside + len(buffer) - done) // block), STEP // block)
            encoded = self.base.read(self._offset + first * self._encoding.nbytes, count * self._encoding.nbytes)
            values = np.empty(count * BLOCK, "<f4")
            dequantise(np.frombuffer(encoded, "u1"), self._encoding, values)
            piece = values.view("u1").data[inside : inside + len(buffer) - done]
            buffer[done : done + len(piece)] = piece
            done += len(piece)

    def _base_range(self, offset: int, size: int) -> tuple[int, int]:
        block = BLOCK * F32.itemsize  # bytes
        first, last = offset // block, -(-(offset + size) // block)
        return self._offset + first * self._encoding.nbytes, (last - first) * self._encoding.nbytes


# ---- header ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Info:
    name: str
    shape: tuple[int, ...]
    ggml: int
    offset: int  # bytes from the start of the data


def _metadata(cursor: _Cursor, count: int) -> Iterator[tuple[str, Any]]:
    seen: set[str] = set()
    for _ in range(count):
        key = cursor.text(_KEY, "a key")
        if not key or "\0" in key:
            raise FormatError("a key of the metadata is empty or holds a zero byte")
        if key in seen:
            raise FormatError(f"the key `{key[:80]}` stands twice in the metadata")
        seen.add(key)
        what = f"the value of `{key[:80]}`"
        type = _number(cursor, what)
        if type == ARRAY:
            value: Any = _array(cursor, what)
        elif type == STRING:
            value = cursor.text(limits().gguf_string, what)
        elif type in _BY_ID:
            value = _scalar(cursor, type, what)
        else:
            raise FormatError(f"{what} is of the type {type}, which GGUF does not have")
        if key == "general.alignment":
            _check_alignment(type, value)
        yield key, value


def _number(cursor: _Cursor, what: str) -> int:
    return int.from_bytes(cursor.take(4, what), "little")


def _scalar(cursor: _Cursor, type: int, what: str) -> Any:
    name, packed = _BY_ID[type]
    (value,) = packed.unpack(cursor.take(packed.size, what))
    if name != "bool":
        return value
    if value > 1:
        raise FormatError(f"{what} is a truth value of {value}: 0 or 1 was expected")
    return bool(value)


def _array(cursor: _Cursor, what: str) -> Array:
    type, count = _number(cursor, what), _SIZE.unpack(cursor.take(8, what))[0]
    if type == ARRAY:
        raise FormatError(f"{what} is an array of arrays, which nothing reads")
    if type != STRING and type not in _BY_ID:
        raise FormatError(f"{what} is an array of the type {type}, which GGUF does not have")
    width = _SIZE.size if type == STRING else _BY_ID[type][1].size
    if count * width > cursor.left:
        raise CutOffError(f"{what} is an array of {count:,} elements and the file ends before")
    start = cursor.position
    if type == STRING:
        cursor.skip_texts(count, what)
        return Array(cursor.source, start, count, "string")
    cursor.skip(count * width, what)
    return Array(cursor.source, start, count, _BY_ID[type][0])


def _check_alignment(type: int, value: Any) -> None:
    if type != TYPES["u32"][0]:
        raise FormatError(f"`general.alignment` is of the type {type}: a u32 was expected")
    if not 1 <= value <= limits().gguf_alignment or value & (value - 1):
        raise FormatError(
            f"`general.alignment` is {value:,}: a power of two up to {limits().gguf_alignment:,} was expected"
        )


def _infos(cursor: _Cursor, count: int) -> list[_Info]:
    infos: list[_Info] = []
    seen: set[str] = set()
    for _ in range(count):
        (size,) = _SIZE.unpack(cursor.take(8, "a tensor's name"))
        if size > _NAME:
            raise FormatError(f"the name of tensor {len(infos):,} has {size:,} bytes: ggml reads at most {_NAME}")
        raw = cursor.take(size, "a tensor's name")
        try:
            name = raw.decode()
        except UnicodeDecodeError as error:
            raise FormatError(f"the name of tensor {len(infos):,} is no UTF-8") from error
        if not name or "\0" in name:
            raise FormatError(f"the name of tensor {len(infos):,} is empty or holds a zero byte")
        if name in seen:
            raise FormatError(f"two tensors are both called `{name}`")
        seen.add(name)
        what = f"the entry of `{name}`"
        rank = _number(cursor, what)
        if rank > _DIMENSIONS:
            raise FormatError(f"`{name}` has {rank:,} dimensions: ggml has at most {_DIMENSIONS}")
        *sizes, type, offset = struct.unpack(f"<{rank}QIQ", cursor.take(8 * rank + 12, what))
        infos.append(_Info(name, tuple(reversed(sizes)), type, offset))
    return infos


class _Contents:
    """The tensors, as their entries are held against the data: in order, one after the other, padded, within the file."""

    def __init__(self, source: Source, shard: int | None, end: int, alignment: int) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.unsupported: list[Unsupported] = []
        self._source, self._shard, self._alignment = source, shard, alignment
        self._start = _padded(end, alignment)
        self._next: int | None = 0  # where the next tensor must start; None after one of unknown size
        self._least = 0

    def add(self, info: _Info) -> None:
        """Check a tensor's entry and put it where it belongs."""
        name, elements = info.name, math.prod(info.shape)
        encoding = BY_ID.get(info.ggml)
        if elements >= 1 << 63 or max(info.shape, default=0) >= 1 << 63:
            raise LayoutError(f"`{name}` has more elements than 63 bits can count: {info.shape}")
        if encoding is not None and info.shape and info.shape[-1] % encoding.block:
            raise LayoutError(
                f"`{name}` has rows of {info.shape[-1]:,} elements, which are no whole blocks of {encoding.name}: "
                f"{encoding.block} elements each"
            )
        if encoding is not None and not info.shape and encoding.block > 1:
            raise LayoutError(f"`{name}` is a single element, which is no whole block of {encoding.name}")
        if info.offset % self._alignment or info.offset < self._least or self._next not in (None, info.offset):
            expected = "a padded one beyond the last" if self._next is None else f"{self._next:,}"
            raise LayoutError(f"`{name}` starts at byte {info.offset:,} of the data: {expected} was expected")
        nbytes = encoding.size(elements) if encoding is not None else 0
        if elements and self._start + info.offset + nbytes > self._source.size:
            raise CutOffError(
                f"`{name}` ends at byte {self._start + info.offset + nbytes:,} of `{self._source.name}`, "
                f"which has {self._source.size:,}"
            )
        self._least = info.offset + _padded(nbytes, self._alignment)
        self._next = None if encoding is None else self._least
        self._keep(info, encoding, elements, nbytes)

    def problems(self, metadata: dict[str, Any]) -> list[str]:
        """Say what is odd, though all tensors can be read."""
        found = []
        beyond = self._source.size - self._start - self._least
        if beyond > 0 and self._next is not None:
            found.append(f"`{self._source.name}` has {beyond:,} bytes after its last tensor")
        count = metadata.get("split.count", 1)
        if self._shard is None and type(count) is int and count > 1:
            number = metadata.get("split.no", 0)
            found.append(f"`{self._source.name}` is part {number} (from 0) of {count}: name the folder to read all")
        return found

    def _keep(self, info: _Info, encoding: Encoding | None, elements: int, nbytes: int) -> None:
        source, start = self._source, self._start + info.offset
        if encoding is not None and encoding.name in DTYPES:
            dtype = DTYPES[encoding.name]
            storage = Storage(source, start, nbytes, info.name, self._shard)
        elif encoding is not None and encoding.name in QUANTISED:
            dtype, decoded = F32, _Decoded(source, start, elements, encoding)
            storage = Storage(decoded, 0, decoded.size, info.name, self._shard, encoding=encoding.name)
        else:
            name = encoding.name if encoding is not None else f"ggml type {info.ggml}"
            self.unsupported.append(Unsupported(info.name, "quantised", name, info.shape))
            return
        self.tensors[info.name] = Tensor(dtype, info.shape, row_major(info.shape), 0, storage)


def _padded(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment


def _config(catalogue: Catalogue, known: Family) -> dict[str, Any]:
    """What a config.json of Hugging Face says of such a model."""
    metadata = catalogue.metadata
    config: dict[str, Any] = {"architectures": [known.transformers]} if known.transformers else {}
    config["model_type"] = known.model_type
    # llama.cpp computes the tanh form, unless the writer noted what the model was trained with.
    asked = known.activation_setting("tanh")
    config |= {key: metadata.get(ACTIVATION, name) for key, name in asked.items()}
    for row in known.metadata:
        value = metadata.get(row.key, known.setting(row.value, {}))
        if value is not None:
            config[known.config_key(row.value)] = _shortest(value) if row.type == "f32" else value
    for parameter in known.row_table:
        found = catalogue.get(parameter.gguf or "") if parameter.gguf == _EMBEDDING else None
        if found is not None and found.shape:
            config.setdefault(known.config_key(str(parameter.shape[0])), found.shape[0])
    for key in known.special_tokens:
        if TOKENIZER + key in metadata:
            config[key] = metadata[TOKENIZER + key]
    for key, value in config.items():
        if isinstance(value, Array) or (type(value) is float and not math.isfinite(value)):
            raise UnsupportedError(f"`{catalogue.location}` says `{key}` is {value!r}, which no config.json can hold")
    config["tie_word_embeddings"] = "output.weight" not in catalogue
    return config


def _shortest(value: Any) -> Any:
    """Give the number with the fewest digits that F32 makes the same of: 1e-05, not 9.999999747378752e-06."""
    if type(value) is not float or not 0 < value < 1:
        return value
    texts = (f"{value:.{digits}g}" for digits in range(1, 10))
    return next((float(text) for text in texts if struct.pack("<f", float(text)) == struct.pack("<f", value)), value)
