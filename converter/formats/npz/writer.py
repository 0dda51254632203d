"""Writes npz: an uncompressed zip of arrays, as numpy.save would write them, with data at multiples of 64 bytes.

A dtype that numpy lacks (BF16, the 8-bit floats) is written as its bits: an array of unsigned integers, whose name says
so.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from converter.dtypes import Dtype
from converter.errors import OutputError, UnsupportedError
from converter.formats.marks import ARRAY
from converter.formats.npz.header import NATIVE, written
from converter.formats.npz.reader import BITS
from converter.formats.planned import Options, Planned
from converter.io.checksums import crc32, crc32_combine
from converter.io.parts import Digests
from converter.io.publish import Piece, PlannedFile, late, literal
from converter.io.zip_directory import folded_name, refused_name
from converter.io.zip_writer import Member, directory, lay_out
from converter.limits import limits
from converter.models.masks import to_drop
from converter.tensors.casting import becomes, can_convert, parts_of
from converter.tensors.guards import check_expansion, without_tensors
from converter.tensors.losses import Losses
from converter.tensors.tensor import Tensor
from converter.words import option

if TYPE_CHECKING:
    from converter.models.recognition import Recognition
    from converter.tensors.catalogue import Catalogue

SINGLE: Final = "model.npz"


def plan(catalogue: Catalogue, recognition: Recognition | None, options: Options) -> Planned:
    """Plan the archive, which is one file. Only masks are read.

    Raises UnsupportedError for a tensor that an npz can't hold, and OutputError if it would have to be cut.
    """
    if options.max_shard_size is not None:
        raise OutputError(
            f"an npz archive is one file, which numpy loads by name: leave {option('max-shard-size')} out"
        )
    if not catalogue:
        raise UnsupportedError(without_tensors(catalogue))
    dropped = to_drop(catalogue, recognition, keep=options.keep_buffers)
    kept = {name: tensor for name, tensor in catalogue.items() if name not in dropped}
    if not kept:
        raise UnsupportedError(f"`{catalogue.location}` holds masks and nothing else")
    check_expansion(kept)
    losses = Losses()
    arrays = [
        _Array(name, tensor, _target(name, tensor, options.dtype_of(name)), losses) for name, tensor in kept.items()
    ]
    _check_names(arrays)
    members = lay_out((array.record, array.nbytes) for array in arrays)
    pieces: list[Piece] = []
    for array, member in zip(arrays, members, strict=True):
        pieces += array.pieces(member)
    pieces.append(late("directory", len(directory(members, [0] * len(members))), lambda: _listed(arrays, members)))
    catalogue.expect(kept.values())
    return Planned(
        (PlannedFile(SINGLE if options.name is None else "", tuple(pieces)),),
        len(kept),
        dropped=tuple(name for name in catalogue if name in dropped),
        notes=tuple(
            f"numpy has no ties: `{name}` is written again, as a copy of `{first}`"
            for first, *names in catalogue.with_tensors(kept).tied()
            for name in names
        ),
        losses=losses,
    )


class _Array:
    """A tensor as a record. Its CRC-32 is computed while its bytes are written."""

    def __init__(self, name: str, tensor: Tensor, target: Dtype, losses: Losses) -> None:
        self.name, self.target = name, target
        self.record = name + ("" if target in NATIVE else f"@{target.name.lower()}") + ARRAY
        self._header = written(target, tensor.shape)
        parts = parts_of(name, tensor, target, losses)
        self._digests = Digests([part.nbytes for part in parts])
        self._parts = tuple(replace(part, seen=partial(self._digests.take, index)) for index, part in enumerate(parts))

    @property
    def nbytes(self) -> int:
        """Bytes of the record: the array's header and its data."""
        return len(self._header) + self._nbytes

    def pieces(self, member: Member) -> tuple[Piece, Piece, Piece]:
        """The parts of the record: headers, data, and the checksum after them."""
        return (
            literal(f"header of {self.name}", member.header() + self._header),
            Piece(self.name, self._parts, self.target.name),
            late(f"checksum of {self.name}", len(member.descriptor(0)), lambda: member.descriptor(self.checksum())),
        )

    def checksum(self) -> int:
        """The CRC-32 of the record, when its bytes have been written."""
        return crc32_combine(crc32(self._header), self._digests.crc32, self._nbytes)

    @property
    def _nbytes(self) -> int:
        return sum(part.nbytes for part in self._parts)


def _listed(arrays: list[_Array], members: tuple[Member, ...]) -> bytes:
    return directory(members, [array.checksum() for array in arrays])


def _target(name: str, tensor: Tensor, word: str) -> Dtype:
    """The dtype that a tensor is written in."""
    target = becomes(tensor.dtype, word)
    if not can_convert(tensor.dtype, target):
        raise UnsupportedError(f"`{name:.200}` is {tensor.dtype.name}, which can't be converted to {target.name}")
    return target


def _check_names(arrays: list[_Array]) -> None:
    """Refuse names that would not come back as they are, or that are unsafe to unzip."""
    seen: dict[str, str] = {}
    for array in arrays:
        name, mark, kind = array.name.rpartition("@")
        reason = refused_name(array.record)
        if reason is not None:
            raise UnsupportedError(
                f"`{array.name[:200]!a}` can't be the name of an array in a zip, as it {reason}: rename it"
            )
        if mark + kind in BITS:
            raise UnsupportedError(
                f"`{array.name:.200}` would come back as bits of the tensor `{name:.200}`: rename it"
            )
        if len(array.record.encode()) > limits().name:
            raise UnsupportedError(
                f"`{array.name:.80}…` is longer than a name in a zip may be, {limits().name:,} bytes: rename it"
            )
        other = seen.setdefault(folded_name(array.record), array.name)
        if other != array.name:
            raise UnsupportedError(
                f"`{array.name:.200}` and `{other:.200}` would be the same name on a disk that ignores case: rename one of them"
            )
