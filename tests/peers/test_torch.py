"""The readers against PyTorch: files that torch writes, read by both.

Also over folders that the environment names: CEREBRAS_TOOL_CORPUS (public files), CEREBRAS_TOOL_TORCH_VERSIONS (files by old
releases), CEREBRAS_TOOL_CHECKPOINTS (a folder of checkpoints).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from converter.dtypes import BY_TORCH, DTYPES
from converter.errors import ConverterError
from converter.opening import open_checkpoint
from converter.pickles.opcodes import decode
from converter.tensors.catalogue import Catalogue, Origin
from converter.tensors.tensor import Tensor

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own

TORCH_DTYPES = [dtype for dtype in DTYPES if hasattr(torch, dtype.torch)]
PACKED = {"QU4X2", "QU2X4", "QI8", "QU8", "QI32"}  # only as parts of quantised tensors


def torch_bytes(tensor: torch.Tensor) -> bytes:
    """Row-major bytes, made of raw bits, because torch can't convert all dtypes."""
    widths = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}
    bits = torch.empty(0, dtype=widths[tensor.element_size()])
    bits.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())
    return bits.contiguous().numpy().tobytes()


def flat(value: Any, name: str = "") -> dict[str, torch.Tensor]:
    """Name tensors as this package does."""
    if isinstance(value, torch.Tensor):
        return {name or "tensor": value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    found: dict[str, torch.Tensor] = {}
    for key, inner in items:
        found |= flat(inner, f"{name}.{key}" if name else str(key))
    return found


def assert_equal(catalogue: Catalogue, expected: dict[str, torch.Tensor], tile: int = 1 << 20) -> None:
    assert list(catalogue) == list(expected)
    for name, tensor in expected.items():
        ours = catalogue[name]
        assert ours.dtype is BY_TORCH[str(tensor.dtype).removeprefix("torch.")], name
        assert ours.shape == tuple(tensor.shape), name
        assert ours.stride == tensor.stride(), name
        assert ours.offset == tensor.storage_offset(), name
        assert ours.contiguous == tensor.is_contiguous(), name
        assert ours.storage.nbytes == tensor.untyped_storage().nbytes(), name
        assert digest(ours, tile) == hashlib.sha1(torch_bytes(tensor)).digest(), name
    assert sharing(catalogue) == [
        [name for name, other in expected.items() if other.untyped_storage()._cdata == cdata]
        for cdata in dict.fromkeys(tensor.untyped_storage()._cdata for tensor in expected.values())
    ]


def digest(tensor: Tensor, tile: int) -> bytes:
    found = hashlib.sha1()
    for piece in tensor.tiles(tile):
        found.update(piece)
    return found.digest()


def sharing(catalogue: Catalogue) -> list[list[str]]:
    groups: dict[int, list[str]] = {}
    for name, tensor in catalogue.items():
        groups.setdefault(id(tensor.storage), []).append(name)
    return list(groups.values())


Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def save_to(value: Any, **options: Any) -> Path:
        torch.save(value, tmp_path / "a.bin", **options)
        return tmp_path / "a.bin"

    return save_to


FORMS = {
    "zip": {},
    "legacy": {"_use_new_zipfile_serialization": False},
    **{f"zip of protocol {n}": {"pickle_protocol": n} for n in (1, 3, 4, 5)},
    **{
        f"legacy of protocol {n}": {"pickle_protocol": n, "_use_new_zipfile_serialization": False} for n in (1, 3, 4, 5)
    },
}
each_form = pytest.mark.parametrize("form", FORMS)


def raw(dtype: torch.dtype, count: int) -> torch.Tensor:
    """Elements of any dtype, of all kinds of bits."""
    width = torch.empty(0, dtype=dtype).element_size()
    generator = torch.Generator().manual_seed(1)
    data = torch.randint(0, 2 if dtype is torch.bool else 256, (count * width,), dtype=torch.uint8, generator=generator)
    return torch.empty(0, dtype=dtype).set_(data.untyped_storage(), 0, (count,), (1,))


@each_form
@pytest.mark.parametrize("dtype", [d for d in TORCH_DTYPES if d.name not in PACKED], ids=lambda dtype: dtype.name)
def test_every_dtype(dtype: Any, form: str, save: Save) -> None:
    kind = getattr(torch, dtype.torch)
    whole = raw(kind, 30)
    value = {"a": whole.view(5, 6), "t": whole.view(5, 6).t(), "part": whole[7:19].view(3, 4)[:, 1:3]}

    assert_equal(open_checkpoint(save(value, **FORMS[form])), value)


def test_every_dtype_of_torch_is_known() -> None:
    """All dtypes, except those of less than a byte, of which torch can make nothing."""
    kinds = {str(value).removeprefix("torch.") for value in vars(torch).values() if isinstance(value, torch.dtype)}

    assert {name for name in kinds if name not in BY_TORCH} <= {
        f"{sign}int{bits}" for sign in ("", "u") for bits in range(1, 8)
    }


def views() -> dict[str, torch.Tensor]:
    base = torch.arange(210, dtype=torch.float32)
    return {
        "0-d": base[7],
        "scalar": torch.tensor(2.5),
        "one": torch.ones(1),
        "empty": torch.empty(0),
        "empty of two": torch.empty(0, 3),
        "empty part": base[5:5],
        "transposed": base.view(14, 15).t(),
        "permuted": base.view(2, 3, 5, 7).permute(3, 0, 2, 1),
        "channels last": torch.arange(120.0).view(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "every third": base[1::3],
        "columns": base.view(21, 10)[:, 3:6],
        "rows": base.view(21, 10)[5:7],
        "expanded": base[:3].expand(4, 3),
        "expanded scalar": torch.tensor(1.0).expand(3, 4),
        "windows": base.unfold(0, 5, 2),
        "overlapping": base.as_strided((10, 4), (1, 1), 3),
        "size 1": base.as_strided((1, 5, 1), (77, 1, 99)),
        "diagonal": base.view(14, 15).diagonal(),
        "real part": torch.view_as_complex(torch.arange(10.0).view(5, 2)).real,
        "many dimensions": torch.arange(4.0).view((1,) * 30 + (2, 2) + (1,) * 30),
    }


@each_form
def test_every_view(form: str, save: Save) -> None:
    value = views()

    for tile in (1, 20, 1 << 20):
        assert_equal(open_checkpoint(save(value, **FORMS[form])), value, tile)


@each_form
@pytest.mark.parametrize("name", views())
def test_views_alone(name: str, form: str, save: Save) -> None:
    tensor = views()[name]

    assert_equal(open_checkpoint(save(tensor, **FORMS[form])), {"tensor": tensor})


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    dimensions=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), max_size=5),
    offset=st.integers(0, 9), tile=st.integers(1, 300), legacy=st.booleans(),
)  # fmt: skip
def test_any_view(dimensions: list[tuple[int, int]], offset: int, tile: int, legacy: bool, save: Save) -> None:
    shape, stride = tuple(n for n, _ in dimensions), tuple(s for _, s in dimensions)
    tensor = torch.arange(300, dtype=torch.int16).as_strided(shape, stride, offset)

    assert_equal(open_checkpoint(save({"a": tensor}, _use_new_zipfile_serialization=not legacy)), {"a": tensor}, tile)


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Embedding(10, 6), torch.nn.LayerNorm(6), torch.nn.Linear(6, 10, bias=False))
    net[2].weight = net[0].weight
    net.register_buffer("mask", torch.tril(torch.ones(4, 4, dtype=torch.uint8)))
    return net


