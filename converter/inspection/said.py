"""Says in words what `inspect` found: for a terminal, for Markdown and for a page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from converter import formats
from converter.text import natural, nbytes_text, numbered, plural, safe_name, safe_text, shortened, together

if TYPE_CHECKING:
    from converter.reports.details import KeyReport, MemoryReport, TokenizerReport
    from converter.reports.inspection import Inspection, OtherReport, TensorReport, TypeReport, WeightsReport

# A text, or a text and its tone: "good", "warn" or "bad".
Said: TypeAlias = str | tuple[str, str]

TABLES: Final = (  # the heading of a table, and the roles that it lists
    ("Besides the weights:", ("beside", "weights", "averaged", "attribute")),
    ("Settings of the module:", ("setting",)),
    ("Tensors that this program does not decode:", ("unsupported",)),
)
_SPECIAL: Final = 6  # special tokens that are named
_ENGLISH: Final = {"seperator": "separator"}  # GGUF's key is misspelled
CONTENT: Final = 100  # characters of a value that are shown without --all
_SIZES: Final = {
    "n_head": "{:,} heads",
    "n_positions": "a context of {:,} tokens",
    "vocab_size": "a vocabulary of {:,}",
}
VERDICTS: Final = {  # the word, what it means, and its tone
    "plain": ("plain", ": it asks for nothing but tensors", "good"),
    "unknown-globals": ("unknown globals", ": it asks for more than tensors", "warn"),
    "program": ("a program", ": it holds code, which was not run", "warn"),
    "dangerous": ("DANGEROUS", ": loading it with pickle would run code", "bad"),
}

_ARCHITECTURE: Final = "general.architecture"  # the key with which a file itself names its architecture


def heading(inspection: Inspection) -> str:
    """Say what a checkpoint is, in one line."""
    model = inspection.model
    if model is None:
        if not inspection.tensors and not inspection.totals.tensors:
            return "No tensors"
        named = next((key.value for key in inspection.metadata if key.key == _ARCHITECTURE), None)
        return "Unknown architecture" if type(named) is not str else safe_text(f"Architecture {named}", 80)
    name = model.title
    if model.name is not None:
        name = model.name if model.proven else f"Shaped like {model.name}"
    if model.complete:
        return f"{name}, complete"
    lacking = [
        f"{plural(len(names), 'parameter')} {what}"
        for names, what in ((model.missing, "missing"), (model.mismatched, "of another shape"))
        if names
    ]
    return f"{name}, incomplete: {' and '.join(lacking)}"


def place(found: Inspection) -> str:
    """The format, the program that wrote it, and how large it is, in one line."""
    files = found.source.files
    total = sum(file.nbytes for file in files)
    shards = f"{plural(len(files), 'file')}, " if len(files) > 1 else ""
    kind = formats.named(found.source.format).title
    if found.source.writer is not None:
        kind = f"{kind}, written by {found.source.writer}"
    return f"{kind} · {shards}{plural(total, 'byte')}"


def facts(found: Inspection, *, safety: bool = True) -> Iterator[tuple[str, tuple[Said, ...]]]:
    """The facts above the table, each with its label; those about `safety` are the last."""
    for label, said in _facts(found):
        yield label, (said,)
    if safety and formats.named(found.source.format).pickled:
        word, meaning, tone = VERDICTS[found.safety.verdict]
        yield "pickle", ((word, tone), meaning)
        yield "asks for", (shortened(found.safety.globals, 12),)


def _facts(found: Inspection) -> Iterator[tuple[str, str]]:
    totals = found.totals
    yield from _part(found.weights)
    sizes = found.model.sizes if found.model is not None else {}
    if said := [words.format(sizes[name]) for name, words in _SIZES.items() if name in sizes]:
        yield "sizes", ", ".join(said)
    yield "tensors", f"{totals.tensors:,}"
    yield "parameters", f"{totals.parameters:,}"
    if names := found.weights.buffers:
        which = shortened(names, 3 if len(names) <= 3 else 1)
        yield "buffers", f"{totals.buffers:,} more in {plural(len(names), 'tensor')}: {which}"
    yield "data", _data(found)
    unsupported = sum(other.role == "unsupported" for other in found.others)
    if len(found.tensors) + unsupported < totals.tensors:
        shown = nbytes_text(sum(tensor.nbytes for tensor in found.tensors))
        yield (
            "shown",
            f"{len(found.tensors):,} of {plural(totals.tensors, 'tensor')}, {shown}: the others do not fit --filter",
        )
    if found.types and formats.named(found.source.format).self_contained:
        yield "types", _types(found.types) + (f"; {unsupported:,} not decoded" if unsupported else "")
    if found.tokenizer is not None:
        yield "tokenizer", _tokenizer(found.tokenizer)
    if found.memory is not None:
        yield "memory", _memory(found.memory)
    if found.source.requests is not None and found.source.bytes_read is not None:
        yield "read", f"{nbytes_text(found.source.bytes_read)} in {plural(found.source.requests, 'request')}"
    views = sum(not tensor.contiguous for tensor in found.tensors)
    if views:
        what = "tensor is a view that doesn't lie" if views == 1 else "tensors are views that don't lie"
        yield "layout", f"{views:,} {what} row by row (transposed: see stride)"
    for names in found.tied[:8]:
        yield "tied", " = ".join(safe_name(name) for name in names[:6]) + ", counted once"
    if len(found.tied) > 8:
        yield "tied", f"and {plural(len(found.tied) - 8, 'more group')}"
    if found.model is not None:
        yield from (
            (what, shortened(names, 6))
            for names, what in (
                (found.model.missing, "missing"),
                (found.model.mismatched, "other shape"),
                (found.model.unexpected, "unexpected"),
            )
            if names
        )


def _data(found: Inspection) -> str:
    """The bytes of all tensors, and of each dtype: these add up, as tied tensors count once in both."""
    total = nbytes_text(found.totals.nbytes)
    parts = [f"{nbytes_text(one.nbytes)} {one.dtype}" for one in found.types]
    rest = found.totals.nbytes - sum(one.nbytes for one in found.types)
    if rest:
        parts.append(f"{nbytes_text(rest)} that this program does not decode")
    return (
        f"{total} {found.types[0].dtype}"
        if len(parts) == 1 and not rest
        else f"{total} ({', '.join(parts)})"
        if parts
        else total
    )


def _types(types: Sequence[TypeReport]) -> str:
    """Dtypes by count, and how many bits a weight takes on average."""
    elements, nbytes = sum(one.elements for one in types), sum(one.nbytes for one in types)
    bits = f"; {8 * nbytes / elements:.2f} bits per weight" if elements else ""
    return ", ".join(f"{one.tensors:,} {one.dtype}" for one in types) + bits


def _tokenizer(found: TokenizerReport) -> str:
    kind = safe_text(found.kind, 40) + (f" ({safe_text(found.pre, 40)})" if found.pre else "")
    merges = [plural(found.merges, "merge")] if found.merges else []
    special = [
        f"{_ENGLISH.get(name) or safe_text(name, 40)} {number}"
        for name, number in list(found.special.items())[:_SPECIAL]
    ]
    more = [f"{len(found.special) - _SPECIAL} more special tokens"] if len(found.special) > _SPECIAL else []
    template = ["a chat template"] if found.template else []
    return ", ".join([kind, plural(found.tokens, "token"), *merges, *special, *more, *template])


def _memory(found: MemoryReport) -> str:
    cache = ("" if found.exact else "at most ") + nbytes_text(found.cache)
    total = nbytes_text(found.weights + found.cache)
    return (
        f"{total} in llama.cpp for {plural(found.context, 'token')}: {nbytes_text(found.weights)} of weights, {cache} of keys "
        "and values, plus its buffers"
    )


def value_text(key: KeyReport, width: int) -> str:
    """The value of a key: JSON on one line, of an array its first elements."""
    if key.length is None:
        return safe_text(key.value if isinstance(key.value, str) else json.dumps(key.value), width)
    first = ", ".join(json.dumps(value, ensure_ascii=False) for value in key.value)
    more = ", …" if key.length > len(key.value) else ""
    return safe_text(f"{key.length:,}: {first}{more}" if key.value else f"{key.length:,}", width)


def _part(weights: WeightsReport) -> Iterator[tuple[str, str]]:
    """Which part of the file is shown, where that is not all of it."""
    what = f"{weights.program or 'a whole module'}, {safe_text(weights.module)}" if weights.module else ""
    where = f"below `{safe_text(weights.root)}`" if weights.root else ""
    names = f"`{safe_text(weights.prefix)}` is left out of every name" if weights.prefix else ""
    if said := "; ".join(filter(None, (what, where, names))):
        yield "weights", said
    if weights.averaged:
        way = "--ema" if len(weights.averaged) == 1 else "--root NAME"
        yield "averaged", f"beside them: {shortened(weights.averaged, 4)}; {way} takes them instead"
    if weights.hooked:
        from converter.pickles.modules import hooks_said  # few files have hooks

        yield "hooks", hooks_said([safe_text(name) for name in weights.hooked])


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the table: one tensor, or several that differ only by the numbers in their names."""

    name: str
    first: TensorReport
    count: int
    last: TensorReport
    members: tuple[TensorReport, ...]


