"""The parameters folder: bytes as unzip gives them, a manifest that reads back, properties for the Java client."""

import dataclasses
import hashlib
import json
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.conversion.extract import default_folder, extract
from converter.errors import ArchiveError, ModelError, UnsafeError, UnsupportedError
from converter.opening import open_checkpoint
from converter.sample import write_sample
from converter.tensors.catalogue import Catalogue
from converter.words import Part
from tests.build import plans
from tests.build.checkpoints import Call, Global, floats, view, write_checkpoint


@pytest.fixture(scope="module", params=["tiny", "tiny-13B"])
def sample(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("sample")
    write_sample(folder, request.param)
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_sample(folder, "tiny")
    return folder


def properties(folder: Path) -> dict[str, str]:
    """Read model.properties as the client does: one `=` a line, `#` in column 1."""
    lines = [line for line in (folder / "model.properties").read_text().splitlines() if not line.startswith("#")]
    assert all(line.count("=") == 1 for line in lines)
    return dict(line.split(" = ") for line in lines)


def described(catalogue: Catalogue) -> dict[str, Any]:
    """Everything that a catalogue says about its tensors, except where the storages' bytes are."""
    return {
        name: (t.dtype, t.shape, t.stride, t.offset, t.storage.key, t.storage.shard, t.storage.nbytes, t.storage.crc32)
        for name, t in catalogue.items()
    }


def canonical(catalogue: Catalogue) -> dict[str, bytes]:
    return {name: b"".join(bytes(tile) for tile in tensor.tiles()) for name, tensor in catalogue.items()}


def test_storages_are_what_unzip_gives(sample: Path, tmp_path: Path) -> None:
    expected: dict[str, bytes] = {}
    shards = sorted(sample.glob("*.bin"))
    for number, path in enumerate(shards, 1):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if "/data/" in name:
                    key = name.rpartition("/")[2]
                    expected[f"{number}/{key}" if len(shards) > 1 else key] = archive.read(name)

    extract(open_checkpoint(sample), tmp_path / "out")

    found = {str(p.relative_to(tmp_path / "out")): p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    del found["manifest.json"]
    found.pop("model.properties", None)  # the matrices of one of the two lie as the client can't read them
    assert found == expected


def test_the_manifest_reads_back_as_the_identical_catalogue(sample: Path, tmp_path: Path) -> None:
    source = open_checkpoint(sample)

    extract(source, tmp_path / "out")
    back = open_checkpoint(tmp_path / "out")

    assert list(back) == list(source)
    assert described(back) == described(source)
    assert back.tied() == source.tied()
    assert back.config == source.config
    assert canonical(back) == canonical(source)


def test_the_named_form_reads_back_as_the_same_state_dict_but_for_the_masks(sample: Path, tmp_path: Path) -> None:
    source = open_checkpoint(sample)
    expected = {n: b for n, b in canonical(source).items() if not n.endswith((".attn.bias", ".masked_bias"))}

    extract(source, tmp_path / "out", form="named")
    back = open_checkpoint(tmp_path / "out")

    assert canonical(back) == expected
    assert {n: t.shape for n, t in back.items()} == {n: source[n].shape for n in expected}


def test_query_key_and_value_are_the_right_thirds(sample: Path, tmp_path: Path) -> None:
    source = open_checkpoint(sample)
    prefix = "" if "wte.weight" in source else "transformer."

    extract(source, tmp_path / "out", form="named")

    for layer in range(4):
        # Conv1D computes x @ weight + bias with [in, out]; the client's matrices are [out, in].
        weight = source[f"{prefix}h.{layer}.attn.c_attn.weight"].bits()
        bias = source[f"{prefix}h.{layer}.attn.c_attn.bias"].bits()
        for third, name in enumerate(("query", "key", "value")):
            folder = tmp_path / "out" / f"decoder{layer + 1}"
            w = np.fromfile(folder / f"att.{name}.w.dat", "<f4").reshape(64, 64)
            b = np.fromfile(folder / f"att.{name}.b.dat", "<f4")
            assert np.array_equal(w, weight[:, 64 * third : 64 * (third + 1)].T)
            assert np.array_equal(b, bias[64 * third : 64 * (third + 1)])
        proj = np.fromfile(tmp_path / "out" / f"decoder{layer + 1}" / "att.proj.w.dat", "<f4").reshape(64, 64)
        assert np.array_equal(proj, source[f"{prefix}h.{layer}.attn.c_proj.weight"].bits().T)


def test_the_named_form_has_the_names_that_the_client_looks_for(tiny: Path, tmp_path: Path) -> None:
    extract(open_checkpoint(tiny), tmp_path / "out", form="named")

    found = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.dat"))
    layer = ["att.key.b", "att.key.w", "att.norm.b", "att.norm.w", "att.proj.b", "att.proj.w", "att.query.b",
             "att.query.w", "att.value.b", "att.value.w", "mlp.layer1.b", "mlp.layer1.w", "mlp.layer2.b",
             "mlp.layer2.w", "mlp.norm.b", "mlp.norm.w"]  # fmt: skip
    expected = [f"decoder{n}/{name}.dat" for n in (1, 2, 3, 4) for name in layer]
    assert found == [*expected, "input/wpe.dat", "input/wte.dat", "output/norm.b.dat", "output/norm.w.dat"]


def test_the_properties_are_what_the_client_reads(tiny: Path, tmp_path: Path) -> None:
    extract(open_checkpoint(tiny), tmp_path / "out")

    found = properties(tmp_path / "out")
    files = {key: value for key, value in found.items() if key.startswith("file.")}
    del found["name"], found["source"]
    assert {key: value for key, value in found.items() if key not in files} == {
        "tokenizer": "GPT-2", "tokenizer.config": "GPT-2", "token.count": "257", "end.of.text.token": "256",
        "max.length": "64", "position.embedding": "LEARNED", "pre.normalization": "true", "hidden.size": "64",
        "feedforward.size": "256", "decoder.count": "4", "attention.head.count": "4", "attention.dividend": "4",
        "attention.type.1": "global", "attention.type.2": "global", "attention.type.3": "global",
        "attention.type.4": "global", "epsilon": "1e-05", "data.type": "FLOAT32", "byte.order": "LITTLE_ENDIAN",
        "weights.transposed": "false", "merged.qkv": "true",
    }  # fmt: skip
    assert len(files) == 2 + 4 * 12 + 2
    # The order of the published files: wte, wpe, then 14 storages a layer, two of them masks.
    assert files["file.input/wte"] == "0"
    assert files["file.decoder1/att.query.key.value.w"] == "2"
    assert files["file.decoder1/att.proj.w"] == "6"
    assert files["file.decoder2/mlp.layer2.b"] == "29"
    assert files["file.output/norm.b"] == "59"


# The storage of each parameter of a layer in the published files, counted from the layer's first storage.
ORDER = ["att.query.key.value.w", "att.query.key.value.b", None, None, "att.proj.w", "att.proj.b", "att.norm.w", "att.norm.b",
             "mlp.norm.w", "mlp.norm.b", "mlp.layer1.w", "mlp.layer1.b", "mlp.layer2.w", "mlp.layer2.b"]  # fmt: skip


def expected_files(layers: int) -> dict[str, str]:
    """The storages of a model in the order of the published files."""
    names = ["input/wte", "input/wpe"]
    names += [f"decoder{layer + 1}/{name}" if name else "" for layer in range(layers) for name in ORDER]
    names += ["output/norm.w", "output/norm.b"]
    return {name: str(key) for key, name in enumerate(names) if name}


@pytest.mark.parametrize(
    ("model", "layers", "head"),
    [("111M", 10, "8"), ("256M", 14, "8"), ("590M", 18, "11.313708498984761"), ("1.3B", 24, "11.313708498984761"),
     ("2.7B", 32, "8.94427190999916"), ("6.7B", 32, "11.313708498984761")],
)  # fmt: skip
def test_the_properties_of_six_name_the_right_storages(model: str, layers: int, head: str, tmp_path: Path) -> None:
    write_sample(tmp_path, model, sparse=True)

    made = plans.parameters(open_checkpoint(tmp_path)).properties

    assert made is not None
    assert f"attention.dividend = {head}\n" in made  # sqrt(64), sqrt(80), sqrt(128)
    assert dict(re.findall(r"^file\.(\S+) = (\S+)$", made, re.MULTILINE)) == expected_files(layers)


def test_the_13b_has_properties_in_the_named_form_alone(tmp_path: Path) -> None:
    write_sample(tmp_path, "13B", sparse=True)
    catalogue = open_checkpoint(tmp_path)

    storages, named = plans.parameters(catalogue), plans.parameters(catalogue, form="named").properties

    assert storages.properties is None
    assert storages.notes == (
        "no model.properties: `h.0.attn.c_attn.weight` lies as [in, out], and from such files the client computes "
        "something else: give --form named",
    )
    assert named is not None
    assert "attention.dividend = 11.313708498984761\n" in named
    assert "weights.transposed = false\n" in named
    assert "file." not in named


def client_thirds(folder: Path, width: int) -> list[np.ndarray[Any, Any]]:
    """Query, key and value of the first layer as the client of April 2023 has them: [out, in], row by row.

    From ParameterReader.readWeights: a third of a merged file begins at `width * width * index` elements, and
    `weights.transposed` turns what is read.
    """
    said = properties(folder)
    merged = said.get("merged.qkv") == "true"
    parts = []
    for index, part in enumerate(("query", "key", "value")):
        name = f"decoder1/att.{'query.key.value' if merged else part}.w"
        data = (folder / said.get(f"file.{name}", f"{name}.dat")).read_bytes()
        assert len(data) == 4 * width * width * (3 if merged else 1)
        found = np.frombuffer(data, "<f4", width * width, 4 * width * width * index if merged else 0)
        matrix = found.reshape(width, width)
        parts.append(matrix.T if said["weights.transposed"] == "true" else matrix)
    return parts


@pytest.mark.parametrize("form", ["storages", "named"])
@pytest.mark.parametrize("model", ["tiny", "tiny-13B"])
def test_the_client_reads_the_thirds_that_it_needs_or_has_no_properties(model: str, form: str, tmp_path: Path) -> None:
    write_sample(tmp_path / "sample", model)
    source = open_checkpoint(tmp_path / "sample")

    report = extract(source, tmp_path / "out", form=form)

    assert (report.properties is None) == (model == "tiny-13B" and form == "storages")
    if report.properties is not None:
        weight = next(tensor for name, tensor in source.items() if name.endswith("h.0.attn.c_attn.weight")).bits()
        for index, found in enumerate(client_thirds(tmp_path / "out", 64)):
            assert np.array_equal(found, weight[:, 64 * index : 64 * (index + 1)].T)


def test_the_named_form_needs_no_merged_qkv_and_no_file_lines(tiny: Path, tmp_path: Path) -> None:
    extract(open_checkpoint(tiny), tmp_path / "out", form="named")

    found = properties(tmp_path / "out")
    assert "merged.qkv" not in found
    assert found["weights.transposed"] == "false"
    assert not [key for key in found if key.startswith("file.")]


def test_properties_go_where_they_are_asked_for(tiny: Path, tmp_path: Path) -> None:
    report = extract(open_checkpoint(tiny), tmp_path / "out", properties=tmp_path / "model.properties")

    assert (tmp_path / "model.properties").read_text().count("file.") == 52
    assert not (tmp_path / "out" / "model.properties").exists()
    assert report.properties == str(tmp_path / "model.properties")


def test_digests_are_those_of_the_files(tiny: Path, tmp_path: Path) -> None:
    extract(open_checkpoint(tiny), tmp_path / "out", sha256=True)

    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert len(manifest["files"]) == 60
    for entry in manifest["files"]:
        data = (tmp_path / "out" / entry["path"]).read_bytes()
        assert entry["nbytes"] == len(data)
        assert entry["crc32"] == f"{zlib.crc32(data):08x}"
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("form", ["storages", "named"])
def test_any_view_survives(tmp_path: Path, form: str) -> None:
    data = floats(*range(24))
    tensors = {
        "transposed": view("a", (4, 6), (1, 4)), "sliced": view("a", (2, 3), (6, 2), 1), "scalar": view("a", (), (), 5),
        "empty": view("none", (0, 3), (3, 1)), "expanded": view("a", (5, 2), (0, 1), 3), "windows": view("a", (4, 3), (1, 1)),
        "ones": view("a", (1, 24, 1), (99, 1, 7)), "tied": view("a", (4, 6), (1, 4)), "bf16": view("b", (2, 2), (1, 2), dtype="BF16"),
        "bool": view("c", (3,), dtype="BOOL"), "long": view("d", (1, 1), dtype="I64"), "fp8": view("e", (4,), dtype="F8_E4M3"),
    }  # fmt: skip
    storages = {"a": data, "b": bytes(range(8)), "c": b"\1\0\1", "d": b"\xff" * 8, "e": b"\x7f\x80\1\2", "none": b""}
    source = open_checkpoint(write_checkpoint(tmp_path / "x.bin", tensors, storages))

    report = extract(source, tmp_path / "out", form=form)
    back = open_checkpoint(tmp_path / "out")

    assert canonical(back) == canonical(source)
    assert {n: (t.dtype, t.shape) for n, t in back.items()} == {n: (t.dtype, t.shape) for n, t in source.items()}
    assert back.tied() == [["transposed", "tied"]]
    assert report.properties is None
    assert report.notes == ("no model.properties: it is not a GPT-2, the only architecture that the client knows",)


def test_a_big_endian_checkpoint_stays_so_as_storages_and_turns_little_by_name(tmp_path: Path) -> None:
    path = write_checkpoint(
        tmp_path / "x.bin", {"w": view("0", (2,))}, {"0": b"\x3f\x80\0\0\x40\0\0\0"}, byteorder=b"big"
    )

    extract(open_checkpoint(path), tmp_path / "raw")
    extract(open_checkpoint(path), tmp_path / "named", form="named")

    assert (tmp_path / "raw" / "0").read_bytes() == b"\x3f\x80\0\0\x40\0\0\0"
    assert (tmp_path / "named" / "w.dat").read_bytes() == floats(1.0, 2.0)
    for folder in ("raw", "named"):
        assert canonical(open_checkpoint(tmp_path / folder)) == {"w": floats(1.0, 2.0)}


def test_a_flipped_bit_is_found_and_nothing_is_written(tiny: Path, tmp_path: Path) -> None:
    data = bytearray((tiny / "pytorch_model.bin").read_bytes())
    data[500_000] ^= 1
    (tmp_path / "bad.bin").write_bytes(data)

    for form in ("storages", "named"):
        with pytest.raises(ArchiveError, match=r"storage `\d+` .* is damaged: its CRC-32 is"):
            extract(open_checkpoint(tmp_path / "bad.bin"), tmp_path / "out", form=form)
        assert [p.name for p in tmp_path.iterdir()] == ["bad.bin"]
    extract(open_checkpoint(tmp_path / "bad.bin"), tmp_path / "out", check_crc=False)

    assert (tmp_path / "out" / "manifest.json").exists()


def test_a_pickle_that_asks_for_more_needs_a_word(tmp_path: Path) -> None:
    value = {"w": view("0", (1,)), "args": Call(Global("trainers", "Namespace"))}
    path = write_checkpoint(tmp_path / "x.bin", value, {"0": floats(1.0)})

    with pytest.raises(UnsafeError, match=r"names `trainers\.Namespace`.*--ignore-globals"):
        extract(open_checkpoint(path), tmp_path / "out")
    extract(open_checkpoint(path), tmp_path / "out", ignore_globals=True)

    assert list(open_checkpoint(tmp_path / "out")) == ["w"]


def test_a_tensor_without_plain_bytes_is_named(tmp_path: Path) -> None:
    meta = Call(
        Global("torch._utils", "_rebuild_meta_tensor_no_storage"), (Global("torch", "float32"), (2,), (1,), False)
    )
    path = write_checkpoint(tmp_path / "x.bin", {"w": view("0", (1,)), "m": meta}, {"0": floats(1.0)})

    with pytest.raises(UnsupportedError, match="`m` is a meta tensor"):
        extract(open_checkpoint(path), tmp_path / "out")


def test_a_checkpoint_without_tensors_is_refused(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "x.bin", {"epoch": 3}, {})

    with pytest.raises(UnsupportedError, match="holds no tensors"):
        extract(open_checkpoint(path), tmp_path / "out")


def gpt2(change: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """A GPT-2 of one layer of 4, vocabulary 5, two positions, with one thing changed."""
    h, storages, tensors = 4, {}, {}
    shapes = {
        "wte.weight": (5, h), "wpe.weight": (2, h), "h.0.ln_1.weight": (h,), "h.0.ln_1.bias": (h,),
        "h.0.attn.c_attn.weight": (h, 3 * h), "h.0.attn.c_attn.bias": (3 * h,), "h.0.attn.c_proj.weight": (h, h),
        "h.0.attn.c_proj.bias": (h,), "h.0.ln_2.weight": (h,), "h.0.ln_2.bias": (h,), "h.0.mlp.c_fc.weight": (h, 4 * h),
        "h.0.mlp.c_fc.bias": (4 * h,), "h.0.mlp.c_proj.weight": (4 * h, h), "h.0.mlp.c_proj.bias": (h,),
        "ln_f.weight": (h,), "ln_f.bias": (h,),
    }  # fmt: skip
    for key, (name, shape) in enumerate(shapes.items()):
        dtype = "F16" if change == "half" else "F32"
        storages[str(key)] = bytes((2 if change == "half" else 4) * int(np.prod(shape)))
        kept = ("c_attn.weight", "c_fc.weight") if change == "disagree" else ("",)
        transposed = name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")) and name.endswith(kept)
        tensors[name] = view(str(key), shape, (1, shape[0]) if transposed else None, dtype=dtype)
    if change == "untied":
        storages["head"] = bytes(80)
        tensors["lm_head.weight"] = view("head", (5, h))
    if change == "tied":
        tensors["lm_head.weight"] = view("0", (5, h))
    if change == "missing":
        del tensors["ln_f.bias"]
    return tensors, storages


CONFIG = {"model_type": "gpt2", "n_embd": 4, "n_layer": 1, "n_head": 2, "n_positions": 2, "vocab_size": 5}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("disagree", r"lies as \[in, out\], and from such files the client computes something else: give --form named"),
        ("untied", "`lm_head.weight` is not tied"),
        (
            "half",
            "the client reads only float32: convert it with --to safetensors and --dtype f32 first, and extract the result",
        ),
        ("missing", "`ln_f.bias` is missing"),
        ("no config", "the number of heads is not known"),
        ("contradiction", "vocab_size"),
    ],
)
def test_what_the_client_cannot_express_is_said_and_the_folder_written(
    tmp_path: Path, change: str, reason: str
) -> None:
    tensors, storages = gpt2(change)
    path = write_checkpoint(tmp_path / "x.bin", tensors, storages)
    if change != "no config":
        config = CONFIG | ({"vocab_size": 6} if change == "contradiction" else {})
        (tmp_path / "config.json").write_text(json.dumps(config))

    report = extract(open_checkpoint(path), tmp_path / "out")

    assert report.properties is None
    assert len(report.notes) == 1
    assert re.search(reason, report.notes[0])
    assert (tmp_path / "out" / "manifest.json").exists()
    assert not (tmp_path / "out" / "model.properties").exists()
    with pytest.raises(ModelError, match=r"no model\.properties can be written"):
        extract(open_checkpoint(path), tmp_path / "again", properties=tmp_path / "p")
    assert not (tmp_path / "again").exists()


def test_a_tied_head_is_one_file_under_two_names(tmp_path: Path) -> None:
    tensors, storages = gpt2("tied")
    path = write_checkpoint(tmp_path / "x.bin", tensors, storages)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))

    for form in ("storages", "named"):
        report = extract(open_checkpoint(path), tmp_path / form, form=form)

        assert report.properties is not None
        assert open_checkpoint(tmp_path / form).tied() == [["wte.weight", "lm_head.weight"]]


