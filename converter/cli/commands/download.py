"""`download`: weights from the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from converter.cli.commands import command
from converter.cli.options import Quiet, WithCode, offer_models
from converter.text import safe_text


@command
def download(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", autocompletion=offer_models, help="`Cerebras-GPT-111M`, `111M`, or owner/name[@revision]."
        ),
    ],
    folder: Annotated[
        Path | None, typer.Argument(help="The folder to write to; by default the local cache of the Hub.")
    ] = None,
    with_code: WithCode = False,
    quiet: Quiet = False,
) -> None:
    """Download weights and their companions from the Hub, and check each SHA-256 that is known."""
    from converter.cli.progress import showing
    from converter.hub import download as hub

    with showing("downloading", 0, quiet=quiet) as progress:
        done = hub.download(name, folder, with_code=with_code, starting=progress.start, progress=progress)
    for file in () if quiet else done:
        checked = f", SHA-256 is {file.checked}" if file.checked is not None else ""
        typer.echo(f"{safe_text(str(file.path))}: {file.nbytes:,} bytes{checked}")
