"""Every type of ggml: our decoder compared with ggml's own C code and gguf-py's, and files in every type."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.formats.gguf.decoding import dequantise
from converter.formats.gguf.encodings import BY_NAME, ENCODINGS
from tests.peers import ggml

# ggml has no function that decodes Q8_1, which only activations have.
BLOCKS = tuple(encoding.name for encoding in ENCODINGS if encoding.block > 1 and encoding.name != "Q8_1")


def decoded(name: str, raw: bytes | np.ndarray) -> np.ndarray:
    encoding, flat = BY_NAME[name], np.frombuffer(raw, "u1")
    values = np.empty(flat.size // encoding.nbytes * encoding.block, "<f4")
    dequantise(flat, encoding, values)
    return values


def test_the_table_is_that_of_ggml() -> None:
    assert [(e.name, e.ggml, e.block, e.nbytes) for e in ENCODINGS] == ggml.types()


@pytest.mark.parametrize("name", BLOCKS)
@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_any_blocks_have_the_bits_that_ggml_gives_them(name: str, data: Any) -> None:
    """Scales are NaN, infinite, subnormal or negative as often as random bytes are."""
    nbytes = BY_NAME[name].nbytes * data.draw(st.integers(1, 5))
    raw = np.frombuffer(data.draw(st.binary(min_size=nbytes, max_size=nbytes)), "u1")

    ours = decoded(name, raw)

    assert ours.tobytes() == ggml.dequantised(name, raw, ours.size).tobytes()


@pytest.mark.parametrize("name", BLOCKS)
def test_a_million_elements_have_the_bits_that_ggml_gives_them(name: str) -> None:
    encoding = BY_NAME[name]
    raw = np.random.default_rng(16).integers(0, 256, (1 << 20) // encoding.block * encoding.nbytes, dtype="u1")

    assert decoded(name, raw).tobytes() == ggml.dequantised(name, raw, 1 << 20).tobytes()


@pytest.mark.parametrize("name", [name for name in BLOCKS if name not in ("Q8_K", "Q1_0", "Q2_0")])
def test_finite_blocks_have_the_numbers_that_gguf_py_gives_them(name: str) -> None:
    encoding = BY_NAME[name]
    raw = np.random.default_rng(17).integers(0, 256, (4096, encoding.nbytes), dtype="u1")

    ours = decoded(name, raw).reshape(4096, -1)

    with np.errstate(all="ignore"):
        theirs = quants.dequantize(raw, GGMLQuantizationType[name])
    finite = np.isfinite(ours).all(axis=1)
    assert finite.sum() > 3000
    assert np.array_equal(ours[finite], theirs[finite])
