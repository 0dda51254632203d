"""A GGUF file in the terms of its family: the names, shapes and settings of Hugging Face, and the tokenizer."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from converter.dtypes import F32
from converter.errors import ConverterError, LayoutError, ModelError, UnsupportedError
from converter.formats.gguf.metadata import ARCHITECTURE, Array, shortest
from converter.io.strict_json import parse_json
from converter.models import families as registry
from converter.models.rope import NOTED_WHOLE, divisors, recognised
from converter.models.rows import at, evaluated
from converter.tensors.equality import equal

if TYPE_CHECKING:
    from converter.models.families import Family
    from converter.models.rows import Parameter, Row
    from converter.tensors.catalogue import Catalogue
    from converter.tensors.tensor import Tensor

ACTIVATION: Final = "cerebras_tool.activation_function"  # our own key: the activation that the model was trained with
FAMILY: Final = "cerebras_tool.family"  # our own key: the family, if others are written in the same form
KIND: Final = "cerebras_tool.model_type"  # our own key: what config.json called the family, if not by its usual name
ZEROS: Final = "cerebras_tool.zeros"  # our own key: the names of tensors that the model lacks, and that are zeros here
ROWS: Final = (
    "cerebras_tool.rows_before."  # our own keys: the elements of a tensor's first rows, which GGUF has no place for
)
UNTIED: Final = "cerebras_tool.untied"  # our own key: the names of tensors that are tied to others in the model
SCALING: Final = "cerebras_tool.rope_scaling"  # our own key: what the rope factors were made from
NOTED: Final = (ACTIVATION, FAMILY, KIND, ZEROS, SCALING, UNTIED)
_NO_SCALING: Final = "none"  # what llama.cpp calls the usual rotary frequencies
_ROPE: Final = ".rope."  # is in the keys about rotary positions
EMBEDDING: Final = "token_embd.weight"  # has a row for each token
HEAD: Final = "output.weight"
TOKENIZER: Final = "tokenizer.ggml."  # the prefix of the tokenizer's keys
# What has no tokenizer and needs none: by `general.type`, the parts that llama.cpp loads beside a model; by architecture, models
# of images and videos (the names are those that llama.cpp's clip.cpp and ComfyUI-GGUF's loader read).
_WORDLESS_TYPES: Final = frozenset(("adapter", "imatrix", "mmproj"))
_WORDLESS: Final = frozenset(
    (
        *("clip", "flux", "sd1", "sdxl", "sd3", "aura", "hidream", "cosmos", "ltxv", "hyvid", "wan", "lumina2"),
        "qwen_image",
    )
)


def family_of(catalogue: Catalogue) -> Family | None:
    """The family that a GGUF file is of, by what the file says; None for an architecture that no family here has.

    If other architectures have the same names on the Hub, the file must hold that family's tensors and no others.
    """
    if catalogue.canonical:
        named = (catalogue.config or {}).get("model_type")
        found = (known for known in registry.families() if known.gguf_name == catalogue.metadata.get(ARCHITECTURE))
        return next((known for known in found if named is not None and known.is_called(named)), None)
    known = by_architecture(catalogue.metadata)
    return known if known is None or not known.told or _Names(catalogue, known).whole else None


def is_wordless(metadata: Mapping[str, Any]) -> bool:
    """Whether a GGUF file says that it takes no text: an adapter, a projector, a diffusion model and the like."""
    return metadata.get("general.type") in _WORDLESS_TYPES or metadata.get(ARCHITECTURE) in _WORDLESS


def by_architecture(metadata: Mapping[str, Any]) -> Family | None:
    """The family whose name in GGUF a file has: the one that our writer noted, else the usual one."""
    found, noted = metadata.get(ARCHITECTURE), metadata.get(FAMILY)
    called = [known for known in registry.families() if known.gguf_name is not None and known.gguf_name == found]
    usual = next((known for known in called if known.gguf is None or known.gguf.default), None)
    return next((known for known in called if known.name == noted), usual)


def canonical(catalogue: Catalogue) -> Catalogue:
    """A GGUF catalogue with its family's names, with matrices in the family's shape, and with a config.json.

    Names that no row of the family has stay as they are. If the family is not known, the whole catalogue stays as it
    is. What the writer made, such as zeros for absent biases, is left out unless it was changed.
    """
    known = family_of(catalogue)
    if known is None:
        return catalogue
    names, config = _Names(catalogue, known), _config(catalogue, known)
    rows = names.filled(config)
    tensors: dict[str, Tensor] = {}
    left_out = []
    for name, tensor in catalogue.items():
        row = rows.get(name)
        if (row is None and names.made(name, tensor, config)) or (row is not None and names.follows(row, rows)):
            left_out.append(name)
            continue
        back = tensor if row is None else row.brought_back(tensor, names.first(name))
        tensors[name if row is None else row.named(names.prefix)] = back
    unsupported = []
    for other in catalogue.unsupported:
        row = rows.get(other.name)
        if row is None:
            unsupported.append(other)
            continue
        shape = other.shape[::-1] if row.gguf_transposed and other.shape is not None else other.shape
        unsupported.append(replace(other, name=row.named(names.prefix), shape=shape))
    kept = len(tensors) + len(unsupported)
    if len(tensors.keys() | {other.name for other in unsupported}) != kept:
        raise LayoutError(
            f"`{catalogue.location}` holds one tensor twice, under its name in GGUF and under its name on the Hub"
        )
    facts = {**catalogue.facts, "left_out": tuple(left_out)} if left_out else catalogue.facts
    changed = replace(catalogue, tensors=tensors, unsupported=tuple(unsupported), facts=facts)
    return changed.with_origin(config=config)


def says_activation(catalogue: Catalogue) -> bool:
    """Whether a file says with which form of GELU the model was trained. Only our writer notes it."""
    return ACTIVATION in catalogue.metadata


def token_keys(family: Family) -> dict[str, str]:
    """The keys of config.json that hold the ids of tokens, and what GGUF calls them below TOKENIZER."""
    return {**{key: key for key in family.special_tokens}, "pad_token_id": "padding_token_id"}


def token_ids(family: Family | None, settings: Mapping[str, Any], rows: int) -> dict[str, int]:
    """The special tokens of a model without a tokenizer, by what they are for. `rows` is the number of the embedding's rows."""
    said = {key: settings.get(key) for key in (token_keys(family) if family is not None else ())}
    return {
        key.removesuffix("_token_id"): number
        for key, number in said.items()
        if type(number) is int and 0 <= number < rows
    }


