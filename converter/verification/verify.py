"""Source against outputs: structure, then the bits of every tensor, then what the models compute. One verdict an output.

Nothing here comes from the writers: outputs are read back, safetensors by the library of that name as a second witness.
Names are without a prefix, as both styles have them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from converter import formats
from converter.errors import (
    ConverterError,
    FormatError,
    ManifestError,
    ModelError,
    OutputError,
    ReadError,
    UnsupportedError,
    WordError,
)
from converter.formats.companions import CONFIG
from converter.formats.format import Finding
from converter.io.publish import write_report
from converter.models import recognition as models
from converter.models.masks import droppable
from converter.models.vocabulary import Tokenizer
from converter.opening import folder_beside, open_checkpoint
from converter.reports import verification as reports
from converter.tensors.guards import check_expansion
from converter.tensors.verified import checked
from converter.text import os_reason, safe_text
from converter.verification import surroundings as companions
from converter.verification.comparison import Outcome, compare, equal
from converter.verification.diagnosis import Diagnosis, exchanged, orders, permuted, transposed
from converter.verification.golden import Golden, GoldenTensor, digest, digest_in_parts
from converter.verification.roundings import comparable
from converter.verification.walk import Workspace
from converter.words import ENGINES, LEVELS

if TYPE_CHECKING:
    from converter.inference.engine import Engine
    from converter.inference.evaluate import Reference, Threshold
    from converter.models.family import Family
    from converter.tensors.catalogue import Catalogue
    from converter.tensors.tensor import Tensor

IDENTICAL: Final = "identical"
EQUIVALENT: Final = "equivalent"
DIFFERENT: Final = "different"
_EXPLAINED: Final = 200  # tensors whose damage is looked into; where more are damaged it is another model
_LISTED: Final = 50  # lines of a summary
_DIGESTED: Final = 16  # the same where only digests are known: each guess costs a pass over the tensor

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked for besides bits. `threshold` stands in for that of the output's dtype."""

    level: str = "tensors"
    tokens: Path | None = None
    prompt: str | None = None
    engine: str = "numpy"
    threshold: Threshold | None = None


def verify(
    source: Catalogue | Golden,
    outputs: Sequence[str | Path],
    options: Options | None = None,
    *,
    golden: bool = False,
    progress: Progress | None = None,
    starting: Callable[[int], None] | None = None,
) -> tuple[reports.Verification, Golden | None]:
    """Hold every output against the source. Raises ConverterError only where the source can't be read or an engine run.

    `starting` is told the bytes to come. With `golden`, gives the manifest of the source too, unless something differs.
    """
    options = options or Options()
    for option, word, words in (("level", options.level, LEVELS), ("engine", options.engine, ENGINES)):
        if word not in words:
            raise WordError(option, word, words)
    original = _Digests(source) if isinstance(source, Golden) else _Checkpoint(source)
    if isinstance(original, _Digests) and (golden or options.level == "inference"):
        what = "no manifest can be made" if golden else "nothing can be computed"
        raise UnsupportedError(f"`{original.location}` holds digests, of which {what}: give the checkpoint")
    if starting is not None:
        starting(original.nbytes * len(outputs))
    inference = None
    if isinstance(original, _Checkpoint) and options.level == "inference":
        inference = _Inference(original.catalogue, options)
    checks = [_Check(original, output, inference, progress) for output in outputs]
    report = reports.Verification(original.location, tuple(check.run() for check in checks))
    original.finish()
    made = None
    if golden and report.ok and isinstance(original, _Checkpoint):
        made = _golden(original, checks)
    return report, made


def write_reports(report: reports.Verification, *, junit: Path | None, summary: Path | None) -> None:
    """Write a JUnit file, and add to a summary in Markdown (GitHub's `$GITHUB_STEP_SUMMARY`). Raises OutputError."""
    try:
        if junit is not None:
            write_report(junit, _junit(report))
        if summary is not None:
            with summary.open("a", encoding="utf-8") as file:
                file.write(_markdown(report))
    except OSError as error:
        raise OutputError(f"`{error.filename}` can't be written: {os_reason(error)}") from error


