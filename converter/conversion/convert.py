"""Converts a catalogue to any format that can be written."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from converter import formats
from converter.conversion.job import NOTHING, Job, prepare
from converter.dtypes import spelled
from converter.errors import OutputError, SourceError
from converter.formats.planned import Options
from converter.hub.outputs import Target, check_target, target_of
from converter.models.called import called
from converter.reports import conversion as reports
from converter.steps import step
from converter.tensors.losses import Loss, Losses
from converter.words import check, check_count, option

if TYPE_CHECKING:
    from converter.conversion.surgery import Surgery
    from converter.formats.format import Format
    from converter.io.publish import PlannedFile
    from converter.tensors.catalogue import Catalogue


def target_format(output: Target, to: str | None) -> Format:
    """The format by the output's ending, or `to`. Raises OutputError if neither says it, and WordError for an unknown word."""
    words = [format.name for format in formats.WRITABLE]
    if to is not None:
        check("to", to, words)
    asked = next((format for format in formats.WRITABLE if format.ending and output.suffix == format.ending), None)
    if to is None and asked is None:
        endings = [format.ending for format in formats.WRITABLE if format.ending]
        raise OutputError(f"`{output}` ends in neither {' nor '.join(endings)}: say {option('to', *words)}")
    if to is not None and asked is not None and to != asked.name:
        raise OutputError(f"`{output}` ends in {output.suffix}, which is not {to}: choose one of them")
    return asked or formats.named(to or "")


def default_output(catalogue: Catalogue, to: str, dtype: str) -> Path:
    """Where a conversion goes if no output is given: into the current folder, named after the checkpoint and what it becomes."""
    format, name = formats.named(to), called(catalogue.place)
    if dtype == "keep":
        sizes: Counter[str] = Counter()
        for tensor in catalogue.values():
            sizes[tensor.dtype.name] += tensor.nbytes
        dtype = sizes.most_common(1)[0][0] if sizes else ""
    # Unless they are inside the file, config.json and the tokenizer lie beside the weights, in a folder.
    ending = format.ending or "" if format.self_contained else ""
    return Path("-".join(filter(None, (name, dtype.upper() if ending else to))) + ending)


def check_words(output: Target, to: str | None, dtype: str) -> tuple[Format, str]:
    """The chosen format and dtype. Raises WordError or OutputError if there is no such format or dtype."""
    format, word = target_format(output, to), spelled(dtype)
    check(
        "dtype",
        word,
        list(dict.fromkeys(word for other in formats.WRITABLE for word in (*other.dtypes, *other.mixtures))),
    )
    return format, word


