"""What outputs are compared with: a checkpoint, or the digests of one in a golden manifest.

Both answer the same questions. Names are without the family's prefix, because some files have it and others don't.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Set
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

from converter import formats
from converter.errors import ConverterError, ManifestError, ModelError, ReadError, UnsupportedError
from converter.formats.companions import CONFIG
from converter.formats.joining import remarks
from converter.formats.said import Finding
from converter.models.masks import droppable
from converter.models.recognition import Recognition, recognise
from converter.opening import folder_beside
from converter.reports.verification import Difference
from converter.tensors.guards import check_expansion
from converter.tensors.verified import checked
from converter.verification import surroundings
from converter.verification.comparison import Outcome, compare, equal
from converter.verification.diagnosis import Diagnosis, exchanged, orders, permuted, transposed
from converter.verification.golden import Golden, GoldenTensor, digest, digest_in_parts, encoding
from converter.verification.roundings import comparable

if TYPE_CHECKING:
    from converter.models.family import Family
    from converter.tensors.catalogue import Catalogue
    from converter.tensors.tensor import Tensor
    from converter.verification.walk import Workspace

NO_MANIFEST: Final = "no manifest can be made"  # the end of a message that says what can't be done with digests

Progress = Callable[[int], None]  # called with the bytes that were compared since the last call
Copy = tuple[Mapping[str, "Tensor"], Mapping[str, Outcome]]  # an output's tensors, and their outcomes


class Expected(Protocol):
    """What outputs must be."""

    location: str
    family: Family | None
    shapes: Mapping[str, tuple[int, ...]]
    tied: Sequence[Sequence[str]]
    nbytes: int  # bytes of all tensors
    others: Sequence[str]  # names of what lies beside the weights
    remarks: Mapping[str, Any]  # what the files say about the model
    format: str | None  # the name of its format
    explained: ClassVar[int]  # the number of damaged tensors whose damage is looked into

    @property
    def masks(self) -> Set[str]:
        """Buffers that an output may leave out, because they hold exactly what the architecture says."""
        ...

    def whole(self, otherwise: str) -> Catalogue:
        """The checkpoint. Raises UnsupportedError if there are only digests; `otherwise` then says what can't be done."""
        ...

    def identity(self, name: str) -> Hashable:
        """What all names of one tensor have in common."""
        ...

    def unlike(self, name: str, found: Tensor, others: Mapping[str, Tensor]) -> tuple[str, str] | None:
        """Why a tensor can't be compared element by element, as a name and as a sentence; None if it can."""
        ...

    def compare(self, name: str, found: Tensor, workspace: Workspace) -> Outcome:
        """Compare a tensor of the same shape. Raises ReadError if the output can't be read."""
        ...

    def holds(self, name: str, found: Tensor) -> bool:
        """Whether a tensor of the same shape has exactly the elements that this name should have."""
        ...

    def explain(
        self, name: str, found: Tensor, outcome: Outcome, others: Mapping[str, Tensor], *, look: bool
    ) -> Difference:
        """What happened to a damaged tensor. The tensor is only read again to find out if `look` is true."""
        ...

    @property
    def settings(self) -> Mapping[str, Any] | None:
        """What config.json means; None if there is none."""
        ...

    def surroundings(self, output: Catalogue, recognition: Recognition | None) -> Iterator[Finding]:
        """Yield what is to be said about the config.json and the tokenizer of an output, recognised as `recognition`."""
        ...

    def golden(self, copies: Iterable[Copy]) -> Golden:
        """Make the golden manifest, with the digests of equivalent copies. Raises UnsupportedError as `whole` does."""
        ...

    def finish(self) -> None:
        """Raise if the source turned out to be damaged, or was changed while it was read."""
        ...


def expect(source: Catalogue | Golden, progress: Progress | None = None) -> Expected:
    """What outputs are compared with. Raises ConverterError if the source can't be read whole."""
    return Digests(source, progress) if isinstance(source, Golden) else Checkpoint(source, progress)


