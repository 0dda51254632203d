"""The small files beside the weights: which of them a conversion takes along, and which it names."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from converter.cli.app import app
from converter.conversion.convert import convert
from converter.conversion.extract import extract
from converter.formats.companions import KNOWN, VOCABULARIES, folders_of
from converter.hub.download import companions as from_the_hub
from converter.hub.download import download
from converter.opening import open_checkpoint
from converter.verification.verify import verify
from tests.build import gguf_files
from tests.build.checkpoints import dumps, floats, view, write_checkpoint
from tests.build.hub_server import TINY, Hub, Repository, files_of

RUN = CliRunner()
GOES = (
    *("spm.model", "bpe.codes", "faiss.index.json", "sentence_bert_config.json"),
    *("vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.json", "chat_template.jinja", "LICENSE"),
    *("preprocessor_config.json", "README.md", "config.json", "1_Pooling/config.json", "modules.json", "anything.txt"),
    "additional_chat_templates/tool.jinja",
)
STAYS = {
    "modeling_own.py": "code: --with-code carries it along",
    "tf_model.h5": "the model in the form of another program",
    "training_args.bin": "a pickle, or weights of its own: convert it by itself",
    "state.pkl": "a pickle, or weights of its own: convert it by itself",
    "other.bin.index.json": "the index of other weights",
    "hidden.txt": "a pickle, or weights of its own: convert it by itself",  # by its bytes
    "large.txt": "larger than 100,000,000 bytes",
    "checkpoint-5/": "a folder that does not belong to the model",
    "pipe": "not a regular file",
    "secret.txt": "a link that leads out of the folder",
    "dangling.txt": "a link that leads nowhere",
    ".gitattributes": "hidden",
    ".cache/": "hidden",
}

UNKNOWN = "only files with known names go along with a single file: name the folder to take the others"
NO_FILES = "a parameters folder has no room for companions, but a folder of safetensors has"
ALONE = "only an output folder has room for companions"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    for inner in ("1_Pooling", "additional_chat_templates", "checkpoint-5", ".cache"):
        (folder / inner).mkdir(parents=True)
    for name in (*GOES, "modeling_own.py", "tf_model.h5", "training_args.bin", "state.pkl", ".gitattributes"):
        (folder / name).write_text(f"{{}}\n{name}" if name != "config.json" else "{}")
    (folder / "modules.json").write_text(json.dumps([{"path": ""}, {"path": "1_Pooling"}, {"path": "../secret"}, 5]))
    (folder / "other.bin.index.json").write_text(json.dumps({"weight_map": {"a": "other-00001-of-00001.bin"}}))
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": "pytorch_model.bin"}}))
    (folder / "hidden.txt").write_bytes(dumps({"a": 1}))
    with (folder / "large.txt").open("wb") as file:
        file.truncate(100_000_001)
    os.mkfifo(folder / "pipe")
    (tmp_path / "secret").write_text("secret")
    (folder / "secret.txt").symlink_to(tmp_path / "secret")
    (folder / "dangling.txt").symlink_to(tmp_path / "nothing")
    write_checkpoint(folder / "pytorch_model.bin", {"a": view("0", (2,))}, {"0": floats(1, 2)})
    return folder


def within(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("to", ["safetensors", "npz"])
def test_every_small_file_goes_along_and_the_others_are_named(to: str, model: Path, tmp_path: Path) -> None:
    report = convert(open_checkpoint(model), tmp_path / "out", to=to)

    assert within(tmp_path / "out") == {*GOES, f"model.{to}"}
    assert all((tmp_path / "out" / name).read_bytes() == (model / name).read_bytes() for name in GOES)
    assert {left.name: left.reason for left in report.dropped if left.kind == "file"} == STAYS


@pytest.mark.parametrize("to", ["safetensors", "npz"])
def test_one_file_names_what_it_has_no_room_for(to: str, model: Path, tmp_path: Path) -> None:
    report = convert(open_checkpoint(model), tmp_path / f"out.{to}")

    left = {left.name: left.reason for left in report.dropped if left.kind == "file"}
    assert left == STAYS | dict.fromkeys(GOES, ALONE) | {"modeling_own.py": "code"}
    assert list(left)[:2] == ["1_Pooling/config.json", "LICENSE"]


@pytest.mark.parametrize("lone", [False, True], ids=["a folder", "a file in it"])
def test_a_parameters_folder_names_what_it_has_no_room_for(lone: bool, model: Path, tmp_path: Path) -> None:
    source = model / "pytorch_model.bin" if lone else model
    reports = (
        extract(open_checkpoint(source), tmp_path / "extracted"),
        convert(open_checkpoint(source), tmp_path / "converted", to="parameters"),
    )

    goes = [name for name in GOES if name != "config.json" and (name in KNOWN or not lone)]
    unknown = {name for name in GOES if name not in KNOWN} if lone else set[str]()
    expected = STAYS | dict.fromkeys(unknown, UNKNOWN) | dict.fromkeys(goes, NO_FILES) | {"modeling_own.py": "code"}
    for report in reports:
        assert {left.name: left.reason for left in report.dropped if left.kind == "file"} == expected
    assert convert(open_checkpoint(source), model / "inside", to="parameters").dropped == ()


def test_a_parameters_folder_names_the_tokenizer_inside_a_gguf(tmp_path: Path) -> None:
    report = extract(open_checkpoint(a_gguf(tmp_path / "in.gguf", "gpt2")), tmp_path / "out")

    names = ("generation_config.json", "tokenizer.json", "tokenizer_config.json")
    assert {left.name: left.reason for left in report.dropped if left.kind == "file"} == dict.fromkeys(names, NO_FILES)


def test_verify_says_what_a_parameters_folder_lacks(model: Path, tmp_path: Path) -> None:
    for name in VOCABULARIES:  # their contents are those of no tokenizer
        (model / name).unlink(missing_ok=True)
    (model / "vocab.json").write_text('{"a": 0, "b": 1}')
    (model / "merges.txt").write_text("#version: 0.2\n")
    for name in ("1_Pooling/config.json", "preprocessor_config.json", "sentence_bert_config.json"):
        (model / name).write_text("{}")
    extract(open_checkpoint(model), tmp_path / "out")

    output = verify(open_checkpoint(model), [tmp_path / "out"]).outputs[0]

    assert (output.verdict, output.tensors.different) == ("identical", ())
    assert [(note.name, note.what) for note in output.notes] == [("tokenizer", "absent"), ("other files", "absent")]
    others = ["1_Pooling/config.json", "LICENSE", "README.md", "anything.txt", "faiss.index.json", "modules.json",
              "preprocessor_config.json", "sentence_bert_config.json"]  # fmt: skip
    named = ", ".join(f"`{name}`" for name in others)
    assert output.notes[1].detail == f"`{tmp_path / 'out'}` has no {named}, but the source has"


def test_one_file_among_the_others_lacks_nothing(model: Path) -> None:
    report = convert(open_checkpoint(model), model / "out.safetensors")

    assert [left for left in report.dropped if left.kind == "file"] == []


def a_gguf(path: Path, architecture: str, kind: str = "gpt2") -> Path:
    """A GGUF file with one tensor, a tokenizer and a chat template."""
    key = gguf_files.key
    keys = [
        key("general.architecture", "string", architecture), key("tokenizer.ggml.model", "string", kind),
        key("tokenizer.ggml.pre", "string", "gpt-2"), key("tokenizer.ggml.tokens", "array:string", ["a", "b"]),
        key("tokenizer.ggml.merges", "array:string", []), key("tokenizer.ggml.eos_token_id", "u32", 1),
        key("tokenizer.chat_template", "string", "{{ x }}"), key(f"{architecture}.block_count", "u32", 1),
    ]  # fmt: skip
    path.write_bytes(gguf_files.gguf(keys, [gguf_files.Info("x.weight", (4,))], bytes(16)))
    return path


def test_one_file_names_what_a_gguf_has_inside(tmp_path: Path) -> None:
    report = convert(open_checkpoint(a_gguf(tmp_path / "in.gguf", "gpt2")), tmp_path / "out.safetensors")

    names = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
    assert {left.name: left.reason for left in report.dropped if left.kind == "file"} == dict.fromkeys(names, ALONE)


def test_a_folder_without_a_config_says_so(tmp_path: Path) -> None:
    source = open_checkpoint(a_gguf(tmp_path / "in.gguf", "llama"))
    report = convert(source, tmp_path / "out", to="safetensors")

    beside = {"generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert within(tmp_path / "out") == {"model.safetensors", *beside}
    assert report.notes == (
        "there is no config.json, and the tensors keep their GGUF names: this program does not know what transformers "
        "calls them in this architecture",
    )
    assert convert(open_checkpoint(a_gguf(tmp_path / "g.gguf", "gpt2")), tmp_path / "g", to="safetensors").notes == ()


@pytest.mark.parametrize("output", ["out", "out.safetensors"])
def test_a_tokenizer_of_an_unknown_kind_is_left_behind_by_name(output: str, tmp_path: Path) -> None:
    source = open_checkpoint(a_gguf(tmp_path / "in.gguf", "gpt2", "rwkv"))
    report = convert(source, tmp_path / output, to="safetensors")

    assert report.notes == ("the tokenizer is left behind: this program knows no tokenizer of the kind 'rwkv'",)


def test_code_goes_along_where_it_is_asked_for(model: Path, tmp_path: Path) -> None:
    done = RUN.invoke(app, ["convert", str(model), str(tmp_path / "out"), "--to", "safetensors", "--with-code"])

    assert done.exit_code == 0, done.output
    assert within(tmp_path / "out") == {*GOES, "model.safetensors", "modeling_own.py"}
    assert "left behind: tf_model.h5: the model in the form of another program" in done.stdout


def test_beside_one_file_only_known_names_count(model: Path, tmp_path: Path) -> None:
    report = convert(open_checkpoint(model / "pytorch_model.bin"), tmp_path / "out", to="safetensors")

    others = {"README.md", "anything.txt", "modules.json", "faiss.index.json", "sentence_bert_config.json"}
    others |= {name for name in GOES if "/" in name}
    assert within(tmp_path / "out") == set(GOES) - others | {"model.safetensors"}
    unknown = dict.fromkeys(others, UNKNOWN)
    assert {left.name: left.reason for left in report.dropped if left.kind == "file"} == STAYS | unknown


def test_beside_one_file_of_no_model_nothing_is_named(model: Path, tmp_path: Path) -> None:
    (model / "config.json").unlink()

    report = convert(open_checkpoint(model / "pytorch_model.bin"), tmp_path / "out", to="safetensors")

    assert [left for left in report.dropped if left.kind == "file"] == []


def test_links_to_where_the_weights_are_are_followed(model: Path, tmp_path: Path) -> None:
    farm = tmp_path / "farm"
    farm.mkdir()
    for name in ("pytorch_model.bin", "vocab.txt", "config.json"):
        (farm / name).symlink_to(model / name)
    (farm / "LICENSE").symlink_to(tmp_path / "secret")

    report = convert(open_checkpoint(farm), tmp_path / "out", to="safetensors")

    assert within(tmp_path / "out") == {"model.safetensors", "vocab.txt", "config.json"}
    assert [(left.name, left.reason) for left in report.dropped] == [("LICENSE", "a link that leads out of the folder")]


def test_a_snapshot_of_the_hubs_cache_is_a_folder_of_links(model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "models--owner--name"
    (cache / "blobs").mkdir(parents=True)
    (cache / "snapshots" / "c1").mkdir(parents=True)
    for name in ("pytorch_model.bin", "vocab.txt", "README.md"):
        (cache / "blobs" / f"blob-{name}").write_bytes((model / name).read_bytes())
        (cache / "snapshots" / "c1" / name).symlink_to(f"../../blobs/blob-{name}")

    convert(open_checkpoint(cache), tmp_path / "out", to="safetensors")

    assert within(tmp_path / "out") == {"model.safetensors", "vocab.txt", "README.md"}


def test_a_parameters_folder_takes_none_of_its_files_along(tiny: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(tiny), tmp_path / "parameters", to="parameters")

    convert(open_checkpoint(tmp_path / "parameters"), tmp_path / "out", to="safetensors")

    assert within(tmp_path / "out") <= {"model.safetensors", "config.json"}


@pytest.mark.parametrize("name", VOCABULARIES)
def test_every_vocabulary_goes_along_with_one_file(name: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "x.bin", {"a": view("0", (2,))}, {"0": floats(1, 2)})
    (tmp_path / name).write_bytes(b"{}")

    convert(open_checkpoint(tmp_path / "x.bin"), tmp_path / "out", to="safetensors")

    assert within(tmp_path / "out") == {"model.safetensors", name}


def test_the_hub_gives_the_same_files(hub: Hub, tiny: Path, tmp_path: Path) -> None:
    modules = json.dumps([{"path": "1_Pooling"}]).encode()
    beside: dict[str, bytes | Path] = {
        "vocab.txt": b"a", "README.md": b"b", "modules.json": modules, "1_Pooling/config.json": b"{}",
        "faiss.index.json": b"{}", "own.py": b"1", "onnx/model.onnx": b"x", "tf_model.h5": b"x", ".gitattributes": b"x",
    }  # fmt: skip
    hub.repositories[TINY] = Repository({**files_of(tiny), **beside})
    small = {
        "faiss.index.json",
        "vocab.txt",
        "README.md",
        "modules.json",
        "1_Pooling/config.json",
        "config.json",
        "vocab.json",
        "merges.txt",
    }

    report = convert(open_checkpoint(f"hf://{TINY}"), tmp_path / "out", to="safetensors")
    lone = convert(open_checkpoint(f"hf://{TINY}"), tmp_path / "out.safetensors")
    download(TINY, tmp_path / "plain")
    download(TINY, tmp_path / "code", with_code=True)
    folder = from_the_hub(TINY)

    left = {left.name: left.reason for left in report.dropped if left.kind == "file"}
    code = {"own.py": "code: --with-code carries it along"}
    assert left == {".gitattributes": "hidden", "tf_model.h5": STAYS["tf_model.h5"]} | code
    files = {one.name: one.reason for one in lone.dropped if one.kind == "file" and one.reason != ALONE}
    assert files == left | {"own.py": "code"}
    assert within(tmp_path / "out") == small | {"model.safetensors"}
    assert within(tmp_path / "plain") == small | {"pytorch_model.bin"}
    assert within(tmp_path / "code") == small | {"pytorch_model.bin", "own.py"}
    assert folder is not None
    assert (folder / "1_Pooling" / "config.json").read_bytes() == b"{}"


def test_a_gguf_names_what_it_has_no_keys_for(tiny: Path, tmp_path: Path) -> None:
    beside = {
        "generation_config.json": '{"top_k": 5, "num_beams": 4}',
        "README.md": "---\nlicense: mit\n---\nText",
    }
    for name, text in beside.items():
        (tiny / name).write_text(text)

    report = convert(open_checkpoint(tiny), tmp_path / "x.gguf")
    again = convert(open_checkpoint(tmp_path / "x.gguf"), tmp_path / "y.gguf")

    left = [(one.name, one.reason) for one in report.dropped if one.kind == "file"]
    why = "a GGUF file has no place for all that it says"
    assert left == [
        ("README.md", why),
        ("generation_config.json", "GGUF has no place for what it says about `num_beams`"),
    ]
    assert [one.name for one in again.dropped if one.kind == "file"] == []


def test_only_folders_directly_beside_the_weights_belong_to_a_model() -> None:
    named = [
        {"path": path}
        for path in ("", "1_Pooling", "2_Normalize", "a/b", "/etc", "../secret", "..", ".", ".git", 5, None)
    ]

    assert folders_of(named) == {"additional_chat_templates", "1_Pooling", "2_Normalize"}
    assert folders_of([*named, 5, "3_Dense"]) == folders_of(named)
    assert folders_of({"path": "1_Pooling"}) == folders_of(None) == {"additional_chat_templates"}
