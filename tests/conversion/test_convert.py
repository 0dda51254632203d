"""Any source to any target: planned before a byte is written, with the same bits, and never half written."""

import json
import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from converter import formats
from converter.cli.app import app
from converter.conversion.convert import convert
from converter.conversion.extract import extract
from converter.errors import ArchiveError, ModelError, OutputError, UnsupportedError
from converter.io.parts import Portions, portioned
from converter.opening import open_checkpoint
from converter.sample import write_sample
from converter.tensors.catalogue import Catalogue
from tests.build.checkpoints import CLASSES, UNTYPED, floats, view, write_checkpoint
from tests.build.children import interruptible
from tests.build.depth import share, some
from tests.build.tokenizers import BYTES, byte_pair, folder

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_sample(folder, "tiny")
    (folder / "generation_config.json").write_text('{"eos_token_id": 256}\n')
    return folder


def canonical(catalogue: Catalogue) -> dict[str, Any]:
    return {name: (t.dtype, t.shape, b"".join(bytes(tile) for tile in t.tiles())) for name, t in catalogue.items()}


def without_masks(catalogue: Catalogue) -> dict[str, Any]:
    return {n: data for n, data in canonical(catalogue).items() if not n.endswith((".attn.bias", ".masked_bias"))}


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("output", ["x.safetensors", "folder", "x.gguf", "gguf"])
def test_every_target_reads_back_as_the_source(tiny: Path, tmp_path: Path, output: str) -> None:
    source = open_checkpoint(tiny)
    to = {"folder": "safetensors", "gguf": "gguf"}.get(output)

    report = convert(source, tmp_path / output, to=to)
    back = open_checkpoint(tmp_path / output)

    assert without_masks(formats.canonical(back)) == without_masks(source)
    assert report.tensors == 52
    assert sum(one.kind == "mask" for one in report.dropped) == 8
    assert report.nbytes == sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())


def test_a_folder_has_what_belongs_to_the_model(tiny: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(tiny), tmp_path / "out", to="safetensors")

    found = everything(tmp_path / "out")
    assert sorted(found) == ["config.json", "generation_config.json", "merges.txt", "model.safetensors", "vocab.json"]
    assert all(found[name] == (tiny / name).read_bytes() for name in found if name != "model.safetensors")


def test_one_file_has_no_company(tiny: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(tiny), tmp_path / "x.safetensors")

    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_every_way_round_ends_in_the_same_file(tiny: Path, tmp_path: Path) -> None:
    ways = [
        ["x.safetensors"],
        ["a", "x.safetensors"],
        ["a.gguf", "x.safetensors"],
        ["a", "b.gguf", "c", "x.safetensors"],
    ]
    formats = {"a": "parameters", "c": "safetensors"}
    for number, way in enumerate(ways):
        source = tiny
        folder = tmp_path / str(number)
        for output in way:
            convert(open_checkpoint(source), folder / output, to=formats.get(output), no_tokenizer=output == "b.gguf")
            source = folder / output

    made = [(tmp_path / str(number) / "x.safetensors").read_bytes() for number in range(len(ways))]
    assert made[1] == made[0]
    # GGUF has an order and metadata of its own; its tensors are the same.
    first = without_masks(open_checkpoint(tmp_path / "0" / "x.safetensors"))
    for number in (2, 3):
        assert without_masks(open_checkpoint(tmp_path / str(number) / "x.safetensors")) == first


@pytest.mark.parametrize("output", ["x.safetensors", "x.gguf", "parameters"])
def test_what_would_fill_the_page_cache_is_given_back(
    tiny: Path, tmp_path: Path, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = "parameters" if output == "parameters" else None
    convert(open_checkpoint(tiny), tmp_path / "usual" / output, to=to)
    source = (tiny / "pytorch_model.bin").stat()
    dropped: list[tuple[int, int, int]] = []
    monkeypatch.setattr(os, "sysconf", lambda name: 1)
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, *told: dropped.append((os.fstat(fd).st_ino, *told[:2])))

    with portioned(Portions(behind=100_000, together=50_000)):
        convert(open_checkpoint(tiny), tmp_path / "large" / output, to=to)

    assert everything(tmp_path / "large") == everything(tmp_path / "usual")
    read = sorted((start, size) for inode, start, size in dropped if inode == source.st_ino)
    assert 870_000 < sum(size for _, size in read) < source.st_size
    assert all(start + size <= after for (start, size), (after, _) in pairwise(read))
    written = {inode for inode, start, size in dropped if (start, size) == (0, 0)}
    weights = [path.stat() for path in (tmp_path / "large").rglob("*") if path.suffix != ".json" and path.is_file()]
    assert {status.st_ino for status in weights if status.st_size > 40_000} <= written
    if output != "parameters":
        on_the_way = [(start, size) for inode, start, size in dropped if inode == weights[0].st_ino and size]
        assert len(on_the_way) >= 5
        assert sum(size for _, size in on_the_way) > 1_000_000


