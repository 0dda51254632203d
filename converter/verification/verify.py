"""Compares outputs with their source: structure, the bits of every tensor, what the models compute. One verdict for each.

Nothing here comes from the writers. Outputs are read back, and safetensors files are also read by the library of that
name, as a second witness.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.errors import WordError
from converter.formats.gguf.imatrix import read as read_importance
from converter.io.report_files import check_no_input, check_report, write_report
from converter.reports.verification import Verification
from converter.verification.expected import NO_MANIFEST, expect
from converter.verification.golden import HEAD
from converter.verification.output import Output
from converter.verification.provenance import provenance
from converter.verification.walk import THREADS
from converter.verification.wanted import Copy, Expected, Progress
from converter.words import ENGINES, LEVELS
from converter.words import check as check_word

if TYPE_CHECKING:
    from converter.formats.gguf.imatrix import Importance
    from converter.inference.evaluate import Threshold
    from converter.tensors.catalogue import Catalogue
    from converter.verification.golden import Golden


@dataclass(frozen=True, slots=True)
class Options:
    """What is compared besides bits. `threshold` replaces the one for the output's dtype.

    `chosen` are the options by which the source was opened or changed, such as `include`: a golden manifest has them.
    """

    level: str = "tensors"
    tokens: Path | None = None
    prompt: str | None = None
    engine: str = "numpy"
    threshold: Threshold | None = None
    imatrix: Path | None = None
    chosen: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_word("level", self.level, LEVELS)
        check_word("engine", self.engine, ENGINES)
        if self.level == LEVELS[0]:
            asked = {
                "tokens": self.tokens is not None,
                "prompt": self.prompt is not None,
                "engine": self.engine != ENGINES[0],
            }
            for option in (name for name, is_asked in asked.items() if is_asked):
                raise WordError("level", self.level, (f"{LEVELS[1]}, which {option} is for",))
        if self.tokens is not None and self.prompt is not None:
            raise WordError("prompt", self.prompt, ("None, because tokens are given, too",))

    def importance(self) -> Importance | None:
        """The importance matrix that blocks were made with; None if none is given. Raises the errors of reading it."""
        return read_importance(self.imatrix) if self.imatrix is not None else None


@dataclass(frozen=True, slots=True)
class Examination:
    """What was found: the report, and what a golden manifest is made from."""

    report: Verification
    expected: Expected
    copies: tuple[Copy, ...]
    options: Options

    def golden(self) -> Golden:
        """Make the manifest of the source. If all outputs are right, it also gets the digests of copies in another dtype."""
        made = self.expected.golden(self.copies if self.report.ok else ())
        return replace(made, provenance=provenance(self.expected.whole(NO_MANIFEST), self.options, self.report.outputs))


def verify(
    source: Catalogue | Golden,
    outputs: Sequence[str | Path | Catalogue],
    options: Options | None = None,
    *,
    progress: Progress | None = None,
    starting: Callable[[int], None] | None = None,
    threads: int = THREADS,
) -> Verification:
    """Compare every output with the source. Raises ConverterError only if the source can't be read or an engine can't run.

    `starting` is called with the bytes to compare, and `progress` with the bytes compared since its last call. `threads` is 1
    if other processes use the other processors; more than two are of no use.
    """
    importance = options.importance() if options is not None else None
    return examine(expect(source, progress, importance), outputs, options, starting=starting, threads=threads).report


def examine(
    expected: Expected,
    outputs: Sequence[str | Path | Catalogue],
    options: Options | None = None,
    *,
    starting: Callable[[int], None] | None = None,
    threads: int = THREADS,
) -> Examination:
    """Do what `verify` does, and keep what a golden manifest needs."""
    options = options or Options()
    source = expected.whole("nothing can be computed") if options.level == "inference" else None
    if starting is not None:
        starting(expected.nbytes * len(outputs))
    inference = None
    if source is not None:
        from converter.verification.inference import Inference

        inference = Inference(source, options, len(outputs))
    examined = [Output(expected, output, inference, threads) for output in outputs]
    report = Verification(expected.location, tuple(output.verify() for output in examined))
    expected.finish()
    return Examination(report, expected, tuple(output.copy for output in examined), options)


def check_place(path: Path, *, inputs: Sequence[str]) -> None:
    """Raise OutputError, before anything is read, if a manifest could not be written there at the end."""
    check_no_input(path, inputs)
    check_report(path, HEAD)


def write_golden(golden: Golden, path: Path, *, inputs: Sequence[str]) -> None:
    """Write a manifest, atomically. It may replace an older one; raises OutputError if it would replace anything else."""
    check_place(path, inputs=inputs)
    write_report(path, golden.text().encode())