class Checkpoint:
    """A checkpoint whose CRCs are checked as it is read."""

    explained: ClassVar[int] = 200  # if more tensors are damaged, it is another model

    def __init__(self, source: Catalogue, progress: Progress | None = None) -> None:
        for other in source.unsupported:
            raise UnsupportedError(f"`{other.name}` is a tensor of the kind {other.kind}: its elements can't be read")
        if (alone := formats.alone(source)) is not None:
            raise ManifestError(alone)
        if source.missing:
            raise ManifestError(f"`{source.location}` lacks `{source.missing[0]}`, which its index promises")
        if not source:
            raise UnsupportedError(f"`{source.location}` holds no tensors to compare")
        check_expansion(source)
        self._source, self._progress = source, progress
        self.location = source.location
        catalogue, self._check = checked(source)
        self._catalogue = formats.canonical(catalogue)
        self._recognition = recognise(self._catalogue, self._catalogue.config)
        self.family = self._recognition.family if self._recognition is not None else None
        self._tensors = bare_tensors(self._catalogue, self.family)
        self.shapes: Mapping[str, tuple[int, ...]] = {name: tensor.shape for name, tensor in self._tensors.items()}
        self.tied: Sequence[Sequence[str]] = [
            sorted(bare(name, self.family) for name in group) for group in self._catalogue.tied()
        ]
        self.nbytes = sum(tensor.nbytes for tensor in set(self._tensors.values()))
        self.remarks: Mapping[str, Any] = remarks(source)
        self.format: str | None = source.format
        self.others: Sequence[str] = [other.name for other in source.others if other.role in ("beside", "averaged")]

    @cached_property
    def masks(self) -> Set[str]:
        """Buffers that an output may leave out."""
        return {bare(name, self.family) for name in droppable(self._catalogue, self._recognition)}

    @cached_property
    def _diagnosis(self) -> Diagnosis:
        return Diagnosis(self._tensors, _parts(self._recognition))

    @cached_property
    def _tokens(self) -> surroundings.Tokens:
        """The tokenizer inside the checkpoint or beside it."""
        return surroundings.tokens(self._catalogue)

    def whole(self, otherwise: str) -> Catalogue:
        """The checkpoint itself."""
        return self._catalogue

    def identity(self, name: str) -> Hashable:
        """The tensor, which tied names share."""
        return self._tensors[name]

    def unlike(self, name: str, found: Tensor, others: Mapping[str, Tensor]) -> tuple[str, str] | None:
        """Say whether the dtype or the shape differs."""
        expected = self._tensors[name]
        if not comparable(expected, found):
            return "another dtype", f"it is {found.dtype.name}: expected {expected.dtype.name}"
        return self._diagnosis.name(name, found, None, others) if found.shape != expected.shape else None

    def compare(self, name: str, found: Tensor, workspace: Workspace) -> Outcome:
        """Compare element by element."""
        return compare(self._tensors[name], found, workspace, progress=self._progress)

    def holds(self, name: str, found: Tensor) -> bool:
        """Compare the elements, up to the first difference."""
        return same(self._tensors[name], found)

    def explain(
        self, name: str, found: Tensor, outcome: Outcome, others: Mapping[str, Tensor], *, look: bool
    ) -> Difference:
        """Name the damage, and say where it begins and how large it is."""
        what, detail = "changed", "its elements differ"
        if look:
            try:
                what, detail = self._diagnosis.name(name, found, outcome, others)
            except ReadError as error:
                detail = f"its elements differ, and can't be read again: {error}"
        return Difference(
            name,
            what,
            detail,
            elements=found.size,
            differing=outcome.differing,
            index=_index(outcome.first, found.shape),
            expected=_finite(outcome.expected),
            found=_finite(outcome.found),
            largest=_finite(outcome.largest),
        )

    @cached_property
    def settings(self) -> Mapping[str, Any] | None:
        """What config.json means."""
        return surroundings.settings(self._catalogue, self._catalogue.config, self.family)

    def surroundings(self, output: Catalogue, recognition: Recognition | None) -> Iterator[Finding]:
        """Compare config.json and the tokenizer with the source's; without a config.json, with the tensors."""
        source, alone = self._catalogue, formats.of(output).self_contained
        if alone or formats.of(source).self_contained:
            found = surroundings.tokens(output, beside=not alone)
            # GGUF leaves out a special token that has no row in the embedding.
            said = surroundings.settings(output, output.config, self.family, found)
            ours = surroundings.settings(source, source.config, self.family, self._tokens)
            yield from surroundings.check_settings(ours, said)
            yield from surroundings.check_tokens(self._tokens, found, output)
        else:
            yield from surroundings.check_config(source.config, output)
            yield from surroundings.check_folders(folder_beside(source), output, self._tokens)
        if source.config is None and recognition is not None:
            for contradiction in recognition.contradictions:
                yield Finding(CONFIG, "contradiction", contradiction)

    def golden(self, copies: Iterable[Copy]) -> Golden:
        """Make the manifest. It leaves out masks, and tensors that follow from the tensor that they are tied to."""
        followers = self.family.followers if self.family is not None else {}
        tied = {name for group in self.tied for name in group}
        left_out = self.masks | (followers.keys() & tied)
        kept = {name: tensor for name, tensor in self._tensors.items() if name not in left_out}
        digests = {name: digest(tensor) for name, tensor in kept.items()}
        converted: dict[str, dict[str, str]] = {name: {} for name in kept}
        for tensors, outcomes in copies:
            for name, outcome in outcomes.items():
                if not outcome.exact and name in kept:
                    converted[name][encoding(tensors[name])] = digest(tensors[name])
        config = self._catalogue.config
        if config is None and self._recognition is not None and self._recognition.model is not None:
            config = dict(self._recognition.model.config)
        groups = [[name for name in group if name in kept] for group in self.tied]
        return Golden(
            location=self.location,
            tensors={
                name: GoldenTensor(tensor.dtype.name, tensor.shape, digests[name], converted[name])
                for name, tensor in kept.items()
            },
            tied=tuple(tuple(names) for names in groups if len(names) > 1),
            settings=surroundings.settings(self._catalogue, config, self.family, self._tokens),
            tokenizer=surroundings.described(self._tokens, folder_beside(self._catalogue)),
            config=None if formats.of(self._catalogue).self_contained else self._catalogue.config,
        )

    def finish(self) -> None:
        """Raise if the source is damaged, or was changed while it was read."""
        self._check()
        self._source.check_unchanged()


