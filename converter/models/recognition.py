"""The declared models, and which one a catalogue is.

All that is known of an architecture or a model stands in schemas/; this fills in {layer}, {decoder} and sizes.
"""

import re
import reprlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

from converter.errors import ModelError
from converter.resources import load_json, schemas
from converter.tensors.tensor import Tensor

TiedHead = Literal["absent", "tied", "untied"]

# A name's layer, as the rows have it. No leading zeros: `h.00.` and `h.0.` would be one tensor.
_LAYER: Final = re.compile(r"(?<=\.)(?:0|[1-9][0-9]{0,5})(?=\.)")
# A catalogue is of an architecture when at most one tensor in so many has a name or a shape that doesn't fit. GPT-Neo,
# GPT-J and BTLM share names with GPT-2 and differ in one tensor in seven or more.
_FITTING: Final = 8
# Layers that may be absent altogether; a name or a config.json that promises more is not believed.
_ABSENT_LAYERS: Final = 1024
_HUB: Final = "https://huggingface.co"


@dataclass(frozen=True, slots=True)
class Layout:
    """How the published files store a model.

    `transposed`: the matrices are views with stride (1, in) of storages that are [out, in]. `order` is that of the
    storages, a key of the architecture's orders.
    """

    prefix: str
    mask_dtype: str
    transposed: bool
    order: str
    note: str | None = None


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A weight file: what is known of it is given, the rest is None.

    `listed_size` is what the repository's page shows; `nbytes` is exact, and `nbytes_is` says whether it was published
    or calculated. `superseded_sha256` is the hash of an older file of the same size. `first` is a shard's first tensor.
    """

    name: str
    url: str
    listed_size: str
    storages: int
    root: str
    nbytes: int | None = None
    nbytes_is: Literal["published", "calculated"] | None = None
    sha256: str | None = None
    superseded_sha256: str | None = None
    first: str | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """A declared model. `config` is its config.json; `parameters` counts elements, a tied head once, no masks."""

    name: str
    architecture: str
    repository: str
    licence: str
    config: Mapping[str, Any] = field(hash=False)
    parameters: int
    layout: Layout
    files: tuple[ModelFile, ...]
    companions: tuple[str, ...]
    index: str | None = None

    @property
    def short(self) -> str:
        """The name without the family: `111M`."""
        return self.name.rpartition("-")[2]

    def url(self, file: str) -> str:
        """Give the direct link to a file of the repository."""
        return _url(self.repository, file)


@dataclass(frozen=True, slots=True)
class Row:
    """A row as the JSON has it: sizes by name, {layer} and {decoder} (which counts from 1) not filled in.

    `gguf_transposed` matrices are [in, out] here and [out, in] there. `value` is what a buffer must hold: "causal"
    (ones on and below the diagonal) or a number.
    """

    name: str
    shape: tuple[str | int, ...]
    kind: Literal["parameter", "buffer"] = "parameter"
    gguf: str | None = None
    gguf_transposed: bool = False
    client: str | None = None
    client_parts: tuple[str, ...] = ()
    tied_to: str | None = None
    optional: bool = False
    prefixed: bool = True
    value: str | float | None = None

    @property
    def layered(self) -> bool:
        """Whether there is one a layer."""
        return "{layer}" in self.name

    @property
    def required(self) -> bool:
        """Whether a checkpoint without it is incomplete."""
        return self.kind == "parameter" and not self.optional

    def named(self, prefix: str) -> str:
        """Give the name in a checkpoint of this prefix. `lm_head.weight` never has one."""
        return prefix + self.name if self.prefixed else self.name


@dataclass(frozen=True, slots=True)
class Parameter(Row):
    """A row filled in. `name` is bare."""

    shape: tuple[int, ...]
    layer: int | None = None


class Size(NamedTuple):
    """A size and where it comes from: the first of the config.json keys that is there, else `factor` times another."""

    name: str
    config: tuple[str, ...] = ()
    factor: int | None = None
    of: str | None = None
    divides: str | None = None


class Metadatum(NamedTuple):
    """A GGUF key; `value` names a size or, failing that, a key of config.json."""

    key: str
    type: Literal["u32", "f32"]
    value: str
    default: float | None = None


@dataclass(frozen=True, slots=True)
class Architecture:
    """The rows of a family of models. `model_type` is what its config.json calls it."""

    name: str
    model_type: str
    prefixes: tuple[str, ...]
    size_table: tuple[Size, ...]
    metadata: tuple[Metadatum, ...]
    row_table: tuple[Row, ...]
    orders: Mapping[str, tuple[str, ...]] = field(hash=False)

    def sizes(self, config: Mapping[str, Any]) -> dict[str, int]:
        """Read the sizes from a config.json; ModelError where one is absent, no whole number ≥ 1 or impossible."""
        sizes: dict[str, int] = {}
        for size in sorted(self.size_table, key=lambda size: size.of is not None):
            claims = _claims(size, config, sizes)
            if not claims:
                raise ModelError(f"`config.json` has no `{size.config[0]}`, without which no tensor's shape is known")
            key, value = claims[0]
            if not _whole(value):
                raise ModelError(f"`config.json` says `{key}` is {reprlib.repr(value)}: expected a whole number from 1")
            sizes[size.name] = value
        for size in self.size_table:
            if size.divides and sizes[size.divides] % sizes[size.name]:
                raise ModelError(
                    f"`config.json` says `{size.name}` is {sizes[size.name]}, "
                    f"which does not divide the {sizes[size.divides]} of `{size.divides}`"
                )
        return sizes

    def rows(self, sizes: Mapping[str, int], order: str = "module") -> list[Parameter]:
        """Give every parameter and buffer, optional ones too, in an order of the JSON (`module`: that of the rows)."""
        return [_filled(row, sizes, layer) for row, layer in self.each(sizes["n_layer"], order)]

    def each(self, n_layer: int, order: str = "module") -> Iterator[tuple[Row, int | None]]:
        """Give every row with every layer that it is for, in an order as `rows`."""
        named = {row.name: row for row in self.row_table}
        ordered = self.row_table if order == "module" else [named[name] for name in self.orders[order]]
        for layered, group in groupby(ordered, key=lambda row: row.layered):
            members = list(group)
            yield from ((row, layer) for layer in (range(n_layer) if layered else (None,)) for row in members)

    @property
    def tail(self) -> list[Row]:
        """The required rows that follow the layers."""
        last = max(index for index, row in enumerate(self.row_table) if row.layered)
        return [row for row in self.row_table[last + 1 :] if row.required]


class Mismatch(NamedTuple):
    """A tensor of another shape than the others ask for; a size that nothing tells stands in `expected` by its name."""

    name: str
    expected: tuple[int | str, ...]
    found: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Recognition:
    """What a catalogue is. Names are the catalogue's own, with its prefix.

    `sizes` lacks what neither the shapes nor config.json nor the declared model say. `missing` are parameters: masks
    and a head may be absent. `complete` does not mind tensors that are unexpected. A head is tied where it is the same
    view as wte; an untied one may still hold equal bytes, as a copy in another shard does.
    """

    architecture: Architecture
    prefix: str
    sizes: Mapping[str, int] = field(hash=False)
    model: Model | None
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[Mismatch, ...]
    buffers: tuple[str, ...]
    tied_head: TiedHead
    contradictions: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether every parameter is there in its shape."""
        return not self.missing and not self.mismatched


