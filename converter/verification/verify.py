"""Compares outputs with their source: structure, the bits of every tensor, what the models compute. One verdict for each.

Nothing here comes from the writers. Outputs are read back, and safetensors files are also read by the library of that
name, as a second witness.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from converter.errors import OutputError
from converter.io.publish import write_report
from converter.reports.verification import Verification
from converter.text import os_reason
from converter.verification.expected import Copy, Expected, Progress, expect
from converter.verification.junit import junit as junit_report
from converter.verification.markdown import markdown
from converter.verification.output import Output
from converter.words import ENGINES, LEVELS
from converter.words import check as check_word

if TYPE_CHECKING:
    from converter.inference.evaluate import Threshold
    from converter.tensors.catalogue import Catalogue
    from converter.verification.golden import Golden


@dataclass(frozen=True, slots=True)
class Options:
    """What is compared besides bits. `threshold` replaces the one for the output's dtype."""

    level: str = "tensors"
    tokens: Path | None = None
    prompt: str | None = None
    engine: str = "numpy"
    threshold: Threshold | None = None

    def __post_init__(self) -> None:
        check_word("level", self.level, LEVELS)
        check_word("engine", self.engine, ENGINES)


@dataclass(frozen=True, slots=True)
class Examination:
    """What was found: the report, and what a golden manifest is made from."""

    report: Verification
    expected: Expected
    copies: tuple[Copy, ...]

    def golden(self) -> Golden:
        """Make the manifest of the source. If all outputs are right, it also gets the digests of copies in another dtype."""
        return self.expected.golden(self.copies if self.report.ok else ())


def verify(
    source: Catalogue | Golden,
    outputs: Sequence[str | Path],
    options: Options | None = None,
    *,
    progress: Progress | None = None,
    starting: Callable[[int], None] | None = None,
) -> Verification:
    """Compare every output with the source. Raises ConverterError only if the source can't be read or an engine can't run.

    `starting` is called with the bytes to compare, and `progress` with the bytes compared since its last call.
    """
    return examine(expect(source, progress), outputs, options, starting=starting).report


def examine(
    expected: Expected,
    outputs: Sequence[str | Path],
    options: Options | None = None,
    *,
    starting: Callable[[int], None] | None = None,
) -> Examination:
    """Do what `verify` does, and keep what a golden manifest needs."""
    options = options or Options()
    source = expected.whole("nothing can be computed") if options.level == "inference" else None
    if starting is not None:
        starting(expected.nbytes * len(outputs))
    inference = None
    if source is not None:
        from converter.verification.inference import Inference

        inference = Inference(source, options)
    examined = [Output(expected, output, inference) for output in outputs]
    report = Verification(expected.location, tuple(output.verify() for output in examined))
    expected.finish()
    return Examination(report, expected, tuple(output.copy for output in examined))


def write_reports(report: Verification, *, junit: Path | None, summary: Path | None) -> None:
    """Write a JUnit file, and add to a summary in Markdown (GitHub's `$GITHUB_STEP_SUMMARY`). Raises OutputError."""
    try:
        if junit is not None:
            write_report(junit, junit_report(report))
        if summary is not None:
            with summary.open("a", encoding="utf-8") as file:
                file.write(markdown(report))
    except OSError as error:
        raise OutputError(f"`{error.filename}` can't be written: {os_reason(error)}") from error


def write_golden(golden: Golden, path: Path, *, inputs: Sequence[str]) -> None:
    """Write a manifest, atomically. It may replace an older one; raises OutputError if it would replace anything else."""
    files = [status for status in (_status(Path(name)) for name in inputs) if status is not None]
    if _status(path) in files:
        raise OutputError(f"`{path}` is an input: choose another path")
    write_report(path, golden.text().encode())


def _status(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