class _Names:
    """The rows of a family for the names in a file."""

    def __init__(self, catalogue: Catalogue, known: Family) -> None:
        self._catalogue, self._known = catalogue, known
        self._rows: dict[str, Row] = {}
        for row in known.row_table:
            self._rows.setdefault(row.gguf or "", row)
        noted = catalogue.metadata.get(ZEROS)
        self._zeros = set(noted) if isinstance(noted, Array) and noted.type == "string" else set()
        self._made = {made.gguf: made for made in known.made}
        self.prefix = known.prefixes[-1]

    @property
    def whole(self) -> bool:
        """Whether the file has exactly the tensors of the family, and says its sizes."""
        names = {*self._catalogue, *(other.name for other in self._catalogue.unsupported)}
        try:
            config = _config(self._catalogue, self._known)
            sizes = self._known.sizes(config)
        except (ModelError, UnsupportedError):
            return False
        if sizes[self._known.layers] * len(self._rows) > 2 * len(names) + len(self._rows):
            return False
        needed = {
            at(n, row.gguf) for row, n in self._known.each(sizes[self._known.layers]) if row.gguf and row.required
        }
        return needed <= names and all(
            self._row(name) is not None or self.made(name, self._catalogue.get(name), config) for name in names
        )

    def filled(self, config: Mapping[str, Any]) -> dict[str, Parameter]:
        """The rows by the names in the file, for a model with this config.json."""
        sizes: dict[str, int] = {}
        if any(row.gguf_moves or row.gguf_scale or row.gguf_rows_from for row in self._rows.values()):
            sizes = self._known.sizes(config)
        names = [*self._catalogue, *(other.name for other in self._catalogue.unsupported)]
        found = ((name, self._row(name), _layer(name)) for name in names)
        known = self._known.known(sizes, config)
        return {name: row.filled(known, layer, shaped=False) for name, row, layer in found if row is not None}

    def first(self, name: str) -> list[float]:
        """The elements of the rows before a tensor's own, as our writer noted them."""
        noted = self._catalogue.metadata.get(ROWS + name)
        return list(noted) if isinstance(noted, Array) and noted.type == "f32" else []

    def follows(self, row: Parameter, rows: Mapping[str, Parameter]) -> bool:
        """Whether a tensor follows from the one that it is tied to in the model. For blocks, our writer's note is believed."""
        noted = self._catalogue.metadata.get(UNTIED)
        if not row.gguf_untied or not isinstance(noted, Array) or row.gguf not in list(noted):
            return False
        other = next((name for name, known in rows.items() if known.name == row.tied_to), None)
        if other is None or row.gguf not in self._catalogue or other not in self._catalogue:
            return False
        one, two = self._catalogue[row.gguf or ""], self._catalogue[other]
        if one.storage.encoding is not None or two.storage.encoding is not None or one.dtype != two.dtype:
            return True
        return equal(row.laid_out(rows[other].brought_back(two, self.first(other))), one)

    def made(self, name: str, tensor: Tensor | None, config: Mapping[str, Any]) -> bool:
        """Whether a tensor is not of the model, but was made from what is known of it."""
        made = self._made.get(_pattern(name))
        if tensor is None or (made is None and name not in self._zeros):
            return False
        if made is not None and made.value == "rope factors":
            return "rope_scaling" in config
        return not any(any(tile) for tile in tensor.tiles())

    def _row(self, name: str) -> Row | None:
        return None if name in self._zeros else self._rows.get(_pattern(name))


