"""What demo-gpt-java computes with from a parameters folder: the files that model.properties names, as it reads them.

Source: demo-gpt-java at 3d210e7 (April 2023), config/Settings.java, ParameterReader.java and DecoderParameters.java.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from converter.dtypes import F32
from converter.errors import ModelError
from converter.formats.parameters.properties import PROPERTIES
from converter.io.source import Joined, Source, Window
from converter.io.strict_json import load_bytes
from converter.models.recognition import recognise
from converter.tensors.catalogue import Catalogue
from converter.tensors.tensor import Storage, Tensor, row_major
from converter.text import plural

if TYPE_CHECKING:
    from converter.models.families import Family
    from converter.models.rows import Parameter

FOLDER: Final = "parameters"  # the client looks for model.properties beside a folder of this name
GLOBAL: Final = "global"  # the attention of every layer of our models
UNUSED: Final = ("input.normalization",)  # no model of ours has this, and the client does it if the property is `true`


@dataclass(frozen=True, slots=True)
class Piece:
    """What the client reads for the parameter `key`: a file, or part `index` of `count` equal parts of it."""

    file: str
    key: str
    index: int = 0
    count: int = 1


@dataclass(frozen=True, slots=True)
class Properties:
    """The entries of a model.properties. Keys that are read as true or false are false if they are absent."""

    path: Path
    entries: Mapping[str, str]

    @property
    def merged(self) -> bool:
        """Whether query, key and value are thirds of one file."""
        return self.is_true("merged.qkv")

    @property
    def transposed(self) -> bool:
        """Whether matrices, and thirds of a merged one, lie as [in, out]."""
        return self.is_true("weights.transposed")

    @property
    def byteorder(self) -> str:
        """The order of the bytes of every file."""
        return "little" if self.entries.get("byte.order", "").upper() == "LITTLE_ENDIAN" else "big"

    def is_true(self, key: str) -> bool:
        """Whether an entry is `true`, in any case."""
        return self.entries.get(key, "").lower() == "true"

    def pieces(self, row: Parameter) -> list[Piece]:
        """The files that hold a parameter, or the parts of one file, in order."""
        if not row.client_parts or not row.client:
            return [self._piece(row.client or "")]
        if self.merged:
            whole, count = self._piece(row.client), len(row.client_parts)
            return [replace(whole, index=index, count=count) for index in range(count)]
        return [self._piece(part) for part in row.client_parts]

    def _piece(self, name: str) -> Piece:
        return Piece(self.entries.get(f"file.{name}", f"{name}.dat"), name)


def load(folder: Path) -> Properties | None:
    """The model.properties of a folder: in it, or beside it, where the client looks. None if there is none."""
    path = folder / PROPERTIES
    if not path.is_file() and folder.resolve().name == FOLDER:
        path = folder.resolve().parent / PROPERTIES
    if not path.is_file():
        return None
    entries: dict[str, str] = {}
    for line in load_bytes(path).decode("ascii", "replace").replace("\r", "\n").split("\n"):
        parts = line.rstrip("=").split("=")  # like Java's split, which leaves out empty texts at the end
        if len(parts) == 2 and not line.startswith("#"):
            entries[parts[0].strip()] = parts[1].strip()
    return Properties(path, entries)


def computed(output: Catalogue) -> Catalogue:
    """The catalogue that the client would compute with: the folder itself if it has no model.properties.

    Raises ModelError if the client would refuse the folder, or compute something that no engine here computes.
    """
    told = load(output.path)
    recognition = recognise(output, output.config)
    if told is None or recognition is None:
        return output
    family, config = recognition.family, _config(told, recognition.family, output.config or {})
    files = dict(zip((file.name for file in output.origin.files), output.origin.sources, strict=True))
    folder = Path(output.location)
    sizes, tensors = family.sizes(config), {}
    if sizes[family.layers] > len(files):
        raise ModelError(f"`{told.path}` has more layers than `{folder}` has files")
    for key in attention_keys(sizes[family.layers]):
        if told.entries.get(key) != GLOBAL:
            raise ModelError(
                f"`{key}` in `{told.path}` is not `{GLOBAL}`: this program does not know how the client then computes"
            )
    for row in family.rows(sizes):
        if row.client is not None and row.kind == "parameter":
            sources = [_opened(piece, row, files, folder) for piece in told.pieces(row)]
            tensors[row.named(recognition.prefix)] = _tensor(row, sources, told)
    return Catalogue(tensors, replace(output.origin, config=config))


def _config(told: Properties, family: Family, config: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json that says what the client would compute."""
    said: dict[str, Any] = {}
    for line in family.client:
        entry = told.entries.get(line.key)
        if entry is None:
            raise ModelError(f"`{told.path}` has no `{line.key}`, without which the client stops")
        if line.text is not None and entry != line.text:
            raise ModelError(
                f"`{line.key}` is {entry!r:.80} in `{told.path}`: this program does not know what that computes"
            )
        if line.value is not None:
            said[family.config_key(line.value)] = number(entry)
    if any(map(told.is_true, UNUSED)):
        raise ModelError(f"`{UNUSED[0]}` is true in `{told.path}`: this program does not know what that computes")
    whole = {key: int(value) for key, value in said.items() if value == int(value)}
    found = {**config, **said, **whole}
    head_size, dividend = family.head_size(family.sizes(found)), number(told.entries.get("attention.dividend", ""))
    if head_size is None or not math.isclose(dividend, math.sqrt(head_size), rel_tol=1e-9):
        raise ModelError(
            f"`attention.dividend` is {dividend} in `{told.path}`: this program does not know what that computes"
        )
    return found


