"""Every kind of damage is found and named; an honest copy never counts as damaged."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import numpy as np
import pytest
import safetensors
from safetensors import safe_open
from safetensors.numpy import save_file
from typer.testing import CliRunner, Result

import converter
from converter.cli.app import app
from converter.conversion.convert import convert
from converter.conversion.extract import extract
from converter.dtypes import F16, F32, F64, Dtype
from converter.errors import ArchiveError, ManifestError, ReadError, SourceError
from converter.formats.safetensors.witness import disagreements
from converter.io.local import LocalFile
from converter.opening import open_checkpoint
from converter.reports import verification as reports
from converter.tensors.catalogue import Catalogue, Origin
from converter.tensors.crc_checked import checked
from converter.tensors.matrix import Area
from converter.tensors.tensor import Storage, Tensor
from converter.verification.comparison import compare, equal
from converter.verification.expected import expect
from converter.verification.golden import Golden, load
from converter.verification.verify import Options, examine, verify
from converter.verification.walk import Sizes, Workspace
from tests.build.checkpoints import floats, legacy_bytes, ordered, view, write_checkpoint
from tests.build.damage import CONTENT, FORMS, STRUCTURE, Model, gguf_name, model, write_source
from tests.build.depth import share, some
from tests.build.reads import noted_reads
from tests.build.seeds import safetensors_file
from tests.build.steps import steps

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(model(), tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def golden(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Golden:
    """The source's manifest."""
    path = tmp_path_factory.mktemp("golden") / "golden.json"
    path.write_text(manifest(source, source).text())
    return load(path)


def check(source: Path, *outputs: Path, **options: Any) -> reports.Verification:
    return verify(open_checkpoint(source), outputs, **options)


def said(output: reports.VerifiedOutput) -> dict[str, str]:
    """The findings by name."""
    tensors = output.tensors
    whats = dict.fromkeys(tensors.missing, "missing") | dict.fromkeys(tensors.unexpected, "unexpected")
    return whats | {found.name: found.what for found in tensors.different}


@pytest.mark.parametrize("form", FORMS)
def test_an_honest_copy_is_identical(form: str, source: Path, tmp_path: Path) -> None:
    output = check(source, FORMS[form](model(), tmp_path)).outputs[0]

    assert (output.verdict, said(output)) == ("identical", {})


@pytest.mark.parametrize("kind", share([*CONTENT, *STRUCTURE], 0, 2))
def test_damage_is_named(kind: str, source: Path, tmp_path: Path) -> None:
    change, name, what = (CONTENT | STRUCTURE)[kind]
    made = model()
    change(made)
    written = {form: write(made, tmp_path / form) for form, write in FORMS.items()}

    outputs = check(source, *written.values()).outputs

    for form, output in zip(written, outputs, strict=True):
        assert output.verdict == "different", form
        found = said(output)
        assert found.get(name) == what or found.get(gguf_name(name)) == what, (form, found)


# ---- the files themselves -----------------------------------------------------------------------------------------


