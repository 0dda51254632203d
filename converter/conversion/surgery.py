"""Rules on the names of tensors: which tensors are converted, under which names, and in which dtype.

The rules change the catalogue before anything is planned, so formats know nothing about them, and every rule works for
every pair of formats. No tensor is read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from converter import formats
from converter.conversion.globs import Rename, fitting
from converter.dtypes import spelled
from converter.errors import RuleError
from converter.formats.records import WRITABLE
from converter.io.strict_json import load_json
from converter.models.recognition import Recognition, recognise
from converter.models.selection import meant, spellings, unknown
from converter.pickles.weights import EMA, is_training_state
from converter.text import listed, plural
from converter.words import check

if TYPE_CHECKING:
    from converter.tensors.catalogue import Catalogue
    from converter.tensors.tensor import Storage

Rules = Sequence[str] | Mapping[str, str]  # `OLD=NEW` or `GLOB=TYPE`, or the two sides
RULES_FILE: Final = ".json"
# What `strip` removes, by its word: tensors whose names begin with one of these keys.
PARTS: Final[Mapping[str, Callable[[str], bool]]] = {
    "optimizer": lambda key: is_training_state(key, None),
    "ema": EMA.__contains__,
}
_DTYPES: Final = tuple(dict.fromkeys(word for format in WRITABLE for word in format.dtypes))


@dataclass(frozen=True, slots=True)
class Surgery:
    """The rules. A tensor is kept if it matches one of `include` (or there are none), and none of `exclude`.

    `strip` are words of PARTS. `renames` are applied in order. `types` are globs with the dtype of the tensors that
    match; the last one that matches counts. All rules but the renames accept each name of a tensor: the one in the
    file, the family's with or without its prefix, and the one in GGUF, always before it is renamed.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    strip: tuple[str, ...] = ()
    renames: tuple[Rename, ...] = ()
    types: tuple[tuple[str, str], ...] = ()

    def __bool__(self) -> bool:
        return any((self.include, self.exclude, self.strip, self.renames, self.types))


def rules(
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    strip: Sequence[str] = (),
    rename: Rules = (),
    tensor_type: Rules = (),
) -> Surgery:
    """Read rules as people write them. `rename` may name a JSON file with an object of OLD: NEW.

    Raises RuleError or WordError for a rule that makes no sense, and the errors of reading that file.
    """
    for option, globs in (("include", include), ("exclude", exclude), ("strip", strip)):
        if isinstance(globs, str) or not all(isinstance(glob, str) and glob for glob in globs):
            raise RuleError(f"{option} is {globs!r:.80}: a list of texts was expected, none of them empty")
    for part in strip:
        check("strip", part, tuple(PARTS))
    types = [(glob, spelled(word)) for glob, word in _sides("tensor_type", tensor_type, "GLOB=TYPE")]
    for _, word in types:
        check("tensor_type", word, _DTYPES)
    renames = [Rename(old, new) for old, new in _sides("rename", rename, "OLD=NEW")]
    return Surgery(tuple(include), tuple(exclude), tuple(strip), tuple(renames), tuple(types))


def _sides(option: str, given: Rules, form: str) -> Iterator[tuple[str, str]]:
    """The two sides of each rule. A file of rules is replaced by the rules in it."""
    if isinstance(given, str) or not isinstance(given, Mapping | Sequence):
        raise RuleError(f"{option} is {given!r:.80}: a list of {form}, or a dict, was expected")
    for rule in given:
        text = f"{rule}={given[rule]}" if isinstance(given, Mapping) else rule
        if isinstance(given, Mapping):
            yield _text(option, rule), _text(option, given[rule])
        elif isinstance(text, str) and text.endswith(RULES_FILE) and "=" not in text:
            for old, new in load_json(Path(text)).items():
                yield old, _text(f"`{text:.200}`: `{old:.80}`", new)
        elif not isinstance(text, str) or text.count("=") != 1:
            more = f": write it into a {RULES_FILE} file or a dict" if isinstance(text, str) and "=" in text else ""
            raise RuleError(f"{option} is {text!r:.200}: expected {form}, with one `=`{more}")
        else:
            left, _, right = text.partition("=")
            if not left or not right:
                raise RuleError(f"{option} is {text!r:.200}: expected {form}, with neither side empty")
            yield left, right


