"""`scan`: what loading files would run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from converter.cli.commands import Exit, announce, command
from converter.cli.options import Json, one_of
from converter.words import FAIL_ON


@command
def scan(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE…", help="Files of any kind, folders or repositories with all that is in them."),
    ],
    explain: Annotated[bool, typer.Option("--explain", help="Show what loading would call, as expressions.")] = False,
    fail_on: Annotated[
        str,
        typer.Option(
            "--fail-on",
            help="Exit with 1 for unknown globals, too, or only for dangerous ones and those that fickling holds for unsafe.",
            **one_of(FAIL_ON),
        ),
    ] = FAIL_ON[-1],
    policy: Annotated[
        Path | None,
        typer.Option(
            "--policy", metavar="FILE", help="Globals that you accept (TOML), from outside of what is scanned."
        ),
    ] = None,
    no_fickling: Annotated[bool, typer.Option("--no-fickling", help="Ask for no second opinion.")] = False,
    json: Json = False,
    sarif: Annotated[
        Path | None, typer.Option("--sarif", metavar="PATH", help="Write the findings as SARIF 2.1.0, too.")
    ] = None,
) -> None:
    """Say what the pickles in files ask for, and whether that is known to be abused. Nothing in them is executed."""
    from converter import reports
    from converter.scanning import scan as scanning

    for source in sources:
        announce(source)
    report = scanning.scan(sources, explain=explain, fickling=not no_fickling, policy=policy)
    if sarif is not None:
        from converter.scanning.sarif import write_sarif

        write_sarif(report, sarif)
    if json:
        typer.echo(reports.to_json(report))
    else:
        from converter.cli import lines

        lines.scan(report)
    if scanning.fails(report, unknown=fail_on == FAIL_ON[-1]):
        raise typer.Exit(Exit.FAILED)