@each_form
def test_a_state_dict_with_tied_weights(form: str, save: Save) -> None:
    state = model().state_dict()
    catalogue = open_checkpoint(save(state, **FORMS[form]))

    assert_equal(catalogue, dict(state))
    assert catalogue.tied() == [["0.weight", "2.weight"]]
    assert catalogue.unknown_globals() == []


@each_form
def test_parameters_and_nested_values(form: str, save: Save) -> None:
    net = model()
    optimizer = torch.optim.AdamW(net.parameters())
    net[2](torch.rand(2, 6)).sum().backward()
    optimizer.step()
    noted = torch.nn.Parameter(torch.ones(2))
    noted.note = "x"  # type: ignore[attr-defined]
    attributed = torch.ones(3)
    attributed.note = "x"  # type: ignore[attr-defined]
    value = {
        "layers": OrderedDict(net.named_parameters(remove_duplicate=False)), "moments": optimizer.state_dict()["state"], "list": [torch.ones(1), (torch.ones(2),)],
        "with state": noted, "with attributes": attributed, "buffer": torch.nn.Buffer(torch.ones(1)), "trainable": torch.ones(2, requires_grad=True),
        "epoch": 3, "size": torch.Size([1, 2]), "device": torch.device("cpu"), "dtype": torch.float32,
    }  # fmt: skip
    catalogue = open_checkpoint(save(value, **FORMS[form]))
    known = {name: tensor for name, tensor in flat(value).items() if name != "buffer" or "buffer" in catalogue}

    assert_equal(catalogue, known)
    assert "buffer" in catalogue