class Digests:
    """The digests of a checkpoint, from a golden manifest."""

    explained: ClassVar[int] = 16  # each guess costs a pass over the tensor
    masks: Set[str] = frozenset()  # the manifest leaves them out

    def __init__(self, golden: Golden, progress: Progress | None = None) -> None:
        self._golden, self._progress = golden, progress
        self.location = golden.location
        self._recognition = recognise(golden.tensors)
        self.family = self._recognition.family if self._recognition is not None else None
        self.shapes: Mapping[str, tuple[int, ...]] = {name: tensor.shape for name, tensor in golden.tensors.items()}
        self.tied: Sequence[Sequence[str]] = golden.tied
        self.settings = golden.settings
        self.nbytes = sum(tensor.nbytes for tensor in golden.tensors.values())
        self.others: Sequence[str] = ()
        self.remarks: Mapping[str, Any] = {}
        self.format: str | None = None

    def whole(self, otherwise: str) -> Catalogue:
        """Raise UnsupportedError."""
        raise self._refusal(otherwise)

    def identity(self, name: str) -> Hashable:
        """The name: each has a digest of its own."""
        return name

    def unlike(self, name: str, found: Tensor, others: Mapping[str, Tensor]) -> tuple[str, str] | None:
        """Say whether the shape differs."""
        shape = self.shapes[name]
        if found.shape == shape:
            return None
        return "another shape", f"its shape is {list(found.shape)}: expected {list(shape)}"

    def compare(self, name: str, found: Tensor, workspace: Workspace) -> Outcome:
        """Compare digests. If they differ, any element may differ."""
        known = self._golden.tensors[name]
        wanted = known.digest_as(encoding(found))
        alike = wanted is not None and _digest(found) == wanted
        if self._progress is not None:
            self._progress(known.nbytes)
        return Outcome(exact=encoding(found) == known.dtype, differing=0 if alike else found.size)

    def holds(self, name: str, found: Tensor) -> bool:
        """Compare digests."""
        try:
            return self._golden.tensors[name].sha256 == _digest(found)
        except ReadError:
            return False

    def explain(
        self, name: str, found: Tensor, outcome: Outcome, others: Mapping[str, Tensor], *, look: bool
    ) -> Difference:
        """Name the damage, as far as digests tell it."""
        try:
            what, detail = self._damage(name, found, look=look)
        except ConverterError as error:
            what, detail = "changed", f"its elements differ, and can't be read again: {error}"
        return Difference(name, what, detail, elements=found.size)

    def surroundings(self, output: Catalogue, recognition: Recognition | None) -> Iterator[Finding]:
        """Compare config.json and the tokenizer with what the manifest says about them."""
        alone = formats.of(output).self_contained
        tokens = surroundings.tokens(output, beside=not alone)
        if alone or self._golden.config is None:
            found = surroundings.settings(output, output.config, self.family, tokens)
            yield from surroundings.check_settings(self.settings, found)
        else:
            yield from surroundings.check_config(self._golden.config, output)
        yield from surroundings.check_digests(self._golden.tokenizer, tokens, output)

    def golden(self, copies: Iterable[Copy]) -> Golden:
        """Raise UnsupportedError."""
        raise self._refusal(NO_MANIFEST)

    def finish(self) -> None:
        """Do nothing: no source was read."""

    def _refusal(self, otherwise: str) -> UnsupportedError:
        return UnsupportedError(f"`{self.location}` holds only digests, from which {otherwise}: give the checkpoint")

    def _damage(self, name: str, found: Tensor, *, look: bool) -> tuple[str, str]:
        known, form = self._golden.tensors[name], encoding(found)
        wanted = known.digest_as(form)
        if wanted is None:
            return "not in the manifest", (
                f"it is {form}, of which the manifest has no digest: verify it against the source with --write-manifest"
            )
        guess = self._guess(name, found, wanted) if look else None
        return guess or ("changed", "its digest differs")

    def _guess(self, name: str, found: Tensor, wanted: str) -> tuple[str, str] | None:
        """Undo each kind of damage, and test whether the digest is then right."""
        if not any(any(bytes(tile)) for tile in found.tiles()):
            return "zeroed", "every element is zero"
        mine = digest(found)
        for other, tensor in self._golden.tensors.items():
            if other != name and mine in (tensor.sha256, *tensor.converted.values()):
                return exchanged(name, other, mutual=False)
        if any(digest(view) == wanted for view in transposed(found)):
            return "transposed", "its elements are those of the transposed matrix"
        parts = _parts(self._recognition).get(name, ())
        for order in orders(len(parts)):
            if digest_in_parts(found, order) == wanted:
                return permuted(tuple(order.index(i) for i in range(len(parts))), parts)
        return None


