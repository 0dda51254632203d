"""`check`: whether one checkpoint is sound."""

from __future__ import annotations

import contextlib
from typing import Annotated

import typer

from converter.cli.commands import Exit, announce, answer, command, showing
from converter.cli.options import Ema, Json, Junit, Log, Quiet, Root, Sarif, Threads, Verbose, one_of, part
from converter.text import safe_text
from converter.words import FAULTS


@command
def check(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE", help="Checkpoints: files, folders, owner/name, hf://… or https://…"),
    ],
    fail_on: Annotated[
        str, typer.Option("--fail-on", help="Exit with 1 for errors only, or for warnings, too.", **one_of(FAULTS))
    ] = FAULTS[0],
    json: Json = False,
    junit: Junit = None,
    sarif: Sarif = None,
    threads: Threads = None,
    root: Root = None,
    ema: Ema = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log: Log = None,
) -> None:
    """Check that checkpoints are whole, undamaged and sound: every byte is read. Exits with 1 if one is not."""
    from converter.checking import check as checking
    from converter.checking.documents import SARIF_RULES, suites, to_markdown, to_sarif
    from converter.cli.files import begun
    from converter.cli.render.checking import show

    warnings = fail_on == FAULTS[-1]
    with begun("check", sources, lambda: SARIF_RULES, junit=junit, sarif=sarif, json=json, others=[log]) as files:
        with showing("checking", quiet=quiet, bar=not json, verbose=verbose, log=log) as progress:
            for source in sources:
                announce(source)
            report = checking.check(
                sources,
                root=part(root, ema),
                threads=threads,
                progress=progress,
                starting=progress.start,
                going_on=len(sources) > 1,
            )
        failed = checking.fails(report, warnings=warnings)
        with contextlib.suppress(BrokenPipeError):  # if the reader has gone away, the exit code is still the verdict's
            if json:
                answer(report)
            elif not (quiet or files.on_stdout):
                show(report)
        files.write(
            junit=lambda: suites(report, warnings=warnings),
            sarif=lambda: to_sarif(report),
            summary=lambda: to_markdown(report, failed=failed),
        )
    for one in report.unread or ():
        typer.echo(f"error: {safe_text(one.error['message'], 2000)}", err=True)
    if report.unread:
        raise typer.Exit(Exit.ERROR)
    if failed:
        raise typer.Exit(Exit.FAILED)