def convert(
    catalogue: Catalogue,
    output: Target,
    *,
    to: str | None = None,
    dtype: str = "keep",
    max_shard_size: int | None = None,
    keep_buffers: bool = False,
    tokenizer: Path | None = None,
    no_tokenizer: bool = False,
    pure: bool | None = None,
    imatrix: Path | None = None,
    check_crc: bool = True,
    dry_run: bool = False,
    force: bool = False,
    resume: bool = False,
    ignore_globals: bool = False,
    carry_values: bool = False,
    with_code: bool = False,
    tie: bool = False,
    threads: int | None = None,
    surgery: Surgery = NOTHING,
    progress: Callable[[int], None] | None = None,
    starting: Callable[[int], None] | None = None,
) -> reports.ConversionReport:
    """Write `output`, or with `dry_run` only report what would be written.

    The output may lie in a store: `s3://bucket/key`. With the ending of a format (.safetensors, .gguf) it is one file; any
    other is a folder, with config.json and the tokenizer's files beside the weights. `starting` is called with the number of
    bytes before the first is written.
    As many threads work as there are processors, or as `threads` says; one thread reads a remote source. `surgery` holds
    the rules: which tensors are carried over, under which names and in which dtypes. `tokenizer` is the folder of another
    tokenizer than the one beside the source; `no_tokenizer` allows a GGUF file that has none. With `with_code`, code beside the
    weights goes along. With `carry_values`, small
    values beside the weights go along. `pure` and `imatrix` are for GGUF: whether all matrices get one type, and a file with the
    importance of their columns. With `tie`, a head that equals the embedding is written once.

    Raises WordError for an unknown format or dtype, and the errors of `prepare` and of writing.
    """
    output = target_of(output)
    with contextlib.suppress(OSError):  # the source may be remote, and the output usually does not exist yet
        if isinstance(output, Path) and output.samefile(catalogue.path.parent):
            raise OutputError(f"`{output}` holds the input: choose another output")
        if isinstance(output, Path) and imatrix is not None and output.samefile(imatrix):
            raise OutputError(f"`{output}` is the input itself: choose another output")
    format, dtype = check_words(output, to, dtype)
    check_count("max_shard_size", max_shard_size)
    check_count("threads", threads)
    if tokenizer is not None and no_tokenizer:
        raise SourceError(f"{option('tokenizer')} and {option('no-tokenizer')} contradict each other: give one of them")
    lone = format.ending is not None and output.suffix == format.ending

    def check_output() -> None:
        if not dry_run and not resume:
            check_target(
                output,
                folder=not lone,
                force=force,
                source=catalogue,
            )

    options = Options(
        dtype=dtype,
        max_shard_size=max_shard_size or (None if lone else format.shard),
        keep_buffers=keep_buffers,
        tokenizer=tokenizer,
        no_tokenizer=no_tokenizer,
        pure=pure,
        imatrix=imatrix,
        name=output.name if lone else None,
    )
    with step("plan", str(output)):
        job = prepare(
            catalogue,
            output,
            format,
            options,
            check_crc=check_crc,
            ignore_globals=ignore_globals,
            carry_values=carry_values,
            with_code=with_code,
            tie=tie,
            check_output=check_output,
            surgery=surgery,
        )
    if not dry_run:
        if starting is not None:
            starting(job.plan.nbytes)
        job.write(force=force, resume=resume, progress=progress, threads=threads)
    return _report(job, dry_run=dry_run)


def _report(job: Job, *, dry_run: bool) -> reports.ConversionReport:
    losses = list(job.planned.losses.values())
    by_dtype = {
        dtype: _summed(loss for loss in losses if loss.dtype == dtype)
        for dtype in sorted({loss.dtype for loss in losses})
    }
    return reports.ConversionReport(
        source=job.source.location,
        output=str(job.output),
        format=job.format.name,
        dtype=job.options.dtype,
        model=job.model,
        written=not dry_run,
        nbytes=job.plan.nbytes,
        tensors=job.planned.tensors,
        files=tuple(_planned_file(file, job.output) for file in job.plan.files),
        dropped=job.dropped,
        carried=tuple(job.options.values),
        tied=tuple(job.planned.tied.items()),
        loss=reports.LossReport(**_summed(losses)),
        notes=job.notes,
        excluded=job.cut.excluded,
        renamed=job.cut.renamed,
        quantiser=job.format.quantiser(job.planned.quantised) if job.planned.quantised and not dry_run else None,
        losses=tuple(reports.DtypeLossReport(dtype, **sums) for dtype, sums in by_dtype.items() if any(sums.values())),
    )


def _summed(losses: Iterable[Loss]) -> dict[str, int]:
    """The fields of a report on losses."""
    total = Losses()
    for loss in losses:
        total.add("", loss)
    whole = total.get("", Loss())
    return {
        "nan": whole.nan,
        "overflowed": whole.overflowed,
        "underflowed": whole.underflowed,
        "rounded": whole.rounded,
    }


def _planned_file(file: PlannedFile, output: Target) -> reports.PlannedFileReport:
    pieces, offset = [], 0
    for piece in file.pieces:
        if piece.dtype is not None:
            pieces.append(reports.PlannedTensorReport(piece.name, piece.dtype, offset, piece.nbytes))
        offset += piece.nbytes
    return reports.PlannedFileReport(file.path or output.name, offset, tuple(pieces))
