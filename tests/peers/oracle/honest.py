"""Honest files, made by the libraries themselves: the oracle's mutations start from them."""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import io
import pathlib
import pickle
import types
import uuid
from typing import Any

import joblib
import numpy as np
import torch

from tests.peers.oracle.programs import Pieces, split


def _values() -> list[Any]:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LayerNorm(2))
    optimizer = torch.optim.AdamW(model.parameters())
    return [
        {"a": [1, 2.5, "x"], "b": (None, True, b"raw")},
        {1: "a", 2.5: "b", None: "c"},
        collections.OrderedDict(a=1, b={"c": [1, 2, 3]}),
        collections.Counter("hello"),
        collections.defaultdict(list, a=[1]),
        collections.deque([1, 2], 3),
        {1, 2, 3},
        frozenset("ab"),
        bytearray(b"abc"),
        complex(1, 2),
        np.arange(4.0),
        np.float64(2.5),
        np.dtype("f4"),
        np.array(["a", None], dtype=object),
        np.random.default_rng(1),
        torch.Size((1, 2)),
        torch.float16,
        torch.device("cpu"),
        types.SimpleNamespace(a=1),
        pathlib.PurePosixPath("a/b"),
        datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC),
        decimal.Decimal("1.5"),
        uuid.UUID(int=1),
        fractions.Fraction(1, 3),
        [[[[1]]], {"a": {"b": {"c": "d"}}}],
        optimizer.state_dict(),
        list(range(300)),
        {"text": "k" * 300, "big": 2**200, "neg": -5},
    ]


def pickles() -> list[Pieces]:
    """Honest pickles of every protocol, as pieces."""
    made = [split(pickle.dumps(value, protocol)) for value in _values() for protocol in range(6)]
    return [*made, *map(split, _data_pickles())]


def _data_pickles() -> list[bytes]:
    """`data.pkl` of checkpoints."""
    import zipfile

    found = []
    for value in checkpoints():
        file = io.BytesIO()
        torch.save(value, file)
        with zipfile.ZipFile(io.BytesIO(file.getvalue())) as archive:
            found.append(archive.read("archive/data.pkl"))
    return found


def checkpoints() -> list[Any]:
    """What people save with torch.save: small."""
    shared = torch.arange(6.0)
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.note = "x"  # type: ignore[attr-defined]
    return [
        collections.OrderedDict(w=torch.ones(2, 3), b=torch.zeros(3, dtype=torch.float16)),
        {"state_dict": {"w": torch.arange(4), "v": torch.ones(1, dtype=torch.bfloat16)}, "epoch": 3},
        {"a": shared, "b": shared[1:3], "c": shared.reshape(2, 3).t(), "d": shared},
        [torch.ones(1), {"x": torch.zeros(0)}],
        torch.ones(2, dtype=torch.complex64),
        torch.nn.Linear(2, 2).state_dict(),
        {"p": torch.nn.Parameter(torch.ones(2)), "q": parameter},
        {"u": torch.ones(2, dtype=torch.uint16), "f8": torch.ones(4).to(torch.float8_e4m3fn)},
        {"conj": torch.ones(2, dtype=torch.complex64).conj(), "neg": torch.ones(2, dtype=torch.complex64).imag},
        {"s": torch.eye(2).to_sparse(), "w": torch.ones(1)},
        {"n": np.arange(3), "w": torch.ones(1), "c": collections.Counter("ab"), "set": {1}, "size": torch.Size((1,))},
    ]


def saved(value: Any, *, zip: bool = True, protocol: int = 2) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=zip, pickle_protocol=protocol)
    return file.getvalue()


def joblib_files() -> list[bytes]:
    """Files of joblib, with arrays among the opcodes, compressed or not."""
    found = []
    values: list[Any] = [
        [1, np.arange(4.0), "end"], {"a": np.ones((2, 2), order="F"), "b": np.arange(3, dtype=">i4")}, {"x": [1, 2]},
        np.array(["a", None, 1], dtype=object), [np.arange(300, dtype="u1"), np.arange(2.0)],
    ]  # fmt: skip
    for value in values:
        for compress in (0, ("zlib", 3), ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)):
            file = io.BytesIO()
            joblib.dump(value, file, compress=compress)
            found.append(file.getvalue())
    return found


def arrays() -> list[bytes]:
    """Files of numpy: npy and npz."""
    found = []
    for array in (
        np.arange(4.0),
        np.array([1, None, "a"], dtype=object),
        np.zeros((2, 2), "i4"),
        np.zeros(2, [("a", "O"), ("b", "f4")]),
    ):
        for save in (np.save, np.savez, np.savez_compressed):
            file = io.BytesIO()
            save(file, array)  # type: ignore[operator]
            found.append(file.getvalue())
    return found
