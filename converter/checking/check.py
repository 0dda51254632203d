"""Checks checkpoints: opens each, reads everything once, and names what is wrong."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from converter import formats
from converter.checking.beside import misfits
from converter.checking.layers import gaps, odd_ones
from converter.checking.rules import ERROR, RULES, WARNING
from converter.errors import (
    AmbiguousError,
    ArchiveError,
    ConverterError,
    CutOffError,
    ForeignFileError,
    FormatError,
    LayoutError,
    ManifestError,
    PickleError,
    ProgramError,
    RootError,
    TruncatedPickleError,
)
from converter.io.source import STEP
from converter.models.masks import droppable
from converter.models.recognition import Outline, Recognition, buffers, recognise, tied_back
from converter.models.ties import is_tied, stored_twice
from converter.opening import open_checkpoint
from converter.reports.checking import CheckedReport, CheckReport, FaultReport, UnreadReport
from converter.scanning.danger import verdict
from converter.statistics.faults import Fault, Measured, faults
from converter.statistics.measuring import measured
from converter.steps import step
from converter.tensors.catalogue import Catalogue
from converter.tensors.crc_checked import checked
from converter.tensors.equality import equal
from converter.tensors.guards import check_expansion, held_instead
from converter.words import DANGEROUS

if TYPE_CHECKING:
    from converter.models.recognition import Shaped
    from converter.reports.details import StatisticsReport
    from converter.tensors.tensor import Storage, Tensor
    from converter.words import Root

Progress = Callable[[int], None]
# The rule for each cause of a failed read. Any other cause is not the file's fault: it could not be checked.
_CAUSES: Final = (
    (CutOffError, "cut-off"),
    (TruncatedPickleError, "cut-off"),
    (ManifestError, "not-whole"),
    (ArchiveError, "unreadable"),
    (FormatError, "unreadable"),
    (PickleError, "unreadable"),
    (LayoutError, "unreadable"),
)
_MOST: Final = 100  # names of one rule that are reported for a checkpoint


def check(
    locations: Sequence[str | Path | Catalogue],
    *,
    root: Root = None,
    threads: int | None = None,
    progress: Progress | None = None,
    starting: Callable[[int], None] | None = None,
    going_on: bool = False,
) -> CheckReport:
    """Check checkpoints. `starting` is called with the bytes of each before it is read, `progress` as they are read.

    A catalogue that is given stays open. Raises an error if a checkpoint can't be opened and that is not its own fault:
    SourceError or LimitError, and ForeignFileError for a file that is no checkpoint. With `going_on` the report has that
    error in `unread`, and the other checkpoints are checked all the same.
    """
    found, unread = [], []
    for location in locations:
        name = location.location if isinstance(location, Catalogue) else str(location)
        with step("check", name):
            start = time.perf_counter()
            try:
                one = _checked(location, root, threads, progress, starting)
            except ConverterError as error:
                if not going_on:
                    raise
                told = {"class": type(error).__name__, "message": f"{error}{error.advice}"}
                unread.append(UnreadReport(name, told))
            else:
                found.append(replace(one, seconds=time.perf_counter() - start))
    levels = {level: sum(one.count(level) for one in found) for level in (ERROR, WARNING)}
    return CheckReport(tuple(found), levels, tuple(unread) or None)


def fails(report: CheckReport, *, warnings: bool) -> bool:
    """Whether a report has an error, or with `warnings` any fault."""
    return bool(report.counts[ERROR] or (warnings and report.counts[WARNING]))


def _checked(
    location: str | Path | Catalogue,
    root: Root,
    threads: int | None,
    progress: Progress | None,
    starting: Callable[[int], None] | None,
) -> CheckedReport:
    if isinstance(location, Catalogue):
        return _of(location, threads, progress, starting)
    try:
        catalogue = open_checkpoint(location, root=root)
    except ConverterError as error:
        rule = _rule(error)
        if rule is None:
            raise
        return CheckedReport(str(location), "", "", 0, 0, tuple(_reports([Fault(rule, "", str(error))])))
    with catalogue:
        return _of(tied_back(catalogue, recognise(catalogue, catalogue.config)), threads, progress, starting)


def _of(
    catalogue: Catalogue,
    threads: int | None,
    progress: Progress | None,
    starting: Callable[[int], None] | None,
) -> CheckedReport:
    check_expansion(catalogue)
    known = formats.canonical(catalogue)
    shaped: dict[str, Shaped] = dict(known)
    shaped |= {other.name: Outline(other.shape) for other in known.unsupported if other.shape is not None}
    recognition = recognise(shaped, known.config)
    if starting is not None:
        starting(sum(tensor.nbytes for tensor in catalogue.values()))
    found = [
        *_opening(catalogue),
        *_model(catalogue, recognition),
        *odd_ones(catalogue, shapes=recognition is None),
        *misfits(catalogue, recognition),
        *_values(catalogue, recognition, threads, progress),
        *_masks(known, recognition),
    ]
    catalogue.check_unchanged()
    title = recognition.family.described(recognition.sizes) if recognition is not None else ""
    nbytes = sum(file.nbytes for file in catalogue.origin.files)
    return CheckedReport(catalogue.location, catalogue.format, title, len(catalogue), nbytes, tuple(_reports(found)))


def _rule(error: ConverterError) -> str | None:
    if isinstance(error, (AmbiguousError, ForeignFileError, ProgramError, RootError)):
        return None
    return next((rule for cause, rule in _CAUSES if isinstance(error, cause)), None)


def _reports(found: Sequence[Fault]) -> Iterator[FaultReport]:
    """The faults, errors first. At most _MOST faults of each rule are named, and the rest are counted."""
    counts: dict[str, int] = {}
    for fault in sorted(found, key=lambda fault: (RULES[fault.rule].level != ERROR, list(RULES).index(fault.rule))):
        counts[fault.rule] = counts.get(fault.rule, 0) + 1
        if counts[fault.rule] <= _MOST:
            yield FaultReport(fault.rule, RULES[fault.rule].level, fault.name, fault.said)
    for rule, count in counts.items():
        if count > _MOST:
            yield FaultReport(rule, RULES[rule].level, "", f"and {count - _MOST:,} more of this kind")


def _opening(catalogue: Catalogue) -> Iterator[Fault]:
    """What was found out when the checkpoint was opened."""
    if (alone := formats.alone(catalogue)) is not None:
        yield Fault("not-whole", "", alone)
    for name in catalogue.missing:
        yield Fault("missing", name, "the index names it, and no shard holds it")
    yield from (Fault("contradiction", "", said) for said in catalogue.problems)
    for other in catalogue.unsupported:
        yield Fault("unsupported", other.name, f"it is a {other.kind} tensor, whose values are not read here")
    if catalogue.unchecked:
        yield Fault("unchecked", "", "it was saved without CRCs, so damage to it can't be noticed")
    said, reasons = verdict(catalogue.globals) if catalogue.unknown_globals() else ("", [])
    if said == DANGEROUS:
        yield from (Fault("dangerous", "", reason) for reason in reasons[:_MOST])
    if not catalogue and not catalogue.unsupported and not catalogue.facts.get("program"):
        yield Fault("empty", "", f"it holds no weights{held_instead(catalogue)}")


def _model(catalogue: Catalogue, recognition: Recognition | None) -> Iterator[Fault]:
    """What the model lacks, by its family, or else by its other layers."""
    names = [*catalogue, *(other.name for other in catalogue.unsupported)]
    if recognition is None:
        yield from gaps(names)
        return
    for name in recognition.missing:
        yield Fault("missing", name, f"{recognition.family.title} has it")
    for wrong in recognition.mismatched:
        sizes = "×".join(map(str, wrong.expected)) or "a scalar"
        yield Fault("shape", wrong.name, f"it is {'×'.join(map(str, wrong.found)) or 'a scalar'}: expected {sizes}")
    for name in recognition.unexpected:
        yield Fault("unexpected", name, f"{recognition.family.title} does not have it")


def _values(
    catalogue: Catalogue, recognition: Recognition | None, threads: int | None, progress: Progress | None
) -> Iterator[Fault]:
    """Read everything once: compare the CRCs, and look at the values."""
    sound, finish = checked(catalogue)
    held = buffers(catalogue, recognition)
    tensors: list[tuple[str, Tensor]] = list(sound.items())
    results = measured(
        [tensor for _, tensor in tensors],
        names=list(sound),
        threads=threads if catalogue.concurrent else 1,
        progress=progress,
    )
    found: list[Measured] = []
    damaged: set[int] = set()
    for (name, tensor), one in zip(tensors, results, strict=True):
        if isinstance(one, ConverterError):
            damaged.add(id(tensor.storage))
            yield Fault("damaged" if isinstance(one, ArchiveError) else _rule(one) or "unreadable", name, str(one))
        else:
            found.append(Measured(name, tensor, one, name in held))
    yield from faults(found)
    yield from _heads(catalogue, recognition, {one.name: one.stats for one in found})
    used = {id(tensor.storage) for _, tensor in tensors}
    for storage in {id(one): one for one in sound.storages}.values():
        if id(storage) not in used and storage.crc32 is not None:
            yield from _unread(storage)
    try:
        finish()
    except ArchiveError as error:
        if not damaged:
            yield Fault("damaged", "", str(error))


def _heads(
    catalogue: Catalogue, recognition: Recognition | None, stats: Mapping[str, StatisticsReport]
) -> Iterator[Fault]:
    """Heads that are tensors of their own, although the model ties them to an embedding."""
    followers = recognition.followers if recognition is not None else {}
    compared = set[str]()
    for head, name, tied in stored_twice(catalogue, catalogue.config, followers):
        one = stats.get(head)
        if not tied or one is None or name not in stats or not catalogue.concurrent:  # a server sends each byte once
            continue
        compared.add(head)
        if one == stats[name] and equal(catalogue[head], catalogue[name]):
            yield Fault("stored-twice", head, f"it equals {name}, to which the model ties it")
        else:
            yield Fault("untied", head, f"it differs from {name}, though the model ties the two")
    if recognition is None or recognition.tied_head != "untied" or not compared.isdisjoint(followers):
        return
    if is_tied(formats.canonical(catalogue).config) is not False:
        yield Fault("untied", next(iter(recognition.family.followers)), "it is not tied to the embedding")


def _unread(storage: Storage) -> Iterator[Fault]:
    """Read a storage that holds no weights, such as an optimizer's, so that its CRC is compared."""
    buffer = memoryview(bytearray(min(STEP, storage.nbytes)))
    try:
        for _ in storage.tiles(0, storage.nbytes, buffer):
            pass
    except ArchiveError as error:
        yield Fault("damaged", "", str(error))


def _masks(catalogue: Catalogue, recognition: Recognition | None) -> Iterator[Fault]:
    if recognition is None or (formats.canonical(catalogue) is not catalogue and not recognition.buffers):
        return
    right = set(droppable(catalogue, recognition))
    for name in recognition.buffers:
        # Masks of wider elements were saved with several values; those of a byte hold only ones and zeros.
        if name not in right and catalogue[name].dtype.itemsize == 1:
            yield Fault("mask", name, f"it is not the mask that {recognition.family.title} has there")
