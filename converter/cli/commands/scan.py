"""`scan`: what loading a file would run."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from converter.cli.commands import STANDARD_INPUT, Exit, announce, answer, command, showing, standard_input
from converter.cli.options import Html, Json, Junit, Log, Quiet, Sarif, Verbose, check_html, one_of
from converter.words import FAIL_ON

if TYPE_CHECKING:
    from converter.reports.scan import ScanReport


@command
def scan(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="Files of any kind, folders or repositories with everything in them, or - for standard input.",
        ),
    ],
    explain: Annotated[bool, typer.Option("--explain", help="Show what loading would call, as expressions.")] = False,
    fail_on: Annotated[
        str,
        typer.Option(
            "--fail-on",
            help="Exit with 1 for unknown globals, too, or only for dangerous ones and what fickling considers unsafe.",
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
    junit: Junit = None,
    sarif: Sarif = None,
    bom: Annotated[
        Path | None,
        typer.Option(
            "--bom",
            metavar="PATH",
            help="Write a bill of materials, too: CycloneDX 1.6. Every local file is read whole, for its SHA-256.",
        ),
    ] = None,
    html: Html = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log: Log = None,
) -> None:
    """Say what the pickles in files ask for, and whether that is known to be abused. Nothing in them is executed."""
    from converter.bom import to_bom
    from converter.cli import lines
    from converter.cli.files import begun
    from converter.scanning import scan as scanning
    from converter.scanning.documents import suites, to_markdown
    from converter.scanning.sarif import SARIF_RULES, to_sarif

    unknown = fail_on == FAIL_ON[-1]
    inputs = sources if policy is None else [*sources, str(policy)]
    with begun(
        "scan", inputs, lambda: SARIF_RULES, junit=junit, sarif=sarif, html=html, bom=bom, json=json, others=[log]
    ) as files:
        check_html(html)
        if sources.count(STANDARD_INPUT) > 1:
            raise typer.BadParameter("standard input can be read only once: give one -")
        with showing("scanning", quiet=quiet, bar=not json, verbose=verbose, log=log, unit="files") as progress:
            for source in sources:
                announce(source)
            places = [standard_input() if source == STANDARD_INPUT else source for source in sources]
            report = scanning.scan(
                places,
                explain=explain,
                fickling=not no_fickling,
                policy=policy,
                starting=progress.start,
                progress=progress.begin,
            )
        failed = scanning.fails(report, unknown=unknown)
        with contextlib.suppress(BrokenPipeError):  # if the reader has gone away, the exit code is still the verdict's
            if json:
                answer(report)
            elif not (quiet or files.on_stdout):
                lines.scan(report, summary=summary)
        files.write(
            html=lambda: as_page(report),
            bom=lambda: to_bom(report),
            junit=lambda: suites(report, unknown=unknown),
            sarif=lambda: to_sarif(report),
            summary=lambda: to_markdown(report, failed=failed),
        )
    if failed:
        raise typer.Exit(Exit.FAILED)


def as_page(report: ScanReport) -> bytes:
    """The report as a page. The module that makes it is imported only for that."""
    from converter.pages.scan import scan

    return scan(report)