# ---- names --------------------------------------------------------------------------------------------------------


def bare(name: str, family: Family | None) -> str:
    """A name without the prefix of the source's family, if the family is known and has one."""
    return name if family is None else family.bare(name)


def bare_tensors(catalogue: Catalogue, family: Family | None) -> dict[str, Tensor]:
    """The tensors by their bare names. Raises ModelError if two names differ only by the prefix."""
    tensors = {bare(name, family): tensor for name, tensor in catalogue.items()}
    if family is not None and len(tensors) < len(catalogue):
        prefix = next(name.removesuffix(family.bare(name)) for name in catalogue if name != family.bare(name))
        raise ModelError(f"`{catalogue.location}` has a name with the prefix `{prefix}` and without")
    return tensors


def same(expected: Tensor, found: Tensor) -> bool:
    """Whether a tensor can be read and is equal to another."""
    try:
        return equal(expected, found)
    except ReadError:
        return False


def _digest(found: Tensor) -> str:
    """The digest of an output's tensor. Raises ReadError if it can't be read."""
    try:
        return digest(found)
    except ConverterError as error:
        raise ReadError(str(error)) from error


def _parts(recognition: Recognition | None) -> dict[str, tuple[str, ...]]:
    """What the equal parts of a tensor hold, by its bare name: query, key and value."""
    return recognition.family.parts(recognition.sizes[recognition.family.layers]) if recognition is not None else {}


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