def weights(output: Path) -> Path:
    """The file with most of the bytes."""
    files = [output] if output.is_file() else [path for path in output.iterdir() if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def cut(path: Path, nbytes: int) -> None:
    with path.open("r+b") as file:
        file.truncate(nbytes)


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a byte short": (lambda path: cut(path, path.stat().st_size - 1), "truncated"),
    "half of it": (lambda path: cut(path, path.stat().st_size // 2), "truncated"),
    "empty": (lambda path: cut(path, 0), "truncated"),
    "gone": (lambda path: path.unlink(), "unreadable"),
    "a page instead": (lambda path: path.write_bytes(b"<!doctype html>" * 5000), "unreadable"),
}

WHOLE: dict[str, Callable[[bytes], bytes]] = {
    "a byte of the pickle": lambda data: data.replace(b"OrderedDict", b"OrderedDicT", 1),
    "a byte of the version": lambda data: data.replace(b"3\n", b"4\n", 1),
    "the pickle's name in its local header": lambda data: data.replace(b"data.pkl", b"dada.pkl", 1),
    "two bytes more": lambda data: data + b"!!",
    "a kilobyte more": lambda data: data + bytes(1024),
    "the number of records": lambda data: data[:-14] + b"\1\0" + data[-12:],
    "a comment that is not there": lambda data: data[:-2] + b"\1\0",
    "the place of the zip64 record": lambda data: data[:-34] + bytes(8) + data[-26:],
}


@pytest.mark.parametrize("kind", WHOLE)
def test_a_whole_archive_that_is_damaged_is_not_called_cut_off(kind: str, tmp_path: Path) -> None:
    value = ordered(w=view("0", (2,)))
    whole = write_checkpoint(tmp_path / "whole.bin", value, {"0": floats(1, 2)}).read_bytes()
    damaged = WHOLE[kind](whole)
    (tmp_path / "damaged.bin").write_bytes(damaged)

    found = check(tmp_path / "whole.bin", tmp_path / "damaged.bin").outputs[0].tensors.different
    faults = converter.check(tmp_path / "damaged.bin").checkpoints[0].faults

    assert damaged != whole
    assert [one.what for one in found] == ["unreadable"]
    assert [fault.rule for fault in faults] == ["unreadable"]


def test_a_transposed_tensor_whose_checksum_is_wrong_is_a_finding(tmp_path: Path) -> None:
    damaged = [5, 4, 2, 5, 3, 6]
    write_checkpoint(tmp_path / "a.bin", {"w": view("0", (2, 3), (3, 1))}, {"0": floats(1, 2, 3, 4, 5, 6)})
    write_checkpoint(tmp_path / "b.bin", {"w": view("0", (3, 2), (2, 1))}, {"0": floats(1, 4, 2, 5, 3, 6)})
    whole = (tmp_path / "b.bin").read_bytes()
    (tmp_path / "b.bin").write_bytes(whole.replace(floats(1, 4, 2, 5, 3, 6), floats(*damaged)))

    output = check(tmp_path / "a.bin", tmp_path / "b.bin").outputs[0]

    assert [(wrong.name, wrong.what) for wrong in output.tensors.different] == [
        ("w", "another shape"),
        ("w", "checksum"),
    ]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_can_not_be_read_is_a_failed_check(kind: str, form: str, source: Path, tmp_path: Path) -> None:
    change, what = FILES[kind]
    output = FORMS[form](model(), tmp_path)
    change(weights(output))

    found = check(source, output).outputs[0]

    assert (found.verdict, found.tensors.compared) == ("different", 0)
    assert [one.what for one in found.tensors.different] == [what]


def test_a_folder_of_several_checkpoints_is_not_truncated(source: Path, tmp_path: Path) -> None:
    one = FORMS["gguf"](model(), tmp_path / "one")
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a.gguf", "b.gguf"):
        (folder / name).write_bytes(one.read_bytes())

    found = check(source, folder).outputs[0].tensors.different[0]

    assert (found.what, "several checkpoints" in found.detail) == ("unreadable", True)


@pytest.mark.parametrize("form", ["safetensors", "gguf"])
def test_a_header_that_is_cut_off_is_truncated(form: str, source: Path, tmp_path: Path) -> None:
    output = FORMS[form](model(), tmp_path)
    cut(weights(output), 300)

    assert [one.what for one in check(source, output).outputs[0].tensors.different] == ["truncated"]


@pytest.mark.parametrize("at", [20, 200, -1])
def test_a_legacy_stream_that_is_cut_off_is_truncated(at: int, source: Path, tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(legacy_bytes({"w": view("0", (2,))}, {"0": floats(1, 2)})[:at])

    assert [one.what for one in check(source, tmp_path / "x.pt").outputs[0].tensors.different] == ["truncated"]


def test_a_shard_that_is_cut_off_is_truncated(source: Path, tmp_path: Path) -> None:
    whole = safetensors_file({"w": ("F32", (2,), floats(1, 2))})
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(whole)
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(whole[:-1])

    found = check(source, tmp_path).outputs[0].tensors.different

    assert [(one.what, "00002-of" in one.detail) for one in found] == [("truncated", True)]


@pytest.mark.parametrize("form", ["safetensors", "gguf", "torch"])
def test_wherever_a_file_is_cut_off_it_is_truncated(form: str, source: Path, tmp_path: Path) -> None:
    written = FORMS[form](model(), tmp_path) if form in FORMS else write_source(model(), tmp_path / "output")
    data = weights(written).read_bytes()
    output = tmp_path / "cut"

    for length in (*range(4, 70), 300, 5000, len(data) - 1):
        output.write_bytes(data[:length])
        found = check(source, output).outputs[0]

        if form == "safetensors" and 8 <= length < 300:
            continue  # without data after it, a header is recognised only as JSON
        assert [one.what for one in found.tensors.different] == ["truncated"], length


def test_bytes_after_the_last_tensor_are_said(source: Path, tmp_path: Path) -> None:
    output = FORMS["gguf"](model(), tmp_path)
    with output.open("ab") as file:
        file.write(b"hidden" * 100)

    assert list(said(check(source, output).outputs[0]).values()) == ["contradiction"]


def test_a_wrong_checksum_is_said_though_the_bits_are_right(source: Path, tmp_path: Path) -> None:
    output = FORMS["parameters"](model(), tmp_path)
    manifest = json.loads((output / "manifest.json").read_text())
    manifest["files"][0]["crc32"] = "00000000"
    (output / "manifest.json").write_text(json.dumps(manifest))

    found = check(source, output).outputs[0]

    assert found.verdict == "different"
    assert [one.what for one in found.tensors.different] == ["checksum"]
    assert found.tensors.identical == found.tensors.compared


def test_a_bit_that_flips_on_the_disk_is_found_in_spite_of_the_checksum(source: Path, tmp_path: Path) -> None:
    output = FORMS["parameters"](model(), tmp_path)
    data = bytearray((output / "0").read_bytes())
    data[100] ^= 4
    (output / "0").write_bytes(data)

    assert said(check(source, output).outputs[0])["wte.weight"] == "one flipped bit"


def test_a_damaged_source_is_an_error_and_no_verdict(tmp_path: Path) -> None:
    folder = write_source(model(), tmp_path / "source")
    output = FORMS["gguf"](model(), tmp_path)
    data = bytearray((folder / "pytorch_model.bin").read_bytes())
    at = data.index(model().tensors["wte.weight"].tobytes())
    data[at + 9] ^= 1
    (folder / "pytorch_model.bin").write_bytes(data)

    with pytest.raises(ArchiveError, match="is damaged"):
        check(folder, output)


@pytest.mark.parametrize(
    ("form", "change", "name", "what"),
    [
        ("safetensors", lambda made: made.vocab.reverse(), "tokenizer.tokens", "another tokenizer"),
        ("safetensors", lambda made: made.merges.reverse(), "tokenizer.merges", "another tokenizer"),
        ("safetensors", lambda made: made.absent.add("merges.txt"), "tokenizer", "no tokenizer"),
        ("gguf", lambda made: made.vocab.reverse(), "tokenizer.tokens", "another tokenizer"),
        ("gguf", lambda made: made.merges.reverse(), "tokenizer.merges", "another tokenizer"),
    ],
)
def test_a_tokenizer_that_is_not_the_source_s_is_found(
    form: str, change: Any, name: str, what: str, source: Path, tmp_path: Path
) -> None:
    made = model()
    change(made)

    output = check(source, FORMS[form](made, tmp_path)).outputs[0]

    assert said(output) == {name: what}
    assert (output.verdict, output.weights, output.companions) == ("different", "identical", "different")


@pytest.mark.parametrize(
    ("form", "absent", "names", "companions", "agree"),
    [
        ("safetensors", [], [], "equal", ("configuration", "tokenizer")),
        ("safetensors", ["config.json"], ["config.json"], "equal", ("tokenizer",)),
        ("safetensors", ["vocab.json", "merges.txt"], ["tokenizer"], "equal", ("configuration",)),
        ("safetensors", ["config.json", "vocab.json", "merges.txt"], ["config.json", "tokenizer"], "absent", ()),
        ("gguf", [], [], "equal", ("configuration", "tokenizer")),
        ("gguf", ["vocab.json"], ["tokenizer"], "equal", ("configuration",)),
    ],
)
def test_a_copy_that_lacks_what_lies_beside_the_weights_is_no_other_model(
    form: str,
    absent: list[str],
    names: list[str],
    companions: str,
    agree: tuple[str, ...],
    source: Path,
    tmp_path: Path,
) -> None:
    made = model()
    made.absent.update(absent)

    output = check(source, FORMS[form](made, tmp_path)).outputs[0]

    assert (output.verdict, output.weights, output.companions) == ("identical", "identical", companions)
    assert output.agree == agree
    assert [(note.name, note.what) for note in output.notes] == [(name, "absent") for name in names]


def test_a_file_alone_and_in_a_folder_have_the_same_verdict(source: Path, tmp_path: Path) -> None:
    made = model()
    made.absent.update(["config.json", "vocab.json", "merges.txt"])
    folder = FORMS["safetensors"](made, tmp_path)

    alone, inside = check(source, folder / "model.safetensors", folder).outputs

    assert (alone.verdict, alone.weights) == (inside.verdict, inside.weights) == ("identical", "identical")
    assert (alone.companions, inside.companions) == ("not compared", "absent")


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("attention.head.count = 8", "attention.head.count is wrong"),
        ("attention.dividend = 4", "attention.dividend is wrong"),
        ("hidden.size = 64", "hidden.size is wrong"),
        ("epsilon = 1e-06", "epsilon is wrong"),
        ("max.length = 8", "max.length is wrong"),
        ("end.of.text.token = 1", "end.of.text.token is wrong"),
        ("weights.transposed = true", "weights.transposed is wrong"),
        ("byte.order = BIG_ENDIAN", "byte.order is wrong"),
        ("attention.type.2 = LOCAL", "attention.type.2 is wrong"),
        ("file.decoder1/att.proj.w = 3", "file.decoder1/att.proj.w is wrong"),
    ],
)
def test_a_wrong_line_of_model_properties_is_found(line: str, what: str, source: Path, tmp_path: Path) -> None:
    output = FORMS["parameters"](model(), tmp_path)
    path = output / "model.properties"
    key = line.partition(" =")[0]
    lines = path.read_text().splitlines()
    assert any(old.startswith(f"{key} = ") for old in lines)
    path.write_text("\n".join(line if old.startswith(f"{key} = ") else old for old in lines) + "\n")

    assert what in [one.what for one in check(source, output).outputs[0].tensors.different]


@pytest.mark.parametrize("heads", ["4", 0, -1, 1.5, None, [], True, pytest.param(10**400, id="huge")])
def test_an_invalid_number_of_heads_is_ignored(heads: Any, tmp_path: Path) -> None:
    source, output = write_source(model(), tmp_path / "source"), FORMS["parameters"](model(), tmp_path)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"n_head": heads}))

    assert check(source, output).outputs[0].verdict == "different"


