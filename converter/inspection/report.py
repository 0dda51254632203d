"""Reports on a catalogue: what it is, what it holds, what it asks for. Tensors are only read for statistics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter import formats
from converter.errors import ArchiveError, ConverterError, UnsupportedError, WordError
from converter.formats import uncollected
from converter.formats.marks import PUBLISHED_WRITER
from converter.io.local import LocalFile
from converter.models import recognition as models
from converter.models.ties import TIED, stored_twice
from converter.reports import inspection as reports
from converter.text import natural, plural
from converter.words import PLAIN, PROGRAM, SORTS, check, check_count, option

if TYPE_CHECKING:
    from converter.reports.details import KeyReport, MemoryReport, StatisticsReport, TokenizerReport
    from converter.tensors.catalogue import Catalogue, Unsupported
    from converter.tensors.tensor import Tensor

_LISTED = 1000  # names that a report lists inside one opaque value


def check_words(sort: str | None, *, stats: bool, sha256: bool) -> None:
    """Raise WordError for a word that `inspect` does not take, or takes only with another one."""
    if sort is not None:
        check("sort", sort, SORTS)
    if sha256 and not stats:
        raise WordError("sha256", sha256, ("False, or give stats=True, too, with which the tensors are read",))


def _chosen(
    catalogue: Catalogue, recognition: models.Recognition | None, filter: str | Sequence[str]
) -> list[tuple[str, Tensor]]:
    """The tensors that a filter means; an empty one means none. Raises RuleError for a glob without a tensor."""
    if not filter:
        return []
    from converter.models.selection import meant, unknown
    from converter.opening import spelt as all_names

    spelt = all_names(catalogue, recognition)
    found: set[str] = set()
    for glob in [filter] if isinstance(filter, str) else filter:
        hits = meant(glob, spelt)
        if not hits:
            raise unknown("the filter", glob, list(spelt))
        found.update(hits)
    return [(name, tensor) for name, tensor in catalogue.items() if name in found]


@uncollected()
def inspect(
    catalogue: Catalogue,
    *,
    filter: str | Sequence[str] | None = None,
    sort: str | None = None,
    stats: bool = False,
    sha256: bool = False,
    heat: bool = False,
    context: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> reports.Inspection:
    """Report on a catalogue. `filter` has globs on names, or names as they are printed; totals keep all.

    `sort` is "name" or "size" (largest first). `stats` reads every chosen tensor; `sha256` hashes it as well, and `heat` makes
    a picture of each matrix.
    `context` is the number of tokens that memory is reported for. `progress` is called with the bytes read for statistics
    since its last call.
    """
    check_words(sort, stats=stats, sha256=sha256)
    check_count("context", context)
    recognition = _recognise(catalogue)
    whole = models.tied_back(catalogue, recognition)
    if whole is not catalogue:
        catalogue, recognition = whole, _recognise(whole)
    said, findings = _verdict(catalogue)
    chosen = list(catalogue.items()) if filter is None else _chosen(catalogue, recognition, filter)
    if stats:
        from converter.tensors.guards import check_expansion

        check_expansion(dict(chosen))
    if sort == "name":
        chosen.sort(key=lambda item: natural(item[0]))
    elif sort == "size":
        chosen.sort(key=lambda item: -item[1].nbytes)
    measured: list[StatisticsReport | ArchiveError] = []
    if stats:
        measured = _statistics(catalogue, [name for name, _ in chosen], sha256, heat, progress)
    tied = catalogue.tied()
    held = models.buffers(catalogue, recognition)
    stored = {name: stored_nbytes(tensor) for name, tensor in catalogue.items()}
    totals = _totals(catalogue, held, tied, stored)
    format = formats.of(catalogue)
    words, memory = format.words(catalogue), _memory(catalogue, totals.nbytes, context)
    return reports.Inspection(
        source=reports.SourceReport(
            catalogue.location,
            catalogue.format,
            tuple(reports.FileReport(Path(file.name).name, file.nbytes) for file in catalogue.origin.files),
            catalogue.facts.get("writer"),
            catalogue.origin.traffic.requests if catalogue.origin.traffic else None,
            catalogue.origin.traffic.nbytes if catalogue.origin.traffic else None,
        ),
        model=_model(recognition, _is_proven(catalogue, recognition, read=sha256)) if recognition else None,
        weights=_weights(catalogue, held),
        safety=reports.SafetyReport(
            said,
            tuple(sorted({str(use) for use in catalogue.globals})),
            tuple(findings),
            tuple(catalogue.unknown_globals()),
        ),
        totals=totals,
        tied=tuple(map(tuple, tied)),
        tensors=tuple(
            _tensor(name, tensor, stored[name], None if isinstance(found, ArchiveError) else found)
            for (name, tensor), found in zip_longest(chosen, measured)
        ),
        others=tuple(_others(catalogue)),
        problems=(
            *_problems(catalogue, recognition),
            *_heads(catalogue, recognition, dict(zip((name for name, _ in chosen), measured, strict=False))),
            *_faults(chosen, measured, held),
        ),
        notes=catalogue.origin.notes,
        metadata=_keys(format.keys(catalogue)),
        tokenizer=None if words is None else _tokenizer(words),
        types=tuple(_types(catalogue, tied, stored)),
        memory=memory,
    )


def cut_off(path: str | Path) -> str | None:
    """A sentence on how much of a declared model's file a broken download has; None if it can't be recognised."""
    source = LocalFile(path)
    from converter.formats.torch.reader import read_cut_off  # needed only for PyTorch files

    catalogue = read_cut_off(source)
    recognition = models.recognise(catalogue) if catalogue is not None else None
    if recognition is None or recognition.model is None or catalogue is None:
        return None
    from converter.sample import expected_nbytes  # needed only for files whose size is not declared

    model = recognition.model
    # A shard is recognised by the name of its first tensor.
    first = next(iter(catalogue))
    file = next((file for file in model.files if file.first == first), model.files[0])
    expected = file.nbytes or expected_nbytes(model, file)
    return (
        f"`{path}` was cut off: it has {plural(source.size, 'byte')}, and by its shapes it is {file.name} of {model.name}, which "
        f"has {expected:,} ({source.size / expected:.0%} are here): download it again"
    )


def _statistics(
    catalogue: Catalogue, names: list[str], sha256: bool, heat: bool, progress: Callable[[int], None] | None
) -> list[StatisticsReport | ArchiveError]:
    """The statistics of tensors, or how one is damaged. Raises the error of the first one that can't be read at all."""
    from converter.statistics.measuring import measured
    from converter.tensors.crc_checked import checked

    sound, _ = checked(catalogue)
    threads = None if catalogue.concurrent else 1
    found: list[StatisticsReport | ArchiveError] = []
    tensors = [sound[name] for name in names]
    for one in measured(tensors, names=names, sha256=sha256, heat=heat, threads=threads, progress=progress):
        if isinstance(one, ConverterError) and not isinstance(one, ArchiveError):
            raise one
        found.append(one)
    return found


