"""safetensors written and read: the official library is the second reader, and the second writer."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from converter.dtypes import BF16, BY_NAME, BY_SAFETENSORS, C128, F4, F16, F32, U8, Dtype
from converter.errors import FormatError, OutputError, UnsupportedError
from converter.formats.planned import Planned
from converter.formats.safetensors import reader as ours
from converter.io.publish import Plan, publish
from converter.io.source import Memory
from converter.models import recognition as models
from converter.opening import open_checkpoint
from converter.sample import write_sample
from converter.tensors.catalogue import Catalogue, Origin, Unsupported
from converter.tensors.losses import Loss
from converter.tensors.tensor import Storage, Tensor
from tests.build import plans
from tests.build.checkpoints import floats, row_major, view, write_checkpoint


def tensor(data: bytes, shape: tuple[int, ...], dtype: Dtype = F32, stride: tuple[int, ...] | None = None) -> Tensor:
    return Tensor(
        dtype, shape, row_major(shape) if stride is None else stride, 0, Storage(Memory(data), 0, len(data), "0")
    )


def catalogue(tensors: Mapping[str, Tensor], **more: Any) -> Catalogue:
    return Catalogue(tensors, Origin("memory", "test"), **more)


def written(conversion: Planned) -> dict[str, bytes]:
    """The files' bytes; every piece has the size that was planned."""
    files = {}
    for file in conversion.files:
        parts = []
        for piece in file.pieces:
            parts.append(b"".join(bytes(tile) for tile in piece.tiles()))
            assert len(parts[-1]) == piece.nbytes
        files[file.path] = b"".join(parts)
    return files


def single(tensors: Mapping[str, Tensor], **options: Any) -> bytes:
    return written(plans.safetensors(catalogue(tensors), None, single_file=True, **options))[""]


def header(data: bytes) -> dict[str, Any]:
    (length,) = struct.unpack("<Q", data[:8])
    return dict(json.loads(data[8 : 8 + length]))


def contents(catalogue: Catalogue) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {
        name: (found.dtype.name, found.shape, b"".join(bytes(tile) for tile in found.tiles()))
        for name, found in catalogue.items()
    }


EXAMPLE = b'\x40\0\0\0\0\0\0\0{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}       ' + floats(
    0, 1, 2, 3, 4, 5
)


def test_reads_the_readmes_example() -> None:
    read = ours.read(Memory(EXAMPLE))

    assert contents(read) == {"a": ("F32", (2, 3), floats(0, 1, 2, 3, 4, 5))}
    assert read.metadata == {}
    assert (read.format, read.unchecked, [(s.key, s.offset, s.nbytes, s.crc32) for s in read.storages]) == (
        "safetensors", False, [("a", 72, 24, None)],
    )  # fmt: skip


def test_writes_a_header_byte_for_byte() -> None:
    data = single({"w": tensor(floats(0, 1, 2, 3), (2, 2), stride=(1, 2)), "b": tensor(b"\7", (), U8)})

    text = (
        b'{"__metadata__":{"format":"pt"},"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},'
        b'"b":{"dtype":"U8","shape":[],"data_offsets":[16,17]}}'
    )
    assert data == struct.pack("<Q", 144) + text.ljust(144) + floats(0, 2, 1, 3) + b"\7"


PLAIN = [dtype for dtype in BY_SAFETENSORS.values() if dtype is not F4]
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda name: name != "__metadata__")


