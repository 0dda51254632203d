"""Which family and which declared model a catalogue belongs to, by names and shapes; and which tensors are buffers."""

from __future__ import annotations

import re
import reprlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from converter.models import families as registry
from converter.models.architecture import said_in, whole
from converter.models.declared import Model, declared
from converter.models.families import Family, TiedHead, objections
from converter.models.rows import Row, at
from converter.models.ties import EMBEDDINGS, ends, is_tied, tied_heads

if TYPE_CHECKING:
    from converter.tensors.catalogue import Catalogue
    from converter.tensors.tensor import Tensor

# The layer's number in a name. No leading zeros, because `h.00.` and `h.0.` would be the same tensor.
_LAYER: Final = re.compile(r"(?<=\.)(?:0|[1-9][0-9]{0,5})(?=\.)")
# A catalogue belongs to an architecture if at most one tensor in this many has a name or a shape that doesn't fit.
# GPT-Neo, GPT-J and BTLM share names with GPT-2, and differ in at least one tensor of seven.
_FITTING: Final = 8
# The most layers that may be absent altogether. A name or a config.json that implies more is not believed.
_ABSENT_LAYERS: Final = 1024
# What torch.nn's normalisation layers keep in addition to their weights (torch/nn/modules/batchnorm.py).
_STATISTICS: Final = frozenset(("running_mean", "running_var", "num_batches_tracked"))


class Shaped(Protocol):
    """A tensor, or what a golden manifest says about one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape, row-major."""
        ...


class Outline(NamedTuple):
    """All that is known about a tensor that can't be read."""

    shape: tuple[int, ...]


class Mismatch(NamedTuple):
    """A tensor whose shape does not fit the others. An unknown size is in `expected` by its name."""

    name: str
    expected: tuple[int | str, ...]
    found: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Recognition:
    """What a catalogue was recognised as. Names are the catalogue's own, with its prefix.

    `sizes` has only those that the shapes, config.json or the declared model give. `missing` has parameters
    only, because masks and a head may be absent. Unexpected tensors do not make it incomplete. A head is tied if it is
    the same view as wte. An untied head may still hold equal bytes, as a copy in another shard does. `claimed`: config.json
    names no other family. `known_by` has the catalogue's name for what is usually called otherwise.
    """

    family: Family
    prefix: str
    sizes: Mapping[str, int] = field(hash=False)
    model: Model | None
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[Mismatch, ...]
    buffers: tuple[str, ...]
    tied_head: TiedHead
    contradictions: tuple[str, ...]
    claimed: bool = True
    known_by: Mapping[str, str] = field(default_factory=dict, hash=False)

    def name(self, row: Row) -> str:
        """The catalogue's name for a row whose layer is filled in."""
        own = row.named(self.prefix)
        return self.known_by.get(own, own)

    def followed(self, row: Row) -> str:
        """The catalogue's name for what a row is tied to."""
        own = f"{self.prefix}{row.tied_to}"
        return self.known_by.get(own, own)

    def in_layer(self, name: str) -> bool:
        """Whether a name lies within the family's layers, even if the family has no such tensor."""
        number = _LAYER.search(name)
        stems = {row.named(self.prefix).partition("{layer}")[0] for row in self.family.row_table if row.layered}
        return number is not None and name[: number.start()] in stems

    @property
    def sized(self) -> bool:
        """Whether the shape of every row is known."""
        return all(name in self.sizes for name in self.family.shaping)

    @property
    def followers(self) -> dict[str, str]:
        """The heads that the family ties, and the embeddings that they follow."""
        rows = [row for row in self.family.row_table if row.tied_to]
        return {self.name(row): self.followed(row) for row in rows}

    @property
    def complete(self) -> bool:
        """Whether every parameter is there in the right shape."""
        return not self.missing and not self.mismatched


def recognise(
    catalogue: Mapping[str, Shaped],
    config: Mapping[str, Any] | None = None,
    *,
    families: Iterable[Family] | None = None,
) -> Recognition | None:
    """The family and the declared model that the names and shapes belong to; None if no family fits.

    `families` replace those of schemas/architectures.

    A part of a model is recognised as that model, incomplete, if its shapes fit exactly one declared model. Time is
    linear in the number of tensors.
    """
    placed = _placed(catalogue)
    for known in registry.families() if families is None else families:
        sighting = _sighted(known, placed)
        recognition = sighting and _recognised(sighting, catalogue, config)
        if recognition:
            return recognition
    return None