def _faults(
    chosen: list[tuple[str, Tensor]], measured: list[StatisticsReport | ArchiveError], held: set[str]
) -> Iterable[str]:
    """Sentences about damage, and about values that no sound model has, if statistics were asked for."""
    if not measured:
        return
    from converter.statistics.faults import Measured, faults

    sound = []
    for (name, tensor), found in zip(chosen, measured, strict=True):
        if isinstance(found, ArchiveError):
            yield f"{name}: {found}"
        else:
            sound.append(Measured(name, tensor, found, name in held))
    for fault in faults(sound):
        yield f"{fault.name}: {fault.said}" if fault.name else fault.said


def _heads(
    catalogue: Catalogue,
    recognition: models.Recognition | None,
    measured: Mapping[str, StatisticsReport | ArchiveError],
) -> Iterable[str]:
    """Sentences about heads that are tensors of their own. Where both were read, the bytes are compared, too."""
    followers = recognition.followers if recognition is not None else {}
    compared = set[str]()
    for head, name, is_tied in stored_twice(catalogue, catalogue.config, followers):
        one, other = measured.get(head), measured.get(name)
        if one is not None and other is not None and catalogue.concurrent and is_tied:
            from converter.tensors.equality import equal

            compared.add(head)
            if one == other and equal(catalogue[head], catalogue[name]):
                yield f"{head} equals {name}, to which the model ties it, and is stored beside it"
            else:
                yield f"{head} differs from {name}, though the model ties the two"
    if recognition is None or recognition.tied_head != "untied" or not recognition.family.setting(TIED, {}):
        return
    if compared.isdisjoint(followers):
        yield f"{next(iter(recognition.family.followers))} is not tied to the embedding, as the architecture's usually is"