@cache
def architecture(name: str) -> Architecture:
    """Read schemas/architectures/<name>.json."""
    document = load_json("architectures", f"{name}.json")
    return Architecture(
        name=document["name"],
        model_type=document["model_type"],
        prefixes=tuple(document["prefixes"]),
        size_table=tuple(Size(**_tuples(size)) for size in document["sizes"]),
        metadata=tuple(Metadatum(**metadatum) for metadatum in document["metadata"]),
        row_table=tuple(Row(**_tuples(row)) for row in document["rows"]),
        orders=MappingProxyType(_tuples(document["orders"])),
    )


@cache
def declared() -> tuple[Model, ...]:
    """Give the declared models, the smallest first."""
    models = (_model(load_json("models", path.name)) for path in (schemas() / "models").glob("*.json"))
    return tuple(sorted(models, key=lambda model: model.parameters))


def find(name: str) -> Model:
    """Give the declared model called `Cerebras-GPT-111M`, `111M` or `cerebras/Cerebras-GPT-111M`, in any case."""
    wanted = name.casefold()
    for model in declared():
        if wanted in {model.name.casefold(), model.short.casefold(), model.repository.casefold()}:
            return model
    known = ", ".join(model.name for model in declared())
    raise ModelError(f"`{name}` is no model that is declared here; there are {known}")