def test_the_default_folder_is_named_after_the_model(tmp_path: Path) -> None:
    write_sample(tmp_path / "s", "111M", sparse=True)
    path = write_checkpoint(tmp_path / "other.bin", {"w": view("0", (1,))}, {"0": floats(1.0)})

    assert default_folder(open_checkpoint(tmp_path / "s")) == Path("parameters/s")
    assert default_folder(open_checkpoint(path)) == Path("parameters/other")


def test_a_report_says_what_was_written(tiny: Path, tmp_path: Path) -> None:
    report = extract(open_checkpoint(tiny), tmp_path / "out")

    reason = "a parameters folder has no room for companions, but a folder of safetensors has"
    left = [{"name": name, "kind": "file", "reason": reason} for name in ("merges.txt", "vocab.json")]
    assert dataclasses.asdict(report) == {
        "source": str(tiny / "pytorch_model.bin"), "folder": str(tmp_path / "out"), "form": "storages", "model": None,
        "files": 60, "nbytes": 898_832, "tensors": 60, "properties": str(tmp_path / "out" / "model.properties"), "notes": (),
        "dropped": tuple({**one, "tensors": 0, "nbytes": 0} for one in left), "carried": (), "excluded": (), "renamed": (),
    }  # fmt: skip


LEFT: dict[str, tuple[Any, dict[str, Any], list[str]]] = {
    "an optimizer": ({"model": {"w": view("0", (2,))}, "optimizer": {"state": {0: {"m": view("1", (2,))}}}}, {}, ["0"]),
    "averaged weights": ({"params": {"w": view("1", (2,))}, "params_ema": {"w": view("0", (2,))}}, {}, ["1"]),
    "the model": ({"params": {"w": view("1", (2,))}, "params_ema": {"w": view("0", (2,))}}, {"root": Part.EMA}, ["0"]),
    "nothing": ({"a.w": view("0", (2,)), "b.w": view("1", (2,))}, {}, ["0", "1"]),
    "half of one": ({"model": {"w": view("0", (1,))}, "optimizer": {"m": view("0", (1,), offset=1)}}, {}, ["0"]),
}


@pytest.mark.parametrize("kind", LEFT)
def test_what_is_left_behind_has_no_file(kind: str, tmp_path: Path) -> None:
    value, options, files = LEFT[kind]
    path = write_checkpoint(tmp_path / "x.pt", value, {"0": floats(1, 2), "1": floats(3, 4)})

    extract(open_checkpoint(path, **options), tmp_path / "out")

    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == [*files, "manifest.json"]