@pytest.mark.parametrize("key", ["state_dict", "model", "module"])
def test_roots(key: str, save: Save) -> None:
    state = model().state_dict()

    assert_equal(open_checkpoint(save({"epoch": 1, key: state})), dict(state))


def test_a_whole_module_has_the_names_of_its_state_dict(save: Save) -> None:
    net = model()
    catalogue = open_checkpoint(save(net))

    assert list(catalogue) == list(net.state_dict())
    assert "torch.nn.modules.container.Sequential" in catalogue.unknown_globals()


class Mine(torch.Tensor):
    """A real subclass."""


def numbers() -> torch.Tensor:
    return torch.arange(6.0).view(2, 3)


def conjugated() -> torch.Tensor:
    return torch.view_as_complex(torch.arange(12.0).view(3, 2, 2)).conj()


SPECIAL: dict[str, tuple[str, Callable[[], torch.Tensor]]] = {
    "quantised": ("quantised", lambda: torch.quantize_per_tensor(numbers(), 0.5, 3, torch.quint8)),
    "quantised by channel": (
        "quantised",
        lambda: torch.quantize_per_channel(numbers(), torch.tensor([0.5, 0.1]), torch.tensor([0, 1]), 0, torch.qint8),
    ),
    "quantised to 32 bits": ("quantised", lambda: torch.quantize_per_tensor(numbers(), 0.5, 3, torch.qint32)),
    "COO": ("sparse", lambda: numbers().to_sparse()),
    "CSR": ("sparse", lambda: numbers().to_sparse_csr()),
    "CSC": ("sparse", lambda: numbers().to_sparse_csc()),
    "BSR": ("sparse", lambda: torch.ones(4, 4).to_sparse_bsr((2, 2))),
    "nested": ("nested", lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])),
    "meta": ("meta", lambda: torch.empty(2, 3, device="meta")),
    "conj": ("conj view", conjugated),
    "neg": ("neg view", lambda: conjugated().imag),
    "subclass": (f"subclass {Mine.__module__}.Mine", lambda: torch.ones(2).as_subclass(Mine)),
}


@each_form
@pytest.mark.parametrize("name", SPECIAL)
def test_what_has_no_plain_bytes_is_listed(name: str, form: str, save: Save) -> None:
    kind, make = SPECIAL[name]
    tensor = make()
    if form.startswith("legacy") and name == "meta":
        form = "zip"  # the legacy form can't hold it
    catalogue = open_checkpoint(save({"plain": torch.ones(2), "w": tensor}, **FORMS[form]))

    assert list(catalogue) == ["plain"]
    assert [(other.name, other.kind) for other in catalogue.unsupported] == [("w", kind)]