@pytest.mark.parametrize("number", [[1], "1", -1, True, 1 << 61])
def test_a_vocabulary_with_invalid_ids_is_reported(number: Any, source: Path, tmp_path: Path) -> None:
    output = FORMS["gguf"](model(), tmp_path / "gguf")
    again = write_source(model(), tmp_path / "source")
    ids = json.loads((again / "vocab.json").read_text())
    (again / "vocab.json").write_text(json.dumps(ids | {"a": number}))

    report = check(again, output).outputs[0]

    assert report.verdict != "identical"
    assert f"gives `a` the id {number!r}: a number from 0 to 2^31 was expected" in str(report)


def test_a_model_properties_without_end_is_not_read(source: Path, tmp_path: Path) -> None:
    output = FORMS["parameters"](model(), tmp_path)
    with (output / "model.properties").open("ab") as file:
        file.truncate(1 << 40)

    report = check(source, output).outputs[0]

    assert report.verdict == "different"
    assert "at most 67,108,864 are read" in str(report)


@pytest.mark.parametrize("has_head", [True, False])
def test_a_head_that_is_stored_beside_an_equal_embedding_is_only_named(has_head: bool, tmp_path: Path) -> None:
    made = model()
    made.tensors["lm_head.weight"] = made.tensors["wte.weight"]
    made.tied = True
    folder = write_source(made if has_head else model(), tmp_path / "source")
    twice, own = copy.copy(made), copy.deepcopy(made)
    twice.tied = own.tied = False
    own.tensors["lm_head.weight"] = own.tensors["wte.weight"] + np.float32(1)
    detail = "it has the elements of `wte.weight`, and the model uses one tensor for both"

    for form, write in FORMS.items():
        whole = check(folder, write(made, tmp_path / f"{form} whole")).outputs[0]
        second = check(folder, write(twice, tmp_path / f"{form} twice")).outputs[0]
        changed = check(folder, write(own, tmp_path / f"{form} own")).outputs[0]

        assert (whole.verdict, said(whole)) == ("identical", {})
        assert (second.verdict, said(second)) == ("identical", {})
        assert ("lm_head.weight", "stored twice", detail) in [
            (note.name, note.what, note.detail) for note in second.notes
        ]
        assert changed.verdict == "different"
        assert "lm_head.weight" in said(changed)
        assert [note for note in changed.notes if note.what == "stored twice"] == []


def test_a_tie_is_lost_if_config_json_does_not_tie(tmp_path: Path) -> None:
    made = model()
    made.tensors["lm_head.weight"] = made.tensors["wte.weight"]
    made.tied = True
    made.config["tie_word_embeddings"] = False
    folder = write_source(made, tmp_path / "source")
    untied = copy.copy(made)
    untied.tied = False

    for form, write in FORMS.items():
        lost = check(folder, write(untied, tmp_path / form)).outputs[0]

        assert (lost.verdict, said(lost)) == ("different", {"lm_head.weight": "lost tie"})
        assert len(lost.tensors.different) == 1


