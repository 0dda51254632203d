"""What the keys of a GGUF file say, for people: all of them, the tokenizer, and the memory that llama.cpp needs.

Sources: llama.cpp's src/llama-hparams.cpp and src/llama-kv-cache.cpp, for the size of the cache; gguf-py's constants.py,
for the names of keys.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from converter.errors import FormatError
from converter.formats.format import VALUES
from converter.formats.gguf.metadata import ARCHITECTURE, SPLIT, Array, Keys, shortest
from converter.formats.gguf.names import NOTED, family_of, is_wordless
from converter.formats.said import Cache, Key, Words

if TYPE_CHECKING:
    from converter.formats.gguf.metadata import Entry
    from converter.tensors.catalogue import Catalogue

_SHORT: Final = 1000  # elements of an array that can be carried along
# Keys that describe only this file, or that become config.json. They mean nothing beside a file of another format.
_OF_THE_FILE: Final = frozenset(
    (
        *(ARCHITECTURE, "general.type", "general.file_type", "general.quantization_version"),
        *("general.alignment", "general.size_label", *NOTED, *SPLIT),
    )
)
_TOKENIZERS: Final = "tokenizer."
_READ: Final = 1 << 20  # bytes that are read at a time
_FIRST: Final = 8  # elements of an array that are shown
_TOKENIZER: Final = "tokenizer.ggml."
_ID: Final = "_token_id"
_CELLS: Final = 256  # the cache holds a multiple of this many tokens
_ELEMENT: Final = 2  # bytes: keys and values are F16 unless llama.cpp is asked for another type
_LARGEST: Final = 1 << 32  # no size of a model is larger


def keys(catalogue: Catalogue) -> Iterator[Key]:
    """Yield every key of a file, in its order."""
    said = catalogue.metadata
    entries = said.entries if isinstance(said, Keys) else {}
    for name, value in said.items():
        if isinstance(value, Array):
            digest = partial(_digest, value, entries.get(name))
            yield Key(name, f"array of {value.type}", _first(value), value.count, value, digest)
        else:
            kind = entries[name].type if name in entries else type(value).__name__
            yield Key(name, kind, plain_value(value, kind), None)


def _digest(array: Array, entry: Entry | None) -> bytes:
    """The SHA-256 of an array's bytes, or of its elements if it is not in a file."""
    digest = hashlib.sha256()
    if entry is None:
        for value in array:
            digest.update(f"{value!r}\n".encode())
        return digest.digest()
    for start in range(entry.offset, entry.offset + entry.nbytes, _READ):
        digest.update(entry.source.read(start, min(_READ, entry.offset + entry.nbytes - start)))
    return digest.digest()


def _first(array: Array) -> list[Any]:
    """The first elements, up to one that can't be read."""
    found: list[Any] = []
    try:
        for value in islice(array, _FIRST):
            found.append(plain_value(value, array.type))  # noqa: PERF401 (what came before an error is kept)
    except FormatError:
        pass
    return found


def plain_value(value: Any, kind: str) -> Any:
    """A value that JSON has, and that people read: `NaN` as a text, and 0.1 for the F32 nearest to it."""
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        return str(value)
    return shortest(value) if kind == "f32" else value


def remarks(catalogue: Catalogue) -> dict[str, Any]:
    """What the keys say about the model, besides what its config.json and its tokenizer say. A long array is None."""
    known = family_of(catalogue)
    rows = {row.key for row in known.metadata} if known is not None else set()
    found = {}
    for name, value in catalogue.metadata.items():
        if name in _OF_THE_FILE or name in rows or name.startswith(_TOKENIZERS):
            continue
        kind = value.type if isinstance(value, Array) else ""
        plain = [plain_value(one, kind) for one in value] if kind and value.count <= _SHORT else None
        found[name.removeprefix(VALUES)] = plain if kind else plain_value(value, "")
    return found


def words(catalogue: Catalogue) -> Words | None:
    """What the file says about its tokenizer; None if it has no tokens."""
    said = catalogue.metadata
    tokens, merges = said.get(_TOKENIZER + "tokens"), said.get(_TOKENIZER + "merges")
    if not isinstance(tokens, Array):
        return None
    special = {
        name.removeprefix(_TOKENIZER).removesuffix(_ID): value
        for name, value in said.items()
        if name.startswith(_TOKENIZER) and name.endswith(_ID) and type(value) is int
    }
    kind, pre = (said.get(_TOKENIZER + name) for name in ("model", "pre"))
    return Words(
        kind if type(kind) is str else "",
        pre if type(pre) is str else "",
        tokens.count,
        merges.count if isinstance(merges, Array) else 0,
        special,
        "tokenizer.chat_template" in said,
    )


def cache(catalogue: Catalogue, context: int | None) -> Cache | None:
    """The keys and values that llama.cpp keeps for `context` tokens, by default for as many as the model was trained on.

    None if the file does not say the sizes from which that follows, or is no language model.
    """
    if is_wordless(catalogue.metadata):
        return None
    architecture = catalogue.metadata.get(ARCHITECTURE)
    said = {
        name.removeprefix(f"{architecture}."): value
        for name, value in catalogue.metadata.items()
        if name.startswith(f"{architecture}.")
    }
    layers, width, trained = (_size(said.get(name)) for name in ("block_count", "embedding_length", "context_length"))
    heads = _heads(said, "attention.head_count", layers)
    kept = _heads(said, "attention.head_count_kv", layers) or heads
    context = context or trained
    if layers is None or context is None or heads is None or kept is None:
        return None
    # If the layers have different numbers of heads, the file itself gives the length of a head.
    alike = width // (heads // layers) if width is not None and heads >= layers and heads % layers == 0 else 0
    key, value = (_size(said.get(f"attention.{part}_length")) or alike for part in ("key", "value"))
    if not key or not value:
        return None
    if said.get("attention.causal") is False:  # an encoder sees the whole text at once, and keeps nothing
        return Cache(context, 0, exact=True)
    cells = -(-context // _CELLS) * _CELLS
    less = any(name.endswith(("sliding_window", "kv_lora_rank")) and value for name, value in said.items())
    return Cache(context, cells * kept * (key + value) * _ELEMENT, exact=not less)


def _heads(said: Mapping[str, Any], name: str, layers: int | None) -> int | None:
    """The heads of all layers together; a file gives one number for all, or an array."""
    value = said.get(name)
    if layers is None:
        return None
    if not isinstance(value, Array):
        count = _size(value)
        return None if count is None else count * layers
    if value.type == "string" or value.count != layers:
        return None
    return sum(number for number in value if type(number) is int and 0 < number < _LARGEST) or None


def _size(value: Any) -> int | None:
    return value if type(value) is int and 0 < value < _LARGEST else None