@st.composite
def state_dicts(draw: st.DrawFn) -> dict[str, Tensor]:
    tensors = {}
    for name in draw(st.lists(NAMES, min_size=1, max_size=6, unique=True)):
        dtype = draw(st.sampled_from(PLAIN))
        dimensions = draw(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30)), max_size=4))
        shape, stride = tuple(n for n, _ in dimensions), tuple(s for _, s in dimensions)
        span = 1 + sum((n - 1) * s for n, s in dimensions) if math.prod(shape) else 0
        data = draw(st.integers(0, 255).map(lambda seed: bytes(range(seed, 256)) + bytes(range(seed))))
        size = span * dtype.itemsize
        tensors[name] = tensor((data * (size // 256 + 1))[:size], shape, dtype, stride)
    return tensors


@given(state_dicts())
def test_the_library_reads_what_we_write(tensors: dict[str, Tensor]) -> None:
    data = single(tensors)

    found = dict(safetensors.deserialize(data))
    assert {
        name: (entry["dtype"], tuple(entry["shape"]), bytes(entry["data"])) for name, entry in found.items()
    } == contents(catalogue(tensors))


@given(state_dicts())
def test_the_library_writes_the_same_bytes(tensors: dict[str, Tensor]) -> None:
    known = {name: found for name, found in tensors.items() if np.dtype(found.dtype.numpy).name == found.dtype.torch}
    arrays = {
        name: np.frombuffer(data, known[name].dtype.numpy).reshape(shape)
        for name, (_, shape, data) in contents(catalogue(known)).items()
    }

    assert (single(known) if known else b"") == (safetensors.numpy.save(arrays, {"format": "pt"}) if known else b"")


def test_the_same_checkpoint_gives_the_same_bytes_in_any_order() -> None:
    tensors = {name: tensor(floats(1), (1,)) for name in ("b", "B", "a.10", "a.9")}
    backwards = dict(reversed(tensors.items()))

    assert single(tensors) == single(backwards)
    assert list(header(single(tensors))) == ["__metadata__", "B", "a.10", "a.9", "b"]


def test_metadata_say_pt() -> None:
    data = single({"a": tensor(floats(1), (1,))})

    assert header(data)["__metadata__"] == {"format": "pt"}


def test_tied_names_are_recorded_and_come_back() -> None:
    kept = tensor(floats(1, 2), (2,))
    other = tensor(floats(1, 2), (2,))

    data = single({"b": kept, "a": kept, "c": other, "d": kept})

    assert header(data)["__metadata__"] == {"cerebras_tool.tied": '{"a": "b", "d": "b"}', "format": "pt"}
    assert set(header(data)) == {"__metadata__", "b", "c"}
    read = ours.read(Memory(data))
    assert set(read) == {"a", "b", "c", "d"}
    assert [sorted(names) for names in read.tied()] == [["a", "b", "d"]]


def test_shapes_of_f4_count_pairs_here_and_elements_there() -> None:
    data = single({"a": tensor(bytes(range(6)), (2, 3), F4)})

    assert header(data)["a"] == {"dtype": "F4", "shape": [2, 6], "data_offsets": [0, 6]}
    assert contents(ours.read(Memory(data))) == {"a": ("F4", (2, 3), bytes(range(6)))}
    assert [name for name, _ in safetensors.deserialize(data)] == ["a"]


def file(entries: dict[str, tuple[str, list[int], int]]) -> bytes:
    described, end = {}, 0
    for name, (dtype, shape, nbytes) in entries.items():
        described[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + nbytes]}
        end += nbytes
    text = json.dumps(described).encode()
    return struct.pack("<Q", len(text)) + text + bytes(end)


def test_lists_dtypes_that_it_does_not_know() -> None:
    read = ours.read(
        Memory(file({"a": ("F6_E2M3", [4], 3), "b": ("F32", [1], 4), "c": ("X9", [7], 5), "d": ("F4", [2, 1], 1)}))
    )

    assert list(read) == ["b"]
    assert [(other.name, other.kind, other.shape) for other in read.unsupported] == [
        ("a", "F6_E2M3", (4,)), ("c", "X9", (7,)), ("d", "F4", (2, 1)),
    ]  # fmt: skip


def test_tensors_come_in_the_order_of_their_bytes() -> None:
    text = (
        b'{"b":{"dtype":"U8","shape":[1],"data_offsets":[1,2]},"e":{"dtype":"U8","shape":[0],"data_offsets":[1,1]},'
        b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    )
    read = ours.read(Memory(struct.pack("<Q", len(text)) + text + b"\1\2"))

    assert [(name, found.bits().tolist()) for name, found in read.items()] == [("a", [1]), ("e", []), ("b", [2])]


@pytest.mark.parametrize(
    ("dtype", "expected", "loss"),
    [(F16, "003c007cdb3d", Loss(overflowed=1, rounded=1)), (BF16, "803f8047bb3f", Loss(rounded=1))],
)
def test_floating_tensors_are_converted_and_no_others(dtype: Dtype, expected: str, loss: Loss) -> None:
    tensors = {"f": tensor(floats(1, 65536, 1.4638671875 + 2**-16), (3,)), "u": tensor(b"\1\2", (2,), U8)}

    conversion = plans.safetensors(catalogue(tensors), None, dtype=dtype, single_file=True)
    data = written(conversion)[""]

    assert contents(ours.read(Memory(data)))["f"] == (dtype.name, (3,), bytes.fromhex(expected))
    assert contents(ours.read(Memory(data)))["u"] == ("U8", (2,), b"\1\2")
    assert conversion.losses == {"f": loss}


def test_shards_are_cut_in_the_checkpoints_order() -> None:
    tensors = {name: tensor(floats(*range(size)), (size,)) for name, size in (("d", 3), ("c", 2), ("b", 9), ("a", 1))}

    files = written(plans.safetensors(catalogue(tensors), None, max_shard_size=20))

    index = json.loads(files.pop("model.safetensors.index.json"))
    first, second, third = (f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3))
    assert index == {
        "metadata": {"total_parameters": 15, "total_size": 60},
        "weight_map": {"a": third, "b": second, "c": first, "d": first},
    }
    assert {path: set(header(data)) - {"__metadata__"} for path, data in files.items()} == {
        first: {"c", "d"}, second: {"b"}, third: {"a"},
    }  # fmt: skip
    assert all(header(data)["__metadata__"] == {"format": "pt"} for data in files.values())


def test_one_shard_needs_no_index() -> None:
    tensors = {"a": tensor(floats(1), (1,))}

    assert list(written(plans.safetensors(catalogue(tensors), None, max_shard_size=4))) == ["model.safetensors"]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder, "tiny")
    return folder


