"""What outputs are compared with: a checkpoint, or the digests of one in a golden manifest.

Both answer the same questions. Names are without the family's prefix, because some files have it and others don't.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence, Set
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final

from converter import formats
from converter.dtypes import BY_NAME
from converter.errors import ConverterError, ManifestError, ReadError, UnsupportedError
from converter.formats.companions import CONFIG
from converter.formats.joining import remarks
from converter.formats.said import Finding
from converter.models.masks import droppable
from converter.models.recognition import Recognition, recognise, tied_back
from converter.opening import folder_beside
from converter.reports.verification import Difference
from converter.tensors.crc_checked import checked
from converter.tensors.guards import check_expansion
from converter.verification import documents, generation, surroundings
from converter.verification.absences import remade
from converter.verification.comparison import Outcome, compare, finite, index_of, same
from converter.verification.diagnosis import Diagnosis, exchanged, orders, permuted, transposed
from converter.verification.golden import Golden, GoldenTensor, digest, digest_in_parts, encoding
from converter.verification.names import bare, bare_tensors, opaque_tensors, stand_ins
from converter.verification.opaque import as_bytes
from converter.verification.roundings import comparable

if TYPE_CHECKING:
    from converter.formats.gguf.imatrix import Importance
    from converter.models.families import Family
    from converter.tensors.catalogue import Catalogue, Unsupported
    from converter.tensors.tensor import Tensor
    from converter.verification.walk import Workspace
    from converter.verification.wanted import Copy, Expected, Progress

NO_MANIFEST: Final = "no manifest can be made"  # the end of a message that says what can't be done with digests


def expect(
    source: Catalogue | Golden, progress: Progress | None = None, importance: Importance | None = None
) -> Expected:
    """What outputs are compared with. Raises ConverterError if the source can't be read whole.

    `importance` is the importance matrix that the blocks of a GGUF were made with.
    """
    return Digests(source, progress) if isinstance(source, Golden) else Checkpoint(source, progress, importance)


class Checkpoint:
    """A checkpoint whose CRCs are checked as it is read."""

    explained: ClassVar[int] = 200  # damaged tensors that are explained, at most; with more, it is another model

    def __init__(
        self, source: Catalogue, progress: Progress | None = None, importance: Importance | None = None
    ) -> None:
        for other in source.unsupported:
            as_bytes(other)
        if (alone := formats.alone(source)) is not None:
            raise ManifestError(alone)
        if source.missing:
            raise ManifestError(f"`{source.location}` lacks `{source.missing[0]}`, which its index promises")
        if not source and not source.unsupported:
            raise UnsupportedError(f"`{source.location}` holds no tensors to compare")
        check_expansion(source)
        source = tied_back(source, recognise(source, source.config))
        self._source, self._progress, self._importance = source, progress, importance
        self.location = source.location
        catalogue, self._check = checked(source)
        self._catalogue = formats.canonical(catalogue)
        self._recognition = recognise(self._catalogue, self._catalogue.config)
        self.family = self._recognition.family if self._recognition is not None else None
        self.opaque: Mapping[str, Unsupported] = opaque_tensors(self._catalogue, self.family)
        undecoded = {name: as_bytes(other) for name, other in self.opaque.items()}
        self._tensors = bare_tensors(self._catalogue, self.family) | undecoded
        for name, kept in stand_ins(self._catalogue).items():
            self._tensors.setdefault(bare(name, self.family), self._catalogue[kept])
        self.shapes: Mapping[str, tuple[int, ...]] = {name: tensor.shape for name, tensor in self._tensors.items()}
        groups: dict[Tensor, list[str]] = {}
        for name, tensor in self._tensors.items():
            groups.setdefault(tensor, []).append(name)
        self.tied: Sequence[Sequence[str]] = [sorted(names) for names in groups.values() if len(names) > 1]
        self.config = _config(self._catalogue.config, self.family)
        self.nbytes = sum(tensor.nbytes for tensor in set(self._tensors.values()))
        self.remarks: Mapping[str, Any] = remarks(source)
        self.format: str | None = source.format
        self.hyperparameters = surroundings.hyperparameters(self._catalogue)
        self.others: Sequence[str] = [
            other.name for other in source.others if other.role in ("beside", "weights", "averaged")
        ]

    @cached_property
    def masks(self) -> Set[str]:
        """Buffers that an output may leave out."""
        names = {*droppable(self._catalogue, self._recognition), *remade(self._catalogue, self._catalogue.config)}
        return {bare(name, self.family) for name in names}

    @cached_property
    def _diagnosis(self) -> Diagnosis:
        return Diagnosis(self._tensors, _parts(self._recognition))

    @cached_property
    def _tokens(self) -> surroundings.Tokens:
        """The tokenizer inside the checkpoint or beside it."""
        return surroundings.tokens(self._catalogue)

    @cached_property
    def _others(self) -> Mapping[str, Any] | None:
        """What lies beside it besides config.json and the tokenizer."""
        return surroundings.others(self._source)

    def whole(self, otherwise: str) -> Catalogue:
        """The checkpoint itself."""
        self._check_decoded(otherwise)
        return self._catalogue

    def identity(self, name: str) -> Hashable:
        """The tensor, which tied names share."""
        return self._tensors[name]

    def unlike(self, name: str, found: Tensor, others: Mapping[str, Tensor]) -> tuple[str, str] | None:
        """Say whether the dtype or the shape differs."""
        expected = self._tensors[name]
        if not comparable(expected.dtype, found.dtype):
            known = self.opaque.get(name)
            wanted = expected.dtype.name if known is None else known.dtype or known.kind
            return "another dtype", f"it is {found.dtype.name if known is None else encoding(found)}: expected {wanted}"
        return self._diagnosis.name(name, found, None, others) if found.shape != expected.shape else None

    def is_known(self, name: str, found: Tensor) -> bool:
        """Yes: there are elements in any dtype."""
        return True

    def compare(self, name: str, found: Tensor, workspace: Workspace) -> Outcome:
        """Compare element by element."""
        # The key of a storage in GGUF is the tensor's name there.
        weights = None
        if self._importance is not None and found.storage.encoding is not None:
            weights = self._importance.of(found.storage.key)
        return compare(self._tensors[name], found, workspace, progress=self._progress, importance=weights)

    def holds(self, name: str, found: Tensor) -> bool:
        """Compare the elements, up to the first difference."""
        return same(self._tensors[name], found)

    def alike(self, name: str, other: str) -> bool:
        """Compare the elements of two tensors, which have the same dtype."""
        one, two = self._tensors[name], self._tensors[other]
        return one.dtype == two.dtype and same(one, two)

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
            index=index_of(outcome.first, found.shape),
            expected=finite(outcome.expected),
            found=finite(outcome.found),
            largest=finite(outcome.largest),
        )

    @cached_property
    def settings(self) -> Mapping[str, Any] | None:
        """What config.json means."""
        return surroundings.settings(self._catalogue, self._catalogue.config, self.family)

    def surroundings(self, output: Catalogue, recognition: Recognition | None) -> Iterator[Finding]:
        """Compare config.json and the tokenizer with the source's; without a config.json, with the tensors."""
        source, alone = self._catalogue, formats.of(output).self_contained
        yield from surroundings.check_read(source, output)
        if alone or formats.of(source).self_contained:
            found = surroundings.tokens(output, beside=not alone)
            # GGUF leaves out a special token that has no row in the embedding.
            said = surroundings.settings(output, output.config, self.family, found)
            ours = surroundings.settings(source, source.config, self.family, self._tokens)
            yield from surroundings.check_settings(ours, said)
            yield from surroundings.check_hyperparameters(self.hyperparameters, output)
            yield from surroundings.check_in_config(source, output)
            yield from generation.differences(source, output)
            yield from surroundings.check_tokens(self._tokens, found, output)
            yield from surroundings.left_out(output, recognition)
        else:
            yield from surroundings.check_config(source.config, output, self._tokens.special)
            yield from surroundings.check_folders(folder_beside(source), output, self._tokens)
            yield from surroundings.check_others(self._others, output)
        if source.config is None and recognition is not None:
            for contradiction in recognition.contradictions:
                yield Finding(CONFIG, "contradiction", contradiction)

    def golden(self, copies: Iterable[Copy]) -> Golden:
        """Make the manifest. It leaves out masks, and tensors that follow from the tensor that they are tied to."""
        self._check_decoded(NO_MANIFEST)
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
        folder = None if formats.of(self._catalogue).self_contained else folder_beside(self._catalogue)
        files = documents.said(folder) if folder is not None else None
        return Golden(
            location=self.location,
            tensors={
                name: GoldenTensor(tensor.dtype.name, tensor.shape, digests[name], converted[name])
                for name, tensor in kept.items()
            },
            tied=tuple(tuple(names) for names in groups if len(names) > 1),
            settings=surroundings.settings(self._catalogue, config, self.family, self._tokens),
            tokenizer=surroundings.described(self._tokens, files),
            tokenizer_files=files,
            beside=self._others,
            config=None if formats.of(self._catalogue).self_contained else self._catalogue.config,
            # For a known family, config.json says everything else in every format.
            hyperparameters=self.hyperparameters if self.hyperparameters and self.hyperparameters.said else None,
        )

    def _check_decoded(self, otherwise: str) -> None:
        """Raise UnsupportedError if there are tensors of which only the bytes are known."""
        for name, other in self.opaque.items():
            raise UnsupportedError(
                f"`{name}` is of {other.dtype or other.kind}, which is not decoded here: {otherwise}"
            )

    def finish(self) -> None:
        """Raise if the source is damaged, or was changed while it was read."""
        self._check()
        self._source.check_unchanged()