def write_manifest(golden: Golden, path: Path, *, inputs: Sequence[str]) -> None:
    """Write a manifest, atomically, over an older one. Raises OutputError where it would replace anything else."""
    files = [status for status in (_status(Path(name)) for name in inputs) if status is not None]
    if _status(path) in files:
        raise OutputError(f"`{path}` is an input: choose another path")
    write_report(path, golden.text().encode())


# ---- the source ---------------------------------------------------------------------------------------------------


class _Checkpoint:
    """A source with its CRCs checked as it is read. `tensors` are by bare name."""

    def __init__(self, source: Catalogue) -> None:
        for other in source.unsupported:
            raise UnsupportedError(f"`{other.name}` is a tensor of the kind {other.kind}: its elements can't be read")
        if source.missing:
            raise ManifestError(f"`{source.location}` lacks `{source.missing[0]}`, which its index promises")
        if not source:
            raise UnsupportedError(f"`{source.location}` holds no tensors to compare")
        check_expansion(source)
        self._source = source
        self.location = source.location
        self.catalogue, self._check = checked(source)
        self.catalogue = formats.canonical(self.catalogue)
        self.recognition = models.recognise(self.catalogue, self.catalogue.config)
        self.family = self.recognition.family if self.recognition is not None else None
        self.tensors = _bare(self.catalogue, self.family)
        self.shapes = {name: tensor.shape for name, tensor in self.tensors.items()}
        self.tied = [sorted(_strip(name, self.family) for name in group) for group in self.catalogue.tied()]
        self.nbytes = sum(tensor.nbytes for tensor in set(self.tensors.values()))

    @cached_property
    def masks(self) -> set[str]:
        """Buffers that need not be carried over: they hold just what the architecture has there."""
        return {_strip(name, self.family) for name in droppable(self.catalogue, self.recognition)}

    @cached_property
    def diagnosis(self) -> Diagnosis:
        """What names damage."""
        return Diagnosis(self.tensors, _parts(self.recognition))

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer inside or beside it."""
        return companions.tokenizer(self.catalogue)

    def finish(self) -> None:
        """Raise if what was read is damaged or was changed on the way."""
        self._check()
        self._source.check_unchanged()


class _Digests:
    """A golden manifest as a source."""

    def __init__(self, golden: Golden) -> None:
        self.golden = golden
        self.location = golden.location
        self.recognition = models.recognise(golden.tensors)
        self.family = self.recognition.family if self.recognition is not None else None
        self.shapes = {name: tensor.shape for name, tensor in golden.tensors.items()}
        self.tied = [list(names) for names in golden.tied]
        self.masks: set[str] = set()
        self.nbytes = sum(companions.nbytes(tensor.dtype, tensor.shape) for tensor in golden.tensors.values())

    def finish(self) -> None:
        """Nothing was read."""


def _golden(original: _Checkpoint, checks: Sequence[_Check]) -> Golden:
    """Make the manifest; copies in other dtypes that were found equivalent are written down, too."""
    followers = original.family.followers if original.family is not None else {}
    tied = {name for group in original.tied for name in group}
    left_out = original.masks | (followers.keys() & tied)
    kept = {name: tensor for name, tensor in original.tensors.items() if name not in left_out}
    digests = {name: digest(tensor) for name, tensor in kept.items()}
    converted: dict[str, dict[str, str]] = {name: {} for name in kept}
    for check in checks:
        for name, outcome in check.outcomes.items():
            if not outcome.exact and name in kept:
                converted[name][_encoding(check.tensors[name])] = digest(check.tensors[name])
    config = original.catalogue.config
    if config is None and original.recognition is not None and original.recognition.model is not None:
        config = dict(original.recognition.model.config)
    groups = [[name for name in group if name in kept] for group in original.tied]
    return Golden(
        location=original.location,
        tensors={
            name: GoldenTensor(tensor.dtype.name, tensor.shape, digests[name], converted[name])
            for name, tensor in kept.items()
        },
        tied=tuple(tuple(names) for names in groups if len(names) > 1),
        settings=companions.settings(original.catalogue, config, original.family),
        tokenizer=original.tokenizer.digests() if original.tokenizer is not None else None,
    )


# ---- an output ----------------------------------------------------------------------------------------------------


class _BrokenError(Exception):
    """An output that can't be read on: a finding, not an error."""

    def __init__(self, name: str, what: str, detail: str) -> None:
        super().__init__(detail)
        self.difference = reports.Difference(name, what, detail)