def buffers(catalogue: Catalogue, recognition: Recognition | None) -> set[str]:
    """The names of the buffers, which belong to a model and are saved with it, but are not trained.

    They are those that a module or the family declares, and the statistics of normalisation.
    """
    known = {*catalogue.facts.get("buffers", ()), *(recognition.buffers if recognition is not None else ())}
    return {name for name in catalogue if name in known or name.rpartition(".")[2] in _STATISTICS}


def headless(found: Recognition, config: Mapping[str, Any]) -> str | None:
    """What is wrong with a model that has no head, though its config.json does not tie one to the embedding; None if nothing."""
    if found.tied_head != "absent" or not found.followers:
        return None
    if is_tied({"model_type": found.family.name, **config}) is not False:
        return None
    head, embedding = next(iter(found.followers.items()))
    return (
        f"has no `{head}`, and its config.json does not tie it to `{embedding}`: if the two are one, say "
        '`"tie_word_embeddings": true` there'
    )


def tied_back(catalogue: Catalogue, found: Recognition | None) -> Catalogue:
    """The catalogue, recognised as `found`. If it has a tied head but no embedding, the head gets the embedding's name, too."""
    if is_tied(catalogue.config) is False:
        return catalogue
    if found is not None:
        followers: Mapping[str, str] = {head: name for head, name in found.followers.items() if name in found.missing}
    else:
        followers = {} if any(ends(name, EMBEDDINGS) for name in catalogue) else tied_heads(catalogue.config)
    for head, name in followers.items():
        if head in catalogue and name not in catalogue:
            tensors: dict[str, Tensor] = {}
            for other, tensor in catalogue.items():
                tensors |= {name: tensor, head: tensor} if other == head else {other: tensor}
            note = f"`{name}` is not in the file: `{head}` stands for it, because the model ties them"
            return replace(catalogue, tensors=tensors).with_origin(notes=(*catalogue.origin.notes, note))
    return catalogue


class _Match(NamedTuple):
    name: str
    row: Row
    layer: int | None
    shape: tuple[int, ...]


class _Sighting(NamedTuple):
    """The tensors of a catalogue with names of a family, and the sizes that most of their shapes agree on."""

    family: Family
    prefix: str
    matches: list[_Match]
    strangers: list[str]
    sizes: dict[str, int]
    layers: int  # number of layers with at least one parameter
    found: int  # number of layers up to the last of these
    whole: int  # number of layers up to the last that is complete
    known_by: dict[str, str]  # what the family usually calls a tensor that has another of its names
    ended: bool  # whether the tensors that follow the layers are there


class _Placed(NamedTuple):
    """A tensor, its name with `{layer}` for the number of its layer, and that number."""

    name: str
    spelling: str
    layer: int | None
    shape: tuple[int, ...]


def _placed(catalogue: Mapping[str, Shaped]) -> list[_Placed]:
    """Every tensor. It is made once for all families, because a catalogue can have many tensors."""
    found = []
    for name, tensor in catalogue.items():
        number = _LAYER.search(name)
        if number is None:
            found.append(_Placed(name, name, None, tensor.shape))
        else:
            start, end = number.span()
            found.append(_Placed(name, f"{name[:start]}{{layer}}{name[end:]}", int(number[0]), tensor.shape))
    return found


