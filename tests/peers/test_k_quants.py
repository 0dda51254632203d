"""Every block type that is written, compared with ggml's own C code, with and without weights of importance."""

from __future__ import annotations

import ctypes
import struct
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.conversion.convert import convert
from converter.errors import UnsupportedError
from converter.formats.gguf import kernel, quantising
from converter.formats.gguf.encodings import ALONE, BY_NAME, WEIGHED_ONLY
from converter.formats.gguf.quantising import QUANTISED, by_numpy, quantised, quantiser
from converter.opening import open_checkpoint
from converter.verification.verify import verify
from tests.build.damage import model, write_source
from tests.peers import ggml

# Weights that matter, weights that don't, and none at all.
WEIGHTS = ("none", "log-normal", "sparse", "ones", "zeros")


def encode(rows: np.ndarray, name: str, weights: np.ndarray | None) -> bytes:
    """The blocks as numpy makes them."""
    values, encoding = np.ascontiguousarray(rows, "<f4").ravel(), BY_NAME[name]
    out = np.zeros(encoding.size(values.size), "u1")
    with np.errstate(all="ignore"):
        assert by_numpy(encoding, weights)(values, out)
    return out.tobytes()


def weights_of(kind: str, columns: int, generator: np.random.Generator) -> np.ndarray | None:
    if kind == "none":
        return None
    return {
        "log-normal": generator.lognormal(0, 2, columns),
        "sparse": generator.random(columns) * (generator.random(columns) < 0.3),
        "ones": np.ones(columns),
        "zeros": np.zeros(columns),
    }[kind].astype("<f4")


def rows_of(kind: str, generator: np.random.Generator, shape: tuple[int, int] = (64, 1024)) -> np.ndarray:
    normal, groups = generator.normal(0, 1, shape), (shape[0], shape[1] // 16)
    found = {
        "normal": lambda: normal * 0.02,
        "Student": lambda: generator.standard_t(2, shape) * 0.02,
        "Cauchy": lambda: np.clip(generator.standard_cauchy(shape) * 1e-3, -1e4, 1e4),
        "log-normal": lambda: generator.lognormal(0, 3, shape) * 1e-3,
        "sparse": lambda: normal * (generator.random(shape) < 0.05),
        "integers": lambda: np.rint(normal * 2),
        "subnormal": lambda: normal * 1e-40,
        "barely normal": lambda: normal * 1e-36,
        "at the limit of zero": lambda: normal * 1e-15,
        "of all sizes": lambda: normal * np.exp2(generator.integers(-120, 8, shape)),
        "groups of all sizes": lambda: normal * np.exp2(generator.integers(-120, 8, groups)).repeat(16, 1),
        "constant": lambda: np.repeat(normal[:, :1], shape[1], 1),
        "constant groups": lambda: normal[:, : groups[1]].repeat(16, 1),
        "positive": lambda: np.abs(normal),
        "far below zero": lambda: -np.abs(normal) - 1,
        "large": lambda: np.clip(normal * 1e3, -5e3, 5e3),
        "zeros": lambda: normal * 0,
    }[kind]()
    return np.ascontiguousarray(found, "<f4")


KINDS = (
    *("normal", "Student", "Cauchy", "log-normal", "sparse", "integers", "subnormal", "barely normal"),
    *("at the limit of zero", "of all sizes", "groups of all sizes", "constant", "constant groups", "positive"),
    *("far below zero", "large", "zeros"),
)


@pytest.mark.parametrize("name", QUANTISED)
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_are_those_of_ggml(name: str, kind: str) -> None:
    for seed, weights in enumerate(WEIGHTS):
        generator = np.random.default_rng(seed)
        rows, importance = rows_of(kind, generator), weights_of(weights, 1024, generator)

        found = np.frombuffer(encode(rows, name, importance), "u1").reshape(-1, BY_NAME[name].nbytes)

        expected = ggml.quantised(BY_NAME[name].ggml, rows, importance).reshape(found.shape)
        assert np.flatnonzero((found != expected).any(axis=1)).tolist() == [], weights


@pytest.mark.parametrize("name", QUANTISED)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_row_is_that_of_ggml(name: str, data: Any) -> None:
    """A few numbers, repeated, and some of them at random places: ties, signs of zero, and everything that is small."""
    number = st.floats(-4096, 4096, width=32) | st.sampled_from([0.0, -0.0, 1e-40, -1e-38, 1e-15, 1.0])
    few = np.array(data.draw(st.lists(number, min_size=1, max_size=24)), "<f4")
    row = np.resize(few, (1, 256))
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, 255), number), max_size=24)):
        row[0, place] = value
    weight = st.floats(0, 1e6, width=32)
    weights = data.draw(st.none() | st.lists(weight, min_size=1, max_size=24).map(lambda some: np.resize(some, 256)))
    importance = None if weights is None else weights.astype("<f4")

    assert encode(row, name, importance) == ggml.quantised(BY_NAME[name].ggml, row, importance).tobytes()


