"""Heads and embeddings: of a tied pair a file may hold either, and --tie writes two equal tensors once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from converter.checking.check import check
from converter.cli.app import app
from converter.conversion.convert import convert
from converter.dtypes import F32, I32, Dtype
from converter.errors import ManifestError
from converter.inspection.report import inspect
from converter.models.ties import stored_twice
from converter.opening import open_checkpoint
from converter.tensors.equality import equal
from converter.tensors.tensor import Storage, Tensor, row_major
from converter.verification.verify import verify
from tests.build.damage import model
from tests.build.gguf_files import Bytes

RUN = CliRunner()
HEAD, EMBEDDING = "lm_head.weight", "transformer.wte.weight"


class Counting(dict[str, Any]):
    """Counts how often all names are gone through."""

    passes = 0

    def __iter__(self) -> Iterator[str]:
        self.passes += 1
        return super().__iter__()


@pytest.mark.parametrize("embeddings", [[], ["wte.weight"], ["wte.weight", "shared.weight"]])
def test_many_heads_are_compared_with_an_embedding_that_is_looked_for_once(embeddings: list[str]) -> None:
    names = [*(f"{expert}.lm_head.weight" for expert in range(50)), *embeddings]
    tensors = Counting({name: number for number, name in enumerate(names)})

    found = list(stored_twice(tensors, {"tie_word_embeddings": True}, {}))

    assert [pair.embedding for pair in found] == ["wte.weight"] * (50 if len(embeddings) == 1 else 0)
    assert tensors.passes <= 2


def gpt2(folder: Path, *, head: Any = None, embedding: bool = True, **config: Any) -> Path:
    """A small GPT-2 with a config.json, whose head is `head`."""
    folder.mkdir(parents=True)
    made = model()
    arrays = {f"transformer.{name}": np.ascontiguousarray(array) for name, array in made.tensors.items()}
    if head is not None:
        arrays[HEAD] = np.ascontiguousarray(arrays[EMBEDDING] + head)
    if not embedding:
        del arrays[EMBEDDING]
    save_file(arrays, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(dict(made.config) | config))
    return folder


def llama(folder: Path, **config: Any) -> Path:
    """Two tensors of a LLaMA, which are equal."""
    folder.mkdir(parents=True)
    weights = np.arange(12, dtype="<f4").reshape(4, 3)
    save_file({HEAD: weights, "model.embed_tokens.weight": weights}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 4} | config))
    return folder


def unequal(folder: Path) -> Path:
    """Two tensors of a LLaMA that are tied in config.json, have the same statistics, and hold them in another order."""
    llama(folder, tie_word_embeddings=True)
    weights = np.arange(12, dtype="<f4").reshape(4, 3)
    turned = np.ascontiguousarray(weights[::-1])
    save_file({HEAD: weights, "model.embed_tokens.weight": turned}, folder / "model.safetensors")
    return folder


def sharded(folder: Path, missing: str, *, embedding: str = EMBEDDING, config: dict[str, Any] | None = None) -> Path:
    """Two shards, and an index that names a tensor that neither has."""
    folder.mkdir(parents=True)
    files = {"model-00001-of-00002.safetensors": embedding, "model-00002-of-00002.safetensors": "b"}
    for file, name in files.items():
        save_file({name: np.arange(4, dtype="<f4")}, folder / file)
    placed = {name: file for file, name in files.items()} | {missing: "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_tied_model_that_kept_only_its_head_has_its_embedding_back(tmp_path: Path) -> None:
    source = gpt2(tmp_path / "source", head=0, embedding=False)
    whole = gpt2(tmp_path / "whole")

    seen = inspect(open_checkpoint(source))
    report = convert(open_checkpoint(source), tmp_path / "out", to="safetensors")

    assert seen.model is not None
    assert (seen.model.missing, seen.tied) == ((), ((EMBEDDING, HEAD),))
    assert report.tied == ((HEAD, EMBEDDING),)
    assert report.notes == (
        "`transformer.wte.weight` is not in the file: `lm_head.weight` stands for it, because the model ties them",
    )
    assert set(load_file(tmp_path / "out" / "model.safetensors")) == set(load_file(whole / "model.safetensors"))
    assert check([source]).checkpoints[0].faults == ()
    copies = [tmp_path / "out", whole]
    assert [output.verdict for output in verify(open_checkpoint(source), copies).outputs] == ["identical", "identical"]
    assert verify(open_checkpoint(whole), [source]).ok


def test_the_same_holds_for_a_family_of_which_only_the_names_are_known(tmp_path: Path) -> None:
    whole, alone = tmp_path / "whole", tmp_path / "alone"
    weights = {
        "model.norm.weight": np.ones(3, "<f4"),
        "model.embed_tokens.weight": np.arange(12, dtype="<f4").reshape(4, 3),
    }
    for folder, names in (
        (whole, weights),
        (alone, {HEAD: weights["model.embed_tokens.weight"], "model.norm.weight": np.ones(3, "<f4")}),
    ):
        folder.mkdir()
        save_file(names, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"model_type": "olmo2", "tie_word_embeddings": True}))

    report = convert(open_checkpoint(alone), tmp_path / "out", to="safetensors")

    assert report.tied == ((HEAD, "model.embed_tokens.weight"),)
    assert set(load_file(tmp_path / "out" / "model.safetensors")) == set(weights)
    copies = [alone, tmp_path / "out"]
    assert [output.verdict for output in verify(open_checkpoint(whole), copies).outputs] == ["identical", "identical"]
    assert verify(open_checkpoint(alone), [whole]).ok
    (alone / "config.json").write_text(json.dumps({"model_type": "olmo2", "tie_word_embeddings": False}))
    assert inspect(open_checkpoint(alone)).tied == ()


def test_a_model_that_ties_nothing_does_not_get_an_embedding_from_its_head(tmp_path: Path) -> None:
    source = gpt2(tmp_path / "source", head=0, embedding=False, tie_word_embeddings=False)

    seen = inspect(open_checkpoint(source))

    assert seen.model is not None
    assert (seen.model.missing, seen.tied) == ((EMBEDDING,), ())


@pytest.mark.parametrize("build", [lambda path: gpt2(path, head=0), lambda path: llama(path, tie_word_embeddings=True)])
def test_a_head_that_equals_the_embedding_is_written_once_where_that_is_asked_for(build: Any, tmp_path: Path) -> None:
    source = build(tmp_path / "source")
    names = set(load_file(source / "model.safetensors"))

    convert(open_checkpoint(source), tmp_path / "kept", to="safetensors")
    report = convert(open_checkpoint(source), tmp_path / "tied", to="safetensors", tie=True)

    assert set(load_file(tmp_path / "kept" / "model.safetensors")) == names
    assert set(load_file(tmp_path / "tied" / "model.safetensors")) == names - {HEAD}
    assert [head for head, _ in report.tied] == [HEAD]
    assert "and is written once: --tie" in report.notes[0]
    outputs = verify(open_checkpoint(source), [tmp_path / "kept", tmp_path / "tied"]).outputs
    assert [output.verdict for output in outputs] == ["identical", "identical"]


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda path: gpt2(path, head=1), "it is not equal to `transformer.wte.weight`"),
        (lambda path: gpt2(path, head=0, tie_word_embeddings=False), "config.json does not say that the model ties it"),
        (llama, "config.json does not say that the model ties it"),
        (lambda path: llama(path, model_type="own"), "config.json does not say that the model ties it"),
        (gpt2, "--tie finds no head beside an embedding"),
    ],
)
def test_other_heads_are_written_as_they_are(build: Any, reason: str, tmp_path: Path) -> None:
    source = build(tmp_path / "source")

    report = convert(open_checkpoint(source), tmp_path / "out", to="safetensors", tie=True)

    assert reason in report.notes[0]
    names = set(load_file(source / "model.safetensors"))
    assert set(load_file(tmp_path / "out" / "model.safetensors")) == names


def test_the_option_ties_in_a_gguf_too(tmp_path: Path) -> None:
    source = gpt2(tmp_path / "source", head=0)
    arguments = ["convert", str(source), str(tmp_path / "x.gguf"), "--tie", "--no-tokenizer"]

    done = RUN.invoke(app, arguments)

    assert done.exit_code == 0, done.output
    assert "output.weight" not in open_checkpoint(tmp_path / "x.gguf")


@pytest.mark.parametrize("config", [None, {"model_type": "gpt2"}, {"model_type": "own", "tie_word_embeddings": True}])
def test_an_index_may_name_a_tied_head_that_no_shard_has(config: dict[str, Any] | None, tmp_path: Path) -> None:
    source = sharded(tmp_path / "source", HEAD, config=config)

    report = convert(open_checkpoint(source), tmp_path / "out", to="safetensors")

    note = "`lm_head.weight` is in the index, but in no shard: it is tied to `transformer.wte.weight`"
    assert report.notes == (note,)
    assert set(load_file(tmp_path / "out" / "model.safetensors")) == {EMBEDDING, "b"}
    assert verify(open_checkpoint(source), [tmp_path / "out"]).ok


@pytest.mark.parametrize(
    ("missing", "embedding", "config"),
    [
        (HEAD, EMBEDDING, {"model_type": "gpt2", "tie_word_embeddings": False}),
        (HEAD, "model.embed_tokens.weight", {"model_type": "llama"}),  # LLaMA ties nothing unless it says so
        (HEAD, "a", None),
        ("c", EMBEDDING, None),
    ],
)
def test_what_else_an_index_promises_is_needed(
    missing: str, embedding: str, config: dict[str, Any] | None, tmp_path: Path
) -> None:
    source = sharded(tmp_path / "source", missing, embedding=embedding, config=config)

    with pytest.raises(ManifestError, match="which no shard holds"):
        convert(open_checkpoint(source), tmp_path / "out", to="safetensors")


@pytest.mark.parametrize("build", [lambda path: gpt2(path, head=0), lambda path: llama(path, tie_word_embeddings=True)])
def test_a_head_that_equals_the_embedding_is_said_to_be_equal(build: Any, tmp_path: Path) -> None:
    source = build(tmp_path / "source")
    name = next(name for name in load_file(source / "model.safetensors") if name.endswith(("wte.weight", "s.weight")))

    seen = inspect(open_checkpoint(source), stats=True)
    faults = check([source]).checkpoints[0].faults

    assert seen.problems == (f"{HEAD} equals {name}, to which the model ties it, and is stored beside it",)
    assert [(fault.rule, fault.level, fault.name, fault.message) for fault in faults] == [
        ("stored-twice", "warning", HEAD, f"it equals {name}, to which the model ties it")
    ]


@pytest.mark.parametrize("build", [lambda path: gpt2(path, head=1), unequal])
def test_a_head_that_differs_from_the_embedding_is_said_to_differ(build: Any, tmp_path: Path) -> None:
    source = build(tmp_path / "source")
    name = next(name for name in load_file(source / "model.safetensors") if name.endswith(("wte.weight", "s.weight")))

    seen = inspect(open_checkpoint(source), stats=True)
    faults = check([source]).checkpoints[0].faults

    assert seen.problems == (f"{HEAD} differs from {name}, though the model ties the two",)
    assert [(fault.rule, fault.message) for fault in faults] == [
        ("untied", f"it differs from {name}, though the model ties the two")
    ]


def test_a_head_of_a_model_that_ties_nothing_is_no_fault_even_where_it_is_equal(tmp_path: Path) -> None:
    source = llama(tmp_path / "source")

    assert inspect(open_checkpoint(source), stats=True).problems == ()
    assert check([source]).checkpoints[0].faults == ()
    assert convert(open_checkpoint(source), tmp_path / "out", to="safetensors").notes == ()


def test_without_statistics_only_the_storages_are_compared(tmp_path: Path) -> None:
    source = gpt2(tmp_path / "source", head=0)

    said = f"{HEAD} is not tied to the embedding, as the architecture's usually is"
    assert inspect(open_checkpoint(source)).problems == (said,)
    assert inspect(open_checkpoint(source), stats=True, filter=HEAD).problems == (said,)


@pytest.mark.parametrize("to", ["safetensors", "gguf"])
def test_convert_says_that_the_head_could_be_written_once(to: str, tmp_path: Path) -> None:
    twice, other = gpt2(tmp_path / "twice", head=0), gpt2(tmp_path / "other", head=1)
    said = f"`{HEAD}` equals `{EMBEDDING}`, to which the model ties it: --tie writes both once"

    def notes(source: Path) -> tuple[str, ...]:
        return convert(open_checkpoint(source), tmp_path / "out", to=to, no_tokenizer=to == "gguf", dry_run=True).notes

    assert said in notes(twice)
    assert not any("--tie" in note for note in notes(other))


def tensor(array: Any, dtype: Dtype) -> Tensor:
    """A tensor whose elements lie row by row."""
    storage = Storage(Bytes(array.tobytes()), 0, array.nbytes, "0")
    return Tensor(dtype, array.shape, row_major(array.shape), 0, storage)


@pytest.mark.parametrize("sizes", [(1, 1), (7, 5), (4, 4)])
def test_tensors_are_equal_if_every_bit_is(sizes: tuple[int, int]) -> None:
    array = np.arange(35, dtype="<f4").reshape(5, 7)[: sizes[1], : sizes[0]]
    turned = np.ascontiguousarray(array.T)
    nan = np.full(array.shape, np.nan, "<f4")
    changed = array.copy()
    changed[-1, -1] += 1
    view = replace(tensor(turned, F32), shape=array.shape, stride=(1, array.shape[0]))

    assert equal(tensor(np.ascontiguousarray(array), F32), view)
    assert equal(tensor(nan, F32), tensor(nan.copy(), F32))
    assert not equal(tensor(np.ascontiguousarray(array), F32), tensor(changed, F32))
    assert not equal(tensor(changed.ravel(), F32), tensor(changed, F32))
    assert not equal(tensor(changed, F32), tensor(changed.view("<i4"), I32))


def test_a_stale_index_that_is_named_leads_to_the_set_that_is_whole(tmp_path: Path) -> None:
    source = gpt2(tmp_path / "source")
    index = source / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "pytorch_model-00001-of-00002.bin"}}))

    with pytest.raises(ManifestError, match=r"; `model\.safetensors` is whole: name it or the folder$"):
        open_checkpoint(index)
    (source / "model.safetensors").unlink()
    with pytest.raises(ManifestError, match=r"which is then read alone$"):
        open_checkpoint(index)


def test_a_lone_file_names_what_stays_behind(tmp_path: Path) -> None:
    source = gpt2(tmp_path / "source")
    (source / "vocab.txt").write_text("a\n")
    (source / "holiday.txt").write_text("it may lie beside anything")

    report = convert(open_checkpoint(source / "model.safetensors"), tmp_path / "x.npz")
    beside = convert(open_checkpoint(source / "model.safetensors"), source / "x.npz")

    assert [one.name for one in report.dropped if one.kind == "file"] == ["config.json", "vocab.txt", "holiday.txt"]
    assert not [one.name for one in beside.dropped if one.kind == "file"]