def test_a_manifest_knows_a_head_that_is_stored_twice(tmp_path: Path) -> None:
    folder = write_source(model(), tmp_path / "source")
    golden = examine(expect(open_checkpoint(folder)), [folder]).golden()
    made = model()
    made.tensors["lm_head.weight"] = made.tensors["wte.weight"].copy()

    output = verify(golden, [FORMS["safetensors"](made, tmp_path / "copy")]).outputs[0]

    assert (output.verdict, [note.what for note in output.notes]) == ("identical", ["stored twice"])


class Otherwise:
    """The safetensors library, except that `told` changes what it says about a tensor."""

    def __init__(self, path: str, **told: Any) -> None:
        self._file, self._told = safe_open(path, framework="np"), told

    def offset_keys(self) -> list[str]:
        names: list[str] = self._told.get("names", lambda keys: keys)(self._file.offset_keys())
        return names

    def get_slice(self, key: str) -> Any:
        whole, told = self._file.get_slice(key), self._told if key == TOLD else {}

        class Slice:
            def get_dtype(self) -> str:
                dtype: str = told.get("dtype", whole.get_dtype())
                return dtype

            def get_shape(self) -> list[int]:
                shape: list[int] = told.get("shape", whole.get_shape())
                return shape

            def __getitem__(self, area: Any) -> Any:
                return told.get("read", lambda array: array)(whole[area])

        return Slice()


def refuse(_: Any) -> Any:
    raise OSError("no")


TOLD = "transformer.h.1.mlp.c_fc.weight"