def _verdict(catalogue: Catalogue) -> tuple[str, list[str]]:
    """The verdict on what the pickles name, and its reasons. The tables of names are loaded where one is unknown."""
    program = catalogue.facts.get("program")
    if program:
        return PROGRAM, [f"it is {program}: torch compiles its code when it loads it"]
    if all(use.known for use in catalogue.globals):
        return PLAIN, []
    from converter.scanning.danger import verdict

    return verdict(catalogue.globals)


def _recognise(catalogue: Catalogue) -> models.Recognition | None:
    """Recognise the model. GGUF's names are turned into those of the architectures first.

    Tensors that can't be carried over count as well: they are not missing.
    """
    known = formats.canonical(catalogue)
    shaped: dict[str, models.Shaped] = dict(known)
    for other in known.unsupported:
        if other.shape is not None:
            shaped[other.name] = models.Outline(other.shape)
    return models.recognise(shaped, known.config)


def _is_proven(catalogue: Catalogue, recognition: models.Recognition, *, read: bool) -> bool:
    if recognition.model is None or not any(file.sha256 for file in recognition.model.files):
        return False
    from converter.models.called import proven

    return proven(catalogue, recognition.model, read=read)


def _model(recognition: models.Recognition, proven: bool) -> reports.ModelReport:
    return reports.ModelReport(
        name=recognition.model.name if recognition.model else None,
        proven=proven,
        architecture=recognition.family.name,
        title=recognition.family.described(recognition.sizes),
        complete=recognition.complete,
        missing=recognition.missing,
        unexpected=recognition.unexpected,
        mismatched=tuple(mismatch.name for mismatch in recognition.mismatched),
        sizes=dict(recognition.sizes),
    )


def _totals(
    catalogue: Catalogue, held: set[str], tied: list[list[str]], stored: Mapping[str, int]
) -> reports.TotalsReport:
    parameters = elements = nbytes = 0
    again = {name for names in tied for name in names[1:]}
    for name, tensor in catalogue.items():
        if name not in again:
            nbytes += stored[name]
            count = tensor.size * tensor.dtype.packed
            if name in held:
                elements += count
            else:
                parameters += count
    for other in catalogue.unsupported:
        nbytes += other.nbytes
        parameters += math.prod(other.shape) if other.shape is not None and other.name not in held else 0
    return reports.TotalsReport(len(catalogue) + len(catalogue.unsupported), parameters, nbytes, elements)


def _types(catalogue: Catalogue, tied: list[list[str]], stored: Mapping[str, int]) -> Iterable[reports.TypeReport]:
    """The tensors by their dtypes, the one with the most bytes first."""
    again = {name for names in tied for name in names[1:]}
    found: dict[str, list[Tensor]] = {}
    sizes: dict[str, int] = {}
    for name, tensor in catalogue.items():
        if name not in again:
            dtype = tensor.storage.encoding or tensor.dtype.name
            found.setdefault(dtype, []).append(tensor)
            sizes[dtype] = sizes.get(dtype, 0) + stored[name]
    for dtype, tensors in sorted(found.items(), key=lambda item: -sizes[item[0]]):
        elements = sum(tensor.size * tensor.dtype.packed for tensor in tensors)
        bits = round(8 * sizes[dtype] / elements, 4) if elements else None
        yield reports.TypeReport(dtype, len(tensors), elements, sizes[dtype], bits)


def _keys(keys: Iterable[Any]) -> tuple[KeyReport, ...]:
    if not (found := list(keys)):
        return ()
    from converter.reports.details import KeyReport

    return tuple(KeyReport(*key[:4]) for key in found)


def _tokenizer(words: Any) -> TokenizerReport:
    from converter.reports.details import TokenizerReport

    return TokenizerReport(*words)