def _layer(name: str) -> int | None:
    number = name.split(".")[1] if name.startswith("blk.") else ""
    return int(number) if number.isdecimal() else None


def _pattern(name: str) -> str:
    number = _layer(name)
    return name if number is None else name.replace(f"blk.{number}.", "blk.{layer}.", 1)


def _config(catalogue: Catalogue, known: Family) -> dict[str, Any]:
    """What a config.json of Hugging Face would say about the model."""
    metadata = catalogue.metadata
    noted = metadata.get(KIND)
    config: dict[str, Any] = {"model_type": noted if known.is_called(noted) else known.model_type}
    if (kind := known.transformers_class(config)) is not None:
        config = {"architectures": [kind], **config}
    if known.activation is not None:
        # llama.cpp computes GELU in the tanh form, so that is assumed unless the writer noted another one.
        usual = known.activation_of({})
        asked = known.activation_setting("tanh" if "tanh" in known.activation.names or usual is None else usual)
        config |= {key: metadata.get(ACTIVATION, name) for key, name in asked.items()}
    exact: dict[str, Any] = {}  # what follows less exactly from the keys that llama.cpp reads
    for row in known.metadata:
        gives = row.gives or row.value
        value = metadata.get(row.key, None if row.when or row.optional else known.setting(row.value, {}))
        if value is None and row.optional and known.is_called(noted):
            config[known.config_key(gives)] = None  # what is left out may have another default there
        if value is None or value == _NO_SCALING or not gives.isidentifier():
            continue
        if row.type == "f32" and type(value) is float:
            value = shortest(value)
        if row.gives is not None:
            value = evaluated(row.back, partial(_said, known, config, value))
        if row.type == "f64":
            exact[gives] = value
        elif value is not None:
            _put(config, known.config_key(gives), value)
    for parameter in known.row_table:
        found = catalogue.get(parameter.gguf or "") if parameter.gguf == EMBEDDING else None
        if found is not None and found.shape:
            config.setdefault(known.config_key(str(parameter.shape[0])), found.shape[0])
    noted = metadata.get(ZEROS)
    zeros = set(noted) if isinstance(noted, Array) and noted.type == "string" else set()
    held = {*catalogue, *(other.name for other in catalogue.unsupported)} - zeros
    for parameter in known.row_table:
        for key in parameter.conditions if parameter.gguf is not None else ():
            present = at(0, parameter.gguf or "") in held
            if known.setting(key, config) != present:
                config[known.config_key(key)] = present
    for gives, value in exact.items():
        if _agrees(known, config, gives, value, metadata):
            _put(config, known.config_key(gives), value)
    for key, name in token_keys(known).items():
        if TOKENIZER + name in metadata:
            config[key] = metadata[TOKENIZER + name]
    for key, value in config.items():
        if isinstance(value, Array) or (type(value) is float and not math.isfinite(value)):
            raise UnsupportedError(f"`{catalogue.location}` says `{key}` is {value!r}, which no config.json can hold")
    noted = metadata.get(UNTIED)
    tied = isinstance(noted, Array) and HEAD in list(noted)
    config["tie_word_embeddings"] = tied or HEAD not in catalogue
    scaling = _rope_scaling(catalogue, known, config)
    return config if scaling is None else config | {"rope_scaling": scaling}


