"""The functions that other programs call: with paths, texts and catalogues, with wrong words, from two threads."""

from __future__ import annotations

import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

import converter as ct
from converter import words
from converter.dtypes import BF16, BOOL, C32, F4, F8_E4M3, F16, F32, Dtype
from converter.formats import WRITABLE
from converter.io.source import Memory
from converter.tensors.tensor import Storage, Tensor
from tests.build.checkpoints import row_major

NAME = "transformer.h.1.attn.c_attn.weight"


def tensor(dtype: Dtype, data: bytes, shape: tuple[int, ...]) -> Tensor:
    return Tensor(dtype, shape, row_major(shape), 0, Storage(Memory(data), 0, len(data), "0"))


@pytest.fixture(params=[str, Path, ct.open], ids=["text", "path", "catalogue"])
def source(request: pytest.FixtureRequest, tiny: Path) -> Any:
    """The tiny sample in each form that a function accepts."""
    return request.param(tiny)


class TestEveryFunctionTakesEverySource:
    def test_inspect(self, source: Any) -> None:
        assert ct.inspect(source).totals.parameters == 220_608

    @pytest.mark.parametrize("kind", [str, Path])
    def test_convert(self, source: Any, kind: Any, tmp_path: Path) -> None:
        report = ct.convert(source, kind(tmp_path / "model.gguf"), dtype="q8_0")

        assert (tmp_path / "model.gguf").read_bytes()[:4] == b"GGUF"
        assert report.format == "gguf"

    def test_extract(self, source: Any, tmp_path: Path) -> None:
        report = ct.extract(source, tmp_path / "plain", form="named")

        assert report.form == "named"
        assert (tmp_path / "plain" / "manifest.json").is_file()

    def test_verify(self, source: Any, tmp_path: Path) -> None:
        ct.convert(source, tmp_path / "a.safetensors")
        ct.convert(source, tmp_path / "b.safetensors", dtype="bf16")

        report = ct.verify(source, tmp_path / "a.safetensors", str(tmp_path / "b.safetensors"))

        assert report.ok
        assert [output.verdict for output in report.outputs] == ["identical", "equivalent"]

    def test_scan(self, tiny: Path) -> None:
        assert ct.scan(str(tiny)).verdict == ct.scan(tiny).verdict == "plain"


WRONG = {
    "to": (lambda at, out: ct.convert(at, out, to="onnx"), "to is 'onnx': choose safetensors, gguf, parameters, npz"),  # type: ignore[arg-type]
    "dtype": (lambda at, out: ct.convert(at, f"{out}.gguf", dtype="q9_9"), "dtype is 'q9_9': choose keep, f32, f16"),
    "form": (lambda at, out: ct.extract(at, out, form="nmaed"), "form is 'nmaed': choose storages, named"),  # type: ignore[arg-type]
    "sort": (lambda at, out: ct.inspect(at, sort="sise"), "sort is 'sise': choose name, size"),  # type: ignore[arg-type]
    "level": (lambda at, out: ct.verify(at, at, level="bits"), "level is 'bits': choose tensors, inference"),  # type: ignore[arg-type]
    "engine": (lambda at, out: ct.verify(at, at, engine="torch"), "engine is 'torch': choose numpy, transformers, llama"),  # type: ignore[arg-type]
}  # fmt: skip


