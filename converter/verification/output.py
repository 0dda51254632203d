"""Verifies one output: its structure, the bits of its tensors, the files beside it, and what it computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from converter import formats
from converter.errors import ConverterError, FormatError, ManifestError, ModelError, ReadError
from converter.formats.companions import SIDECAR
from converter.formats.format import VALUES
from converter.formats.joining import remarks
from converter.formats.said import Finding
from converter.io.strict_json import load_json
from converter.models.masks import droppable
from converter.models.recognition import Recognition, recognise
from converter.opening import open_checkpoint
from converter.reports.verification import Difference, Note, VerifiedOutput, VerifiedTensors
from converter.tensors.verified import checked
from converter.text import os_reason
from converter.verification import surroundings
from converter.verification.expected import Copy, Expected, bare, bare_tensors, same
from converter.verification.golden import encoding
from converter.verification.losses import by_layer
from converter.verification.walk import Workspace

if TYPE_CHECKING:
    from converter.tensors.catalogue import Catalogue
    from converter.tensors.tensor import Tensor
    from converter.verification.comparison import Outcome
    from converter.verification.inference import Inference
    from converter.verification.losses import Errors

IDENTICAL: Final = "identical"
EQUIVALENT: Final = "equivalent"
DIFFERENT: Final = "different"
NOT_COMPARED: Final = "not compared"
COMPUTED: Final = "inference"  # the name of a finding about what the output computes

_Found = TypeVar("_Found")


class _BrokenError(Exception):
    """An output that can't be read any further. This is a finding, not an error."""

    def __init__(self, name: str, what: str, detail: str) -> None:
        super().__init__(detail)
        self.difference = Difference(name, what, detail)


@contextmanager
def _broken_by(*errors: type[ConverterError], name: str, what: str | None = None) -> Iterator[None]:
    """Turn errors of these classes into the output's last finding, called `what` or as the error's class says."""
    try:
        yield
    except errors as error:
        raise _BrokenError(name, what or error.damage, str(error)) from error