def _said(known: Family, config: Mapping[str, Any], value: Any, name: str) -> Any:
    """What a name means on the way back: the key's value, or a size that earlier keys gave."""
    if name == "value":
        return value
    size = next((size for size in known.size_table if size.name == name), None)
    claims = known.claims(size, config, {}) if size is not None and size.config else []
    return claims[0][1] if claims else None


def _agrees(known: Family, config: Mapping[str, Any], gives: str, value: Any, metadata: Mapping[str, Any]) -> bool:
    """Whether a setting, as our writer noted it exactly, gives what llama.cpp reads in its place."""
    changed = {**config}
    _put(changed, known.config_key(gives), value)
    try:
        look_up = known.known(known.sizes(changed), changed)
        return all(
            int(evaluated(row.value, look_up)) == metadata.get(row.key) for row in known.metadata if row.gives == gives
        )
    except (ModelError, ValueError, TypeError):
        return False


def _put(config: dict[str, Any], key: str, value: Any) -> None:
    *outer, last = key.split(".")
    for part in outer:
        config = config.setdefault(part, {})
    config[last] = value


def _rope_scaling(catalogue: Catalogue, known: Family, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The rope_scaling from which a file's rope factors follow, by what our writer noted or by the factors themselves."""
    made = next((made for made in known.made if made.value == "rope factors" and made.gguf in catalogue), None)
    if made is None:
        return _noted_scaling(catalogue, known, config)
    rotary = known.forward.rotary if known.forward is not None else None
    if rotary is None or catalogue[made.gguf].dtype != F32 or len(catalogue[made.gguf].shape) != 1:
        return None
    try:
        look_up = known.known(known.sizes(config), config)
        size, base = evaluated(rotary.size, look_up), evaluated(rotary.base, look_up)
    except (ModelError, ValueError):
        return None
    tensor = catalogue[made.gguf]
    if type(size) is not int or type(base) not in (int, float) or tensor.shape != (size // 2,):
        return None
    data = b"".join(map(bytes, tensor.tiles()))
    factors = [float(value) for (value,) in struct.iter_unpack("<f", data)]
    noted = catalogue.metadata.get(SCALING)
    if type(noted) is not str:
        return recognised(factors, size, base)
    try:
        scaling = parse_json(noted.encode(), SCALING)
        changed = {**config, "rope_scaling": scaling}
        expected = divisors(size, base, known.known(known.sizes(changed), changed))
    except ConverterError:
        return None
    return scaling if data == struct.pack(f"<{len(expected)}f", *expected) else None


def _noted_scaling(catalogue: Catalogue, known: Family, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The rope_scaling that our writer noted as a whole, if what llama.cpp reads follows from it."""
    noted = catalogue.metadata.get(SCALING)
    if type(noted) is not str:
        return None
    try:
        scaling = parse_json(noted.encode(), SCALING)
        changed = {**config, "rope_scaling": scaling}
        written = list(known.gguf_metadata(known.sizes(changed), changed))
    except ConverterError:
        return None
    expected = {row.key: value for row, value in written if _ROPE in row.key}
    found = {row.key: catalogue.metadata.get(row.key) for row in known.metadata if _ROPE in row.key}
    follows = {key: value for key, value in found.items() if value is not None} == {
        key: struct.unpack("<f", struct.pack("<f", value))[0] if type(value) is float else value
        for key, value in expected.items()
    }
    return scaling if known.setting("rope_kind", changed) in NOTED_WHOLE and follows else None
