"""The files that a command writes beside what it prints. None of them ever tells of earlier work."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from converter import bom as as_bom
from converter.cli.commands import Ended, ended
from converter.errors import OutputError
from converter.io.publish import explained
from converter.io.report_files import STDOUT, begin_report, check_no_input, stream, write_report
from converter.pages import HEAD
from converter.reports import junit as as_junit
from converter.reports import markdown as as_markdown
from converter.reports import sarif as as_sarif
from converter.reports.in_toto import STATEMENT
from converter.text import os_reason

if TYPE_CHECKING:
    from converter.reports.junit import Suite
    from converter.reports.sarif import Rule

_SUMMARY: Final = "GITHUB_STEP_SUMMARY"  # names a file that GitHub shows below the run
KINDS: Final = {
    "junit": as_junit.HEAD,
    "sarif": as_sarif.HEAD,
    "html": HEAD,
    "bom": as_bom.HEAD,
    "attest": STATEMENT,
}  # the first bytes of each kind of file, by which an older one is recognised


class Files:
    """The files of one run of a command, by their kinds: `begun` makes them, and `write` fills them in the end."""

    def __init__(
        self, title: str, subject: str, paths: Mapping[str, Path], rules: Callable[[], Sequence[Rule]] | None
    ) -> None:
        self._title, self._subject, self._paths, self._rules = title, subject, paths, rules
        self._start = time.perf_counter()
        self.written = False

    @property
    def on_stdout(self) -> bool:
        """Whether one of them goes to stdout. Nothing else is printed there then."""
        return any(stream(path) == STDOUT for path in self._paths.values())

    def write(
        self,
        *,
        html: Callable[[], bytes] | None = None,
        bom: Callable[[], bytes] | None = None,
        attest: Callable[[], bytes] | None = None,
        junit: Callable[[], Sequence[Suite]] | None = None,
        sarif: Callable[[], Mapping[str, Any]] | None = None,
        summary: Callable[[], str] | None = None,
    ) -> None:
        """Write those that were asked for; the summary is for GitHub. Raises OutputError."""
        for kind, make in (("html", html), ("bom", bom), ("attest", attest)):
            if make is not None and kind in self._paths:
                write_report(self._paths[kind], make())
        if junit is not None and "junit" in self._paths:
            seconds = time.perf_counter() - self._start
            write_report(self._paths["junit"], as_junit.document(self._title, junit(), seconds))
        if sarif is not None and "sarif" in self._paths:
            write_report(self._paths["sarif"], as_sarif.text(sarif()))
        if summary is not None:
            _add_to_summary(summary)
        self.written = True

    def write_error(self, error: Ended) -> None:
        """Write in each that there is no answer, and why. If that fails, too, the first error is the one to report."""
        case = as_junit.Case(self._subject, as_junit.DONE, "error", error.cause, error.sentence, error=True)
        with contextlib.suppress(OutputError, OSError):
            self.write(junit=lambda: [as_junit.Suite(self._subject, [case])])
        with contextlib.suppress(OutputError, OSError):
            rules = self._rules() if self._rules is not None else ()
            self.write(sarif=lambda: as_sarif.failed(rules, error.sentence, error.cause, error.code))
        if self._rules is None:  # a command without a verdict adds nothing to a summary
            return
        with contextlib.suppress(OutputError, OSError):
            self.write(summary=lambda: as_markdown.failed(self._title, error.sentence))


@contextmanager
def begun(
    command: str,
    inputs: Sequence[str],
    rules: Callable[[], Sequence[Rule]] | None = None,
    *,
    junit: Path | None = None,
    sarif: Path | None = None,
    html: Path | None = None,
    bom: Path | None = None,
    attest: Path | None = None,
    json: bool = False,
    others: Sequence[Path | None] = (),
) -> Iterator[Files]:
    """Begin the files before anything is read: older ones are removed, and what can't be written is refused.

    If the body of the `with` fails or is interrupted before they are written, they are written with that error. `inputs` are
    what is read, `others` are what else is written, `rules` are the SARIF log's, and `json` says that stdout is taken
    already. Raises OutputError.
    """
    named = {"junit": junit, "sarif": sarif, "html": html, "bom": bom, "attest": attest}
    paths = {kind: path for kind, path in named.items() if path is not None}
    begun_paths: dict[str, Path] = {}
    files = Files(f"cerebras-tool {command}", inputs[0], begun_paths, rules)
    summary = os.environ.get(_SUMMARY) if rules is not None else None
    refused = _conflict([*paths.values(), *others, Path(summary) if summary else None], json=json)
    try:
        # If one file is refused, older ones at the other paths must still go.
        for kind, path in paths.items():
            if refused and stream(path) is not None:
                continue
            try:
                with explained(path):
                    if path.is_file():
                        check_no_input(path, inputs)
                begin_report(path, KINDS[kind])
            except OutputError as error:
                refused = refused or error
            else:
                begun_paths[kind] = path
        if refused:
            raise refused
        if rules is not None:
            _add_to_summary(str)  # nothing yet
        yield files
    except (typer.Exit, typer.Abort, BrokenPipeError):
        raise
    except BaseException as error:
        if not files.written:
            files.write_error(ended(error))
        raise


def _conflict(paths: Sequence[Path | None], *, json: bool) -> OutputError | None:
    """The error for two paths that are the same; None if all differ."""
    given = [path for path in paths if path is not None]
    if json + sum(stream(path) == STDOUT for path in given) > 1:
        return OutputError("stdout takes one document: give the others paths of files")
    places = [(os.path.realpath(path.parent), path.name) for path in given]
    twice = next((path for path, place in zip(given, places, strict=True) if places.count(place) > 1), None)
    return None if twice is None else OutputError(f"`{twice}` would be written twice: give each file its own path")


def _add_to_summary(summary: Callable[[], str]) -> None:
    """Add a text to the file of a CI that shows summaries, if there is one. Raises OutputError."""
    path = os.environ.get(_SUMMARY)
    if not path:
        return
    try:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(summary())
    except OSError as error:
        raise OutputError(f"`{error.filename or path}` can't be written: {os_reason(error)}") from error
