"""Source against outputs: structure, then the bits of every tensor, then what the models compute. One verdict an output.

Nothing here comes from the writers: outputs are read back, safetensors by the library of that name as a second witness.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from converter import companions, models, reports
from converter.buffers import droppable
from converter.checked import checked
from converter.comparison import Outcome, ReadError, comparable, compare, equal
from converter.diagnosis import Diagnosis, exchanged, orders, permuted, thirds, transposed
from converter.errors import ArchiveError, ConverterError, FormatError, LayoutError, ModelError, UnsupportedError
from converter.formats import gguf, open_checkpoint, parameters
from converter.formats.folder import load_json
from converter.golden import Golden, GoldenTensor, digest
from converter.sources import LocalFile
from converter.witness import READ, Library

if TYPE_CHECKING:
    from converter.inference.evaluate import Reference, Threshold
    from converter.tensors import Catalogue, Tensor

LEVELS: Final = ("tensors", "inference")
ENGINES: Final = ("numpy", "transformers", "llama.cpp")
IDENTICAL, EQUIVALENT, DIFFERENT = "identical", "equivalent", "different"
_WORKERS: Final = 2  # reading and comparing: more gain nothing, and cost memory
_EXPLAINED: Final = 200  # tensors whose damage is looked into; what is damaged beyond that is another model
_DIGESTED: Final = 16  # the same where only digests are known, each guess at the price of a whole tensor
_INDEX: Final = "*.safetensors.index.json"

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked of `verify` besides bits. `threshold` replaces that of the output's dtype."""

    level: str = "tensors"
    tokens: Path | None = None
    prompt: str | None = None
    engine: str = "numpy"
    threshold: Threshold | None = None


@dataclass(slots=True)
class Verification:
    """What was found, and the golden manifest where one was asked for and everything is as it should be."""

    report: reports.Verification
    golden: Golden | None = None


def verify(
    source: Catalogue | Golden,
    outputs: Sequence[str | Path],
    options: Options | None = None,
    *,
    golden: bool = False,
    progress: Progress | None = None,
    starting: Callable[[int], None] | None = None,
) -> Verification:
    """Hold every output against the source. Raises ConverterError only where the source can't be read, or an engine run.

    `starting` is told the bytes of tensors to come. With `golden` the manifest is made too, unless something differs.
    """
    options = options or Options()
    if options.level not in LEVELS or options.engine not in ENGINES:
        raise UnsupportedError(f"`{options.level}`, `{options.engine}`: choose from {', '.join((*LEVELS, *ENGINES))}")
    if isinstance(source, Golden):
        if golden:
            raise UnsupportedError(f"`{source.location}` is a manifest: write one from the checkpoint itself")
        if options.level == "inference":
            raise UnsupportedError(f"`{source.location}` holds digests, which compute nothing: give the checkpoint")
        original: _Original = _Digests(source)
    else:
        original = _Checkpoint(source)
    if starting is not None:
        starting(original.nbytes * len(outputs))
    inference = _Inference(original, options) if isinstance(original, _Checkpoint) else None
    checks = [_Check(original, str(output), inference, progress) for output in outputs]
    found = tuple(check.run() for check in checks)
    original.finish()
    report = reports.Verification(original.location, found)
    manifest = None
    if golden and report.ok and isinstance(original, _Checkpoint):
        manifest = _manifest(original, checks)
    return Verification(report, manifest)


# ---- the source ---------------------------------------------------------------------------------------------------


class _Original:
    """What outputs are held against: a checkpoint, or a manifest's digests. Names are without prefix."""

    location: str
    nbytes: int
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    groups: list[list[str]]  # tied names

    def finish(self) -> None:
        """Raise if what was read was damaged, or changed on the way."""


class _Checkpoint(_Original):
    """A catalogue with its CRCs checked as it is read."""

    def __init__(self, source: Catalogue) -> None:
        for other in source.unsupported:
            raise UnsupportedError(f"`{other.name}` is a tensor of the kind {other.kind}: its elements can't be read")
        if source.missing:
            raise ModelError(f"`{source.location}` lacks `{source.missing[0]}`, which its index promises")
        if not source:
            raise UnsupportedError(f"`{source.location}` holds no tensors to compare")
        self.catalogue, self._check = checked(source)
        self._original = source
        if source.format == gguf.NAME:
            self.catalogue = gguf.as_hugging_face(self.catalogue)
        self.location = source.location
        self.recognition = models.recognise(self.catalogue, self.catalogue.config)
        self.names = _bare(self.catalogue, self.recognition)
        self.tensors = {bare: self.catalogue[name] for bare, name in self.names.items()}
        self.shapes = {name: tensor.shape for name, tensor in self.tensors.items()}
        self.dtypes = {name: tensor.dtype.name for name, tensor in self.tensors.items()}
        self.groups = [[_strip(name, self.recognition) for name in group] for group in self.catalogue.tied()]
        self.nbytes = sum(tensor.nbytes for tensor in {*self.tensors.values()})

    @cached_property
    def masks(self) -> set[str]:
        """The buffers that need not be carried over: they hold just what the architecture has there."""
        return {_strip(name, self.recognition) for name in droppable(self.catalogue, self.recognition)}

    @cached_property
    def diagnosis(self) -> Diagnosis:
        """What names damage."""
        return Diagnosis(self.tensors, _thirds(self.recognition))

    def finish(self) -> None:
        self._check()
        self._original.check_unchanged()