def fold(tensors: Sequence[TensorReport], *, unfold: bool = False) -> list[Line]:
    """Put tensors that differ only by the first number in their names into one line each, in the place of the first one.

    Lines that then differ only by the next number, such as those of experts, become one, too. With `unfold` each tensor has
    a line of its own.
    """
    if unfold:
        return [Line(tensor.name, tensor, 1, tensor, (tensor,)) for tensor in tensors]
    by_first: dict[tuple[Any, ...], list[tuple[int, TensorReport]]] = {}
    layout: tuple[Any, ...] = ()
    text = ""
    for tensor in tensors:
        number, around = numbered(tensor.name)
        # The key is a text, because a file can't foresee a text's hash. It could choose numbers whose hashes collide.
        # Neighbours are often alike, and then share theirs.
        if layout != (tensor.shape, tensor.stride):
            layout = (tensor.shape, tensor.stride)
            text = f"{tensor.shape}{tensor.stride}"
        kind = (tensor.dtype, text)
        by_first.setdefault((around, kind), []).append((number or 0, tensor))
    by_next: dict[tuple[Any, ...], list[tuple[int, list[TensorReport]]]] = {}
    for (around, kind), found in by_first.items():
        members = [one for _, one in found]
        if len(members) == 1 or len(around) == 1:
            for one in members:
                by_next.setdefault(((one.name,), (), kind), []).append((0, [one]))
            continue
        numbers = tuple(sorted(number for number, _ in found))
        before, behind = around
        number, rest = numbered(behind)
        by_next.setdefault(((before, *rest), numbers, kind), []).append((number or 0, members))
    return [_line(around, numbers, found) for (around, numbers, _), found in by_next.items()]