class TestOptions:
    @pytest.mark.parametrize("alignment", [1, 8, 64, 512, 4096])
    def test_storage_alignment(self, alignment: int, save: Save) -> None:
        from torch.utils.serialization import config

        value = {"a": torch.arange(5.0), "b": torch.arange(3)}
        with config.patch({"save.storage_alignment": alignment}):
            catalogue = open_checkpoint(save(value))

        assert_equal(catalogue, value)
        (file,) = catalogue.origin.sources
        content = bytes(file.read(0, file.size))
        found = [content.index(value[name].numpy().tobytes()) for name in ("a", "b")]
        assert [at % alignment for at in found] == [0, 0]

    def test_without_crcs(self, save: Save) -> None:
        value = {"a": torch.arange(5.0)}
        torch.serialization.set_crc32_options(False)
        try:
            catalogue = open_checkpoint(save(value))
        finally:
            torch.serialization.set_crc32_options(True)

        assert_equal(catalogue, value)
        assert catalogue.unchecked
        assert catalogue.storages[0].crc32 is None

    def test_with_skipped_data(self, save: Save) -> None:
        value = {"a": torch.arange(5.0), "b": torch.arange(3)}
        with torch.serialization.skip_data():
            path = save(value)
        try:
            catalogue = open_checkpoint(path)
        except ConverterError:
            return
        assert [(t.shape, t.dtype.name) for t in catalogue.values()] == [((5,), "F32"), ((3,), "I64")]

    def test_without_a_byteorder_record(self, save: Save) -> None:
        value = {"a": torch.arange(5.0)}

        assert_equal(open_checkpoint(save(value, _disable_byteorder_record=True)), value)

    @pytest.mark.parametrize("name", ["a.b.c.pt", "a b.pt", ".hidden.pt", "ä.pt", "x"])
    def test_file_names(self, name: str, tmp_path: Path) -> None:
        value = {"a": torch.arange(5.0)}
        torch.save(value, tmp_path / name)

        assert_equal(open_checkpoint(tmp_path / name), value)

    def test_a_file_object(self, tmp_path: Path) -> None:
        buffer = io.BytesIO()
        torch.save({"a": torch.arange(5.0)}, buffer)
        (tmp_path / "a").write_bytes(buffer.getvalue())

        assert_equal(open_checkpoint(tmp_path / "a"), {"a": torch.arange(5.0)})

    def test_cuda_locations(self, save: Save, tmp_path: Path) -> None:
        path = save({"a": torch.arange(5.0)}, _use_new_zipfile_serialization=False)
        path.write_bytes(path.read_bytes().replace(b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0"))

        assert open_checkpoint(path)["a"].bits().tolist() == [0, 1, 2, 3, 4]

    def test_big_endian(self, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
        path = save({"a": torch.arange(5.0)})
        big = path.read_bytes()
        from converter.io.local import LocalFile
        from converter.io.zip_records import Archive
        from tests.build.checkpoints import Entry, zip_bytes

        archive = Archive(LocalFile(path))
        records = {name: archive.read(name, 1 << 20) for name in archive.records}
        records["byteorder"] = b"big"
        records["data/0"] = np.frombuffer(records["data/0"], "<f4").byteswap().tobytes()
        path.write_bytes(zip_bytes([Entry("archive/" + name, data) for name, data in records.items()]))

        assert path.read_bytes() != big
        assert_equal(open_checkpoint(path), flat(torch.load(path)))


@pytest.mark.parametrize("count", [1_000, 20_000])
def test_many_tensors(count: int, save: Save) -> None:
    whole = torch.arange(float(count))
    value = {f"transformer.h.{n}.weight": whole[n] if n % 2 else whole[n : n + 1].clone() for n in range(count)}

    catalogue = open_checkpoint(save(value))
    assert list(catalogue) == list(value)
    assert [tensor.bits().item() for tensor in list(catalogue.values())[:500]] == list(range(500))


def test_our_writer_of_tests_is_read_by_torch(tmp_path: Path) -> None:
    from tests.build.checkpoints import floats, legacy_bytes, view, write_checkpoint

    value = {"w": view("0", (2, 3)), "t": view("0", (3, 2), (1, 3)), "e": view("1", (2,), dtype="F8_E4M3")}
    path = write_checkpoint(tmp_path / "a.bin", value, {"0": floats(0, 1, 2, 3, 4, 5), "1": b"ab"})
    assert_equal(open_checkpoint(path), torch.load(path, weights_only=True))

    path.write_bytes(legacy_bytes({"w": view("0", (2, 3))}, {"0": floats(0, 1, 2, 3, 4, 5)}))
    assert_equal(open_checkpoint(path), torch.load(path, weights_only=True))


def _versions() -> list[Path]:
    folder = os.environ.get("CEREBRAS_TOOL_TORCH_VERSIONS")
    return sorted(p for p in Path(folder).rglob("*") if p.is_file() and p.suffix != ".md") if folder else []


@pytest.mark.parametrize("path", _versions(), ids=lambda path: "/".join(path.parts[-2:]))
def test_files_of_old_releases(path: Path) -> None:
    catalogue = open_checkpoint(path)

    if path.name == "mod.pt":
        assert catalogue.unknown_globals()[-1] == "torch.nn.modules.linear.Linear"
        assert {name: tensor.shape for name, tensor in catalogue.items()} == {"weight": (2, 3), "bias": (2,)}
        return
    if path.name == "jit.pt":
        assert all(name.startswith("__torch__.") for name in catalogue.unknown_globals())
        assert_equal(catalogue, torch.jit.load(path).state_dict())
        return
    assert catalogue.unknown_globals() == []
    if path.name == "mix27.pt":
        assert {name: tensor.bits().tolist() for name, tensor in catalogue.items()} == {"w": [[0, 0, 0], [0, 0, 0]]}
        beside = {other.name: other.value for other in catalogue.others if other.name != "np"}
        assert beside == {"n": None, "epoch": 3, "lr": 0.1, "u": "x"}
        return
    literal = {
        "one_tensor.pt": {"w": [[0, 1, 2], [3, 4, 5]]}, "buffer.bin": {"w": [[0, 1, 2], [3, 4, 5]]}, "my.model.v2": {"w": [[0, 1, 2], [3, 4, 5]]},
        "legacy.pt": {"w": [[0, 1, 2], [3, 4, 5]], "wt": [[0, 3], [1, 4], [2, 5]]}, "newzip.pt": {"w": [[0, 1, 2], [3, 4, 5]], "wt": [[0, 3], [1, 4], [2, 5]]},
    }.get(path.name)  # fmt: skip
    if literal:
        assert {name: tensor.bits().tolist() for name, tensor in catalogue.items()} == literal
    if path.name == "many.pt":
        assert len(catalogue) == 12
    if "1.4.0" in path.parts and path.name == "newzip.pt":
        return  # torch itself no longer reads `tensors/`
    assert_equal(catalogue, flat(torch.load(path, weights_only=True)))


def _corpus() -> list[tuple[Path, str]]:
    folder = os.environ.get("CEREBRAS_TOOL_CORPUS")
    if not folder:
        return []
    with open(Path(folder, "MANIFEST.tsv"), encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["expected outcome"].startswith("benign")]
    paths = [Path(folder, row["file"]) for row in rows]
    return [(path, path.read_bytes()[:4].hex()) for path in paths if path.suffix in (".pt", ".pth", ".bin")]


@pytest.mark.parametrize("path", [path for path, _ in _corpus()], ids=lambda path: "/".join(path.parts[-3:]))
def test_public_files_equal_torchs_reading(path: Path) -> None:
    """If torch reads a file without running it, and so do we, both see the same. Either may refuse."""
    try:
        catalogue = open_checkpoint(path)
    except ConverterError:
        return
    try:
        expected = flat(torch.load(path, weights_only=True))
    except Exception:
        return  # protocols other than 2, other globals
    if catalogue.facts.get("root"):
        expected = {name.removeprefix(catalogue.facts["root"] + "."): tensor for name, tensor in expected.items()}
    held = {name: tensor for name, tensor in expected.items() if name in catalogue}
    beside = [other.name for other in catalogue.others]
    named = [name for name in expected if any(name == other or name.startswith(f"{other}.") for other in beside)]
    assert len(held) + len(named) + len(catalogue.unsupported) == len(expected)
    assert_equal(catalogue, held)


def _checkpoints() -> list[Path]:
    folder = os.environ.get("CEREBRAS_TOOL_CHECKPOINTS")
    return sorted(path for path in Path(folder).iterdir() if path.is_dir()) if folder else []


@pytest.mark.parametrize("folder", _checkpoints(), ids=lambda path: path.name)
def test_checkpoints_equal_torchs_reading(folder: Path) -> None:
    index = folder / "pytorch_model.bin.index.json"
    names = (
        sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.exists() else ["pytorch_model.bin"]
    )
    catalogue = open_checkpoint(folder)
    seen: list[str] = []

    for name in names:
        expected = torch.load(folder / name, mmap=True, weights_only=True)
        part = Catalogue({key: catalogue[key] for key in expected}, Origin("", ""))
        assert_equal(part, dict(expected), 16 << 20)
        seen += expected
    assert seen == list(catalogue)
    assert (catalogue.problems, catalogue.missing, catalogue.others, catalogue.unsupported) == ((), (), (), ())


def test_torchs_pickles_need_no_rare_opcodes(save: Save) -> None:
    from converter.io.local import LocalFile
    from converter.io.zip_records import Archive

    data = Archive(LocalFile(save(model().state_dict()))).read("data.pkl", 1 << 20)
    assert sum(1 for _ in decode(data)) > 50
