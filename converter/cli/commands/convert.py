"""`convert`: writes a checkpoint in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from converter.cli.commands import answer, command, opened, showing
from converter.cli.options import (
    CarryValues,
    Ema,
    Exclude,
    Force,
    IgnoreGlobals,
    Include,
    Json,
    Log,
    Merge,
    NoCrc,
    Quiet,
    Rename,
    Root,
    Source,
    Strip,
    TensorType,
    Threads,
    Verbose,
    Weights,
    WithCode,
    nbytes,
    one_of,
    part,
)
from converter.dtypes import spelled
from converter.formats import WRITABLE

_TARGETS: Final = [format.name for format in WRITABLE]
_ENDINGS: Final = [format.ending for format in WRITABLE if format.ending]
_DTYPES: Final = dict.fromkeys(word for format in WRITABLE for word in (*format.dtypes, *format.mixtures))


@command
def convert(
    source: Source,
    output: Annotated[
        Path | None,
        typer.Argument(
            metavar="[OUTPUT]",
            help=f"A file ({', '.join(_ENDINGS)}), or a folder. With --to it may be left out: its name follows from SOURCE's.",
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option("--to", help="The format, if OUTPUT's ending does not say it.", **one_of(_TARGETS)),
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(
            "--dtype",
            help=f"What floating-point tensors become: {', '.join(_DTYPES)}.",
            **one_of(_DTYPES, spelled, metavar="TYPE"),
        ),
    ] = "keep",
    max_shard_size: Annotated[
        str | None, typer.Option("--max-shard-size", metavar="SIZE", help="Split into files of at most this size: 5GB.")
    ] = None,
    tensor_type: TensorType = None,
    merge: Merge = None,
    include: Include = None,
    exclude: Exclude = None,
    strip: Strip = None,
    rename: Rename = None,
    keep_buffers: Annotated[bool, typer.Option("--keep-buffers", help="Carry the masks over, too.")] = False,
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", metavar="DIR", help="The folder with another tokenizer than SOURCE's.")
    ] = None,
    no_tokenizer: Annotated[
        bool,
        typer.Option(
            "--no-tokenizer",
            help="Write a GGUF file without a tokenizer: it takes token ids only, and most programs abort on it.",
        ),
    ] = False,
    pure: Annotated[
        bool | None,
        typer.Option(
            "--pure/--no-pure",
            help="All matrices of a GGUF file get one type, or llama-quantize's mixture. Left out, --dtype says which.",
        ),
    ] = None,
    imatrix: Annotated[
        Path | None,
        typer.Option(
            "--imatrix", metavar="FILE", help="The importance matrix to quantise with, as llama-imatrix writes it."
        ),
    ] = None,
    no_crc: NoCrc = False,
    threads: Threads = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be written.")] = False,
    force: Force = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run ended.")] = False,
    ignore_globals: IgnoreGlobals = False,
    carry_values: CarryValues = False,
    with_code: WithCode = False,
    tie: Annotated[
        bool, typer.Option("--tie", help="Write a head that equals the embedding only once, if the model ties them.")
    ] = False,
    root: Root = None,
    ema: Ema = False,
    weights: Weights = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log: Log = None,
) -> None:
    """Convert to safetensors, GGUF, npz or a parameters folder, streaming: memory does not grow with the model."""
    from converter.cli import next_steps
    from converter.cli.render.conversion import show_conversion
    from converter.conversion.convert import convert as converted
    from converter.conversion.convert import default_output
    from converter.conversion.merging import merged
    from converter.conversion.surgery import rules

    if output is None and to is None:
        raise typer.BadParameter(f"say what it should become: --to {', '.join(_TARGETS)}, or an OUTPUT")
    size = nbytes(max_shard_size)
    surgery = rules(
        include=include or (),
        exclude=exclude or (),
        strip=strip or (),
        rename=rename or (),
        tensor_type=tensor_type or (),
    )
    with showing("converting", quiet=quiet, bar=not json, verbose=verbose, log=log) as progress:
        catalogue = merged(opened(source, part(root, ema), weights), [opened(other, None) for other in merge or ()])
        target = default_output(catalogue, to or "", dtype) if output is None else output
        report = converted(
            catalogue,
            target,
            to=to,
            dtype=dtype,
            max_shard_size=size,
            keep_buffers=keep_buffers,
            tokenizer=tokenizer,
            no_tokenizer=no_tokenizer,
            pure=pure,
            imatrix=imatrix,
            check_crc=not no_crc,
            dry_run=dry_run,
            force=force,
            resume=resume,
            ignore_globals=ignore_globals,
            carry_values=carry_values,
            with_code=with_code,
            tie=tie,
            threads=threads,
            surgery=surgery,
            progress=progress,
            starting=progress.start,
        )
    if json:
        answer(report)
    elif not quiet:
        show_conversion(report)
        if report.written:
            chosen = {
                "--merge": merge,
                "--include": include,
                "--exclude": exclude,
                "--strip": strip,
                "--rename": rename,
            }
            parts = {"--root": root, "--ema": ema, "--weights": weights}
            check = next_steps.verifying(source, report.output, {**chosen, **parts})
            next_steps.show([check, *next_steps.opening(report, tokenizer=not no_tokenizer)])