class Digests:
    """The digests of a checkpoint, from a golden manifest."""

    explained: ClassVar[int] = 16  # each guess costs a pass over the tensor
    masks: Set[str] = frozenset()  # the manifest leaves them out
    opaque: Mapping[str, Unsupported] = MappingProxyType({})  # a manifest has none

    def __init__(self, golden: Golden, progress: Progress | None = None) -> None:
        self._golden, self._progress = golden, progress
        self.location = golden.location
        self._recognition = recognise(golden.tensors, golden.config)
        self.family = self._recognition.family if self._recognition is not None else None
        self.shapes: Mapping[str, tuple[int, ...]] = {name: tensor.shape for name, tensor in golden.tensors.items()}
        self.tied: Sequence[Sequence[str]] = golden.tied
        self.settings = golden.settings
        self.nbytes = sum(tensor.nbytes for tensor in golden.tensors.values())
        self.others: Sequence[str] = ()
        self.remarks: Mapping[str, Any] = {}
        self.format: str | None = None
        self.hyperparameters = golden.hyperparameters
        self.config = _config(golden.config, self.family)

    def whole(self, otherwise: str) -> Catalogue:
        """Raise UnsupportedError."""
        raise self._refusal(otherwise)

    def identity(self, name: str) -> Hashable:
        """The name: each has a digest of its own."""
        return name

    def unlike(self, name: str, found: Tensor, others: Mapping[str, Tensor]) -> tuple[str, str] | None:
        """Say whether the dtype or the shape differs."""
        shape, dtype = self.shapes[name], self._golden.tensors[name].dtype
        if not comparable(BY_NAME[dtype], found.dtype):
            return "another dtype", f"it is {found.dtype.name}: expected {dtype}"
        if found.shape == shape:
            return None
        return "another shape", f"its shape is {list(found.shape)}: expected {list(shape)}"

    def is_known(self, name: str, found: Tensor) -> bool:
        """Whether there is a digest of the tensor in this dtype. If there is none, its bytes count as done."""
        known = self._golden.tensors[name]
        if known.digest_as(encoding(found)) is not None:
            return True
        if self._progress is not None:
            self._progress(known.nbytes)
        return False

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

    def alike(self, name: str, other: str) -> bool:
        """Compare digests."""
        one, two = self._golden.tensors[name], self._golden.tensors[other]
        return (one.dtype, one.shape, one.sha256) == (two.dtype, two.shape, two.sha256)

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
        yield from surroundings.check_read(None, output)
        if alone or self._golden.config is None:
            found = surroundings.settings(output, output.config, self.family, tokens)
            yield from surroundings.check_settings(self.settings, found)
            yield from surroundings.check_hyperparameters(self.hyperparameters, output)
        else:
            ids = (self._golden.tokenizer or {}).get("special")
            yield from surroundings.check_config(self._golden.config, output, ids if isinstance(ids, dict) else {})
        yield from surroundings.check_digests(self._golden.tokenizer, self._golden.tokenizer_files, tokens, output)
        yield from surroundings.check_others(self._golden.beside, output)

    def golden(self, copies: Iterable[Copy]) -> Golden:
        """Raise UnsupportedError."""
        raise self._refusal(NO_MANIFEST)

    def finish(self) -> None:
        """Do nothing: no source was read."""

    def _refusal(self, otherwise: str) -> UnsupportedError:
        return UnsupportedError(f"`{self.location}` holds only digests, from which {otherwise}: give the checkpoint")

    def _damage(self, name: str, found: Tensor, *, look: bool) -> tuple[str, str]:
        wanted = self._golden.tensors[name].digest_as(encoding(found))
        guess = self._guess(name, found, wanted) if look and wanted is not None else None
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


# ---- helpers ------------------------------------------------------------------------------------------------------


def _config(config: Mapping[str, Any] | None, family: Family | None) -> Mapping[str, Any] | None:
    return {"model_type": family.name} if config is None and family is not None else config


def _digest(found: Tensor) -> str:
    """The digest of an output's tensor. Raises ReadError if it can't be read."""
    try:
        return digest(found)
    except ConverterError as error:
        raise ReadError(str(error)) from error


def _parts(recognition: Recognition | None) -> dict[str, tuple[str, ...]]:
    """What the equal parts of a tensor hold, by its bare name: query, key and value."""
    return recognition.family.parts(recognition.sizes[recognition.family.layers]) if recognition is not None else {}
