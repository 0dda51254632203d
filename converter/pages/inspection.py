"""The page of `inspect`: what a checkpoint is, where its bytes are, and how its weights are distributed."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from converter import formats
from converter.inspection import said
from converter.pages import page, rounded
from converter.text import numbered, plural, safe_name, safe_text, together

if TYPE_CHECKING:
    from converter.reports.details import HeatReport, HistogramReport, StatisticsReport
    from converter.reports.inspection import Inspection, TensorReport

_VALUE: Final = 2000  # characters of a value that are shown
_SHARED: Final = 500  # storages whose views are listed


def inspection(found: Inspection) -> bytes:
    """The page, in UTF-8. Statistics are shown if the report has them."""
    pickled = formats.named(found.source.format).pickled
    tensors = said.in_order(found)
    measured = any(tensor.stats is not None for tensor in tensors)
    depth = list(_depth(tensors)) if measured else []
    roles = [
        (heading.removesuffix(":"), [other for other in found.others if other.role in roles])
        for heading, roles in said.TABLES
    ]
    return page(
        "inspection",
        _data(found, tensors, depth),
        kind="inspection",
        title=said.heading(found),
        location=safe_text(found.source.location, _VALUE),
        place=said.place(found),
        facts=list(said.facts(found, safety=False)),
        notes=[safe_text(note, _VALUE) for note in (*found.notes, *found.problems)],
        findings=[safe_text(finding, _VALUE) for finding in found.safety.findings],
        pickled=pickled,
        verdict=said.VERDICTS[found.safety.verdict] if pickled else None,
        globals=found.safety.globals,
        unknown=frozenset(found.safety.unknown),
        measured=measured,
        has_tensors=bool(tensors),
        depth=bool(depth),
        layout=_layout(tensors),
        metadata=[(safe_text(key.key), key.type, said.value_text(key, _VALUE)) for key in found.metadata],
        tables=[
            (heading, [(safe_text(one.name), safe_text(one.kind), said.other_text(one, unfold=True)) for one in others])
            for heading, others in roles
            if others
        ],
        files=found.source.files,
    )


def _data(found: Inspection, tensors: Sequence[TensorReport], depth: list[Any]) -> dict[str, Any]:
    """What the script of the page needs: a list for each column of the table, and which rows belong together."""
    at = {tensor.name: index for index, tensor in enumerate(tensors)}
    again = {name for names in found.tied for name in names[1:]}
    shown = ((index, safe_name(tensor.name)) for index, tensor in enumerate(tensors))
    return {
        "kind": "inspection",
        "name": [tensor.name for tensor in tensors],
        "shown": {index: text for index, text in shown if text != tensors[index].name},
        "dtype": [tensor.dtype for tensor in tensors],
        "shape": [tensor.shape for tensor in tensors],
        "stride": [None if tensor.contiguous else tensor.stride for tensor in tensors],
        "storage": [f"{'' if one.shard is None else f'{one.shard}/'}{safe_text(one.storage, 40)}" for one in tensors]
        if formats.named(found.source.format).pickled
        else None,
        "nbytes": [tensor.nbytes for tensor in tensors],
        "again": [index for index, tensor in enumerate(tensors) if tensor.name in again],
        "stats": [None if tensor.stats is None else _statistics(tensor.stats) for tensor in tensors]
        if any(tensor.stats is not None for tensor in tensors)
        else None,
        "lines": [(safe_name(line.name), [at[one.name] for one in line.members]) for line in said.fold(tensors)],
        "depth": [(label, [(number, at[name]) for number, name in members]) for label, members in depth],
    }


def _statistics(found: StatisticsReport) -> list[Any]:
    numbers = [rounded(value) for value in (found.min, found.max, found.mean, found.std, found.l2)]
    points = [rounded(value) for value in found.quantiles.values()]
    return [*numbers, found.zeros, found.nan, found.inf, points, _histogram(found.histogram), _heat(found.heat)]


def _histogram(found: HistogramReport | None) -> list[Any] | None:
    if found is None:
        return None
    return [rounded(found.low), rounded(found.high), found.below, found.above, found.counts]


def _heat(found: HeatReport | None) -> list[Any] | None:
    if found is None:
        return None
    return [found.rows, found.columns, rounded(found.largest), base64.b64encode(bytes(found.cells)).decode()]


def _depth(tensors: Sequence[TensorReport]) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    """The tensors that are the same part of several layers: what they are called, and each with its layer's number."""
    groups: dict[tuple[str, ...], list[tuple[int, str]]] = {}
    for tensor in tensors:
        number, around = numbered(tensor.name)
        if number is not None and tensor.stats is not None and tensor.stats.mean is not None:
            groups.setdefault(around, []).append((number, tensor.name))
    for around, members in groups.items():
        if len(members) > 1:
            yield safe_name(together(around, (number for number, _ in members))), sorted(members)


def _layout(tensors: Sequence[TensorReport]) -> dict[str, Any]:
    """How tensors lie in storages, and the views of each storage that has several."""
    storages: dict[tuple[int | None, str], list[TensorReport]] = {}
    for tensor in tensors:
        storages.setdefault((tensor.shard, tensor.storage), []).append(tensor)
    shared = [
        (f"{'' if shard is None else f'{shard}/'}{safe_text(key, 60)}", views)
        for (shard, key), views in storages.items()
        if len(views) > 1
    ]
    strided = sum(not tensor.contiguous for tensor in tensors)
    lie = f"{plural(len(tensors), 'tensor')} in {plural(len(storages), 'storage')}"
    across = f"{strided:,} of them {'is a view that does' if strided == 1 else 'are views that do'} not lie row by row"
    return {
        "said": f"{lie}; {across if strided else 'all of them lie row by row'}.",
        "shared": shared[:_SHARED],
        "more": len(shared) if len(shared) > _SHARED else 0,
    }