def _sighted(known: Family, placed: Sequence[_Placed]) -> _Sighting | None:
    spelled = {
        name: (prefix, row) for prefix in known.prefixes for row in known.row_table for name in row.spellings(prefix)
    }
    prefixes: set[str] = set()
    matches: list[_Match] = []
    strangers: list[str] = []
    known_by: dict[str, str] = {}
    for name, spelling, layer, shape in placed:
        prefix, row = spelled.get(spelling, ("", None))
        if row is None or row.layered != (layer is not None):
            strangers.append(name)
            if len(strangers) * _FITTING > len(placed):
                return None
            continue
        if row.also and row.named(prefix) != name:
            known_by[name] = row.named(prefix)
        elif row.prefixed:
            prefixes.add(prefix)
        matches.append(_Match(name, row, layer, shape))
    if len(prefixes) != 1:
        return None
    layers = Counter(match.layer for match in matches if match.row.required and match.layer is not None)
    per_layer = sum(row.required and row.layered for row in known.row_table)
    present = {match.row.name for match in matches}
    around = {row.name for row in known.row_table if row.required and not row.layered}
    if around.isdisjoint(present) and not all(map(_LAYER.search, strangers)):
        return None  # only the layers are like this family's: GPT-1 has the layers of GPT-2
    return _Sighting(
        family=known,
        prefix=prefixes.pop(),
        matches=matches,
        strangers=strangers,
        sizes=_voted(known, matches),
        layers=len(layers),
        found=1 + max(layers, default=-1),
        whole=1 + max((layer for layer, count in layers.items() if count == per_layer), default=-1),
        known_by=known_by,
        ended=all(row.name in present for row in known.tail),
    )


def _voted(known: Family, matches: list[_Match]) -> dict[str, int]:
    """The sizes that shapes alone decide. Each has the value that most tensors agree on."""
    free = {size.name for size in known.size_table if size.config}
    votes: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for match in matches:
        if not match.row.optional and len(match.shape) == len(match.row.shape):
            for symbol, length in zip(match.row.shape, match.shape, strict=True):
                if symbol in free:
                    votes[str(symbol)][length] += 1
    return {name: counted.most_common(1)[0][0] for name, counted in votes.items()}


def _recognised(
    seen: _Sighting, catalogue: Mapping[str, Shaped], config: Mapping[str, Any] | None
) -> Recognition | None:
    known = seen.family
    kind = known.model_type if config is None else config.get("model_type", known.model_type)
    named = known.is_called(kind)
    if known.told and (config is None or "model_type" not in config or not named):
        return None  # other families have these names and shapes, too
    claimed = _claimed(seen, config) if config is not None else {}
    model = _declared_as(seen, claimed)
    sizes = known.sizes(model.config) if model else {known.layers: _layers(seen, claimed.get(known.layers))}
    n_layer = sizes[known.layers]
    if not 0 < n_layer <= seen.layers + _ABSENT_LAYERS or min(seen.sizes.values(), default=0) < 1:
        return None
    sizes |= claimed | seen.sizes | {known.layers: n_layer}
    settings = config if config is not None else model.config if model else {}
    for size in known.size_table:
        if size.value and not size.config and whole(value := known.derived(size, settings, sizes)):
            sizes[size.name] = value

    beyond = [match.name for match in seen.matches if match.layer is not None and match.layer >= n_layer]
    foreign = [match.name for match in seen.matches if _foreign(known, match.row, settings)]
    within = [match for match in seen.matches if match.layer is None or match.layer < n_layer]
    fitting = [match for match in within if _fits(match, sizes)]
    misfits = [match for match in within if not _fits(match, sizes)]
    if not any(match.row.required and len(match.shape) == 2 for match in fitting):
        return None
    if (len(seen.strangers) + len(beyond) + len(misfits) + len(foreign)) * _FITTING > len(fitting):
        return None

    required = (
        at(layer, row.named(seen.prefix))
        for row, layer in known.each(n_layer)
        if row.required or known.says_present(row, settings)
    )
    otherwise = set(seen.known_by.values())
    missing = tuple(name for name in required if name not in catalogue and name not in otherwise)
    if not named and (missing or misfits or seen.strangers or beyond):
        return None  # another family with nearly the same names, such as GPT-1
    return Recognition(
        family=known,
        prefix=seen.prefix,
        sizes=MappingProxyType(sizes),
        model=model,
        missing=missing,
        unexpected=(*seen.strangers, *beyond),
        mismatched=tuple(
            Mismatch(match.name, tuple(sizes.get(str(size), size) for size in match.row.shape), match.shape)
            for match in misfits
        ),
        buffers=tuple(match.name for match in within if match.row.kind == "buffer"),
        tied_head=_tied_head(within, catalogue, seen.prefix),
        contradictions=tuple(_contradictions(seen, config, sizes, model)) if config is not None else (),
        claimed=named,
        known_by={own: name for name, own in seen.known_by.items()},
    )


