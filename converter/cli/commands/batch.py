"""`batch`: many checkpoints, here or on a cluster."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from converter.cli.commands import answer, command, showing
from converter.cli.options import Html, Json, Junit, Log, Quiet, Sarif, Verbose, check_html, one_of
from converter.text import plural, safe_text
from converter.words import FLEETS

if TYPE_CHECKING:
    from converter.fleet.journal import Row
    from converter.fleet.work import Result

_INIT, _STATUS, _REPORT = "init", "status", "report"
_ACTIONS: Final = (_INIT, _STATUS, _REPORT)
_DEFAULT: Final = Path("job.toml")


@command
def batch(
    job: Annotated[
        str, typer.Argument(metavar="JOB", help="The job file; or init, status or report, and then the job file.")
    ],
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="The job file of init, status or report.")
    ] = None,
    engine: Annotated[
        str, typer.Option("--engine", help="Processes of this machine, or a Ray cluster.", **one_of(FLEETS))
    ] = FLEETS[0],
    address: Annotated[
        str | None,
        typer.Option("--address", metavar="ADDRESS", help="The Ray cluster; without it, one is started here."),
    ] = None,
    processes: Annotated[
        int | None, typer.Option("--processes", metavar="N", min=1, help="Checkpoints at a time, instead of the job's.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Work again on checkpoints that ended in any state but done.")
    ] = False,
    prometheus: Annotated[
        bool, typer.Option("--prometheus", help="Print the counts of `status` as Prometheus reads them.")
    ] = False,
    html: Html = None,
    json: Json = False,
    junit: Junit = None,
    sarif: Sarif = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log: Log = None,
) -> None:
    """Scan, check, convert and verify many checkpoints by a job file. The same command goes on where it was stopped."""
    from converter.cli.files import begun
    from converter.cli.render.batch import UNDONE, show_batch
    from converter.fleet import plan, status
    from converter.fleet.documents import SARIF_RULES, suites, to_markdown, to_sarif
    from converter.fleet.engines import as_it_stands, run_job
    from converter.fleet.job import Job
    from converter.pages.batch import batch as as_page

    action = job if job in _ACTIONS else ""
    path = (file or _DEFAULT) if action else Path(job)
    judged = action == _REPORT or not (action or dry_run)  # it reports how the tasks ended, and exits as the worst did
    rules = (lambda: SARIF_RULES) if judged else None
    with begun("batch", [str(path)], rules, junit=junit, sarif=sarif, html=html, json=json, others=[log]) as files:
        check_html(html)
        if not judged and (junit or sarif or html):
            raise typer.BadParameter(
                "--html, --junit and --sarif say how tasks ended: they are for a job, and for batch report"
            )
        if not action and file is not None:
            raise typer.BadParameter(
                f"two files were given, and `{safe_text(job)}` is none of {', '.join(_ACTIONS)}: give one job file"
            )
        if prometheus and (json or action != _STATUS):
            raise typer.BadParameter("--prometheus is for batch status, without --json")
        if action == _INIT:
            _init(path, json=json, quiet=quiet)
            return
        ended = set[str]()
        given = Job.load(path)
        given = replace(given, processes=processes or given.processes)
        if action:
            report = as_it_stands(given)
        elif dry_run:
            report = status.planned(given, plan.tasks(given))
        else:
            with showing("batch", quiet=quiet, bar=not json, verbose=verbose, log=log, unit="files") as progress:

                def at_first(done: int, total: int) -> None:
                    progress.start(total)
                    progress(done)

                def told(row: Row, result: Result) -> None:
                    progress.begin(row.source)
                    ended.add(row.source)

                report = run_job(given, engine=engine, address=address, again=again, begun=at_first, told=told)
        with contextlib.suppress(BrokenPipeError):  # if the reader has gone away, the exit code is still the tasks'
            if prometheus:
                typer.echo(status.prometheus(report), nl=False)
            elif json:
                answer(report)
            elif not (quiet or files.on_stdout):
                show_batch(report, everything=dry_run or action == _REPORT)
                older = [task for task in report.tasks if task.state in UNDONE and task.source not in ended]
                if older and not (action or dry_run):
                    typer.echo(f"{plural(len(older), 'checkpoint')} had ended before: --again works on them once more")
        if judged:
            files.write(
                html=lambda: as_page(report),
                junit=lambda: suites(report),
                sarif=lambda: to_sarif(report, given.base),
                summary=lambda: to_markdown(report),
            )
    if judged and (code := status.exit_code(report)):
        raise typer.Exit(code)


def _init(path: Path, *, json: bool, quiet: bool) -> None:
    """Write a job file to change. Its report has no tasks yet."""
    from converter.errors import OutputError
    from converter.fleet import status
    from converter.fleet.job import TEMPLATE, Job
    from converter.io.publish import Plan, PlannedFile, literal, publish

    if path.exists():
        raise OutputError(f"`{path}` exists: remove it, or give the new job file another name")
    publish(Plan((PlannedFile("", (literal(path.name, TEMPLATE.encode()),)),), folder=False), path)
    if json:
        answer(status.planned(Job.load(path), ()))
    elif not quiet:
        typer.echo(f"{safe_text(str(path))} is written: change it, then run `cerebras-tool batch {path} --dry-run`")
