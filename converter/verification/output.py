"""Verifies one output: its structure, the bits of its tensors, the files beside it, and what it computes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Set
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from converter import formats
from converter.errors import ConverterError, FormatError, ManifestError, ModelError, ReadError
from converter.formats.format import VALUES
from converter.formats.joining import remarks
from converter.formats.said import Finding
from converter.io.strict_json import load_json
from converter.models.masks import droppable
from converter.models.recognition import Recognition, recognise
from converter.reports.verification import DerivedReport, Difference, Note, VerifiedOutput, VerifiedTensors
from converter.steps import step
from converter.tensors.catalogue import Catalogue
from converter.text import os_reason, plural
from converter.verification import opaque, surroundings
from converter.verification.absences import Ties, is_unused, remade
from converter.verification.bits import Bits, named
from converter.verification.broken import BrokenError, broken_by
from converter.verification.comparison import constant, finite, index_of, same
from converter.verification.derivation import wrong
from converter.verification.given import Given
from converter.verification.golden import encoding
from converter.verification.losses import by_layer
from converter.verification.names import bare, opaque_tensors
from converter.verification.wanted import Copy, Expected
from converter.words import option

if TYPE_CHECKING:
    from converter.tensors.tensor import Tensor
    from converter.verification.comparison import Outcome
    from converter.verification.inference import Inference
    from converter.verification.losses import Errors

IDENTICAL: Final = "identical"
EQUIVALENT: Final = "equivalent"
DIFFERENT: Final = "different"
NOT_COMPARED: Final = "not compared"
COMPUTED: Final = "inference"  # the name of a finding about what the output computes


class Output:
    """An output, and everything that is found about it."""

    def __init__(
        self, expected: Expected, output: str | Path | Catalogue, inference: Inference | None, threads: int
    ) -> None:
        self._threads = threads
        self._expected, self._inference, self._start = expected, inference, time.perf_counter()
        self._given = Given(output)
        self._location, self._lone = self._given.location, self._given.lone
        self._format: str | None = None
        self._tensors: Mapping[str, Tensor] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._different: list[Difference] = []
        self._missing: list[str] = []
        self._renamed: set[str] = set()  # missing tensors that are there under other names
        self._unexpected: list[str] = []
        self._unknown: Mapping[str, None] = {}  # tensors that a manifest has no digest of, in their dtype
        self._computed: Mapping[str, Any] | None = None
        self._lacks: tuple[str, ...] = ()
        self._beside: list[Difference] = []  # differences beside the weights that change the verdict
        self._computes: list[Difference] = []  # differences in what the output computes
        self._notes: list[Note] = []  # findings that do not change the verdict
        self._left_out: list[str] = []
        self._companions = NOT_COMPARED
        self._compared: tuple[str, ...] = ()  # the parts of what lies beside the weights

    @property
    def copy(self) -> Copy:
        """Its tensors, and the outcomes of those that were compared."""
        return self._tensors, self._outcomes

    def verify(self) -> VerifiedOutput:
        """Find everything that is wrong, and return the verdict."""
        try:
            opened = self._open()
            self._lacks = self._not_carried(opened.catalogue)
            self._compare_structure(opened)
            with step("compare", self._location):
                self._compare_bits(opened.catalogue)
            self._compare_surroundings(opened)
            if self._inference is not None:
                self._compare_computation(opened.catalogue, self._inference)
        except BrokenError as error:
            self._different.append(error.difference)
        return self._verdict()

    def _verdict(self) -> VerifiedOutput:
        right = [outcome for outcome in self._outcomes.values() if not outcome.differing]
        identical = sum(outcome.exact for outcome in right)
        weights = IDENTICAL if identical == len(right) else EQUIVALENT
        if self._unknown:
            weights = NOT_COMPARED
        if self._different or self._missing or self._unexpected:
            weights = DIFFERENT
        losses = self._losses()
        beside, computes = tuple(self._beside), tuple(self._computes)
        return VerifiedOutput(
            location=self._location,
            format=self._format,
            verdict=DIFFERENT if self._beside or self._computes else weights,
            tensors=VerifiedTensors(
                compared=len(self._outcomes),
                identical=identical,
                converted=len(right) - identical,
                different=(*self._different, *beside, *computes),
                missing=tuple(self._missing),
                unexpected=tuple(self._unexpected),
                not_compared=tuple(self._unknown),
            ),
            inference=self._computed,
            lacks=self._lacks,
            weights=weights,
            companions=DIFFERENT if self._beside else self._companions,
            notes=tuple(self._notes),
            left_out=tuple(self._left_out),
            losses=tuple(errors.loss(name, dtype, elements) for name, (dtype, elements, errors) in losses.items()),
            layer_losses=tuple(by_layer(losses)),
            derived=tuple(self._derived()),
            agree=() if self._beside else self._compared,
            expected=tuple(self._expected.shapes),
            beside=beside,
            computes=computes,
            seconds=time.perf_counter() - self._start,
        )

    def _derived(self) -> Iterator[DerivedReport]:
        """How tensors in blocks relate to the source, where that was found out."""
        for name, outcome in self._outcomes.items():
            if (derived := outcome.derived) is not None:
                ratio, worst = finite(derived.ratio), finite(derived.worst)
                at = index_of(derived.at, self._tensors[name].shape)
                yield DerivedReport(
                    name, derived.encoding, derived.origin, derived.blocks, derived.fit, ratio, worst, at
                )

    def _losses(self) -> dict[str, tuple[str, int, Errors]]:
        """The dtypes, sizes and errors of tensors whose dtype was changed as it should be."""
        return {
            name: (encoding(self._tensors[name]), self._tensors[name].size, outcome.errors)
            for name, outcome in self._outcomes.items()
            if outcome.errors is not None and not outcome.differing
        }

    def _not_carried(self, catalogue: Catalogue) -> tuple[str, ...]:
        """What the source says, or has beside its weights, and the output has neither inside nor in a document beside it."""
        compared = self._expected.hyperparameters if surroundings.hyperparameters(catalogue) is not None else None
        said = {
            name: value
            for name, value in self._expected.remarks.items()
            if compared is None or name not in compared.said
        }
        if not self._expected.others and not said:
            return ()
        beside = self._given.sidecar()
        there: set[str] = {other.name for other in catalogue.others}
        with broken_by(ConverterError, name=str(beside)):
            there |= set(load_json(beside)) if beside.is_file() else set()
        names = (
            name for name in self._expected.others if name not in there and VALUES + name not in catalogue.metadata
        )
        found = remarks(catalogue)
        alike = formats.of(catalogue).name == self._expected.format  # other formats write a value in their own way
        lost = (name for name in said if name not in there and name not in found)
        changed = (f"{name} as it was" for name in said if alike and name in found and found[name] != said[name])
        return (*names, *lost, *changed)

    def _say(self, name: str, what: str, detail: str) -> None:
        self._different.append(Difference(name, what, detail))

    def _open(self) -> _Opened:
        try:
            with broken_by(ConverterError, name=self._location):
                catalogue = self._given.opened()
                self._format = catalogue.format
                opened = _Opened(formats.canonical(catalogue), self._expected)
                self._tensors = opened.tensors
        except OSError as error:
            raise BrokenError(self._location, ConverterError.damage, os_reason(error)) from error
        # Otherwise everything else of the model would be called missing.
        if (alone := formats.alone(opened.catalogue)) is not None:
            raise BrokenError(self._location, "contradiction", alone)
        for problem in opened.catalogue.problems:
            self._say(self._location, "contradiction", problem)
        for name, other in opaque_tensors(opened.catalogue, self._expected.family).items():
            if (reason := opaque.unlike(self._expected.opaque.get(name), other)) is not None:
                self._say(name, *reason)
        return opened

    # ---- names and ties

    def _compare_structure(self, opened: _Opened) -> None:
        self._missing = self._find_missing(opened)
        known = {tensor for name, tensor in self._tensors.items() if name in self._expected.shapes}
        for name, found in self._tensors.items():
            leader = opened.leader(name)
            # A second name for an expected tensor adds nothing. torch's formats keep such names, and safetensors can't.
            if name in self._expected.shapes or found in known or found == leader or self._is_mask(opened, name):
                continue
            if self._is_second(name, found):
                continue
            self._unexpected.append(name)
            self._explain_unexpected(name, leader)
        for group in self._expected.tied:
            self._find_lost_ties([name for name in group if name in self._tensors], opened.followers)

    def _find_missing(self, opened: _Opened) -> list[str]:
        """Find names that the output lacks. It may lack what is made again, and all names but one of the same tensor."""
        there = self._tensors.keys() | opened.undecoded
        follows = {name for group in self._expected.tied if there & set(group) for name in group}
        absent = [name for name in self._expected.shapes if name not in there]
        spared = [name for name in absent if name in follows or self._may_lack(name, there)]
        unused = [name for name in spared if is_unused(name, self._expected.config or {})]
        self._notes += [Note(name, "left out", "nothing is computed with it") for name in unused]
        self._left_out = [name for name in spared if name not in unused]
        return [name for name in absent if name not in spared]

    @cached_property
    def _ties(self) -> Ties:
        return Ties(self._expected.shapes, self._expected.config)

    def _may_lack(self, name: str, there: Set[str]) -> bool:
        """Whether a tensor is made again, or the model ties it to one that is there and that is equal in the source."""
        known = self._expected.shapes
        leaders = [other for other in self._ties.leaders(name) if other in there and other in known]
        return name in self._expected.masks or any(self._expected.alike(name, leader) for leader in leaders)

    def _is_mask(self, opened: _Opened, name: str) -> bool:
        """Whether an unexpected tensor is a mask or another buffer, which the output may have."""
        with broken_by(ConverterError, name=name):
            return (name in opened.buffers and name in opened.masks) or name in opened.remade

    def _is_second(self, name: str, found: Tensor) -> bool:
        """Whether a tensor is a second copy of one that the model ties it to. Notes it: nothing that is computed changes."""
        leaders = [other for other in self._ties.leaders(name) if other in self._tensors]
        leader = next((other for other in leaders if _equal(self._tensors[other], found)), None)
        if leader is not None:
            detail = f"it has the elements of `{leader}`, and the model uses one tensor for both"
            self._notes.append(Note(name, "stored twice", detail))
        return leader is not None

    def _explain_unexpected(self, name: str, leader: Tensor | None) -> None:
        """Say what an unexpected tensor is: a head that was tied, or a tensor under a new name."""
        found = self._tensors[name]
        if leader is not None and _equal(leader, found):
            self._say(name, "lost tie", "it is a copy of the tensor that it follows from")
            return
        shapes = self._expected.shapes
        missing = [one for one in self._missing if shapes[one] == found.shape and one not in self._renamed]
        # Many tensors of a new model have only zeros, or only ones: they say nothing about names.
        if not missing or constant(found):
            return
        old = next((one for one in missing if self._expected.holds(one, found)), None)
        if old is not None:
            self._renamed.add(old)
            self._say(old, "renamed", f"the output has its elements under the name `{name}`")

    def _find_lost_ties(self, group: list[str], followers: Mapping[str, str]) -> None:
        """Say which names of a tied group are separate tensors in the output. It counts if the model doesn't tie them."""
        for name in group[1:]:
            if self._tensors[name] == self._tensors[group[0]]:
                continue
            pair = (name, group[0])
            tied = next((one for one in pair if not set(self._ties.leaders(one)).isdisjoint(pair)), None)
            if tied is not None:
                self._is_second(tied, self._tensors[tied])  # if its elements are others, that is found with the bits
                continue
            own = next((other for other in pair if other in followers), name)
            rest = group[0] if own == name else name
            self._say(own, "lost tie", f"it shared one tensor with `{rest}`, and is now a separate one")

    # ---- bits

    def _compare_bits(self, catalogue: Catalogue) -> None:
        bits = Bits(self._expected, self._tensors, catalogue, self._threads)
        for found in formats.of(catalogue).disagreements(catalogue):
            if found.counts:
                self._say(self._location, found.what, found.detail)
            else:
                self._note(found._replace(name=self._location))
        names = [name for name in self._expected.shapes if name in self._tensors]
        alike = [name for name in names if not self._is_unlike(bits, name)]
        self._unknown = {name: None for name in alike if not self._expected.is_known(name, self._tensors[name])}
        if self._unknown:
            self._notes.append(Note(self._location, NOT_COMPARED, self._without_digests()))
        self._outcomes = bits.compare([name for name in alike if name not in self._unknown])
        try:
            bits.finish()
        except ConverterError as error:
            self._say(self._location, "checksum", str(error))
        damaged = [name for name, outcome in self._outcomes.items() if outcome.differing]
        derived = {name: outcome.derived for name, outcome in self._outcomes.items() if outcome.derived is not None}
        for name, (first, reason) in wrong({name: one for name, one in derived.items() if name not in damaged}).items():
            at = index_of(first, self._tensors[name].shape)
            self._different.append(Difference(name, "not from the source", f"{reason}, at {list(at or ())}"))
        for name, problem in bits.checksums.items():
            if name not in damaged:
                self._say(name, "checksum", problem)
        for index, name in enumerate(damaged):
            look, outcome = index < self._expected.explained, self._outcomes[name]
            explained = self._expected.explain(name, self._tensors[name], outcome, self._tensors, look=look)
            self._different.append(explained)

    def _without_digests(self) -> str:
        dtypes = " or ".join(sorted({encoding(self._tensors[name]) for name in self._unknown}))
        many = f"{plural(len(self._unknown), 'tensor')} in {dtypes}"
        return f"the manifest has no digest of {many}: verify this output against the source, with {option('write-manifest')}"

    def _is_unlike(self, bits: Bits, name: str) -> bool:
        """Whether a tensor can't be compared element by element. Reports why."""
        reason = bits.unlike(name)
        if reason is not None:
            self._say(name, *reason)
        return reason is not None

    # ---- surroundings and inference

    def _compare_surroundings(self, opened: _Opened) -> None:
        output = opened.catalogue
        if self._lone and not formats.of(output).self_contained:
            return  # what lies beside a lone file need not belong to it
        try:
            self._companions = self._look_beside(output, opened.recognition)
        except (FormatError, ManifestError) as error:
            self._beside.append(Difference(self._location, error.damage, str(error)))

    def _look_beside(self, output: Catalogue, recognition: Recognition | None) -> str:
        """Find what is to be said about what lies beside the weights, and return the verdict if nothing counts."""
        compared, apart = set[str](), set[str]()
        for found in self._expected.surroundings(output, recognition):
            if found.what == surroundings.COMPARED:
                compared.add(found.name)
            else:
                self._note(found)
                # If a part of the tokenizer differs, the tokenizer as a whole does not agree.
                if found.name.partition(".")[0] == surroundings.TOKENS:
                    apart.add(surroundings.TOKENS)
        compared -= apart
        self._compared = tuple(part for part in surroundings.PARTS if part in compared)
        if not self._lone:
            for found in formats.of(output).check(output, self._expected.settings):
                self._note(found)
        absent = [note for note in self._notes if note.what == surroundings.ABSENT]
        none = not formats.of(output).self_contained and not surroundings.any_beside(output)
        if none:
            return "absent" if absent else NOT_COMPARED
        return NOT_COMPARED if any(note.what == surroundings.REFUSED for note in self._notes) else "equal"

    def _note(self, found: Finding) -> None:
        if found.counts:
            self._beside.append(Difference(found.name, found.what, found.detail))
        else:
            self._notes.append(Note(found.name, found.what, found.detail))

    def _compare_computation(self, catalogue: Catalogue, inference: Inference) -> None:
        try:
            with step("compute", self._location):
                self._computed, shortcomings = inference.compare(self._location, catalogue, lone=self._lone)
        except (FormatError, ModelError, ReadError) as error:
            self._computes.append(Difference(COMPUTED, "can't be computed", str(error)))
            return
        self._computes += (Difference(COMPUTED, "computes otherwise", shortcoming) for shortcoming in shortcomings)


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and same(one, other)