def plan_of(folder: Path, **options: Any) -> tuple[Catalogue, Planned]:
    opened = open_checkpoint(folder)
    return opened, plans.safetensors(opened, models.recognise(opened, opened.config), **options)


def test_masks_are_dropped(sample: Path) -> None:
    opened, conversion = plan_of(sample)

    masks = [name for name in opened if name.endswith((".attn.bias", ".attn.masked_bias"))]
    assert len(masks) == 8
    assert list(conversion.dropped) == masks
    assert set(ours.read(Memory(written(conversion)["model.safetensors"]))) == set(opened) - set(masks)


def test_masks_are_kept_on_request(sample: Path) -> None:
    opened, conversion = plan_of(sample, keep_buffers=True)

    assert conversion.dropped == ()
    assert contents(ours.read(Memory(written(conversion)["model.safetensors"]))) == contents(opened)


def test_a_mask_with_other_values_is_refused(sample: Path, tmp_path: Path) -> None:
    opened = open_checkpoint(sample)
    name = "transformer.h.2.attn.bias"
    strange = tensor(b"\1" * opened[name].nbytes, opened[name].shape, U8)
    changed = catalogue({**opened, name: strange})

    with pytest.raises(UnsupportedError, match=f"`{name}` is not the mask .* --keep-buffers"):
        plans.safetensors(changed, models.recognise(changed, opened.config))
    assert "model.safetensors" in written(
        plans.safetensors(changed, models.recognise(changed, opened.config), keep_buffers=True)
    )


def test_of_tied_names_the_declared_one_stays(sample: Path) -> None:
    opened = open_checkpoint(sample)
    changed = catalogue({"lm_head.weight": opened["transformer.wte.weight"], **opened})

    conversion = plans.safetensors(changed, models.recognise(changed, opened.config))

    assert conversion.tied == {"lm_head.weight": "transformer.wte.weight"}
    assert "lm_head.weight" not in header(written(conversion)["model.safetensors"])


@pytest.mark.parametrize("most", [None, 300_000])
@pytest.mark.parametrize("model", ["tiny", "tiny-13B"])
def test_a_published_folder_reads_back(model: str, most: int | None, tmp_path: Path) -> None:
    write_sample(tmp_path / "source", model)
    opened = open_checkpoint(tmp_path / "source")
    head = catalogue({"lm_head.weight": next(iter(opened.values())), **opened})
    conversion = plans.safetensors(head, models.recognise(head, opened.config), max_shard_size=most)

    publish(Plan(conversion.files, folder=True), tmp_path / "out")

    read = open_checkpoint(tmp_path / "out")
    assert contents(read) == {name: found for name, found in contents(head).items() if name not in conversion.dropped}
    assert read.problems == ()
    assert len(read.origin.files) == (1 if most is None else len(conversion.files) - 1)


