"""`sample`: a checkpoint with made-up weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from converter.cli.commands import command
from converter.cli.options import Force, Quiet, offer_models
from converter.text import safe_text


@command
def sample(
    folder: Annotated[Path, typer.Argument(help="Where to write the checkpoint.")],
    model: Annotated[
        str,
        typer.Option(
            "--model", metavar="NAME", autocompletion=offer_models, help="A declared model, `tiny` or `tiny-13B`."
        ),
    ] = "tiny",
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same bytes.")] = 1234,
    sparse: Annotated[bool, typer.Option("--sparse", help="Write zeros, which take no disk space.")] = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Write a checkpoint of the published form without torch, to try things on."""
    from converter import sample as samples
    from converter.cli.progress import showing

    with showing("writing", samples.sample_nbytes(model), quiet=quiet) as progress:
        report = samples.write_sample(folder, model, seed=seed, sparse=sparse, force=force, progress=progress)
    for path, nbytes in () if quiet else report.files:
        typer.echo(f"{safe_text(str(path))}: {nbytes:,} bytes")
