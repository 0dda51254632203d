"""Tars as torch before 0.1.10 wrote them, made here at random: what is read is what torch.load gives."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from converter.opening import open_checkpoint  # noqa: E402
from tests.build.checkpoints import Persistent  # noqa: E402
from tests.build.containers import TarStorage, TarTensor, torch_tar  # noqa: E402

DTYPES = {"F64": 8, "F32": 4, "F16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1}


def made(chance: random.Random) -> bytes:
    """A checkpoint with storages, parts of them, and tensors that are views of either."""
    storages, room, views = {}, {}, []
    for key in range(chance.randint(1, 4)):
        dtype, count = chance.choice([*DTYPES]), chance.randint(0, 40)
        storages[key] = TarStorage(chance.randbytes(count * DTYPES[dtype]), dtype)
        room[key] = count
    for key in range(100, 100 + chance.randint(0, 3)):
        whole = chance.choice([*room])
        offset = chance.randint(0, room[whole])
        views.append((key, whole, offset, chance.randint(0, room[whole] - offset)))
        room[key] = views[-1][3]
    tensors = {}
    for key in range(1000, 1000 + chance.randint(1, 8)):
        of = chance.choice([*room])
        shape = [chance.randint(0, 3) for _ in range(chance.randint(1, 3))]
        stride = [chance.randint(0, 5) for _ in shape]
        last = sum((length - 1) * step for length, step in zip(shape, stride, strict=True))
        offset = chance.randint(0, max(0, room[of] - 1))
        if 0 in shape or offset + last < room[of]:
            tensors[key] = TarTensor(of, shape, stride, offset)
    value = (
        {f"t{key}": Persistent(str(key)) for key in tensors} | {"again": Persistent(str(next(iter(tensors))))}
        if tensors
        else {}
    )
    return torch_tar(value, storages, tensors, views)


@pytest.mark.filterwarnings("ignore")
def test_any_tar_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    chance, compared = random.Random(15), 0
    for number in range(200):
        path = tmp_path / f"{number}.tar"
        path.write_bytes(made(chance))
        theirs = torch.load(path, weights_only=False)  # made a line above
        with open_checkpoint(path) as ours:
            assert list(ours) == list(theirs)
            for name, tensor in theirs.items():
                assert ours[name].dtype.torch == str(tensor.dtype).removeprefix("torch.")
                assert ours[name].shape == tuple(tensor.shape)
                raw = tensor.numpy().tobytes()
                assert b"".join(bytes(tile) for tile in ours[name].tiles()) == raw
                compared += 1
    assert compared > 500