def _line(around: tuple[str, ...], numbers: tuple[int, ...], found: list[tuple[int, list[TensorReport]]]) -> Line:
    """A line for tensors with the texts `around` the numbers of their names: `numbers`, and those of `found`."""
    members = tuple(one for _, some in found for one in some)
    name = members[0].name
    if numbers:
        before, *rest = around
        if len(rest) == 1:
            tail = rest[0]
        elif len(found) == 1:
            tail = f"{rest[0]}{found[0][0]}{rest[1]}"
        else:
            tail = together(rest, (number for number, _ in found))
        name = together((before, tail), numbers)
    return Line(name, members[0], len(members), members[-1], members)


def in_order(found: Inspection) -> Sequence[TensorReport]:
    """The tensors in the order in which they are shown. If every file has them in alphabetical order, h.2 still precedes h.10."""
    shards = [[one.name for one in members] for _, members in groupby(found.tensors, key=lambda one: one.shard or "")]
    alphabetical = all(names == sorted(names) for names in shards)
    return sorted(found.tensors, key=lambda one: natural(one.name)) if alphabetical else found.tensors


def other_text(other: OtherReport, unfold: bool) -> str:
    """What something is: how many tensors it holds, a small value, or a few words."""
    if other.tensor_count and other.tensors != ("",):
        held = f"{plural(other.tensor_count, 'tensor')}, {nbytes_text(other.nbytes)}"
        return f"{held}: {shortened(other.tensors, 3)}"
    if other.content is None:
        size = f", {nbytes_text(other.nbytes)}" if other.role == "unsupported" and other.nbytes else ""
        return safe_text(other.value) + size
    text = json.dumps(other.content)
    return safe_text(text, len(text) if unfold else CONTENT)