def test_what_fits_into_memory_stays_in_the_page_cache(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fadvise", lambda *told: pytest.fail("something was given back"))

    convert(open_checkpoint(tiny), tmp_path / "x.safetensors")
    extract(open_checkpoint(tiny), tmp_path / "parameters")


def test_shards_have_an_index_and_read_back(tiny: Path, tmp_path: Path) -> None:
    report = convert(open_checkpoint(tiny), tmp_path / "out", to="safetensors", max_shard_size=300_000)

    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_parameters": 220_608, "total_size": 882_432}
    assert set(index["weight_map"].values()) == {f"model-0000{n}-of-00004.safetensors" for n in (1, 2, 3, 4)}
    assert without_masks(open_checkpoint(tmp_path / "out")) == without_masks(open_checkpoint(tiny))
    assert len([file for file in report.files if file.tensors]) == 4


def test_dtypes_change_and_losses_are_counted(tmp_path: Path) -> None:
    values = floats(1.0, 65_520.0, 1e-9, 0.1, float("nan"), -2.5)
    path = write_checkpoint(tmp_path / "x.bin", {"w": view("0", (6,)), "n": view("1", (1,), dtype="I64")},
                            {"0": values, "1": bytes(8)})  # fmt: skip

    report = convert(open_checkpoint(path), tmp_path / "x.safetensors", dtype="f16")

    back = open_checkpoint(tmp_path / "x.safetensors")
    # By numpy: np.float32([...]).astype(np.float16).tobytes()
    assert bytes(next(back["w"].tiles()))[:8] == bytes.fromhex("003c007c0000662e")
    assert bytes(next(back["w"].tiles()))[10:] == bytes.fromhex("00c1")
    assert back["n"].dtype.name == "I64"
    loss = report.loss
    assert (loss.overflowed, loss.underflowed, loss.rounded, loss.nan) == (1, 1, 1, 1)


def test_each_dtype_is_named_with_what_it_lost(tmp_path: Path) -> None:
    data = {"0": floats(0.1, 0.2, 1.0), "1": floats(0.1, 1e-40, 3e38, 2.0), "2": floats(0.5)}
    views = {"a": view("0", (3,)), "b": view("1", (4,)), "c": view("2", (1,))}
    path = write_checkpoint(tmp_path / "x.bin", views, data)
    arguments = ["convert", str(path), str(tmp_path / "x.safetensors"), "--dtype", "bf16", "--tensor-type", "b=f16"]

    done = CliRunner().invoke(app, [*arguments, "--json"])
    shown = CliRunner().invoke(app, [*arguments, "--force"])

    report = json.loads(done.stdout)
    assert report["losses"] == [
        {"dtype": "BF16", "nan": 0, "overflowed": 0, "underflowed": 0, "rounded": 2},
        {"dtype": "F16", "nan": 0, "overflowed": 1, "underflowed": 1, "rounded": 1},
    ]
    assert report["loss"] == {"nan": 0, "overflowed": 1, "underflowed": 1, "rounded": 3}
    lines = shown.output.splitlines()
    assert [line.strip() for line in lines if line.strip().startswith("as ")] == [
        "as bf16: 2 rounded",
        "as f16: 1 rounded, 1 became infinite, 1 became zero",
    ]


def test_half_precision_among_blocks_is_not_counted_as_theirs(tiny: Path, tmp_path: Path) -> None:
    arguments = ["convert", str(tiny), str(tmp_path / "x.gguf"), "--dtype", "q8_0", "--tensor-type", "blk.0.*=f16"]

    shown = CliRunner().invoke(app, arguments).output

    lines = [line.split(": ")[0].strip() for line in shown.splitlines() if " rounded" in line]
    assert lines == ["as f16"]


@pytest.mark.parametrize(("changes", "said"), [
    ({"pre_tokenizer": {**BYTES, "add_prefix_space": True}}, "puts a space before a text (`add_prefix_space` is true)"),
    ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}]}},
     "puts a space before a text (`add_prefix_space` is true)"),
    ({"ignore_merges": True}, "takes a word that is a token as it is (`ignore_merges` is true)"),
])  # fmt: skip
def test_the_one_setting_that_llama_cpp_lacks_is_named(changes: Any, said: str, tiny: Path, tmp_path: Path) -> None:
    tokenizer = folder(tmp_path / "tokenizer", **{"tokenizer.json": byte_pair(**changes)})
    source = open_checkpoint(tiny)

    with pytest.raises(UnsupportedError) as refused:
        convert(source, tmp_path / "x.gguf", tokenizer=tokenizer)
    convert(source, tmp_path / "y.gguf", no_tokenizer=True)

    assert str(refused.value) == (
        f"the tokenizer {said}, which llama.cpp can't do with such a cut into words, so its programs would split text "
        "differently than in training: --no-tokenizer writes a model that takes token ids only"
    )