# ---- the library as an engine ---------------------------------------------------------------------------------------


def by_any(rows: np.ndarray, name: str, weights: np.ndarray | None, tile: int = 1 << 18) -> bytes:
    raw = memoryview(np.ascontiguousarray(rows, "<f4").tobytes())
    tiles = (raw[start : start + tile] for start in range(0, len(raw), tile))
    return b"".join(bytes(piece) for piece in quantised(tiles, BY_NAME[name], "w", weights))


def test_the_library_does_the_work_where_it_is_installed() -> None:
    assert quantiser(QUANTISED) == f"ggml of xllamacpp {version('xllamacpp')}"


@pytest.mark.parametrize("name", QUANTISED)
@pytest.mark.parametrize("weights", ["none", "log-normal"])
def test_both_engines_make_the_same_bytes(name: str, weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(9)
    rows, importance = rows_of("Student", generator, (300, 768)), weights_of(weights, 768, generator)
    calls = []
    function = kernel.function_of_library()
    monkeypatch.setattr(
        kernel, "function_of_library", lambda: lambda *arguments: (calls.append(1), function(*arguments))
    )

    found = by_any(rows, name, importance)

    assert calls
    assert found == encode(rows, name, importance)


@pytest.mark.parametrize("name", QUANTISED)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 3e38, 1e8], ids=str)
@pytest.mark.parametrize("weights", ["none", "log-normal"])
def test_both_engines_refuse_the_same(name: str, wrong: float, weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(9)
    rows, importance, said = rows_of("normal", generator, (4, 768)), weights_of(weights, 768, generator), []
    rows[2, 100] = wrong

    for library in (True, False):
        if not library:
            monkeypatch.setattr(kernel, "function_of_library", lambda: None)
        try:
            said.append(str(by_any(rows, name, importance) != b""))
        except UnsupportedError as error:
            said.append(str(error))

    assert said[0] == said[1]
    assert np.isfinite(wrong) or "NaN or infinity" in said[0]


def test_a_library_that_rounds_in_another_way_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    function = kernel.function_of_library()

    def other(number: int, source: int, target: int, *rest: Any) -> int:
        written = function(number, source, target, *rest)
        ctypes.memset(target + 40, 7, 1)
        return written

    quantising.agrees.cache_clear()
    monkeypatch.setattr(kernel, "function_of_library", lambda: other)
    try:
        assert quantiser(["Q4_K", "Q8_0"]) == "numpy"
        rows = rows_of("normal", np.random.default_rng(1))
        assert by_any(rows, "Q4_K", None) == encode(rows, "Q4_K", None)
    finally:
        quantising.agrees.cache_clear()


# ---- types that only the library makes ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose rows are whole blocks of 256."""
    folder = tmp_path_factory.mktemp("wide")
    return write_source(model(n_layer=1, n_embd=256, n_inner=512, vocab_size=300, scale=0.02), folder)


def every_importance(source: Path, path: Path) -> dict[str, np.ndarray]:
    """A file of importance for each matrix, in llama.cpp's older form, and what it says."""
    convert(open_checkpoint(source), path.with_suffix(".gguf"), dtype="f32")
    generator, weights = np.random.default_rng(1), {}
    for name, tensor in open_checkpoint(path.with_suffix(".gguf")).items():
        if len(tensor.shape) == 2:
            weights[name] = generator.lognormal(0, 1, tensor.shape[1]).astype("<f4")
    entries = [
        struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", 1, some.size) + some.tobytes()
        for name, some in weights.items()
    ]
    path.write_bytes(struct.pack("<i", len(entries)) + b"".join(entries))
    return weights


@pytest.mark.parametrize("weighed", [True, False])
@pytest.mark.parametrize("name", ALONE)
def test_a_type_of_the_library_alone_has_its_blocks(name: str, weighed: bool, wide: Path, tmp_path: Path) -> None:
    weights = every_importance(wide, tmp_path / "x.dat")
    imatrix, file = tmp_path / "x.dat" if weighed else None, tmp_path / "y.gguf"
    if name in WEIGHED_ONLY and not weighed:
        with pytest.raises(UnsupportedError, match=f"{name} needs the importance of columns, and there is none for `"):
            convert(open_checkpoint(wide), file, dtype=name, imatrix=imatrix)
        assert not file.exists()
        return

    report = convert(open_checkpoint(wide), file, dtype=name, imatrix=imatrix)

    assert report.quantiser == f"ggml of xllamacpp {version('xllamacpp')}"
    full, data, found = open_checkpoint(tmp_path / "x.gguf"), file.read_bytes(), 0
    for tensor_name, tensor in open_checkpoint(file).items():
        if tensor.storage.encoding is not None:
            [(_, start, end)] = tensor.storage.spans()
            expected = ggml.quantised(
                BY_NAME[name].ggml, full[tensor_name].numpy(), weights[tensor_name] if weighed else None
            )
            assert tensor.storage.encoding == name
            assert data[start:end] == expected.tobytes(), tensor_name
            found += 1
    assert found == 5
    assert verify(open_checkpoint(wide), [file]).outputs[0].verdict == "equivalent"


def test_rows_of_32_become_iq4_nl(tmp_path: Path) -> None:
    source = write_source(model(n_layer=1, n_embd=96, n_inner=256, vocab_size=300, scale=0.02), tmp_path / "source")

    report = convert(open_checkpoint(source), tmp_path / "x.gguf", dtype="iq4_xs")

    types = {tensor.name: tensor.dtype for file in report.files for tensor in file.tensors if "IQ" in tensor.dtype}
    assert types == {
        "blk.0.attn_output.weight": "IQ4_NL",
        "blk.0.attn_qkv.weight": "IQ4_NL",
        "blk.0.ffn_down.weight": "IQ4_XS",
        "blk.0.ffn_up.weight": "IQ4_NL",
        "token_embd.weight": "IQ4_NL",
    }


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 3e38, 1e8], ids=str)
def test_a_type_of_the_library_alone_refuses_what_it_cannot_hold(name: str, wrong: float) -> None:
    rows = rows_of("normal", np.random.default_rng(9), (4, 768))
    rows[2, 100] = wrong
    weights = np.ones(768, "<f4")
    if name == "IQ4_XS" and wrong == 1e8:  # its scales of six bits reach that far
        assert by_any(rows, name, weights) == ggml.quantised(BY_NAME[name].ggml, rows, weights).tobytes()
        return

    found = f"a value too large for {name}" if np.isfinite(wrong) else "NaN or infinity"
    with pytest.raises(UnsupportedError, match=f"`w` holds {found}: choose f32 or bf16"):
        by_any(rows, name, weights)


@pytest.mark.parametrize("name", [*QUANTISED, *(name for name in ALONE if name != "IQ1_M")])
@pytest.mark.parametrize("largest", [900, 9e3, 60e3])
def test_large_numbers_that_fit_are_those_of_ggml(name: str, largest: float) -> None:
    rows = rows_of("normal", np.random.default_rng(9), (4, 768))
    rows *= np.float32(largest / np.abs(rows).max())
    weights = weights_of("log-normal", 768, np.random.default_rng(1))
    assert weights is not None

    assert by_any(rows, name, weights) == ggml.quantised(BY_NAME[name].ggml, rows, weights).tobytes()