def test_a_torch_checkpoint_becomes_one_file(tmp_path: Path) -> None:
    value = {"w": view("0", (2, 3), (1, 2)), "b": view("1", (2,), offset=1), "u": view("2", (2,), dtype="U8")}
    source = write_checkpoint(tmp_path / "a.bin", value, {"0": floats(*range(6)), "1": floats(*range(3)), "2": b"\1\2"})

    conversion = plans.safetensors(open_checkpoint(source), None, single_file=True)
    publish(Plan(conversion.files, folder=False), tmp_path / "a.safetensors")

    with safetensors.safe_open(tmp_path / "a.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}
        assert {name: file.get_tensor(name).tolist() for name in file.keys()} == {  # noqa: SIM118
            "w": [[0, 2, 4], [1, 3, 5]], "b": [1, 2], "u": [1, 2],
        }  # fmt: skip


REFUSED: dict[str, tuple[dict[str, Tensor], dict[str, Any], str]] = {
    "C128": ({"deep.one": tensor(bytes(16), (1,), C128)}, {}, "`deep.one` is C128, a dtype that safetensors does not have: choose npz, or leave it out with --exclude"),
    "quantised": ({"q": tensor(bytes(1), (1,), BY_NAME["QI8"])}, {}, "`q` is QI8, a dtype that safetensors does not have"),
    "F4 to F32": ({"f": tensor(bytes(2), (2,), F4)}, {"dtype": F32}, "`f` is F4, which can't be converted to F32"),
    "0-d F4": ({"f": tensor(bytes(1), (), F4)}, {}, "`f` is a single pair of F4"),
    "a name that is reserved": ({"__metadata__": tensor(bytes(4), (1,))}, {}, "can't be called `__metadata__`"),
    "a name that is no text": ({"a\ud800": tensor(bytes(4), (1,))}, {}, "is not Unicode text"),
    "nothing": ({}, {}, "`memory` holds no tensors to convert"),
    "a terabyte of one number": ({"big": tensor(bytes(4), (1 << 38,), stride=(0,))}, {}, "views that expand 4 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name: str) -> None:
    tensors, options, message = REFUSED[name]

    with pytest.raises(UnsupportedError, match=message):
        plans.safetensors(catalogue(tensors), None, **options)


def test_refuses_to_leave_out_what_it_can_not_carry() -> None:
    sparse = catalogue({"a": tensor(floats(1), (1,))}, unsupported=(Unsupported("s", "sparse"),))

    with pytest.raises(UnsupportedError, match="`s` is a tensor of the kind sparse"):
        plans.safetensors(sparse, None)


def test_refuses_to_cut_a_single_file() -> None:
    tensors = {"a": tensor(floats(1), (1,)), "b": tensor(floats(1), (1,))}

    with pytest.raises(OutputError, match="one file can't hold 8 bytes in shards of 4"):
        plans.safetensors(catalogue(tensors), None, max_shard_size=4, single_file=True)


def test_has_no_root_to_choose() -> None:
    with pytest.raises(FormatError, match="no other to choose"):
        ours.read(Memory(EXAMPLE), root="model")


def test_a_large_tensor_is_converted_in_small_pieces() -> None:
    numbers = np.arange(1 << 20, dtype="<f4").reshape(1024, 1024)
    tensors = {"w": tensor(numbers.tobytes(), (1024, 1024), stride=(1, 1024))}

    conversion = plans.safetensors(catalogue(tensors), None, dtype=BF16, single_file=True)

    pieces = [bytes(tile) for tile in conversion.files[0].pieces[1].tiles()]
    assert max(map(len, pieces)) <= 1 << 20
    # Whole numbers up to 256, and every second up to 512: BF16 has 8 bits.
    found = np.frombuffer(b"".join(pieces), "<u2").reshape(1024, 1024).T.reshape(-1)
    assert (found[:257].astype("<u4") << 16).view("<f4").tolist() == list(range(257))
    assert (found[256:512:2].astype("<u4") << 16).view("<f4").tolist() == list(range(256, 512, 2))
