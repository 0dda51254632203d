"""The facts about a family of models: its tensors, sizes and settings, and their names in other formats.

All of it is in schemas/architectures/*.json; this module fills in {layer}, {decoder} and sizes.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Self

from converter.errors import ModelError

# The two forms of GELU: the exact one with the error function, and the approximation with tanh.
Activation = Literal["erf", "tanh"]


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it is in the JSON: sizes are names, and {layer} and {decoder} (which counts from 1) are not filled in.

    `gguf_transposed` matrices are [in, out] here and [out, in] there; `gguf_f32` ones must be F32 there. `parts` names
    what equal parts of the last dimension hold, in order: q, k and v. `value` is what a buffer must hold: "causal"
    (ones on and below the diagonal) or a number.
    """

    name: str
    shape: tuple[str | int, ...]
    kind: Literal["parameter", "buffer"] = "parameter"
    parts: tuple[str, ...] = ()
    gguf: str | None = None
    gguf_transposed: bool = False
    gguf_f32: bool = False
    client: str | None = None
    client_parts: tuple[str, ...] = ()
    tied_to: str | None = None
    optional: bool = False
    prefixed: bool = True
    value: str | float | None = None

    @property
    def layered(self) -> bool:
        """Whether every layer has one."""
        return "{layer}" in self.name

    @property
    def required(self) -> bool:
        """Whether a checkpoint without it is incomplete."""
        return self.kind == "parameter" and not self.optional

    def named(self, prefix: str) -> str:
        """The name in a checkpoint with this prefix. A head on top of the model (`lm_head.weight`) never has a prefix."""
        return prefix + self.name if self.prefixed else self.name


@dataclass(frozen=True, slots=True)
class Parameter(Row):
    """A row with its layer and sizes filled in. `name` has no prefix."""

    shape: tuple[int, ...]
    layer: int | None = None


class Size(NamedTuple):
    """A size and where it comes from: the first of the config.json keys that exists, else `factor` times another size."""

    name: str
    title: str | None = None
    config: tuple[str, ...] = ()
    factor: int | None = None
    of: str | None = None
    divides: str | None = None

    def claims(self, config: Mapping[str, Any], sizes: Mapping[str, int]) -> list[tuple[str, Any]]:
        """What config.json says about it, by key; its default if config.json says nothing; or nothing."""
        said = [(key, config[key]) for key in self.config if config.get(key) is not None]
        if not said and self.factor and (base := sizes.get(self.of or "")):
            return [(self.config[0] if self.config else self.name, self.factor * base)]
        return said


class Setting(NamedTuple):
    """A key of config.json that the forward pass depends on, and transformers' default for it.

    Two copies of a model need not agree on a setting that is not `compared`: the tensors decide it, or it changes
    nothing in float32.
    """

    name: str
    default: Any
    compared: bool = True


class ActivationNames(NamedTuple):
    """The setting that names the activation, and the names of each form (transformers/activations.py, ACT2FN)."""

    setting: str
    names: dict[Activation, tuple[str, ...]]


class TokenizerKind(NamedTuple):
    """The tokenizer of such models: its name in GGUF, and the token that ends a text."""

    kind: Literal["byte-pair"]
    gguf_model: str
    gguf_pre: str
    end_of_text: str


class Metadatum(NamedTuple):
    """A GGUF key; `value` names a size or, if there is no such size, a setting."""

    key: str
    type: Literal["u32", "f32"]
    value: str


class ClientProperty(NamedTuple):
    """A line of the Java client's model.properties: a fixed `text`, or the size, setting or special token `value`."""

    key: str
    value: str | None = None
    text: str | None = None


class Dimensions(NamedTuple):
    """How large a model is, whatever its family calls these sizes; None for an unknown one."""

    layers: int | None
    width: int | None
    heads: int | None