class _Check:
    """One output on its way to a verdict."""

    def __init__(
        self,
        original: _Checkpoint | _Digests,
        output: str | Path,
        inference: _Inference | None,
        progress: Progress | None,
    ) -> None:
        self.original, self.location = original, str(output)
        self._inference, self._progress = inference, progress
        self._lone = Path(output).is_file()  # a file promises nothing beside it
        self.format: str | None = None
        self.tensors: dict[str, Tensor] = {}
        self.outcomes: dict[str, Outcome] = {}
        self._different: list[reports.Difference] = []
        self._checksums: dict[str, str] = {}
        self._missing: list[str] = []
        self._unexpected: list[str] = []
        self._computed: dict[str, Any] | None = None

    def run(self) -> reports.VerifiedOutput:
        """Give the verdict."""
        try:
            catalogue = self._opened()
            self._structure(catalogue)
            self._bits(catalogue)
            self._surroundings(catalogue)
            if self._inference is not None:
                self._compute(catalogue, self._inference)
        except _BrokenError as error:
            self._different.append(error.difference)
        same = [outcome for outcome in self.outcomes.values() if not outcome.differing]
        exact = sum(outcome.exact for outcome in same)
        verdict = IDENTICAL if exact == len(same) else EQUIVALENT
        return reports.VerifiedOutput(
            location=self.location,
            format=self.format,
            verdict=DIFFERENT if self._different or self._missing or self._unexpected else verdict,
            tensors=reports.VerifiedTensors(
                compared=len(self.outcomes),
                identical=exact,
                converted=len(same) - exact,
                different=tuple(self._different),
                missing=tuple(self._missing),
                unexpected=tuple(self._unexpected),
            ),
            inference=self._computed,
        )

    def _say(self, name: str, what: str, detail: str) -> None:
        self._different.append(reports.Difference(name, what, detail))

    def _opened(self) -> Catalogue:
        location = self.location if "://" in self.location else Path(self.location)
        try:
            catalogue = open_checkpoint(location)
            self.format = catalogue.format
            catalogue = formats.canonical(catalogue)
            self.tensors = _bare(catalogue, self.original.family)
        except ConverterError as error:
            raise _BrokenError(self.location, error.damage, str(error)) from error
        except OSError as error:
            raise _BrokenError(self.location, ConverterError.damage, os_reason(error)) from error
        for problem in catalogue.problems:
            self._say(self.location, "contradiction", problem)
        for other in catalogue.unsupported:
            name = _strip(other.name, self.original.family)
            self._say(name, "unreadable", f"it is of a kind that is not decoded here: {other.kind}")
        return catalogue

    # ---- names and ties

    def _structure(self, catalogue: Catalogue) -> None:
        original, tensors = self.original, self.tensors
        recognition = models.recognise(catalogue, catalogue.config)
        family = original.family
        followers = recognition.family.followers if recognition is not None else {}
        tied = {name for group in original.tied for name in group}
        undecoded = {_strip(other.name, family) for other in catalogue.unsupported}
        absent = [name for name in original.shapes if name not in tensors and name not in undecoded]
        # A head that is tied follows from the architecture.
        self._missing = [name for name in absent if not (name in followers and name in tied)]
        if self._missing:
            self._missing = [name for name in self._missing if name not in original.masks]
        for name in [name for name in tensors if name not in original.shapes]:
            target = tensors.get(followers.get(name, ""))
            if target is not None and tensors[name] == target:
                continue
            if recognition is not None and name in {_strip(buffer, family) for buffer in recognition.buffers}:
                try:
                    masks = {_strip(mask, family) for mask in droppable(catalogue, recognition)}
                except ConverterError as error:
                    raise _BrokenError(name, error.damage, str(error)) from error
                if name in masks:
                    continue
            self._unexpected.append(name)
            self._explain_unexpected(name, target)
        for group in original.tied:
            here = [name for name in group if name in tensors]
            for name in here[1:]:
                if tensors[name] != tensors[here[0]]:
                    own = next((other for other in (name, here[0]) if other in followers), name)
                    rest = here[0] if own == name else name
                    self._say(own, "lost tie", f"it was one tensor with `{rest}`, and is one of its own")

    def _explain_unexpected(self, name: str, target: Tensor | None) -> None:
        """Say what an unexpected tensor is: a head that was tied, or another's content under a new name."""
        found = self.tensors[name]
        if target is not None and found.shape == target.shape and _same(target, found):
            self._say(name, "lost tie", "it is a copy of the tensor that it follows from")
            return
        for missing in self._missing:
            if self.original.shapes[missing] == found.shape and self._is(missing, found):
                self._say(missing, "renamed", f"its elements are called `{name}`")
                return

    def _is(self, name: str, found: Tensor) -> bool:
        if isinstance(self.original, _Checkpoint):
            return _same(self.original.tensors[name], found)
        return self.original.golden.tensors[name].sha256 == digest(found)

    # ---- bits

    def _bits(self, catalogue: Catalogue) -> None:
        raw = self.tensors
        copy, finish = checked(catalogue)
        self.tensors = _bare(copy, self.original.family)
        for problem in formats.of(catalogue).disagreements(catalogue):
            self._say(self.location, "readers disagree", problem)
        names = [name for name in self.original.shapes if name in self.tensors and self._fits(name)]
        pairs = {self._pair(name): name for name in reversed(names)}  # tied names are compared once
        workspace = Workspace()
        outcomes = {pair: self._outcome(name, raw[name], workspace) for pair, name in pairs.items()}
        self.outcomes = {name: outcomes[self._pair(name)] for name in names}
        try:
            finish()
        except ConverterError as failed:
            self._say(self.location, "checksum", str(failed))
        damaged = [name for name in self.original.shapes if name in self.outcomes and self.outcomes[name].differing]
        for name, error in self._checksums.items():
            if name not in damaged:
                self._say(name, "checksum", error)
        limit = _EXPLAINED if isinstance(self.original, _Checkpoint) else _DIGESTED
        self.tensors = raw  # its checksums have had their say
        for index, name in enumerate(damaged):
            self._explain(name, look=index < limit)

    def _pair(self, name: str) -> tuple[Tensor | str, Tensor]:
        """Give what tied names have in common."""
        original, found = self.original, self.tensors[name]
        return (original.tensors[name] if isinstance(original, _Checkpoint) else name), found

    def _fits(self, name: str) -> bool:
        """Whether a tensor can be compared element by element; says why not."""
        found, shape = self.tensors[name], self.original.shapes[name]
        if isinstance(self.original, _Checkpoint):
            expected = self.original.tensors[name]
            if not comparable(expected, found):
                self._say(name, "another dtype", f"it is {found.dtype.name}: expected {expected.dtype.name}")
                return False
            if found.shape != shape:
                self._say(name, *self.original.diagnosis.name(name, found, None, self.tensors))
        elif found.shape != shape:
            self._say(name, "another shape", f"its shape is {list(found.shape)}: expected {list(shape)}")
        return found.shape == shape

    def _outcome(self, name: str, raw: Tensor, workspace: Workspace) -> Outcome:
        try:
            return self._held(name, self.tensors[name], workspace)
        except ReadError as error:
            self._checksums[name] = str(error)  # the bits are looked at all the same
        try:
            return self._held(name, raw, workspace)
        except ReadError as error:
            raise _BrokenError(name, error.damage, str(error)) from error

    def _held(self, name: str, found: Tensor, workspace: Workspace) -> Outcome:
        original = self.original
        if isinstance(original, _Checkpoint):
            return compare(original.tensors[name], found, workspace, progress=self._progress)
        known, encoding = original.golden.tensors[name], _encoding(found)
        wanted = known.sha256 if encoding == known.dtype else known.converted.get(encoding)
        try:
            same = wanted is not None and digest(found) == wanted
        except ConverterError as error:
            raise ReadError(str(error)) from error
        if self._progress is not None:
            self._progress(companions.nbytes(known.dtype, known.shape))
        return Outcome(exact=encoding == known.dtype, differing=0 if same else found.size)

    def _explain(self, name: str, *, look: bool) -> None:
        """Report a damaged tensor, with the name of the damage where it is looked into."""
        outcome, found, original = self.outcomes[name], self.tensors[name], self.original
        what, detail = "changed", "its elements differ"
        try:
            if look and isinstance(original, _Checkpoint):
                what, detail = original.diagnosis.name(name, found, outcome, self.tensors)
            elif isinstance(original, _Digests):
                what, detail = _guess(original, name, found, look=look)
        except ReadError as error:
            detail = f"its elements differ, and can't be read again: {error}"
        known = isinstance(original, _Checkpoint)
        self._different.append(
            reports.Difference(
                name,
                what,
                detail,
                elements=found.size,
                differing=outcome.differing if known else None,
                index=_index(outcome.first, found.shape),
                expected=_finite(outcome.expected),
                found=_finite(outcome.found),
                largest=_finite(outcome.largest),
            )
        )

    # ---- what goes along

    def _surroundings(self, catalogue: Catalogue) -> None:
        original, lone = self.original, self._lone and not formats.of(catalogue).self_contained
        try:
            if isinstance(original, _Checkpoint):
                source = original.catalogue
                converted = any(not outcome.exact for outcome in self.outcomes.values())
                self._findings(
                    companions.check_config(source, catalogue, original.family, lone=lone, converted=converted)
                )
                self._findings(
                    companions.check_tokenizer(original.tokenizer, folder_beside(source), catalogue, lone=self._lone)
                )
                settings: Mapping[str, Any] | None = companions.settings(source, source.config, original.family)
                if source.config is None:
                    recognition = models.recognise(catalogue, catalogue.config)
                    for contradiction in recognition.contradictions if recognition is not None and not lone else ():
                        self._say(CONFIG, "contradiction", contradiction)
            else:
                settings = original.golden.settings
                if not lone:
                    found = companions.settings(catalogue, catalogue.config, original.family)
                    self._findings(companions.check_settings(settings, found))
                    self._findings(companions.check_digests(original.golden.tokenizer, catalogue))
            if not self._lone:
                self._findings(formats.of(catalogue).check(catalogue, settings))
        except (FormatError, ManifestError) as error:
            raise _BrokenError(self.location, error.damage, str(error)) from error

    def _findings(self, findings: Iterator[Finding]) -> None:
        for finding in findings:
            self._say(*finding)

    def _compute(self, catalogue: Catalogue, inference: _Inference) -> None:
        """Compare what the output computes with what the source does."""
        try:
            self._computed, shortcomings = inference.run(self.location, catalogue, lone=self._lone)
        except (FormatError, ModelError, ReadError) as error:
            raise _BrokenError("inference", "can't be computed", str(error)) from error
        for shortcoming in shortcomings:
            self._say("inference", "computes otherwise", shortcoming)