def attention_keys(layers: int) -> Iterator[str]:
    """The keys for the kind of attention of each layer."""
    return (f"attention.type.{layer}" for layer in range(1, layers + 1))


def number(text: str) -> float:
    """A number as Java reads it. Raises ModelError for any other text."""
    try:
        value = float(text.rstrip("fFdD"))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ModelError(f"`{PROPERTIES}` has {text!r:.80} where a number was expected")
    return value


def _opened(piece: Piece, row: Parameter, files: Mapping[str, Source], folder: Path) -> Source:
    """What the client reads of a file. It refuses a file of another size."""
    source = files.get(str(folder / piece.file))
    if source is None:
        raise ModelError(f"the client reads `{piece.key}` from `{piece.file:.200}`, which the manifest does not name")
    nbytes = F32.itemsize * math.prod(row.shape) // max(1, len(row.client_parts))
    if source.size != nbytes * piece.count:
        raise ModelError(
            f"`{piece.file:.200}` has {plural(source.size, 'byte')}: the client expects {nbytes * piece.count:,}"
        )
    return source if piece.count == 1 else Window(source, nbytes * piece.index, nbytes)


def _tensor(row: Parameter, sources: Sequence[Source], told: Properties) -> Tensor:
    """The parameter that the client makes of what it reads."""
    source: Source = sources[0]
    turned = row.gguf_transposed and not told.transposed
    if len(sources) > 1 and row.gguf_transposed and told.transposed:
        source = _Rows(sources, F32.itemsize * row.shape[-1] // len(sources))
    elif len(sources) > 1:
        source = Joined(sources)
    stride = row_major(row.shape[::-1])[::-1] if turned else row_major(row.shape)
    return Tensor(F32, row.shape, stride, 0, Storage(source, 0, source.size, row.name, byteorder=told.byteorder))


class _Rows(Source):
    """Matrices of the same shape side by side: each row is a row of every matrix, `width` bytes of each."""

    def __init__(self, parts: Sequence[Source], width: int) -> None:
        self.name = " | ".join(part.name for part in parts)
        self.size = sum(part.size for part in parts)
        self._parts, self._width = parts, width

    def _fill(self, offset: int, buffer: memoryview) -> None:
        done = 0
        while done < len(buffer):
            piece, inside = divmod(offset + done, self._width)
            row, part = divmod(piece, len(self._parts))
            count = min(self._width - inside, len(buffer) - done)
            self._parts[part].readinto(row * self._width + inside, buffer[done : done + count])
            done += count
