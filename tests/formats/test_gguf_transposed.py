"""A large matrix in blocks that lies transposed is decoded once, however many tiles its bytes are gathered in."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from converter.formats.gguf.reader import read
from converter.io.parts import Buffers, portions
from converter.io.spool import Spool
from converter.tensors.parts import tensor_parts
from converter.tensors.tensor import Tensor
from tests.build.gguf_files import Q8_0, Bytes, Info, gguf

ROWS, COLUMNS = 2048, 4096  # 32 MB of F32: two parts, and three tiles


class Counting(Bytes):
    """A file that counts the bytes that are read."""

    count = 0

    def read(self, offset: int, size: int) -> memoryview:
        self.count += size
        return super().read(offset, size)


@pytest.fixture(scope="module")
def levels() -> np.ndarray:
    return np.random.default_rng(4).integers(-127, 128, (ROWS, COLUMNS), dtype="i1")


@pytest.fixture
def file(levels: np.ndarray) -> Counting:
    blocks = np.empty((ROWS, COLUMNS // 32, 34), "u1")
    blocks[..., :2] = np.frombuffer(struct.pack("<e", 0.5), "u1")
    blocks[..., 2:] = levels.reshape(ROWS, -1, 32).view("u1")
    return Counting(gguf(infos=[Info("w", (COLUMNS, ROWS), Q8_0)], data=blocks.tobytes()))


def written(tensor: Tensor) -> bytes:
    buffers = Buffers(portions().tiles // 2)
    return b"".join(bytes(tile) for part in tensor_parts(tensor) for tile in part.tiles(buffers))


def test_a_writer_decodes_it_once(file: Counting, levels: np.ndarray) -> None:
    tensor = read(file)["w"].t()
    before = file.count

    assert written(tensor) == (levels.T * np.float32(0.5)).tobytes()
    assert file.count - before == ROWS * COLUMNS // 32 * 34


def test_whoever_reads_its_elements_in_order_decodes_it_once(file: Counting, levels: np.ndarray) -> None:
    tensor = read(file)["w"].t()
    before = file.count

    assert b"".join(bytes(tile) for tile in tensor.tiles()) == (levels.T * np.float32(0.5)).tobytes()
    assert file.count - before == ROWS * COLUMNS // 32 * 34


def refused(self: Spool) -> int:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("room", [lambda self: 0, refused])
def test_without_room_for_a_temporary_file_it_is_decoded_again(
    room: object, file: Counting, levels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Spool, "room", room)

    assert written(read(file)["w"].t()) == (levels.T * np.float32(0.5)).tobytes()


def test_parts_that_are_read_again_have_the_same_bytes(file: Counting) -> None:
    parts, buffers = tensor_parts(read(file)["w"].t()), Buffers(portions().tiles // 2)

    first, second = (b"".join(bytes(tile) for part in parts for tile in part.tiles(buffers)) for _ in range(2))

    assert first == second