def _memory(catalogue: Catalogue, weights: int, context: int | None) -> MemoryReport | None:
    """What llama.cpp needs. Raises UnsupportedError if a context is asked for and the file does not say what one takes."""
    cache = formats.of(catalogue).cache(catalogue, context)
    if cache is not None:
        from converter.reports.details import MemoryReport

        return MemoryReport(cache.context, weights, cache.nbytes, cache.exact)
    if context is not None:
        raise UnsupportedError(
            f"`{catalogue.location}` does not say the sizes from which the memory for a context follows: "
            f"{option('context')} is for GGUF files of models with attention"
        )
    return None


def stored_nbytes(tensor: Tensor) -> int:
    """The bytes of the logical tensor, or those of its blocks if the file holds it quantised."""
    if tensor.storage.encoding is None:
        return tensor.nbytes
    from converter.formats.gguf.encodings import BY_NAME

    return BY_NAME[tensor.storage.encoding].size(tensor.size)


def _tensor(name: str, tensor: Tensor, nbytes: int, stats: StatisticsReport | None) -> reports.TensorReport:
    return reports.TensorReport(
        name=name,
        dtype=tensor.storage.encoding or tensor.dtype.name,
        shape=tensor.shape,
        stride=tensor.stride,
        offset=tensor.offset,
        storage=tensor.storage.key,
        shard=tensor.storage.shard,
        nbytes=nbytes,
        contiguous=tensor.contiguous,
        stats=stats,
    )


def _others(catalogue: Catalogue) -> Iterable[reports.OtherReport]:
    for tensor in catalogue.unsupported:
        yield _unsupported(tensor)
    if not catalogue.others:
        return
    from converter.pickles.plain import Plainly  # imported here, because few checkpoints need it
    from converter.pickles.walk import describe, inner_tensors, measure

    plainly, seen, counted = Plainly(), set[int](), set[int]()
    for other in catalogue.others:
        inner = inner_tensors(other.value, _LISTED, seen)
        plain = plainly(other.value) if not inner else None
        yield reports.OtherReport(
            other.name,
            other.kind,
            describe(other.value),
            tuple(name for name, _ in inner),
            other.role,
            *measure(other.value, counted),
            None if plain is None else plain.value,
        )


def _weights(catalogue: Catalogue, held: set[str]) -> reports.WeightsReport:
    """Which part of the file the weights are. Only readers of pickles choose one. `held` are the buffers among them."""
    facts = catalogue.facts
    named = tuple(name for name in catalogue if name in held)
    root, prefix, module, program = (facts.get(key) or "" for key in ("root", "prefix", "module", "program"))
    return reports.WeightsReport(
        root, prefix, module, program, facts.get("averaged") or (), named, facts.get("hooked") or ()
    )


def _unsupported(other: Unsupported) -> reports.OtherReport:
    words = [other.dtype] if other.dtype else []
    if other.shape is not None:
        words.append("×".join(map(str, other.shape)) or "scalar")
    value = " ".join(words) or other.kind
    return reports.OtherReport(other.name, f"{other.kind} tensor", value, (), "unsupported", nbytes=other.nbytes)


def _problems(catalogue: Catalogue, recognition: models.Recognition | None) -> Iterable[str]:
    yield from catalogue.problems
    if (alone := formats.alone(catalogue)) is not None:
        yield alone
    if catalogue.unchecked:
        yield "it was saved without CRCs: damage to its data can't be noticed"
    if recognition is None:
        if catalogue.config:
            from converter.models.misfit import misfits  # needed only beside a config.json

            known = formats.canonical(catalogue)
            whole = not catalogue.missing and formats.alone(catalogue) is None
            yield from misfits(known, known.config or {}, whole=whole)
        return
    yield from recognition.contradictions
    model = recognition.model
    # Later versions of torch add records, so only this layout has the published size.
    if model is None or not recognition.complete or catalogue.facts.get("writer") != PUBLISHED_WRITER:
        return
    declared = [file.nbytes for file in model.files]
    found = [file.nbytes for file in catalogue.origin.files]
    if len(found) == len(declared) and recognition.tied_head == "absent":
        for file, nbytes, expected in zip(catalogue.origin.files, found, declared, strict=True):
            if expected is not None and nbytes != expected and model.layout.transposed:
                yield (
                    f"{Path(file.name).name} is {plural(abs(nbytes - expected), 'byte')} "
                    f"{'longer' if nbytes > expected else 'shorter'} than the published {model.name} "
                    f"({expected:,} bytes): it was saved again or changed"
                )
