"""Every type of ggml: our decoder compared with ggml's own C code and gguf-py's, and files in every type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, quants
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.conversion.convert import convert
from converter.formats.gguf.decoding import dequantise
from converter.formats.gguf.encodings import BY_NAME, ENCODINGS
from converter.inspection.report import inspect
from converter.opening import open_checkpoint
from converter.verification.verify import Options, verify
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


# ---- files that gguf-py wrote, of blocks that ggml made -------------------------------------------------------------

# gguf-py has no number for Q2_0 yet, and ggml quantises nothing into Q8_K but activations.
FILES = tuple(name for name in BLOCKS if name not in ("Q2_0", "Q8_K"))


@pytest.mark.parametrize("name", FILES)
def test_a_file_in_the_type_is_inspected_converted_and_verified(
    name: str, source: Path, plain: Path, tmp_path: Path
) -> None:
    file = ggml.requantised(plain, tmp_path / "x.gguf", name)
    found = open_checkpoint(file)

    report = inspect(found)
    assert report.model is not None
    assert (report.model.complete, report.others, report.problems) == (True, (), ())
    layer = 4 * 256 + (256 + 1) * 768 + (256 + 1) * 256 + (256 + 1) * 512 + (512 + 1) * 256
    assert report.totals.parameters == 2 * layer + (300 + 16) * 256 + 2 * 256
    assert {tensor.dtype for tensor in report.tensors} == {"F32", name}
    for tensor in GGUFReader(file).tensors:
        if tensor.tensor_type.name == name:
            expected = ggml.dequantised(name, tensor.data, int(tensor.n_elements))
            assert found[tensor.name].bits().tobytes() == expected.tobytes()

    for dtype in ("keep", "f16", "bf16"):
        convert(open_checkpoint(file), tmp_path / f"{dtype}.safetensors", dtype=dtype)
    for dtype in ("keep", "f32", "f16", "q8_0"):
        convert(open_checkpoint(file), tmp_path / f"{dtype}.gguf", dtype=dtype)
    copies = sorted(tmp_path.glob("*.safetensors")) + sorted(set(tmp_path.glob("*.gguf")) - {file})
    outputs = verify(open_checkpoint(file), copies).outputs
    assert {Path(output.location).name: output.verdict for output in outputs} == {
        "bf16.safetensors": "equivalent",
        "f16.safetensors": "equivalent",
        "keep.safetensors": "identical",
        "f16.gguf": "equivalent",
        "f32.gguf": "identical",
        "keep.gguf": "identical",
        "q8_0.gguf": "identical" if name == "Q8_0" else "equivalent",
    }
    assert verify(open_checkpoint(source), [file]).outputs[0].verdict == "equivalent"


@pytest.mark.parametrize("name", ["Q6_K", "Q4_K", "IQ4_XS", "Q3_K", "Q2_K"])
def test_a_model_in_the_type_computes_nearly_what_the_source_does(
    name: str, source: Path, plain: Path, tmp_path: Path
) -> None:
    file = ggml.requantised(plain, tmp_path / "x.gguf", name)

    output = verify(open_checkpoint(source), [file], Options(level="inference")).outputs[0]

    assert (output.verdict, output.tensors.different) == ("equivalent", ())


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1"])
@pytest.mark.parametrize("spread", [1.0, 3.0])
def test_a_file_that_was_made_with_an_importance_matrix_is_right(
    name: str, spread: float, source: Path, plain: Path, tmp_path: Path
) -> None:
    importance = np.random.default_rng(3).lognormal(0, spread, 512)
    file = ggml.requantised(plain, tmp_path / "x.gguf", name, importance)

    output = verify(open_checkpoint(source), [file]).outputs[0]

    assert (output.verdict, output.tensors.different) == ("equivalent", ())
