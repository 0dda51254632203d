"""`download`: weights from the Hub."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from converter.cli.commands import answer, command, showing
from converter.cli.options import Json, Log, Quiet, Verbose, WithCode, offer_models
from converter.text import plural, safe_text


@command
def download(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            autocompletion=offer_models,
            help="`Cerebras-GPT-111M`, `111M`, owner/name[@revision], or a folder: hf://owner/name[@revision]/path.",
        ),
    ],
    folder: Annotated[
        Path | None, typer.Argument(help="The folder to write to; by default the local cache of the Hub.")
    ] = None,
    with_code: WithCode = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log: Log = None,
) -> None:
    """Download weights and their companions from the Hub, and check each SHA-256 that is known."""
    from converter.cli import next_steps
    from converter.hub import download as hub

    with showing("downloading", quiet=quiet, bar=not json, verbose=verbose, log=log) as progress:
        done = hub.download(name, folder, with_code=with_code, starting=progress.start, progress=progress)
    if json:
        from converter.reports.written import DownloadReport, WrittenFile

        files = tuple(WrittenFile(str(file.path), file.nbytes, file.checked) for file in done)
        answer(DownloadReport(name, None if folder is None else str(folder), files))
        return
    for file in () if quiet else done:
        checked = f", SHA-256 is {file.checked}" if file.checked is not None else ""
        typer.echo(f"{safe_text(str(file.path))}: {plural(file.nbytes, 'byte')}{checked}")
    if not quiet:
        place = str(folder) if folder is not None else name
        next_steps.show(
            [
                shlex.join(["cerebras-tool", "check", place]),
                shlex.join(["cerebras-tool", "convert", place, "--to", "safetensors"]),
            ]
        )