# ---- inference ----------------------------------------------------------------------------------------------------


class _Inference:
    """The source's side of the comparison, computed once for all outputs."""

    def __init__(self, source: Catalogue, options: Options) -> None:
        from converter.inference import evaluate
        from converter.inference.engine import compute

        self._source, self._options = source, options
        self._model = compute(source)
        vocab_size, n_positions = self._model.vocab_size, self._model.n_positions
        if options.tokens is not None:
            self._tokens = evaluate.load_tokens(options.tokens, vocab_size, n_positions)
        elif options.prompt is not None:
            folder = folder_beside(source) or Path()
            self._tokens = evaluate.encode(options.prompt, folder, vocab_size, n_positions)
        else:
            self._tokens = evaluate.builtin_tokens(vocab_size, n_positions)
        self._references: dict[str, Reference] = {}
        self._effect: dict[str, Any] | None = None

    def run(self, location: str, output: Catalogue, *, lone: bool) -> tuple[dict[str, Any], list[str]]:
        """Give what the report says of an output, and what is wrong with it."""
        from converter.inference import evaluate

        engine = self._engine(location, output, lone=lone)
        comparison = evaluate.compare(self._reference(engine.activation), engine)
        limit = self._options.threshold or evaluate.threshold(self._source, output, engine.name)
        shortcomings = evaluate.shortcomings(comparison, limit)
        said = comparison.to_json() | {
            "tokens": len(self._tokens),
            "threshold": asdict(limit),
            "shortcomings": shortcomings,
            "activation_effect": self._activation_effect() if formats.of(output).tanh else None,
        }
        return said, shortcomings

    def _engine(self, location: str, output: Catalogue, *, lone: bool) -> Engine:
        from converter.inference import engines
        from converter.inference.engine import compute

        activation = self._model.activation
        # Under one activation, whatever config.json says; and a lone file's is the source's.
        own = formats.of(output).self_contained or not lone
        config = output.config if own and output.config is not None else self._source.config
        format = formats.of(output)
        if self._options.engine not in format.engines:
            read = " and ".join(other.title for other in formats.FORMATS if self._options.engine in other.engines)
            raise UnsupportedError(
                f"{self._options.engine} reads {read}, and `{location}` is {format.title}: use another engine"
            )
        if self._options.engine == "transformers":
            return engines.Transformers(location, config or {}, activation, self._model.family)
        if self._options.engine == "llama.cpp":
            return engines.LlamaCpp(location, self._model.vocab_size)
        try:
            return compute(output, config=config, activation=activation)
        except UnsupportedError as error:  # the output's fault, as the source could be computed
            raise ModelError(str(error)) from error

    def _reference(self, activation: Any) -> Reference:
        from converter.inference.engine import compute
        from converter.inference.evaluate import reference

        if activation not in self._references:
            model = self._model
            if activation != model.activation:
                model = compute(self._source, activation=activation)
            self._references[activation] = reference(model, self._tokens)
        return self._references[activation]

    def _activation_effect(self) -> dict[str, Any] | None:
        """Give what llama.cpp's and the Java client's tanh form does to a model trained with erf. No output's fault."""
        from converter.inference.engine import compute
        from converter.inference.evaluate import compare as hold

        if self._model.activation == "tanh":
            return None
        if self._effect is None:
            self._effect = hold(self._reference("erf"), compute(self._source, activation="tanh")).to_json()
        return self._effect