@pytest.mark.parametrize(
    ("told", "detail"),
    [
        ({"names": lambda keys: [*keys, "one.more"]}, "the safetensors library finds `one.more`"),
        ({"names": lambda keys: [key for key in keys if key != TOLD]}, f"the safetensors library finds no `{TOLD}`"),
        ({"names": lambda keys: keys[::-1]}, "another order in the safetensors library than here"),
        ({"dtype": "I32"}, "is I32 (32, 128) for the safetensors library and F32 (32, 128) for us"),
        ({"shape": [128, 32]}, "is F32 (128, 32) for the safetensors library and F32 (32, 128) for us"),
        ({"read": lambda array: array + 1}, f"`{TOLD}` in "),
        ({"read": refuse}, "the safetensors library can't read"),
    ],
)
def test_readers_of_safetensors_that_disagree_are_noticed(
    told: dict[str, Any], detail: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = FORMS["safetensors"](model(), tmp_path)
    monkeypatch.setattr(safetensors, "safe_open", lambda path, framework: Otherwise(path, **told))

    found = check(source, output).outputs[0]

    assert found.verdict == "different"
    assert [one.what for one in found.tensors.different] == ["readers disagree"]
    assert detail in found.tensors.different[0].detail
    assert found.tensors.identical == found.tensors.compared == 40


def test_a_file_that_only_the_library_reads_is_refused(source: Path, tmp_path: Path) -> None:
    output = FORMS["safetensors"](model(), tmp_path) / "model.safetensors"
    data = output.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    twice = json.dumps(header)[:-1] + f', "{TOLD}": {json.dumps(header[TOLD])}}}'
    text = twice.encode() + b" " * (-len(twice) % 8)
    output.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    with safe_open(output, framework="np") as file:
        assert TOLD in file.keys()  # noqa: SIM118

    found = check(source, output).outputs[0]

    assert (found.verdict, found.tensors.different[0].what) == ("different", "unreadable")
    assert "a name occurs twice" in found.tensors.different[0].detail


# ---- no false alarm -----------------------------------------------------------------------------------------------

TARGETS = [
    ("parameters", "keep"), ("safetensors", "keep"), ("safetensors", "f32"), ("safetensors", "f16"), ("safetensors", "bf16"),
    ("gguf", "keep"), ("gguf", "f32"), ("gguf", "f16"), ("gguf", "bf16"), ("gguf", "q8_0"), ("gguf", "q5_1"),
    ("gguf", "q5_0"), ("gguf", "q4_1"), ("gguf", "q4_0"),
]  # fmt: skip


def honest(seed: int) -> tuple[Model, str, str, dict[str, Any]]:
    """A model at random, and how it is converted."""
    rng = np.random.default_rng(seed)
    n_head = int(rng.choice([1, 2, 4]))
    n_embd = n_head * int(rng.choice([3, 8, 16, 32]))
    made = model(
        seed,
        n_layer=int(rng.integers(1, 4)),
        n_head=n_head,
        n_embd=n_embd,
        n_inner=int(rng.choice([4 * n_embd, 96, 64])),
        n_positions=int(rng.integers(1, 40)),
        vocab_size=int(rng.integers(30, 90)),
        dtype=str(rng.choice(["<f4", "<f4", "<f4", "<f8", "<f2"])),
        scale=float(rng.choice([1e-6, 0.02, 1, 100])),
    )
    made.config["torch_dtype"] = {"<f4": "float32", "<f8": "float64", "<f2": "float16"}[
        made.tensors["wte.weight"].dtype.str
    ]
    made.prefix = str(rng.choice(["", "transformer."]))
    made.masks = bool(rng.integers(2))
    head = rng.integers(3)
    if head:
        made.tied = head == 1
        made.tensors["lm_head.weight"] = made.tensors["wte.weight"] * (1 if made.tied else 2)
    array = made.tensors["h.0.mlp.c_fc.weight"]
    array[0] = 0
    array[1, ::3] = -0.0
    array[2] = np.abs(array[2])
    array[-1] = array[-1, 0]
    form, dtype = TARGETS[seed % len(TARGETS)]
    shards = {"max_shard_size": 20_000} if form == "safetensors" and rng.integers(3) == 0 else {}
    return made, form, dtype, shards


@pytest.mark.parametrize("group", range(10))
def test_an_honest_conversion_is_never_blamed(group: int, tmp_path: Path) -> None:
    for seed in range(group, some(200, 40), 10):
        made, form, dtype, shards = honest(seed)
        folder = write_source(made, tmp_path / str(seed))
        output = tmp_path / (f"{seed}.gguf" if form == "gguf" else f"{seed}-out")
        named = form == "parameters" and seed % 2
        if named:
            extract(open_checkpoint(folder), output, form="named")
        else:
            convert(open_checkpoint(folder), output, to=form, dtype=dtype, **shards)

        found = check(folder, output).outputs[0]

        assert (found.verdict != "different", said(found)) == (True, {}), (seed, form, dtype)
        if dtype == "keep" and form != "gguf":
            assert found.verdict == "identical"
        if dtype.startswith("q") and made.config["n_embd"] % 32 == 0:
            assert found.verdict == "equivalent"


# ---- a dtype's own bound ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_a_rounding_that_is_one_bit_off_is_different(dtype: str, source: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.safetensors"
    convert(open_checkpoint(source), output, dtype=dtype)
    place = open_checkpoint(output)["transformer.h.0.mlp.c_fc.weight"].storage
    data = bytearray(output.read_bytes())
    data[place.offset + 2 * 50] ^= 1
    output.write_bytes(data)

    found = check(source, output).outputs[0]

    one = found.tensors.different[0]
    assert (found.verdict, one.what, one.differing, one.index) == ("different", "one flipped bit", 1, (0, 50))


@pytest.mark.parametrize("dtype", share(["q8_0", "q5_1", "q5_0", "q4_1", "q4_0"], 1, 3))
def test_blocks_are_held_to_half_a_step(dtype: str, tmp_path: Path) -> None:
    source = write_source(model(n_layer=1, n_positions=4, vocab_size=30), tmp_path / "source")
    output = tmp_path / "x.gguf"
    convert(open_checkpoint(source), output, dtype=dtype)
    whole = output.read_bytes()
    scales = {"q8_0": 2, "q5_1": 8, "q5_0": 6, "q4_1": 4, "q4_0": 2}[dtype]  # bytes of a block before its low bits
    file: Any = open_checkpoint(output)["blk.0.ffn_up.weight"].storage.source
    offset = file._offset
    caught, places = {1: 0, 2: 0}, share(range(16), 0, 2)
    for at in places:
        for bit in caught:
            data = bytearray(whole)
            data[offset + scales + at] ^= bit
            output.write_bytes(data)
            caught[bit] += not check(source, output).ok

    # An element that lay halfway between two levels may be on either.
    assert caught[1] >= len(places) - 3
    assert caught[2] == len(places)


def test_a_copy_more_exact_than_its_source_is_not_called_permuted(source: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(source), tmp_path / "rounded", to="safetensors", dtype="bf16")

    found = said(check(tmp_path / "rounded", FORMS["gguf"](model(), tmp_path)).outputs[0])

    assert found["h.1.attn.c_attn.weight"] == "changed"


def test_the_first_element_that_differs_is_shown_with_both_values(source: Path, tmp_path: Path) -> None:
    made = model()
    array = made.tensors["h.1.mlp.c_proj.weight"].copy()
    expected = array[5, 6]
    array[5, 6], array[9, 1] = 1.5, array[9, 1] + 20
    made.tensors["h.1.mlp.c_proj.weight"] = array

    for form, write in FORMS.items():
        one = check(source, write(made, tmp_path / form)).outputs[0].tensors.different[0]

        assert (one.name, one.elements, one.differing, one.index) == ("h.1.mlp.c_proj.weight", 4096, 2, (5, 6))
        largest: Any = pytest.approx(20, rel=1e-5)
        assert (one.expected, one.found, one.largest) == (float(expected), 1.5, largest)


# ---- matrices turned over, by two threads --------------------------------------------------------------------------


def matrix(path: Path, array: np.ndarray, dtype: Dtype, *, turned: bool, crc32: int | None = None) -> Tensor:
    """Write a matrix after seven other bytes; return it as a tensor on that file."""
    path.write_bytes(b"\1" * 7 + np.ascontiguousarray(array.T if turned else array).tobytes())
    source = LocalFile(path)
    stride = (1, len(array)) if turned else (array.shape[1], 1)
    return Tensor(dtype, array.shape, stride, 0, Storage(source, 7, array.nbytes, "0", crc32=crc32))


@pytest.mark.parametrize("seed", range(48))
def test_a_matrix_that_lies_turned_over_is_compared_whole(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    sizes = Sizes(step=256, panel=(1 << 20, 3000)[seed % 2], turned=512, turned_rows=3, gap=(0, 64)[seed // 2 % 2])
    workspace = Workspace(sizes, threads=(1, 2)[seed // 8 % 2])
    rows, columns = rng.integers(9, 90, 2).tolist()
    dtype = (F32, F16, F64)[seed % 3]
    array = rng.standard_normal((rows, columns)).astype(dtype.numpy)
    turned = seed // 4 % 2 == 0
    other_turned = turned if seed % 7 == 0 else not turned
    crc32 = zlib.crc32(array.T.tobytes() if turned else array.tobytes()) if seed % 5 else None
    expected = matrix(tmp_path / "source", array, dtype, turned=turned, crc32=crc32)
    if crc32 is not None:
        expected = checked(Catalogue({"it": expected}, Origin(str(tmp_path), "torch-zip")))[0]["it"]
    changed = array.copy()
    places = sorted(rng.choice(array.size, int(rng.integers(1, 6)), replace=False).tolist())
    changed.reshape(-1)[places] = 7

    same = matrix(tmp_path / "same", array, dtype, turned=other_turned)
    other = matrix(tmp_path / "other", changed, dtype, turned=other_turned)

    assert compare(expected, same, workspace).differing == 0
    found = compare(expected, other, workspace)

    assert (found.differing, found.first, found.found) == (len(places), places[0], 7.0)
    assert found.expected == array.reshape(-1)[places[0]]
    differences = np.abs(array.astype("f8") - changed.astype("f8"))
    assert found.largest == pytest.approx(differences.max(), rel=1e-6)
    assert not equal(expected, other, workspace)


@pytest.mark.parametrize("turned", ["source", "output"])
@pytest.mark.parametrize("shape", [(512, 2048), (2048, 512)])
def test_an_output_that_is_cut_before_a_matrix_s_turn_is_a_sentence(
    turned: str, shape: tuple[int, int], tmp_path: Path
) -> None:
    array = np.ones(shape, "<f4")
    expected = matrix(tmp_path / "source", array, F32, turned=turned == "source")
    found = matrix(tmp_path / "output", array, F32, turned=turned == "output")
    cut(tmp_path / "output", 5000)

    with pytest.raises(ReadError, match=r"`.*output` ended at byte \d"):
        compare(expected, found)


@pytest.mark.parametrize("turned", ["source", "output"])
def test_a_source_that_is_cut_before_a_matrix_s_turn_is_its_reader_s_error(turned: str, tmp_path: Path) -> None:
    array = np.ones((512, 2048), "<f4")
    expected = matrix(tmp_path / "source", array, F32, turned=turned == "source")
    found = matrix(tmp_path / "output", array, F32, turned=turned == "output")
    cut(tmp_path / "source", 5000)

    with pytest.raises(SourceError, match=r"`.*source` ended at byte \d"):
        compare(expected, found)


def test_a_damaged_source_is_said_before_a_damaged_output(tmp_path: Path) -> None:
    array = np.ones((64, 256), "<f4")
    for _ in range(20):
        both = {name: matrix(tmp_path / name, array, F32, turned=False, crc32=1) for name in ("source", "output")}
        damaged = {
            name: checked(Catalogue({name: tensor}, Origin(name, "x")))[0][name] for name, tensor in both.items()
        }
        with pytest.raises(ArchiveError, match="source"):
            compare(damaged["source"], damaged["output"], Workspace(Sizes(step=4096)))


def test_what_lies_between_narrow_rows_is_not_read(tmp_path: Path) -> None:
    wide = matrix(tmp_path / "source", np.ones((50, 4000), "<f4"), F32, turned=False)
    narrow = Tensor(F32, (50, 4), (4000, 1), 0, wide.storage)

    assert Area(narrow, 0, 50, 0, 4).extent() == 200
    assert Area(wide, 0, 50, 0, 3000).extent() == 49 * 4000 + 3000
    assert compare(narrow, matrix(tmp_path / "output", np.ones((50, 4), "<f4"), F32, turned=False)).differing == 0


def test_a_view_strided_both_ways_is_read_once(tmp_path: Path) -> None:
    whole = np.arange(64 * 64, dtype="<f4").reshape(64, 64)
    base = matrix(tmp_path / "source", whole, F32, turned=False)
    view = Tensor(F32, (32, 32), (128, 2), 0, base.storage)
    asked: list[int] = []
    file: Any = base.storage.source
    read = file.readinto

    def noted(offset: int, buffer: memoryview) -> Any:
        asked.append(len(buffer))
        return read(offset, buffer)

    file.readinto = noted

    part = Area(view, 0, 32, 0, 32).read()

    assert np.array_equal(part.view("<f4"), whole[::2, ::2])
    assert sum(asked) <= 32 * 64 * 4


@pytest.mark.parametrize(("rows", "columns"), [(512, 256), (256, 1024), (1000, 30), (64, 3000)])
def test_a_panel_is_no_larger_than_it_may_be(rows: int, columns: int, tmp_path: Path) -> None:
    lent: list[int] = []

    class Noted(Workspace):
        def lend(self, what: str, rows: int, columns: int, dtype: Any, apart: int = 0) -> Any:
            if what == "panel":
                lent.append(rows * columns * dtype.itemsize)
            return super().lend(what, rows, columns, dtype, apart)

    array = np.arange(rows * columns, dtype="<f4").reshape(rows, columns)
    expected = matrix(tmp_path / "source", array, F32, turned=True)
    found = matrix(tmp_path / "output", array, F32, turned=False)

    compare(expected, found, Noted(Sizes(step=4096, panel=100_000)))

    assert sum(lent) == array.nbytes
    assert max(lent) <= 100_000


@pytest.mark.parametrize(("rows", "columns"), [(400, 700), (700, 400)])
@pytest.mark.parametrize("panel", [300_000, 600_000])
def test_a_matrix_that_is_cut_is_not_read_row_by_row(
    rows: int, columns: int, panel: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = noted_reads(monkeypatch)
    array = np.arange(rows * columns, dtype="<f4").reshape(rows, columns)
    expected = matrix(tmp_path / "source", array, F32, turned=True, crc32=zlib.crc32(array.T.tobytes()))
    found = matrix(tmp_path / "output", array, F32, turned=False)
    copy, finish = checked(Catalogue({"it": expected}, Origin(str(tmp_path), "torch-zip")))

    assert compare(copy["it"], found, Workspace(Sizes(panel=panel))).differing == 0
    finish()

    parts = -(-array.nbytes // panel)
    assert len(reads) <= 12 * parts
    assert sum(reads) <= (parts + 1) * array.nbytes  # one of both is read whole for each part


@pytest.mark.parametrize("fails", [0, 1, 5, 40])
def test_what_ends_one_thread_ends_the_comparison(fails: int, tmp_path: Path) -> None:
    workspace = Workspace(Sizes(step=4096, panel=100_000))
    array = np.ones((512, 256), "<f4")
    expected = matrix(tmp_path / "source", array, F32, turned=True)
    found = matrix(tmp_path / "output", array, F32, turned=False)
    called = itertools.count()

    def progress(_: int) -> None:
        if next(called) == fails:
            raise KeyboardInterrupt

    ended: list[type[BaseException] | None] = []

    def run() -> None:
        try:
            compare(expected, found, workspace, progress=progress)
            ended.append(None)
        except KeyboardInterrupt as stop:
            ended.append(type(stop))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)

    assert ended == [KeyboardInterrupt]


# ---- manifests ----------------------------------------------------------------------------------------------------


def manifest(source: Path, *outputs: Path) -> Golden:
    return examine(expect(open_checkpoint(source)), outputs).golden()


def test_a_manifest_is_the_same_whatever_the_form(source: Path, tmp_path: Path) -> None:
    outputs = [write(model(), tmp_path / form) for form, write in FORMS.items()]
    texts = {manifest(path, path).text() for path in (source, *outputs)}
    tokenizers = {json.loads(text)["tokenizer"] is None for text in texts}
    without = {
        json.dumps(
            json.loads(text)
            | dict.fromkeys(("tokenizer", "tokenizer_files", "config", "beside", "source", "made", "policy"))
        )
        for text in texts
    }

    assert len(without) == 1
    assert tokenizers == {True, False}  # a parameters folder has none
    wte = json.loads(texts.pop())["tensors"]["wte.weight"]
    assert wte["sha256"] == hashlib.sha256(model().tensors["wte.weight"].tobytes()).hexdigest()


@pytest.mark.parametrize("form", FORMS)
def test_a_manifest_stands_in_for_the_source(form: str, golden: Golden, tmp_path: Path) -> None:
    found = verify(golden, [FORMS[form](model(), tmp_path)]).outputs[0]

    assert (found.verdict, said(found)) == ("identical", {})


@pytest.mark.parametrize("kind", share([*CONTENT, *STRUCTURE], 1, 3))
def test_a_manifest_finds_the_same_damage(kind: str, golden: Golden, tmp_path: Path) -> None:
    change, name, what = (CONTENT | STRUCTURE)[kind]
    made = model()
    change(made)
    written = {form: write(made, tmp_path / form) for form, write in FORMS.items()}

    outputs = verify(golden, [*written.values()]).outputs

    for form, found in zip(written, outputs, strict=True):
        assert found.verdict == "different", form
        names = said(found)
        assert name in names or gguf_name(name) in names, form
        if (
            what in ("transposed", "zeroed", "missing", "unexpected", "lost tie", "renamed")
            or "swapped" in what.split(" with")[0]
        ):
            blurred = (
                "another shape",
                "changed",
                "a copy of",
                "bias and weight swapped",
                "ln_1 and ln_2 swapped",
                what,
            )
            assert names.get(name, names.get(gguf_name(name), "")).startswith(blurred), form


def test_a_manifest_knows_the_copies_it_was_written_with(source: Path, tmp_path: Path) -> None:
    copies = [tmp_path / "h.safetensors", tmp_path / "q.gguf"]
    convert(open_checkpoint(source), copies[0], dtype="f16")
    convert(open_checkpoint(source), copies[1], dtype="q8_0")
    convert(open_checkpoint(source), tmp_path / "other.gguf", dtype="q4_0")
    golden = manifest(source, *copies)

    found = verify(golden, [*copies, tmp_path / "other.gguf"])

    assert [output.verdict for output in found.outputs] == ["equivalent", "equivalent", "not compared"]
    (other,) = found.outputs[2:]
    assert (other.weights, other.tensors.different) == ("not compared", ())
    there = open_checkpoint(tmp_path / "other.gguf")
    assert len(other.tensors.not_compared) + other.tensors.compared == len(there)
    assert len(other.tensors.not_compared) == sum(one.storage.encoding == "Q4_0" for one in there.values())
    assert [note.detail for note in other.notes if note.what == "not compared"] == [
        f"the manifest has no digest of {len(other.tensors.not_compared)} tensors in Q4_0: verify this output against the "
        "source, with --write-manifest"
    ]
    assert (found.ok, found.differs) == (False, False)


def lose(made: Model) -> None:
    del made.tensors["h.0.ln_1.bias"]


def shorten(made: Model) -> None:
    made.tensors["h.0.ln_1.bias"] = made.tensors["h.0.ln_1.bias"][:-1].copy()


def misconfigure(made: Model) -> None:
    made.config["layer_norm_epsilon"] = 0.5


@pytest.mark.parametrize(
    ("change", "exit", "named"),
    [
        (lambda made: None, 2, "in BF16"),
        (lose, 1, "missing"),
        (shorten, 1, "another shape"),
        (misconfigure, 1, "layer_norm_epsilon is wrong"),
    ],
)
def test_a_manifest_can_only_compare_the_structure_of_a_copy_in_a_new_dtype(
    change: Callable[[Model], None], exit: int, named: str, source: Path, tmp_path: Path
) -> None:
    golden, made = tmp_path / "golden.json", model()
    golden.write_text(manifest(source, source).text())
    change(made)
    (tmp_path / "made").mkdir()
    convert(open_checkpoint(write_source(made, tmp_path / "made")), tmp_path / "copy", to="safetensors", dtype="bf16")

    done, silent = (
        CliRunner().invoke(app, ["verify", str(golden), str(tmp_path / "copy"), *more]) for more in ([], ["-q"])
    )

    assert (done.exit_code, silent.exit_code) == (exit, exit), done.output
    assert done.stdout.startswith("not compared" if exit == 2 else "different"), done.stdout
    assert done.stdout.count("the manifest has no digest of") == 1
    assert named in done.stdout
    assert ("was not compared: the manifest has no digest of" in silent.stderr) == (exit == 2)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{}", "schema"),
        ('{"schema": "cerebras-tool/golden/v1"}', "lacks a field"),
        (
            '{"schema": "cerebras-tool/golden/v1", "tensors": {"a": {"dtype": "F32", "shape": [1], "sha256": "0"}}}',
            "SHA-256",
        ),
        (
            '{"schema": "cerebras-tool/golden/v1", "tensors": {"a": {"dtype": "X", "shape": [1], "sha256": "0"}}}',
            "dtype",
        ),
        ('{"schema"', "JSON"),
    ],
)
def test_a_document_other_than_a_manifest_is_refused(text: str, match: str, tmp_path: Path) -> None:
    path = tmp_path / "golden.json"
    path.write_text(text)

    with pytest.raises(ManifestError, match=match):
        load(path)


# ---- inference ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_every_form_computes_what_the_source_does(form: str, source: Path, tmp_path: Path) -> None:
    output = FORMS[form](model(scale=0.2), tmp_path)
    folder = write_source(model(scale=0.2), tmp_path / "source")

    found = check(folder, output, options=Options(level="inference")).outputs[0]

    assert found.verdict == "identical"
    assert found.inference is not None
    assert (found.inference["max_difference"], found.inference["greedy_difference"]) == (0, None)
    assert (found.inference["activation_effect"] is None) == (form == "safetensors")


@pytest.mark.parametrize("value", ["swish", 5])
def test_an_output_that_can_not_be_computed_is_a_failed_check(value: Any, source: Path, tmp_path: Path) -> None:
    made = model()
    made.config["activation_function"] = value

    found = check(source, FORMS["safetensors"](made, tmp_path), options=Options(level="inference")).outputs[0]

    assert said(found) == {"config.json": "activation_function is wrong", "inference": "can't be computed"}


def test_a_damaged_copy_computes_something_else(tmp_path: Path) -> None:
    made = model(scale=0.2)
    folder = write_source(made, tmp_path / "source")
    swapped, _, _ = CONTENT["q and k swapped"]
    swapped(made)

    found = check(folder, FORMS["gguf"](made, tmp_path), options=Options(level="inference")).outputs[0]

    assert said(found)["inference"] == "computes otherwise"


# ---- the command --------------------------------------------------------------------------------------------------


def run(*words: str | Path, **environment: str) -> Result:
    return CliRunner().invoke(app, [*map(str, words)], env=environment)


def test_the_command_ends_with_what_it_found(source: Path, tmp_path: Path) -> None:
    good = FORMS["gguf"](model(), tmp_path / "good")
    made = model()
    CONTENT["one element NaN"][0](made)
    bad = FORMS["safetensors"](made, tmp_path / "bad")

    assert run("verify", source, good).exit_code == 0
    assert run("verify", source, good, bad).exit_code == 1
    assert run("verify", source, tmp_path / "absent").exit_code == 2
    assert run("verify", tmp_path / "absent", good).exit_code == 2
    assert run("verify", source, good, "--prompt", "x").exit_code == 2
    assert run("verify", source, good, "--level", "inference", "--engine", "llama.cpp").exit_code == 2


def test_json_junit_and_summary_say_the_same(source: Path, tmp_path: Path) -> None:
    made = model()
    CONTENT["one element NaN"][0](made)
    bad = FORMS["safetensors"](made, tmp_path / "a|`b")
    report, summary = tmp_path / "new" / "junit.xml", tmp_path / "summary.md"

    done = run("verify", source, bad, "--json", "--junit", report, GITHUB_STEP_SUMMARY=str(summary))

    document = json.loads(done.stdout)
    assert document["outputs"][0]["tensors"]["different"][0]["what"] == "NaN"
    cases = Xml.parse(report).findall("testsuite/testcase/failure")
    assert [case.get("message") for case in cases] == ["NaN"]
    assert "| different | 40 | 39 | 0 | 1 |" in summary.read_text()
    assert "`` " in summary.read_text()
    assert r"a\|`b" in summary.read_text()


def test_a_manifest_is_written_when_all_is_well_and_never_over_an_input(source: Path, tmp_path: Path) -> None:
    good = FORMS["gguf"](model(), tmp_path / "good")
    golden = tmp_path / "golden.json"
    damaged = model()
    CONTENT["negated"][0](damaged)

    assert run("verify", source, good, "--write-manifest", golden).exit_code == 0
    assert run("verify", golden, good).exit_code == 0
    assert run("verify", source, good, "--write-manifest", good).exit_code == 2
    before = golden.read_bytes()
    done = run("verify", source, FORMS["gguf"](damaged, tmp_path / "bad"), "--write-manifest", golden)
    assert (done.exit_code, golden.read_bytes()) == (1, before)
    assert "was not written" in done.stderr


def test_a_manifest_is_never_written_over_anything_else(source: Path, tmp_path: Path) -> None:
    good = FORMS["safetensors"](model(), tmp_path / "good")
    before = {path: path.read_bytes() for path in good.iterdir()}

    for path in (good / "model.safetensors", good / "config.json", good / "merges.txt"):
        done = run("verify", source, good, "--write-manifest", path)

        assert (done.exit_code, "is not an older report" in done.stderr.replace("\n", " ")) == (2, True)
    assert {path: path.read_bytes() for path in good.iterdir()} == before
    for _ in range(2):
        assert run("verify", source, good, "--write-manifest", good / "golden.json").exit_code == 0


def test_torch_and_transformers_are_not_needed(source: Path, tmp_path: Path) -> None:
    output = FORMS["safetensors"](model(), tmp_path)
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'tokenizers', 'xllamacpp', 'gguf'): sys.modules[name] = None\n"
        "from converter.cli.app import app\n"
        f"app(['verify', {str(source)!r}, {str(output)!r}, '--level', 'inference'])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)

    assert (done.returncode, done.stdout.split()[0]) == (0, "identical"), done.stderr


def test_twice_the_tensors_take_twice_the_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An earlier version built a new set for each look-up, and opened the file again for every 64 tensors."""

    opened = []
    library = safetensors.safe_open

    def counted(*words: Any, **named: Any) -> Any:
        opened.append(words)
        return library(*words, **named)

    monkeypatch.setattr(safetensors, "safe_open", counted)

    def cost(count: int) -> int:
        path = tmp_path / f"{count}.safetensors"
        save_file({f"t.{number}": np.zeros(2, "f4") for number in range(count)}, path)
        catalogue = open_checkpoint(path)
        return steps(lambda: list(disagreements(catalogue)))

    once, twice = cost(1000), cost(2000)

    assert once > 1000
    assert twice < 2.1 * once
    assert len(opened) == 4  # each file for the order of its names, and for its bytes


def test_a_reader_that_goes_away_does_not_change_the_exit_code(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a.bin", {"w": view("0", (2,))}, {"0": floats(1, 2)})
    write_checkpoint(tmp_path / "b.bin", {"w": view("0", (2,))}, {"0": floats(1, 3)})
    for option in ([], ["--json"]):
        command = [
            sys.executable,
            "-m",
            "converter",
            "verify",
            str(tmp_path / "a.bin"),
            str(tmp_path / "b.bin"),
            *option,
        ]
        run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert run.stdout is not None
        run.stdout.close()
        assert run.wait(60) == 1
