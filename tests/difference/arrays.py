"""Checkpoints of numpy arrays, which are changed by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.build.seeds import safetensors_file

Arrays = Mapping[str, NDArray[Any]]
NAMED = {"<f4": "F32", "<i8": "I64", "<u2": "BF16", "<f2": "F16", "<f8": "F64"}


def base(seed: int) -> dict[str, NDArray[Any]]:
    """A model of three layers."""
    random = np.random.default_rng(seed)
    return {
        **{f"layers.{i}.wide": random.standard_normal((48, 64)).astype("<f4") for i in range(3)},
        **{f"layers.{i}.norm": random.standard_normal(64).astype("<f4") for i in range(3)},
        "embedding": random.standard_normal((40, 8)).astype("<f4"),
        "count": np.arange(5, dtype="<i8"),
    }


def write(path: Path, arrays: Arrays, metadata: Mapping[str, str] | None = None) -> Path:
    path.write_bytes(
        safetensors_file(
            {name: (NAMED[array.dtype.str], array.shape, array.tobytes()) for name, array in arrays.items()},
            *([] if metadata is None else [dict(metadata)]),
        )
    )
    return path