class _Opened:
    """An output's catalogue and tensors, and what follows from the family that is recognised in it."""

    def __init__(self, catalogue: Catalogue, expected: Expected) -> None:
        self.catalogue, self._family = catalogue, expected.family  # the source's, whose prefix is removed from names
        self._config = expected.config if catalogue.config is None else catalogue.config
        self.tensors = named(catalogue, expected)

    @cached_property
    def recognition(self) -> Recognition | None:
        """What the output is recognised as."""
        return recognise(self.catalogue, self.catalogue.config)

    @cached_property
    def followers(self) -> Mapping[str, str]:
        """Names of tensors that follow from another one if they are absent, with the name of that one."""
        return self.recognition.family.followers if self.recognition is not None else {}

    @cached_property
    def undecoded(self) -> Set[str]:
        """Names of tensors whose elements can't be read."""
        return opaque_tensors(self.catalogue, self._family).keys()

    @cached_property
    def buffers(self) -> Set[str]:
        """Names of all buffers of the family."""
        buffers = self.recognition.buffers if self.recognition is not None else ()
        return {bare(name, self._family) for name in buffers}

    @cached_property
    def masks(self) -> Set[str]:
        """Names of buffers that hold exactly what the architecture says."""
        return {bare(name, self._family) for name in droppable(self.catalogue, self.recognition)}

    @cached_property
    def remade(self) -> Set[str]:
        """Names of buffers that transformers makes again."""
        return {bare(name, self._family) for name in remade(self.catalogue, self._config)}

    def leader(self, name: str) -> Tensor | None:
        """The tensor that this one follows from."""
        return self.tensors.get(self.followers.get(name, ""))