def _text(what: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise RuleError(f"{what} is {value!r:.80}: a text was expected, and not an empty one")
    return value


@dataclass(frozen=True, slots=True)
class Cut:
    """A catalogue after the rules, with its family's names, and what the rules did.

    `excluded` are the names that were left out, `renamed` pairs of an old and a new name, `types` the requested dtypes
    by new name. `notes` are sentences, for instance about a rule that matches nothing. `contradiction` says why the
    catalogue lost its config.json: it described the whole model, and does not describe what is left.
    """

    catalogue: Catalogue
    excluded: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    types: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    contradiction: str | None = None


def cut(catalogue: Catalogue, surgery: Surgery) -> Cut:
    """Apply the rules. Raises RuleError if nothing is left, or if two tensors would have the same name."""
    known = formats.canonical(catalogue)
    if not surgery:
        return Cut(known)
    recognition = recognise(known, known.config)
    files = formats.names_in_file(known, catalogue)
    files |= {ours.name: other.name for ours, other in zip(known.unsupported, catalogue.unsupported, strict=True)}
    names = [*known, *(other.name for other in known.unsupported), *known.missing]
    spelt = spellings(names, files, recognition)
    left, unused = _left(spelt, surgery)
    dropped = set(names) - left
    kept = {name: tensor for name, tensor in known.items() if name in left}
    if names and not left:
        raise RuleError(
            f"nothing is left of the {plural(len(names), 'tensor')} in `{catalogue.location}`, such as `{names[0]:.200}`: "
            "the rules leave all of them out"
        )
    typed = {name for name, tensor in kept.items() if tensor.dtype.floating}
    copied = {other.name for other in known.unsupported if other.storage and other.name in left}
    types, untyped = _types(spelt, typed | copied, surgery.types)
    renamed, idle = _renamed(list(kept), files, surgery.renames)
    pairs = tuple((old, new) for old, new in zip(kept, renamed, strict=True) if old != new)
    new = dict(zip(kept, renamed, strict=True))
    held = tuple(new[name] for name in known.facts.get("buffers", ()) if name in new)
    changed = replace(
        known,
        facts={**known.facts, "buffers": held},
        tensors=dict(zip(renamed, kept.values(), strict=True)),
        storages=_storages(known, kept),
        unsupported=tuple(other for other in known.unsupported if other.name in left),
        missing=tuple(name for name in known.missing if name in left),
    )
    notes = [f"{rule} matches no tensor" for rule in (*unused, *idle)]
    notes += [f"{rule} matches no tensor of floating-point numbers" for rule in untyped]
    for part in surgery.strip:
        notes += _stripped(known, part, dropped)
    contradiction = _contradiction(changed, recognition)
    if contradiction is not None:
        changed = changed.with_origin(config=None)
        notes.append(f"config.json does not describe what is left, so it is left out: {contradiction}")
    by_new = {new: types[old] for old, new in zip(kept, renamed, strict=True) if old in types}
    by_new |= {name: types[name] for name in copied if name in types}
    excluded = tuple(name for name in names if name in dropped)
    return Cut(changed, excluded, pairs, by_new, tuple(notes), contradiction)


def _left(spelt: Mapping[str, Sequence[str]], surgery: Surgery) -> tuple[set[str], list[str]]:
    """The names that are kept, and the globs that match nothing."""
    unused: list[str] = []

    left: set[str] = set() if surgery.include else set(spelt)
    for glob in surgery.include:
        hits = meant(glob, spelt)
        if not hits:
            raise unknown("include", glob, list(spelt))
        left.update(hits)
    for glob in surgery.exclude:
        hits = meant(glob, spelt)
        if not hits:
            unused.append(f"`{glob:.200}`")
        left.difference_update(hits)
    for part in surgery.strip:
        left -= {name for name in spelt if PARTS[part](name.partition(".")[0])}
    return left, unused


def _types(
    spelt: Mapping[str, Sequence[str]], typed: Collection[str], rules: Sequence[tuple[str, str]]
) -> tuple[dict[str, str], list[str]]:
    """The requested dtypes of those in `typed`, by name, and the globs that match none of them."""
    types: dict[str, str] = {}
    unused = []
    for glob, word in rules:
        hits = [name for name in meant(glob, spelt) if name in typed]
        types |= dict.fromkeys(hits, word)
        if not hits:
            unused.append(f"`{glob:.200}={word}`")
    return types, unused


def _renamed(names: list[str], files: Mapping[str, str], rules: Sequence[Rename]) -> tuple[list[str], list[str]]:
    """The names after all rules, in the same order, and the rules that match nothing.

    A rule matches the name of a tensor or, until the tensor is renamed, its name in the file. Raises RuleError if two
    tensors would get the same name.
    """
    now, unused = list(names), []
    own = [files[name] for name in names]
    for rule in rules:
        fits, hits = fitting(rule.old), 0
        for index, name in enumerate(now):
            fitted = next((spelling for spelling in (name, own[index]) if fits(spelling)), None)
            if fitted is not None:
                new = rule(fitted)
                if not new:
                    raise RuleError(f"the rename `{rule:.200}` leaves no name for `{fitted:.200}`")
                now[index] = own[index] = new
                hits += 1
        if not hits:
            unused.append(f"`{rule:.200}`")
        elif len(set(now)) < len(now):
            first: dict[str, str] = {}
            for old, new in zip(names, now, strict=True):
                if (other := first.setdefault(new, old)) != old:
                    raise RuleError(
                        f"`{other:.200}` and `{old:.200}` would both be called `{new:.200}` by the rename `{rule:.200}`"
                    )
    return now, unused


def _storages(catalogue: Catalogue, kept: Mapping[str, object]) -> tuple[Storage, ...]:
    """The storages, without those that are used only by tensors that are left out."""
    users = {name: (tensor.storage.shard, tensor.storage.key) for name, tensor in catalogue.items()}
    held = {users[name] for name in kept}
    gone = {key for name, key in users.items() if key not in held}
    return tuple(storage for storage in catalogue.storages if (storage.shard, storage.key) not in gone)


def _stripped(catalogue: Catalogue, part: str, dropped: set[str]) -> Iterator[str]:
    """What to say about a part that is not among the tensors. Usually it lies beside the weights, and is not written anyway."""
    fits = PARTS[part]
    if any(fits(name.partition(".")[0]) for name in dropped):
        return
    beside = [other.name for other in catalogue.others if fits(other.name.partition(".")[0])]
    if beside:
        lies = "lies" if len(beside) == 1 else "lie"
        yield f"{listed(beside)} {lies} beside the weights, not among them, so there is nothing to strip"
    else:
        yield f"there is no {part} to strip"


def _contradiction(catalogue: Catalogue, before: Recognition | None) -> str | None:
    """How the config.json contradicts the tensors that are left. None if it does not, or if it contradicted those `before`."""
    if catalogue.config is None or (before is not None and before.contradictions):
        return None
    recognition = recognise(catalogue, catalogue.config)
    return next(iter(recognition.contradictions), None) if recognition is not None else None