# ---- names --------------------------------------------------------------------------------------------------------


def _strip(name: str, family: Family | None) -> str:
    """A name without its prefix, where the source's family is known and has one."""
    return name if family is None else family.bare(name)


def _bare(catalogue: Catalogue, family: Family | None) -> dict[str, Tensor]:
    bare = {_strip(name, family): tensor for name, tensor in catalogue.items()}
    if family is not None and len(bare) < len(catalogue):
        prefix = next(name.removesuffix(family.bare(name)) for name in catalogue if name != family.bare(name))
        raise ModelError(f"`{catalogue.location}` has a name with the prefix `{prefix}` and without")
    return bare


def _parts(recognition: models.Recognition | None) -> dict[str, tuple[str, ...]]:
    """What equal parts of a tensor hold, by its bare name: query, key and value."""
    return recognition.family.parts(recognition.sizes[recognition.family.layers]) if recognition is not None else {}


def _encoding(tensor: Tensor) -> str:
    return tensor.storage.encoding or tensor.dtype.name


def _same(expected: Tensor, found: Tensor) -> bool:
    try:
        return equal(expected, found)
    except ReadError:
        return False


def _guess(original: _Digests, name: str, found: Tensor, *, look: bool) -> tuple[str, str]:
    """Name damage by digests alone; `look` into the tensor for it."""
    golden = original.golden
    known, encoding = golden.tensors[name], _encoding(found)
    if encoding != known.dtype and encoding not in known.converted:
        return "not in the manifest", (
            f"it is {encoding}, of which the manifest has no digest: verify it against the source with --write-manifest"
        )
    if not look:
        return "changed", "its digest is another"
    wanted = known.sha256 if encoding == known.dtype else known.converted[encoding]
    if not any(any(bytes(tile)) for tile in found.tiles()):
        return "zeroed", "every element is zero"
    mine = digest(found)
    for other, tensor in golden.tensors.items():
        if other != name and mine in (tensor.sha256, *tensor.converted.values()):
            return exchanged(name, other, mutual=False)
    if any(digest(view) == wanted for view in transposed(found)):
        return "transposed", "its elements are those of the transposed matrix"
    if (parts := _parts(original.recognition).get(name)) is not None:
        for order in orders(len(parts)):
            if digest_in_parts(found, order) == wanted:
                return permuted(tuple(order.index(i) for i in range(len(parts))), parts)
    return "changed", "its digest is another"