class _Digests(_Original):
    """A golden manifest."""

    def __init__(self, golden: Golden) -> None:
        self.golden = golden
        self.location = golden.location
        self.shapes = {name: tensor.shape for name, tensor in golden.tensors.items()}
        self.dtypes = {name: tensor.dtype for name, tensor in golden.tensors.items()}
        self.groups = [list(names) for names in golden.tied]
        self.nbytes = 0


# ---- an output ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Check:
    """One output on its way to a verdict."""

    original: _Original
    location: str
    inference: _Inference | None
    progress: Progress | None
    catalogue: Catalogue | None = None
    tensors: dict[str, Tensor] = field(default_factory=dict)
    recognition: models.Recognition | None = None
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    different: list[reports.Difference] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    identical: int = 0
    converted: int = 0
    computed: dict[str, Any] | None = None

    def run(self) -> reports.VerifiedOutput:
        """Give the verdict."""
        try:
            self._open()
            self._structure()
            self._bits()
            self._surroundings()
            if self.inference is not None and self.inference.wanted:
                self._inference()
        except _BrokenError as error:
            self._say(*error.finding)
        wrong = self.different or self.missing or self.unexpected
        return reports.VerifiedOutput(
            location=self.location,
            format=self.catalogue.format if self.catalogue is not None else None,
            verdict=DIFFERENT if wrong else EQUIVALENT if self.converted else IDENTICAL,
            tensors=reports.VerifiedTensors(
                compared=len(self.outcomes),
                identical=self.identical,
                converted=self.converted,
                different=tuple(self.different),
                missing=tuple(self.missing),
                unexpected=tuple(self.unexpected),
            ),
            inference=self.computed,
        )

    @property
    def lone(self) -> bool:
        """Whether it is a file, which promises nothing beside it."""
        return Path(self.location).is_file()

    def _say(self, name: str, what: str, detail: str) -> None:
        self.different.append(reports.Difference(name, what, detail))

    def _open(self) -> None:
        location = self.location if "://" in self.location else Path(self.location)
        try:
            catalogue = companions.load_output(location)
            if catalogue.format == gguf.NAME:
                catalogue = gguf.as_hugging_face(catalogue)
            self.recognition = models.recognise(catalogue, catalogue.config)
            self.tensors = {bare: catalogue[name] for bare, name in _bare(catalogue, self.recognition).items()}
        except ConverterError as error:
            what = "truncated" if _truncated(Path(self.location)) else "unreadable"
            raise _BrokenError(self.location, what, str(error)) from error
        self.catalogue = catalogue
        for problem in catalogue.problems:
            self._say(self.location, "contradiction", problem)
        for other in catalogue.unsupported:
            self._say(other.name, "unreadable", f"`{other.name}` is of a kind that is not decoded here: {other.kind}")

    def _structure(self) -> None:
        """Compare names and ties."""
        original, tensors = self.original, self.tensors
        assert self.catalogue is not None
        held = {_strip(other.name, self.recognition) for other in self.catalogue.unsupported}
        followers = _followers(self.recognition)
        absent = [name for name in original.shapes if name not in tensors and name not in held]
        tied = {name: next(n for n in group if n != name) for group in original.groups for name in group}
        for name in absent:
            # A tied head follows from the architecture.
            if name in followers and name in tied:
                continue
            if isinstance(original, _Checkpoint) and name in original.masks:
                continue
            self.missing.append(self._named(name))
        extra = [name for name in tensors if name not in original.shapes]
        masks: set[str] = set()
        if self.recognition is not None and any(name in self._buffers for name in extra):
            with self._reading():
                masks = {_strip(name, self.recognition) for name in droppable(self.catalogue, self.recognition)}
        for name in extra:
            follows = followers.get(name)
            if follows in tensors and tensors[name] == tensors[follows]:
                continue
            if name not in masks:
                self.unexpected.append(self._named(name))
                self._explain_unexpected(name, follows)
        for group in original.groups:
            here = [name for name in group if name in tensors]
            for name in here[1:]:
                if tensors[name] != tensors[here[0]]:
                    self._say(self._named(name), "lost tie", f"it was one with `{here[0]}`, and is a tensor of its own")

    @cached_property_or_property
    def _buffers(self) -> set[str]:
        return {_strip(name, self.recognition) for name in self.recognition.buffers} if self.recognition else set()