class Output:
    """An output, and everything that is found about it."""

    def __init__(self, expected: Expected, location: str | Path, inference: Inference | None) -> None:
        self._expected, self._location, self._inference = expected, str(location), inference
        self._lone = Path(location).is_file()  # a file need not have anything beside it
        self._format: str | None = None
        self._tensors: Mapping[str, Tensor] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._different: list[Difference] = []
        self._missing: list[str] = []
        self._unexpected: list[str] = []
        self._computed: Mapping[str, Any] | None = None
        self._lacks: tuple[str, ...] = ()
        self._beside: list[Difference] = []  # what differs beside the weights, and counts
        self._computes: list[Difference] = []  # what it computes otherwise
        self._notes: list[Note] = []  # they do not change the verdict
        self._left_out: list[str] = []
        self._companions = NOT_COMPARED

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
            self._compare_bits(opened.catalogue)
            self._compare_surroundings(opened)
            if self._inference is not None:
                self._compare_computation(opened.catalogue, self._inference)
        except _BrokenError as error:
            self._different.append(error.difference)
        return self._verdict()

    def _verdict(self) -> VerifiedOutput:
        right = [outcome for outcome in self._outcomes.values() if not outcome.differing]
        identical = sum(outcome.exact for outcome in right)
        weights = IDENTICAL if identical == len(right) else EQUIVALENT
        if self._different or self._missing or self._unexpected:
            weights = DIFFERENT
        losses = self._losses()
        return VerifiedOutput(
            location=self._location,
            format=self._format,
            verdict=DIFFERENT if self._beside or self._computes else weights,
            tensors=VerifiedTensors(
                compared=len(self._outcomes),
                identical=identical,
                converted=len(right) - identical,
                different=(*self._different, *self._beside, *self._computes),
                missing=tuple(self._missing),
                unexpected=tuple(self._unexpected),
            ),
            inference=self._computed,
            lacks=self._lacks,
            weights=weights,
            companions=DIFFERENT if self._beside else self._companions,
            notes=tuple(self._notes),
            left_out=tuple(self._left_out),
            losses=tuple(errors.loss(name, dtype, elements) for name, (dtype, elements, errors) in losses.items()),
            layer_losses=tuple(by_layer(losses)),
        )

    def _losses(self) -> dict[str, tuple[str, int, Errors]]:
        """The dtypes, sizes and errors of right tensors whose dtype was changed."""
        return {
            name: (encoding(self._tensors[name]), self._tensors[name].size, outcome.errors)
            for name, outcome in self._outcomes.items()
            if outcome.errors is not None and not outcome.differing
        }

    def _not_carried(self, catalogue: Catalogue) -> tuple[str, ...]:
        """What the source says, or has beside its weights, and the output has neither inside nor in a document beside it."""
        said = self._expected.remarks
        if not self._expected.others and not said:
            return ()
        path = Path(self._location)
        beside = path.with_name(f"{path.stem}.{SIDECAR}") if self._lone else path / SIDECAR
        there: set[str] = {other.name for other in catalogue.others}
        with _broken_by(ConverterError, name=str(beside)):
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
        location = self._location if "://" in self._location else Path(self._location)
        try:
            with _broken_by(ConverterError, name=self._location):
                catalogue = open_checkpoint(location)
                self._format = catalogue.format
                opened = _Opened(formats.canonical(catalogue), self._expected)
                self._tensors = opened.tensors
        except OSError as error:
            raise _BrokenError(self._location, ConverterError.damage, os_reason(error)) from error
        if (
            alone := formats.alone(opened.catalogue)
        ) is not None:  # everything else of the model would be called missing
            raise _BrokenError(self._location, "contradiction", alone)
        for problem in opened.catalogue.problems:
            self._say(self._location, "contradiction", problem)
        for other in opened.catalogue.unsupported:
            name = bare(other.name, self._expected.family)
            self._say(name, "unreadable", f"it is of a kind that is not decoded here: {other.kind}")
        return opened

    # ---- names and ties

    def _compare_structure(self, opened: _Opened) -> None:
        self._missing = self._find_missing(opened)
        known = {tensor for name, tensor in self._tensors.items() if name in self._expected.shapes}
        for name, found in self._tensors.items():
            leader = opened.leader(name)
            # A second name for a tensor that should be there adds nothing: torch keeps it, and safetensors can't.
            if name in self._expected.shapes or found in known or found == leader or self._is_mask(opened, name):
                continue
            self._unexpected.append(name)
            self._explain_unexpected(name, leader)
        for group in self._expected.tied:
            self._find_lost_ties([name for name in group if name in self._tensors], opened.followers)

    def _find_missing(self, opened: _Opened) -> list[str]:
        """Find names that the output lacks. It may lack masks, and all names but one of several for the same tensor."""
        there = self._tensors.keys() | opened.undecoded
        follows = {name for group in self._expected.tied if there & set(group) for name in group}
        absent = [name for name in self._expected.shapes if name not in there]
        missing = [name for name in absent if name not in follows and name not in self._expected.masks]
        self._left_out = [name for name in absent if name not in missing]
        return missing

    def _is_mask(self, opened: _Opened, name: str) -> bool:
        """Whether an unexpected tensor is a mask, which the output may have."""
        with _broken_by(ConverterError, name=name):
            return name in opened.buffers and name in opened.masks

    def _explain_unexpected(self, name: str, leader: Tensor | None) -> None:
        """Say what an unexpected tensor is: a head that was tied, or a tensor under a new name."""
        found = self._tensors[name]
        if leader is not None and found.shape == leader.shape and same(leader, found):
            self._say(name, "lost tie", "it is a copy of the tensor that it follows from")
            return
        for missing in self._missing:
            if self._expected.shapes[missing] == found.shape and self._expected.holds(missing, found):
                self._say(missing, "renamed", f"the output has its elements under the name `{name}`")
                return

    def _find_lost_ties(self, group: list[str], followers: Mapping[str, str]) -> None:
        """Say which names of a tied group are separate tensors in the output."""
        for name in group[1:]:
            if self._tensors[name] != self._tensors[group[0]]:
                own = next((other for other in (name, group[0]) if other in followers), name)
                rest = group[0] if own == name else name
                self._say(own, "lost tie", f"it shared one tensor with `{rest}`, and is now a separate one")

    # ---- bits

    def _compare_bits(self, catalogue: Catalogue) -> None:
        bits = _Bits(self._expected, self._tensors, catalogue)
        for problem in formats.of(catalogue).disagreements(catalogue):
            self._say(self._location, "readers disagree", problem)
        names = [name for name in self._expected.shapes if name in self._tensors]
        self._outcomes = bits.compare([name for name in names if not self._is_unlike(bits, name)])
        try:
            bits.finish()
        except ConverterError as error:
            self._say(self._location, "checksum", str(error))
        damaged = [name for name, outcome in self._outcomes.items() if outcome.differing]
        for name, problem in bits.checksums.items():
            if name not in damaged:
                self._say(name, "checksum", problem)
        for index, name in enumerate(damaged):
            look, outcome = index < self._expected.explained, self._outcomes[name]
            explained = self._expected.explain(name, self._tensors[name], outcome, self._tensors, look=look)
            self._different.append(explained)

    def _is_unlike(self, bits: _Bits, name: str) -> bool:
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
        for found in self._expected.surroundings(output, recognition):
            self._note(found)
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
            self._computed, shortcomings = inference.compare(self._location, catalogue, lone=self._lone)
        except (FormatError, ModelError, ReadError) as error:
            self._computes.append(Difference(COMPUTED, "can't be computed", str(error)))
            return
        self._computes += (Difference(COMPUTED, "computes otherwise", shortcoming) for shortcoming in shortcomings)


