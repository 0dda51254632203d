"""`check`: whether one checkpoint is sound."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from converter.cli.commands import Exit, announce, command
from converter.cli.options import Ema, Json, Quiet, Root, Threads, one_of, part
from converter.words import FAULTS


@command
def check(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE…", help="Checkpoints: files, folders, owner/name, hf://… or https://…"),
    ],
    fail_on: Annotated[
        str, typer.Option("--fail-on", help="Exit with 1 only for errors, or for warnings as well.", **one_of(FAULTS))
    ] = FAULTS[0],
    json: Json = False,
    junit: Annotated[Path | None, typer.Option("--junit", metavar="PATH", help="Write a JUnit report, too.")] = None,
    sarif: Annotated[
        Path | None, typer.Option("--sarif", metavar="PATH", help="Write the faults as SARIF 2.1.0, too.")
    ] = None,
    threads: Threads = None,
    root: Root = None,
    ema: Ema = False,
    quiet: Quiet = False,
) -> None:
    """Check that checkpoints are whole, undamaged and sound: every byte is read. Exits with 1 if one is not."""
    from converter import reports
    from converter.checking import check as checking
    from converter.checking.documents import write_reports
    from converter.cli.progress import showing
    from converter.cli.render.checking import show

    for source in sources:
        announce(source)
    with showing("checking", 0, quiet=quiet or json) as progress:
        report = checking.check(
            sources, root=part(root, ema), threads=threads, progress=progress, starting=progress.start
        )
    with contextlib.suppress(BrokenPipeError):  # if the reader has gone away, the exit code is still the verdict's
        if json:
            typer.echo(reports.to_json(report))
        elif not quiet:
            show(report)
    write_reports(report, sarif_path=sarif, junit_path=junit)
    if checking.fails(report, warnings=fail_on == FAULTS[-1]):
        raise typer.Exit(Exit.FAILED)