def test_masks_are_kept_where_asked_for(tiny: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(tiny), tmp_path / "x.safetensors", keep_buffers=True)

    assert canonical(open_checkpoint(tmp_path / "x.safetensors")) == canonical(open_checkpoint(tiny))


def test_a_dry_run_plans_everything_and_writes_nothing(tiny: Path, tmp_path: Path) -> None:
    for output, to in (("x.safetensors", None), ("y.gguf", None), ("folder", "safetensors"), ("parts", "gguf")):
        planned = convert(open_checkpoint(tiny), tmp_path / output, to=to, dry_run=True)
        assert list(tmp_path.iterdir()) == []

        written = convert(open_checkpoint(tiny), tmp_path / "real" / output, to=to)
        assert [(f.nbytes, f.tensors) for f in planned.files] == [(f.nbytes, f.tensors) for f in written.files]
        assert not planned.written
        for path in sorted((tmp_path / "real").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (tmp_path / "real").rmdir()


def test_planned_offsets_are_where_the_bytes_are(tiny: Path, tmp_path: Path) -> None:
    source = open_checkpoint(tiny)

    report = convert(source, tmp_path / "x.safetensors")

    data = (tmp_path / "x.safetensors").read_bytes()
    expected = canonical(source)
    for tensor in report.files[0].tensors:
        assert data[tensor.offset : tensor.offset + tensor.nbytes] == expected[tensor.name][2]


WRONG = {
    "no ending and no format": ({"output": "x"}, OutputError, "say --to"),
    "an ending of another format": ({"output": "x.gguf", "to": "safetensors"}, OutputError, "ends in .gguf"),
    "blocks in safetensors": (
        {"output": "x.safetensors", "dtype": "q8_0"},
        UnsupportedError,
        "safetensors has no dtype",
    ),
    "a dtype for a parameters folder": (
        {"output": "x", "to": "parameters", "dtype": "f16"},
        UnsupportedError,
        "has no dtype F16",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_can_not_be_is_said(tiny: Path, tmp_path: Path, name: str) -> None:
    options, error, said = WRONG[name]
    output = tmp_path / str(options["output"])
    rest: dict[str, Any] = {key: value for key, value in options.items() if key != "output"}

    with pytest.raises(error, match=said):
        convert(open_checkpoint(tiny), output, **rest)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("field", ["n_layer", "n_embd", "vocab_size", "n_positions", "n_inner"])
def test_a_config_that_contradicts_the_tensors_is_named_by_its_field(tiny: Path, tmp_path: Path, field: str) -> None:
    config = json.loads((tiny / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes((tiny / "pytorch_model.bin").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config | {field: config[field] * 2}))

    with pytest.raises(ModelError, match=field):
        convert(open_checkpoint(tmp_path), tmp_path / "x.gguf")
    report = convert(open_checkpoint(tmp_path), tmp_path / "out", to="safetensors")

    assert f"`config.json` says `{field}` is {config[field] * 2}" in report.notes[0]
    assert report.tensors == len(open_checkpoint(tmp_path))  # masks, too: the family is in doubt
    assert (tmp_path / "out" / "config.json").read_bytes() == (tmp_path / "config.json").read_bytes()


def test_a_checkpoint_other_than_gpt2_converts_to_anything_but_gguf(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "x.bin", {"conv.weight": view("0", (2, 1))}, {"0": floats(1.0, 2.0)})

    convert(open_checkpoint(path), tmp_path / "x.safetensors")
    convert(open_checkpoint(path), tmp_path / "folder", to="parameters")
    with pytest.raises(UnsupportedError, match=r"\(GPT-2, .*\): choose safetensors"):
        convert(open_checkpoint(path), tmp_path / "x.gguf")

    for name in ("x.safetensors", "folder"):
        assert canonical(open_checkpoint(tmp_path / name)) == canonical(open_checkpoint(path))


@pytest.mark.parametrize("output", ["x.safetensors", "x.gguf", "folder"])
@pytest.mark.parametrize("position", [150_000, 500_000, 800_000])
def test_a_flipped_bit_of_the_source_is_found_and_nothing_is_written(
    tiny: Path, tmp_path: Path, output: str, position: int
) -> None:
    for name in ("config.json", "vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((tiny / name).read_bytes())
    data = bytearray((tiny / "pytorch_model.bin").read_bytes())
    data[position] ^= 16
    (tmp_path / "bad.bin").write_bytes(data)
    before = everything(tmp_path)

    with pytest.raises(ArchiveError, match="is damaged"):
        convert(
            open_checkpoint(tmp_path / "bad.bin"), tmp_path / output, to="safetensors" if output == "folder" else None
        )

    assert everything(tmp_path) == before


shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)
dtypes = st.sampled_from(sorted(set(CLASSES) - {"C128"}) + sorted(set(UNTYPED) - {"C32", "F4"}))


@st.composite
def views(draw: st.DrawFn) -> tuple[Any, bytes]:
    shape = draw(shapes)
    stride = tuple(draw(st.integers(0, 7)) for _ in shape)
    offset = draw(st.integers(0, 3))
    dtype = draw(dtypes)
    itemsize = (CLASSES.get(dtype) or UNTYPED[dtype])[1]
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True)) if all(shape) else 0
    data = draw(st.randoms(use_true_random=False)).randbytes((last + 1 + draw(st.integers(0, 3))) * itemsize)
    return (shape, stride, offset, dtype), data


@settings(max_examples=some(60, 12), deadline=None)
@given(
    st.lists(
        st.tuples(st.text(max_size=12), views()), min_size=1, max_size=5, unique_by=lambda item: item[0].casefold()
    )
)
def test_round_trips_keep_every_bit_of_any_view(tmp_path_factory: pytest.TempPathFactory, drawn: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("round")
    names = [(name.encode("utf-8", "ignore").decode(), key) for key, (name, _) in enumerate(drawn)]
    if len({name.casefold() for name, _ in names}) != len(names) or any(name == "__metadata__" for name, _ in names):
        return
    tensors = {}
    for (name, key), (_, ((shape, stride, offset, dtype), _)) in zip(names, drawn, strict=True):
        tensors[name] = view(str(key), shape, stride, offset, dtype)
    storages = {str(key): data for key, (_, (_, data)) in enumerate(drawn)}
    source = open_checkpoint(write_checkpoint(folder / "x.bin", tensors, storages))

    convert(source, folder / "a", to="parameters")
    convert(open_checkpoint(folder / "a"), folder / "b.safetensors")
    extract(open_checkpoint(folder / "b.safetensors"), folder / "c", form="named")
    convert(open_checkpoint(folder / "c"), folder / "d.safetensors")

    expected = canonical(source)
    for made in ("a", "b.safetensors", "c", "d.safetensors"):
        assert canonical(open_checkpoint(folder / made)) == expected


COMMAND = [sys.executable, "-m", "converter", "convert", "--quiet"]


def test_a_file_size_limit_at_any_point_is_one_sentence_and_leaves_nothing(tiny: Path, tmp_path: Path) -> None:
    import resource

    def limited(most: int) -> Any:
        def limit() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

        return limit

    for most in share((100, 10_000, 500_000, 880_000), 1, 2):
        done = subprocess.run(
            [*COMMAND, str(tiny), str(tmp_path / "x.safetensors")],
            cwd=ROOT, check=False, capture_output=True, text=True, preexec_fn=limited(most),
        )  # fmt: skip
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        assert everything(tmp_path) == {}


def test_control_c_leaves_nothing(tiny: Path, tmp_path: Path) -> None:
    write_sample(tmp_path / "s", "111M", sparse=True)
    run = subprocess.Popen(
        [*COMMAND, str(tmp_path / "s"), str(tmp_path / "x.gguf"), "--dtype", "q4_0"],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"PYTHONUNBUFFERED": "1"},
        preexec_fn=interruptible,
    )  # fmt: skip
    while not list(tmp_path.glob(".x.gguf.partial")) and run.poll() is None:
        pass
    run.send_signal(signal.SIGINT)
    run.wait()

    assert run.returncode != 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s"]


@pytest.mark.parametrize("model", share(["111M", "256M", "590M", "1.3B", "2.7B", "6.7B", "13B"], 0, 3))
def test_all_seven_models_are_planned(tmp_path: Path, model: str) -> None:
    write_sample(tmp_path / "s", model, sparse=True)
    parameters = {"111M": 111_050_496, "256M": 255_977_024, "590M": 590_310_912, "1.3B": 1_315_723_264,
                  "2.7B": 2_651_553_280, "6.7B": 6_658_404_352, "13B": 12_853_386_240}[model]  # fmt: skip

    for to in ("safetensors", "gguf"):
        report = convert(open_checkpoint(tmp_path / "s"), tmp_path / "out", to=to, dry_run=True, no_tokenizer=True)

        assert sum(t.nbytes for f in report.files for t in f.tensors) == 4 * parameters
        assert report.model is None  # another training has the same shapes