def recognise(catalogue: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> Recognition | None:
    """Tell which architecture and declared model the names and shapes are; None where they are none of them.

    A part of a model is recognised as that model, incomplete, while its shapes fit just one that is declared. Time is
    linear in the number of tensors.
    """
    for path in sorted((schemas() / "architectures").glob("*.json")):
        known = architecture(path.stem)
        sighting = _sighted(known, catalogue)
        recognition = sighting and _recognised(sighting, catalogue, config)
        if recognition:
            return recognition
    return None


class _Match(NamedTuple):
    name: str
    row: Row
    layer: int | None
    shape: tuple[int, ...]


class _Sighting(NamedTuple):
    """The tensors of a catalogue that have an architecture's names, and the sizes that most of their shapes have."""

    architecture: Architecture
    prefix: str
    matches: list[_Match]
    strangers: list[str]
    sizes: dict[str, int]
    layers: int  # of which there is any parameter
    found: int  # up to the last of these
    whole: int  # up to the last that has all its parameters
    ended: bool  # whether what follows the layers is there


def _sighted(known: Architecture, catalogue: Mapping[str, Tensor]) -> _Sighting | None:
    spelled = {row.named(prefix): (prefix, row) for prefix in known.prefixes for row in known.row_table}
    prefixes: set[str] = set()
    matches: list[_Match] = []
    strangers: list[str] = []
    for name, tensor in catalogue.items():
        number = _LAYER.search(name)
        prefix, row = spelled.get(
            f"{name[: number.start()]}{{layer}}{name[number.end() :]}" if number else name, ("", None)
        )
        if row is None or row.layered != bool(number):
            strangers.append(name)
            if len(strangers) * _FITTING > len(catalogue):
                return None
            continue
        if row.prefixed:
            prefixes.add(prefix)
        matches.append(_Match(name, row, int(number[0]) if number else None, tensor.shape))
    if len(prefixes) != 1:
        return None
    layers = Counter(match.layer for match in matches if match.row.required and match.layer is not None)
    per_layer = sum(row.required and row.layered for row in known.row_table)
    present = {match.row.name for match in matches}
    return _Sighting(
        architecture=known,
        prefix=prefixes.pop(),
        matches=matches,
        strangers=strangers,
        sizes=_voted(known, matches),
        layers=len(layers),
        found=1 + max(layers, default=-1),
        whole=1 + max((layer for layer, count in layers.items() if count == per_layer), default=-1),
        ended=all(row.name in present for row in known.tail),
    )


def _voted(known: Architecture, matches: list[_Match]) -> dict[str, int]:
    """Give each size that shapes alone decide the value that most tensors have."""
    free = {size.name for size in known.size_table if size.config}
    votes: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for match in matches:
        if not match.row.optional and len(match.shape) == len(match.row.shape):
            for symbol, length in zip(match.row.shape, match.shape, strict=True):
                if symbol in free:
                    votes[str(symbol)][length] += 1
    return {name: counted.most_common(1)[0][0] for name, counted in votes.items()}


def _recognised(
    seen: _Sighting, catalogue: Mapping[str, Tensor], config: Mapping[str, Any] | None
) -> Recognition | None:
    known = seen.architecture
    claimed = _claimed(seen, config) if config is not None else {}
    model = _declared_as(seen, claimed)
    sizes = known.sizes(model.config) if model else {"n_layer": _layers(seen, claimed.get("n_layer"))}
    n_layer = sizes["n_layer"]
    if not 0 < n_layer <= seen.layers + _ABSENT_LAYERS or min(seen.sizes.values(), default=0) < 1:
        return None
    sizes |= claimed | seen.sizes | {"n_layer": n_layer}
    sizes |= {
        size.name: size.factor * sizes[size.of]
        for size in known.size_table
        if size.factor and size.of in sizes and not size.config
    }

    beyond = [match.name for match in seen.matches if match.layer is not None and match.layer >= n_layer]
    within = [match for match in seen.matches if match.layer is None or match.layer < n_layer]
    fitting = [match for match in within if _fits(match, sizes)]
    misfits = [match for match in within if not _fits(match, sizes)]
    if not any(match.row.required and len(match.shape) == 2 for match in fitting):
        return None
    if (len(seen.strangers) + len(beyond) + len(misfits)) * _FITTING > len(fitting):
        return None

    required = (_at(layer, row.named(seen.prefix)) for row, layer in known.each(n_layer) if row.required)
    return Recognition(
        architecture=known,
        prefix=seen.prefix,
        sizes=MappingProxyType(sizes),
        model=model,
        missing=tuple(name for name in required if name not in catalogue),
        unexpected=(*seen.strangers, *beyond),
        mismatched=tuple(
            Mismatch(match.name, tuple(sizes.get(str(size), size) for size in match.row.shape), match.shape)
            for match in misfits
        ),
        buffers=tuple(match.name for match in within if match.row.kind == "buffer"),
        tied_head=_tied_head(within, catalogue, seen.prefix),
        contradictions=tuple(_contradictions(seen, config, sizes, model)) if config is not None else (),
    )


def _claimed(seen: _Sighting, config: Mapping[str, Any]) -> dict[str, int]:
    """Give the sizes of a config.json that are possible."""
    claimed: dict[str, int] = {}
    for size in seen.architecture.size_table:
        for _, value in _claims(size, config, seen.sizes)[:1]:
            if _whole(value) and not (size.divides and seen.sizes.get(size.divides, 0) % value):
                claimed[size.name] = value
    return claimed


def _declared_as(seen: _Sighting, claimed: dict[str, int]) -> Model | None:
    """Give the one declared model that the shapes fit; config.json decides where they say nothing."""
    told = {name: value for name, value in (claimed | seen.sizes).items() if name not in {"n_head", "n_layer"}}
    fitting = []
    for model in declared():
        if model.architecture == seen.architecture.name:
            sizes = seen.architecture.sizes(model.config)
            n_layer = sizes["n_layer"]
            # Where config.json names another number of layers, only a last layer with the end behind it outweighs it.
            believed = claimed.get("n_layer", n_layer) == n_layer or (
                seen.ended and n_layer in {seen.whole, seen.found}
            )
            if seen.whole <= n_layer and believed and all(sizes[name] == value for name, value in told.items()):
                fitting.append(model)
    return fitting[0] if len(fitting) == 1 else None


def _layers(seen: _Sighting, claimed: int | None) -> int:
    """Give the layers of a model that is not declared: config.json's, unless whole layers lie beyond."""
    return seen.found if claimed is None or claimed < seen.whole else claimed


def _fits(match: _Match, sizes: Mapping[str, int]) -> bool:
    # A size that nothing tells can't be contradicted.
    return len(match.shape) == len(match.row.shape) and all(
        sizes.get(str(size), length if isinstance(size, str) else size) == length
        for size, length in zip(match.row.shape, match.shape, strict=True)
    )


def _tied_head(matches: list[_Match], catalogue: Mapping[str, Tensor], prefix: str) -> TiedHead:
    for match in matches:
        if match.row.tied_to:
            return "tied" if catalogue[match.name] == catalogue.get(prefix + match.row.tied_to) else "untied"
    return "absent"


def _contradictions(
    seen: _Sighting, config: Mapping[str, Any], sizes: Mapping[str, int], model: Model | None
) -> Iterator[str]:
    known = seen.architecture
    found = dict(seen.sizes)
    if model:
        found |= {name: size for name, size in known.sizes(model.config).items() if name in {"n_layer", "n_head"}}
    else:
        # Layers that config.json names and nothing has may lie in another shard, unless the end is here.
        found["n_layer"] = min(sizes["n_layer"], seen.found) if seen.ended else sizes["n_layer"]
    model_type = config.get("model_type", known.model_type)
    if model_type != known.model_type:
        said = f"`config.json` says `model_type` is {reprlib.repr(model_type)}"
        yield f"{said}; the tensors are those of {known.model_type!r}"
    for size in known.size_table:
        for key, value in _claims(size, config, sizes) if size.config else ():
            said = f"`config.json` says `{key}` is {reprlib.repr(value)}"
            if config.get(key) is None:
                said = f"`config.json` has no `{key}`, which then is {value}"
            if not _whole(value):
                yield f"{said}: expected a whole number from 1"
            elif value != found.get(size.name, value):
                holder = f"{model.name} has" if model and size.divides else "the tensors have"
                yield f"{said}; {holder} {found[size.name]}"
            elif size.divides and sizes.get(size.divides, 0) % value:
                yield f"{said}, which does not divide the {sizes[size.divides]} of `{size.divides}`"


def _claims(size: Size, config: Mapping[str, Any], sizes: Mapping[str, int]) -> list[tuple[str, Any]]:
    """Give what config.json says of a size, by key; what it means where it says nothing; or nothing."""
    said = [(key, config[key]) for key in size.config if config.get(key) is not None]
    if not said and size.factor and (base := sizes.get(size.of or "")):
        return [(size.config[0] if size.config else size.name, size.factor * base)]
    return said


def _whole(value: object) -> bool:
    return type(value) is int and value > 0


def _filled(row: Row, sizes: Mapping[str, int], layer: int | None) -> Parameter:
    return Parameter(
        name=_at(layer, row.name),
        shape=tuple(sizes[size] if isinstance(size, str) else size for size in row.shape),
        kind=row.kind,
        gguf=row.gguf and _at(layer, row.gguf),
        gguf_transposed=row.gguf_transposed,
        client=row.client and _at(layer, row.client),
        client_parts=tuple(_at(layer, part) for part in row.client_parts),
        tied_to=row.tied_to,
        optional=row.optional,
        prefixed=row.prefixed,
        value=row.value,
        layer=layer,
    )


def _at(layer: int | None, text: str) -> str:
    return text if layer is None else text.replace("{layer}", str(layer)).replace("{decoder}", str(layer + 1))


def _model(document: dict[str, Any]) -> Model:
    files = (ModelFile(url=_url(document["repository"], file["name"]), **file) for file in document["files"])
    read = {
        "config": MappingProxyType(document["config"]),
        "layout": Layout(**document["layout"]),
        "files": tuple(files),
        "companions": tuple(document["companions"]),
    }
    return Model(**{**document, **read})


def _url(repository: str, file: str) -> str:
    return f"{_HUB}/{repository}/resolve/main/{file}"


def _tuples(document: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in document.items()}