def _foreign(known: Family, row: Row, settings: Mapping[str, Any]) -> bool:
    """Whether a model of the family has a tensor only if config.json says so, and it says nothing about that."""
    if known.says_present(row, settings) is not False:
        return False
    return all(said_in(settings, known.config_key(name)) is None for name in row.conditions)


def _claimed(seen: _Sighting, config: Mapping[str, Any]) -> dict[str, int]:
    """The sizes of a config.json, without impossible ones."""
    claimed: dict[str, int] = {}
    for size in seen.family.size_table:
        sizes = claimed | seen.sizes
        for _, value in seen.family.claims(size, config, sizes)[:1] if size.config else ():
            if whole(value) and not (size.divides and sizes.get(size.divides, 0) % value):
                claimed[size.name] = value
    return claimed


def _declared_as(seen: _Sighting, claimed: dict[str, int]) -> Model | None:
    """The one declared model that the shapes fit. config.json decides what the shapes don't say."""
    known = seen.family
    told = {name: value for name, value in (claimed | seen.sizes).items() if name in known.shaping}
    fitting = []
    for model in declared():
        if model.architecture == known.name:
            sizes = known.sizes(model.config)
            n_layer = sizes[known.layers]
            # If config.json gives another number of layers, believe the tensors only if the last layer is there, and what
            # follows it.
            believed = claimed.get(known.layers, n_layer) == n_layer or (
                seen.ended and n_layer in {seen.whole, seen.found}
            )
            if seen.whole <= n_layer and believed and all(sizes[name] == value for name, value in told.items()):
                fitting.append(model)
    return fitting[0] if len(fitting) == 1 else None


def _layers(seen: _Sighting, claimed: int | None) -> int:
    """The number of layers of an undeclared model: config.json's, unless there are whole layers beyond it."""
    return seen.found if claimed is None or claimed < seen.whole else claimed


def _fits(match: _Match, sizes: Mapping[str, int]) -> bool:
    # An unknown size can't be contradicted.
    return len(match.shape) == len(match.row.shape) and all(
        sizes.get(str(size), length if isinstance(size, str) else size) == length
        for size, length in zip(match.row.shape, match.shape, strict=True)
    )


def _tied_head(matches: list[_Match], catalogue: Mapping[str, Shaped], prefix: str) -> TiedHead:
    for match in matches:
        if match.row.tied_to:
            return "tied" if catalogue[match.name] == catalogue.get(prefix + match.row.tied_to) else "untied"
    return "absent"


def _contradictions(
    seen: _Sighting, config: Mapping[str, Any], sizes: Mapping[str, int], model: Model | None
) -> Iterator[str]:
    known = seen.family
    found = dict(seen.sizes)
    for name, row in {match.row.name: (match.name, match.row) for match in seen.matches}.values():
        if known.says_present(row, config) is False:
            key = next(key for key in row.conditions if known.setting(key, config) is False)
            said = f"`config.json` says `{known.config_key(key)}` is False"
            if said_in(config, known.config_key(key)) is None:
                said = f"`config.json` has no `{known.config_key(key)}`, which then counts as False"
            yield f"{said}; the tensors have `{name}`"
    if model:
        found |= {name: size for name, size in known.sizes(model.config).items() if name not in known.shaping}
    else:
        # Layers that config.json implies and that are absent here may be in another shard, unless the end is here.
        n_layer = sizes[known.layers]
        found[known.layers] = min(n_layer, seen.found) if seen.ended else n_layer
    model_type = config.get("model_type", known.model_type)
    if not known.is_called(model_type):
        said = f"`config.json` says `model_type` is {reprlib.repr(model_type)}"
        yield f"{said}; the tensors are those of {known.model_type!r}"
    yield from objections(known, config)
    for size in known.size_table:
        for key, value in known.claims(size, config, sizes) if size.config else ():
            said = f"`config.json` says `{key}` is {reprlib.repr(value)}"
            if said_in(config, key) is None:
                said = f"`config.json` has no `{key}`, which then counts as {value}"
            if not whole(value):
                yield f"{said}: expected a whole number from 1"
            elif value != found.get(size.name, value):
                holder = f"{model.name} has" if model and size.divides else "the tensors have"
                yield f"{said}; {holder} {found[size.name]}"
            elif size.divides and sizes.get(size.divides, 0) % value:
                yield f"{said}, which does not divide the {sizes[size.divides]} of `{size.divides}`"