@pytest.mark.parametrize(("call", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_word_lists_the_right_ones_before_anything_is_read_or_written(
    call: Any, said: str, tmp_path: Path
) -> None:
    absent = tmp_path / "absent"

    with pytest.raises(ValueError, match=said) as raised:
        call(absent, tmp_path / "out")

    assert isinstance(raised.value, ct.WordError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_shard_size": -5},
        {"max_shard_size": "5GB"},
        {"max_shard_size": 0},
        {"threads": 0},
        {"dtype": None},
        {"dtype": ["f16"]},
    ],
)
def test_a_wrong_number_is_a_value_error_before_anything_is_read(wrong: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ct.convert(tmp_path / "absent", tmp_path / "out.safetensors", **wrong)

    assert list(tmp_path.iterdir()) == []


def test_what_an_output_can_not_take_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ct.OutputError, match="leave --max-shard-size out"):
        ct.convert(tiny, tmp_path / "plain", to="parameters", max_shard_size=1000)
    with pytest.raises(ct.SourceError, match="is not a folder: --tokenizer"):
        ct.convert(tiny, tmp_path / "out", to="safetensors", tokenizer=tmp_path / "absent")
    with pytest.raises(ct.WordError, match="root"):
        ct.inspect(ct.open(tiny), root="model")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("word", ["bfloat16", "BF16", "torch.bfloat16"])
def test_a_dtype_may_be_spelled_as_people_do(word: str, tiny: Path, tmp_path: Path) -> None:
    assert ct.convert(tiny, tmp_path / "x.safetensors", dtype=word).dtype == "bf16"


def test_the_words_for_type_checkers_are_those_of_the_formats() -> None:
    assert get_args(words.Target) == tuple(format.name for format in WRITABLE)
    assert get_args(words.DtypeWord) == tuple(dict.fromkeys(word for format in WRITABLE for word in format.dtypes))


def test_a_wrong_path_is_one_sentence(tmp_path: Path) -> None:
    for call in (ct.open, ct.inspect, ct.scan):
        with pytest.raises(ct.ConverterError, match=r"(no such file or folder: `.*absent`|`.*absent` can't be opened)"):
            call(tmp_path / "absent")


class TestCatalogue:
    def test_leaving_the_block_closes_the_files(self, tiny: Path) -> None:
        with ct.open(tiny) as catalogue:
            kept = catalogue[NAME]
            kept.numpy()

        with pytest.raises(ct.SourceError, match="was closed"):
            kept.numpy()

    def test_a_name_that_is_missing_brings_those_that_are_like_it(self, tiny: Path) -> None:
        catalogue = ct.open(tiny)

        with pytest.raises(KeyError) as raised:
            catalogue[NAME.replace("attn.weight", "attn.wieght")]

        assert str(raised.value).endswith(
            f"did you mean `{NAME}`, `transformer.h.3.attn.c_attn.weight`, `transformer.h.2.attn.c_attn.weight`?"
        )
        assert catalogue.get("absent") is None
        assert catalogue.get("absent", 1) == 1

    def test_it_is_frozen(self, tiny: Path) -> None:
        catalogue: Any = ct.open(tiny)

        with pytest.raises(AttributeError):
            catalogue.location = "elsewhere"
        with pytest.raises(AttributeError):
            catalogue.origin.config = {}

    def test_its_table_is_escaped(self) -> None:
        from converter.tensors.catalogue import Catalogue, Origin

        one = tensor(F32, bytes(4), (1,))
        names = ["<script>alert(1)</script>", *(f"w{number}" for number in range(30))]
        shown = Catalogue(dict.fromkeys(names, one), Origin("<b>", "torch-zip"))._repr_html_()

        assert "<script>" not in shown
        assert "<b>&lt;b&gt;</b>" in shown
        assert "&lt;script&gt;" in shown
        assert shown.count("<tr>") == 21
        assert "and 11 more" in shown

    def test_a_notebook_completes_its_keys(self, tiny: Path) -> None:
        assert NAME in ct.open(tiny)._ipython_key_completions_()

    def test_two_threads_read_one_catalogue(self, tiny: Path) -> None:
        catalogue = ct.open(tiny)
        expected = {name: found.bits().tobytes() for name, found in catalogue.items()}

        def read(names: list[str]) -> dict[str, bytes]:
            return {name: catalogue[name].bits().tobytes() for name in names * 5}

        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(read, [list(catalogue), list(reversed(list(catalogue)))]))

        assert found == [expected, expected]


class TestTensor:
    @pytest.mark.parametrize(
        ("dtype", "data", "values"),
        [
            (F32, struct.pack("<2f", 1.5, -2), np.array([1.5, -2], "f4")),
            (F16, struct.pack("<2e", 1.5, -2), np.array([1.5, -2], "f2")),
            (BF16, b"\xc0\x3f\x00\xc0", np.array([1.5, -2], "f4")),
            (F8_E4M3, b"\x3c\xc0", np.array([1.5, -2], "f4")),
            (C32, struct.pack("<4e", 1.5, -2, 0.25, 4), np.array([1.5 - 2j, 0.25 + 4j], "c8")),
            (BOOL, b"\1\0", np.array([True, False])),
        ],
    )
    def test_numpy_gives_numbers(self, dtype: Dtype, data: bytes, values: Any) -> None:
        found = tensor(dtype, data, (2,)).numpy()

        assert found.dtype == values.dtype
        assert found.tolist() == values.tolist()

    def test_bits_are_those_of_the_file(self) -> None:
        found = tensor(BF16, b"\xc0\x3f\x00\xc0", (2,)).bits()

        assert found.dtype == np.dtype("<u2")
        assert found.tolist() == [0x3FC0, 0xC000]

    def test_packed_dtypes_have_bits_only(self) -> None:
        with pytest.raises(ct.UnsupportedError, match=r"F4 packs 2 elements into one: `bits\(\)`"):
            tensor(F4, b"\1", (1,)).numpy()

    def test_an_array_is_read_only_unless_it_is_a_copy(self) -> None:
        one = tensor(F32, bytes(8), (2,))
        own = one.numpy(writable=True)
        own[0] = 1

        assert own.tolist() == [1, 0]
        assert not one.numpy().flags.writeable

    def test_asarray_and_arithmetic_work(self) -> None:
        one = tensor(BF16, b"\xc0\x3f\x00\xc0", (2,))

        assert np.asarray(one).dtype == np.float32
        assert np.asarray(one, dtype="f8").tolist() == [1.5, -2.0]
        assert (np.asarray(one) * 2).tolist() == [3.0, -4.0]

    def test_its_repr_is_a_line(self, tiny: Path) -> None:
        assert repr(ct.open(tiny)[NAME]) == "<Tensor F32 [64, 192], transposed, 49.2 kB>"