class _Opened:
    """An output's catalogue and tensors, and what follows from the family that is recognised in it."""

    def __init__(self, catalogue: Catalogue, expected: Expected) -> None:
        self.catalogue, self._family = catalogue, expected.family  # the source's, whose prefix is removed from names
        self.tensors = _named(catalogue, expected)

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
        return {bare(other.name, self._family) for other in self.catalogue.unsupported}

    @cached_property
    def buffers(self) -> Set[str]:
        """Names of all buffers of the family."""
        buffers = self.recognition.buffers if self.recognition is not None else ()
        return {bare(name, self._family) for name in buffers}

    @cached_property
    def masks(self) -> Set[str]:
        """Names of buffers that hold exactly what the architecture says."""
        return {bare(name, self._family) for name in droppable(self.catalogue, self.recognition)}

    def leader(self, name: str) -> Tensor | None:
        """The tensor that this one follows from."""
        return self.tensors.get(self.followers.get(name, ""))


def _named(catalogue: Catalogue, expected: Expected) -> dict[str, Tensor]:
    """An output's tensors by bare names, and under expected names that it has not, but that are tied to one of them.

    safetensors' own `save_model` writes into the metadata which name stands for one that it left out. A tied head may be
    all that is left of a head and an embedding.
    """
    family = expected.family
    tensors = bare_tensors(catalogue, family)
    tied = {name for group in expected.tied for name in group}
    for name, kept in catalogue.metadata.items():
        if type(kept) is str and kept in catalogue and bare(name, family) in expected.shapes:
            tensors.setdefault(bare(name, family), catalogue[kept])
    for head, name in (family.followers if family is not None else {}).items():
        if head in tensors and name in expected.shapes and (head in tied or head not in expected.shapes):
            tensors.setdefault(name, tensors[head])
    return tensors


class _Bits:
    """The elements of an output. They are read once, and their checksums are checked on the way."""

    def __init__(self, expected: Expected, tensors: Mapping[str, Tensor], catalogue: Catalogue) -> None:
        copy, self.finish = checked(catalogue)
        self._expected, self._unchecked = expected, tensors
        self._checked = _named(copy, expected)
        self._workspace = Workspace()
        self.checksums: dict[str, str] = {}  # errors of checksums, by the tensor's name

    def unlike(self, name: str) -> tuple[str, str] | None:
        """Why a tensor can't be compared element by element; None if it can."""
        return self._read(name, lambda tensors: self._expected.unlike(name, tensors[name], tensors))

    def compare(self, names: Sequence[str]) -> dict[str, Outcome]:
        """The outcomes of these tensors. Two names of one tensor, in the source and here, are compared once."""
        pairs = {name: (self._expected.identity(name), self._checked[name]) for name in names}
        firsts = {pairs[name]: name for name in reversed(names)}
        outcomes = {pair: self._compare(name) for pair, name in firsts.items()}
        return {name: outcomes[pair] for name, pair in pairs.items()}

    def _compare(self, name: str) -> Outcome:
        return self._read(name, lambda tensors: self._expected.compare(name, tensors[name], self._workspace))

    def _read(self, name: str, look: Callable[[Mapping[str, Tensor]], _Found]) -> _Found:
        """The result of reading a tensor by `look`. If its checksum is wrong, that is noted, and it is read all the same."""
        try:
            return look(self._checked)
        except ReadError as error:
            self.checksums[name] = str(error)
        with _broken_by(ReadError, name=name):
            return look(self._unchecked)