def _junit(report: reports.Verification) -> bytes:
    """Give a suite an output, a case a thing that is wrong and one for all that is right."""
    from xml.etree import ElementTree as Xml

    suites = Xml.Element("testsuites", name="cerebras-tool verify")
    for output in report.outputs:
        wrong = [(found.name, found.what, found.detail) for found in output.tensors.different]
        wrong += [(name, "missing", "the output does not have it") for name in output.tensors.missing]
        wrong += [(name, "unexpected", "the source does not have it") for name in output.tensors.unexpected]
        counts = {"tests": str(len(wrong) + 1), "failures": str(len(wrong)), "errors": "0", "skipped": "0"}
        suite = Xml.SubElement(suites, "testsuite", {"name": safe_text(output.location, 400), **counts})
        equal_ones = output.tensors.identical + output.tensors.converted
        Xml.SubElement(suite, "testcase", classname=output.verdict, name=f"{equal_ones} tensors are equal")
        for name, what, detail in wrong:
            case = Xml.SubElement(suite, "testcase", classname=output.verdict, name=safe_text(name))
            failure = Xml.SubElement(case, "failure", message=safe_text(what), type="different")
            failure.text = safe_text(detail, 400)
    return bytes(Xml.tostring(suites, encoding="utf-8", xml_declaration=True))


