"""`convert`: writes a checkpoint in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from converter.cli.commands import command, opened
from converter.cli.options import (
    CarryValues,
    Ema,
    Exclude,
    Force,
    IgnoreGlobals,
    Include,
    Json,
    Merge,
    NoCrc,
    Quiet,
    Rename,
    Root,
    Source,
    Strip,
    TensorType,
    Threads,
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
_DTYPES: Final = dict.fromkeys(word for format in WRITABLE for word in format.dtypes)


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
        str, typer.Option("--dtype", help="What floating-point tensors become.", **one_of(_DTYPES, spelled))
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
        typer.Option("--no-tokenizer", help="Allow a GGUF file without: it takes token ids, and most programs abort."),
    ] = False,
    no_crc: NoCrc = False,
    threads: Threads = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be written.")] = False,
    force: Force = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run ended.")] = False,
    ignore_globals: IgnoreGlobals = False,
    carry_values: CarryValues = False,
    with_code: WithCode = False,
    root: Root = None,
    ema: Ema = False,
    weights: Weights = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Convert to safetensors, GGUF, npz or a parameters folder, streaming: memory does not grow with the model."""
    from converter import reports
    from converter.cli.progress import showing
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
    catalogue = merged(opened(source, part(root, ema), weights), [opened(other, None) for other in merge or ()])
    target = default_output(catalogue, to or "", dtype) if output is None else output
    with showing("converting", 0, quiet=quiet or json) as progress:
        report = converted(
            catalogue,
            target,
            to=to,
            dtype=dtype,
            max_shard_size=size,
            keep_buffers=keep_buffers,
            tokenizer=tokenizer,
            no_tokenizer=no_tokenizer,
            check_crc=not no_crc,
            dry_run=dry_run,
            force=force,
            resume=resume,
            ignore_globals=ignore_globals,
            carry_values=carry_values,
            with_code=with_code,
            threads=threads,
            surgery=surgery,
            progress=progress,
            starting=progress.start,
        )
    if json:
        typer.echo(reports.to_json(report))
    elif not quiet:
        show_conversion(report)