@dataclass(frozen=True, slots=True)
class Architecture:
    """The rows of a family of models.

    `title` is its name for people, `model_type` its name in config.json, `transformers` its class there, and
    `gguf_name` its general.architecture. `prefixes` are those that names may have; the last one is that of
    transformers. `layers` is the size that counts the layers.
    """

    name: str
    title: str
    model_type: str
    transformers: str | None
    gguf_name: str | None
    prefixes: tuple[str, ...]
    layers: str
    size_table: tuple[Size, ...]
    settings: tuple[Setting, ...]
    activation: ActivationNames | None = field(hash=False)
    tokenizer: TokenizerKind | None
    special_tokens: tuple[str, ...]
    client: tuple[ClientProperty, ...]
    metadata: tuple[Metadatum, ...]
    row_table: tuple[Row, ...]
    orders: Mapping[str, tuple[str, ...]] = field(hash=False)

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Self:
        """The architecture that a document of schemas/architectures.schema.json describes."""
        activation, tokenizer = document.get("activation"), document.get("tokenizer")
        return cls(
            name=document["name"],
            title=document["title"],
            model_type=document["model_type"],
            transformers=document.get("transformers"),
            gguf_name=document.get("gguf_name"),
            prefixes=tuple(document["prefixes"]),
            layers=document["layers"],
            size_table=tuple(Size(**_tuples(size)) for size in document["sizes"]),
            settings=tuple(Setting(**setting) for setting in document.get("settings", ())),
            activation=activation and ActivationNames(activation["setting"], _activations(activation["names"])),
            tokenizer=tokenizer and TokenizerKind(**tokenizer),
            special_tokens=tuple(document.get("special_tokens", ())),
            client=tuple(ClientProperty(**line) for line in document.get("client", ())),
            metadata=tuple(Metadatum(**metadatum) for metadatum in document.get("metadata", ())),
            row_table=tuple(Row(**_tuples(row)) for row in document["rows"]),
            orders=MappingProxyType(_tuples(document.get("orders", {}))),
        )

    # ---- sizes

    def sizes(self, config: Mapping[str, Any]) -> dict[str, int]:
        """Read the sizes from a config.json. Raises ModelError if one is absent, impossible, or not a whole number from 1."""
        sizes: dict[str, int] = {}
        for size in sorted(self.size_table, key=lambda size: size.of is not None):
            claims = size.claims(config, sizes)
            if not claims:
                raise ModelError(f"`config.json` has no `{size.config[0]}`, without which no tensor's shape is known")
            key, value = claims[0]
            if not whole(value):
                raise ModelError(f"`config.json` says `{key}` is {reprlib.repr(value)}: expected a whole number from 1")
            sizes[size.name] = value
        for size in self.size_table:
            if size.divides and sizes[size.divides] % sizes[size.name]:
                raise ModelError(
                    f"`config.json` says `{size.name}` is {sizes[size.name]}, "
                    f"which does not divide the {sizes[size.divides]} of `{size.divides}`"
                )
        return sizes

    @property
    def shaping(self) -> frozenset[str]:
        """The sizes that a tensor's shape shows; the others are counted or told by config.json."""
        shown = {size for row in self.row_table for size in row.shape}
        return frozenset(size.name for size in self.size_table if size.name in shown)

    def unknown(self, sizes: Mapping[str, int]) -> str | None:
        """The name for people of the first unknown size; None if all are known."""
        return next((size.title or f"`{size.name}`" for size in self.size_table if size.name not in sizes), None)

    def dimensions(self, sizes: Mapping[str, Any]) -> Dimensions:
        """The sizes that tell models of the family apart. The heads are what divides the width."""
        heads = next((size for size in self.size_table if size.divides), None)
        width = sizes.get(heads.divides or "") if heads else None
        return Dimensions(sizes.get(self.layers), width, sizes.get(heads.name) if heads else None)

    def head_size(self, sizes: Mapping[str, Any]) -> int | None:
        """The elements of one attention head; None if the sizes do not say it."""
        _, width, heads = self.dimensions(sizes)
        return width // heads if width is not None and whole(width) and heads is not None and whole(heads) else None

    def described(self, sizes: Mapping[str, int]) -> str:
        """The family and how large a model of it is, for a page."""
        layers, width, _ = ("?" if size is None else size for size in self.dimensions(sizes))
        return f"{self.title} with {layers} layers of {width}"

    # ---- settings

    def setting(self, name: str, config: Mapping[str, Any]) -> Any:
        """The value of a key in a config.json, or its default if the key is left out."""
        return config.get(name, next((setting.default for setting in self.settings if setting.name == name), None))

    def config_key(self, name: str) -> str:
        """The key of config.json for a size or a setting."""
        return next((size.config[0] for size in self.size_table if size.name == name and size.config), name)

    def activation_of(self, config: Mapping[str, Any]) -> Activation | None:
        """Which GELU a config.json asks for; None if it is not a known one."""
        name = self.activation and self.setting(self.activation.setting, config)
        named = self.activation.names.items() if self.activation else ()
        return next((activation for activation, names in named if name in names), None)

    def activation_setting(self, activation: Activation) -> dict[str, str]:
        """The setting of config.json that selects a GELU."""
        return {self.activation.setting: self.activation.names[activation][0]} if self.activation else {}

    # ---- tensors

    def rows(self, sizes: Mapping[str, int], order: str = "module") -> list[Parameter]:
        """Every parameter and buffer, including optional ones, in an order from the JSON (`module` is the order of the rows)."""
        return [_filled(row, sizes, layer) for row, layer in self.each(sizes[self.layers], order)]

    def each(self, count: int, order: str = "module") -> Iterator[tuple[Row, int | None]]:
        """Yield every row with each of `count` layers that it is for, in an order as of `rows`."""
        named = {row.name: row for row in self.row_table}
        ordered = self.row_table if order == "module" else [named[name] for name in self.orders[order]]
        for layered, group in groupby(ordered, key=lambda row: row.layered):
            members = list(group)
            yield from ((row, layer) for layer in (range(count) if layered else (None,)) for row in members)

    @property
    def tail(self) -> list[Row]:
        """The required rows that follow the layers."""
        last = max((index for index, row in enumerate(self.row_table) if row.layered), default=-1)
        return [row for row in self.row_table[last + 1 :] if row.required]

    @property
    def followers(self) -> dict[str, str]:
        """The bare names that follow from others if they are tied: the output head from the embedding."""
        return {row.name: row.tied_to for row in self.row_table if row.tied_to}

    def parts(self, count: int) -> dict[str, tuple[str, ...]]:
        """What equal parts of a tensor's last dimension hold, by the tensor's bare name, for `count` layers."""
        return {at(layer, row.name): row.parts for row, layer in self.each(count) if row.parts}

    def gguf_names(self, count: int) -> dict[str, str]:
        """The names in GGUF by the bare names, for `count` layers."""
        return {at(layer, row.name): at(layer, row.gguf) for row, layer in self.each(count) if row.gguf}

    def bare(self, name: str) -> str:
        """A name without the family's prefix, whichever of them it has."""
        prefix = next((prefix for prefix in self.prefixes if prefix and name.startswith(prefix)), "")
        return name.removeprefix(prefix)


def at(layer: int | None, text: str) -> str:
    """A row's text with its layer filled in."""
    return text if layer is None else text.replace("{layer}", str(layer)).replace("{decoder}", str(layer + 1))


def whole(value: object) -> bool:
    """Whether a value is a size: a whole number from 1."""
    return type(value) is int and value > 0


def _filled(row: Row, sizes: Mapping[str, int], layer: int | None) -> Parameter:
    return Parameter(
        name=at(layer, row.name),
        shape=tuple(sizes[size] if isinstance(size, str) else size for size in row.shape),
        kind=row.kind,
        parts=row.parts,
        gguf=row.gguf and at(layer, row.gguf),
        gguf_transposed=row.gguf_transposed,
        gguf_f32=row.gguf_f32,
        client=row.client and at(layer, row.client),
        client_parts=tuple(at(layer, part) for part in row.client_parts),
        tied_to=row.tied_to,
        optional=row.optional,
        prefixed=row.prefixed,
        value=row.value,
        layer=layer,
    )


def _activations(document: Mapping[Activation, list[str]]) -> dict[Activation, tuple[str, ...]]:
    return {activation: tuple(names) for activation, names in document.items()}


def _tuples(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in document.items()}
