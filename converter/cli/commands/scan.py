"""`scan`: what loading a file would run."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from converter.cli.commands import STANDARD_INPUT, Exit, announce, command, standard_input
from converter.cli.options import Json, Quiet, one_of
from converter.words import FAIL_ON


@command
def scan(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE…",
            help="Files of any kind, folders or repositories with everything in them, or - for standard input.",
        ),
    ],
    explain: Annotated[bool, typer.Option("--explain", help="Show what loading would call, as expressions.")] = False,
    fail_on: Annotated[
        str,
        typer.Option(
            "--fail-on",
            help="Exit with 1 for unknown globals, too, or only for dangerous ones and those that fickling considers unsafe.",
            **one_of(FAIL_ON),
        ),
    ] = FAIL_ON[-1],
    policy: Annotated[
        Path | None,
        typer.Option(
            "--policy",
            metavar="FILE",
            help="A TOML file of globals that you accept; it must lie outside of what is scanned.",
        ),
    ] = None,
    summary: Annotated[
        bool, typer.Option("--summary", help="Only a line for each file that is not plain, and the counts.")
    ] = False,
    no_fickling: Annotated[
        bool, typer.Option("--no-fickling", help="Don't ask fickling for a second opinion.")
    ] = False,
    json: Json = False,
    sarif: Annotated[
        Path | None, typer.Option("--sarif", metavar="PATH", help="Write the findings as SARIF 2.1.0, too.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Say what the pickles in files ask for, and whether that is known to be abused. Nothing in them is executed."""
    from converter import reports
    from converter.cli import lines
    from converter.cli.following import following
    from converter.scanning import scan as scanning

    if sources.count(STANDARD_INPUT) > 1:
        raise typer.BadParameter("standard input can be read only once: give one -")
    for source in sources:
        announce(source)
    places = [standard_input() if source == STANDARD_INPUT else source for source in sources]
    with following("scanning", quiet=quiet or json) as progress:
        report = scanning.scan(
            places,
            explain=explain,
            fickling=not no_fickling,
            policy=policy,
            starting=progress.start,
            progress=progress,
        )
    if sarif is not None:
        from converter.scanning.sarif import write_sarif

        write_sarif(report, sarif)
    if json:
        with contextlib.suppress(BrokenPipeError):  # if the reader has gone away, the exit code is still the verdict's
            for piece in reports.json_pieces(report):
                typer.echo(piece, nl=False)
    elif not quiet:
        lines.scan(report, summary=summary)
    if scanning.fails(report, unknown=fail_on == FAIL_ON[-1]):
        raise typer.Exit(Exit.FAILED)