def _markdown(report: reports.Verification) -> str:
    lines = [
        f"### cerebras-tool verify: {'equal' if report.ok else 'different'}",
        "",
        f"Source: {_code(report.source)}",
        "",
    ]
    lines += ["| output | verdict | tensors | identical | converted | wrong |", "|---|---|---|---|---|---|"]
    for output in report.outputs:
        tensors = output.tensors
        wrong = len(tensors.different) + len(tensors.missing) + len(tensors.unexpected)
        counts = f"{tensors.compared:,} | {tensors.identical:,} | {tensors.converted:,} | {wrong:,}"
        lines.append(f"| {_code(output.location)} | {output.verdict} | {counts} |")
    for output in report.outputs:
        tensors = output.tensors
        listed = [f"* {_code(found.name)}: {_code(found.what)}, {_code(found.detail)}" for found in tensors.different]
        listed += [f"* {_code(name)}: missing" for name in tensors.missing]
        listed += [f"* {_code(name)}: unexpected" for name in tensors.unexpected]
        if listed:
            lines += ["", f"#### {_code(output.location)}", "", *listed[:_LISTED]]
        if len(listed) > _LISTED:
            lines.append(f"* and {len(listed) - _LISTED:,} more")
    return "\n".join(lines) + "\n\n"


def _code(text: str) -> str:
    """Give a text that means nothing in Markdown, nor in a table."""
    return "`" + safe_text(text, 300).replace("`", "'").replace("|", "/") + "`"


def _status(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _index(flat: int | None, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    if flat is None:
        return None
    index = []
    for length in reversed(shape):
        flat, at = divmod(flat, length)
        index.append(at)
    return tuple(reversed(index))


def _finite(value: float | int | None) -> float | int | None:
    return value if value is not None and math.isfinite(value) else None
