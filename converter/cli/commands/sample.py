"""`sample`: a checkpoint with made-up weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from converter.cli.commands import answer, command, showing
from converter.cli.options import Force, Json, Log, Quiet, Verbose, offer_samples
from converter.text import plural, safe_text


@command
def sample(
    folder: Annotated[Path, typer.Argument(help="Where to write the checkpoint.")],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            metavar="NAME",
            autocompletion=offer_samples,
            help="A declared model, `tiny`, `tiny-13B`, or a family such as `llama`.",
        ),
    ] = "tiny",
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same bytes.")] = 1234,
    sparse: Annotated[bool, typer.Option("--sparse", help="Write zeros, which take no disk space.")] = False,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log: Log = None,
) -> None:
    """Write a checkpoint of the published form without torch, to try things on."""
    from converter import sample as samples

    with showing("writing", quiet=quiet, bar=not json, verbose=verbose, log=log) as progress:
        progress.start(samples.sample_nbytes(model))
        report = samples.write_sample(folder, model, seed=seed, sparse=sparse, force=force, progress=progress)
    if json:
        from converter.reports.written import MadeReport, WrittenFile

        files = tuple(WrittenFile(str(path), nbytes) for path, nbytes in report.files)
        answer(MadeReport(report.model, report.seed, report.sparse, files))
        return
    for path, nbytes in () if quiet else report.files:
        typer.echo(f"{safe_text(str(path))}: {plural(nbytes, 'byte')}")
