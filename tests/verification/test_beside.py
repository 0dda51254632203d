"""The other small files beside the weights: settings of processors and of modules, vocabularies, and the rest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from converter.errors import ManifestError
from converter.opening import open_checkpoint
from converter.reports.verification import VerifiedOutput
from converter.verification.golden import load
from converter.verification.verify import verify

Files = dict[str, Any]  # values of JSON and texts, by name
Change = Callable[[Files], object]


def files() -> Files:
    return {
        "config.json": {"model_type": "own"},
        "preprocessor_config.json": {
            "do_normalize": True, "image_mean": [0.5, 0.5, 0.5], "size": {"height": 224, "width": 224}, "resample": 3,
            "image_processor_type": "ViTImageProcessor", "crop_size": 224, "rescale_factor": None,
        },
        "processor_config.json": {"processor_class": "OwnProcessor", "image_seq_length": 64},
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        ],
        "1_Pooling/config.json": {"word_embedding_dimension": 8, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False},
        "sentence_bert_config.json": {"max_seq_length": 32, "do_lower_case": False},
        "config_sentence_transformers.json": {"__version__": {"transformers": "4.30"}, "prompts": {"query": "q: "}, "similarity_fn_name": "cosine"},
        "adapter_config.json": {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], "peft_version": "0.1"},
        "spm.model": "pieces", "bpe.codes": "a b 1\n", "vocab-src.json": {"a": 0, "b": 1},
        "generation_config.json": {"do_sample": True}, "README.md": "words",
    }  # fmt: skip


def write(folder: Path, made: Files) -> Path:
    folder.mkdir(parents=True)
    save_file({"a": np.arange(4, dtype="<f4")}, folder / "model.safetensors")
    for name, value in made.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(value if type(value) is str else json.dumps(value))
    return folder


def put(name: str, **values: Any) -> Change:
    return lambda made: made[name].update(values)


DAMAGE: dict[str, tuple[Change, str, str]] = {
    "means of an image": (put("preprocessor_config.json", image_mean=[0.4, 0.5, 0.5]), "preprocessor_config.json", "image_mean is wrong"),
    "a step left out": (put("preprocessor_config.json", do_normalize=False), "preprocessor_config.json", "do_normalize is wrong"),
    "a size": (put("preprocessor_config.json", size={"height": 224, "width": 225}), "preprocessor_config.json", "size is wrong"),
    "places of an image": (put("processor_config.json", image_seq_length=65), "processor_config.json", "image_seq_length is wrong"),
    "a module more": (lambda made: made["modules.json"].append({"path": "2_Normalize", "type": "x.Normalize"}), "modules.json", "modules is wrong"),
    "a module left out": (lambda made: made["modules.json"].pop(), "modules.json", "modules is wrong"),
    "a module's folder left out": (lambda made: made.pop("1_Pooling/config.json"), "modules.json", "a missing module"),
    "pooling": (put("1_Pooling/config.json", pooling_mode_cls_token=True), "1_Pooling/config.json", "pooling_mode_cls_token is wrong"),
    "texts cut early": (put("sentence_bert_config.json", max_seq_length=16), "sentence_bert_config.json", "max_seq_length is wrong"),
    "a prompt": (put("config_sentence_transformers.json", prompts={"query": "x"}), "config_sentence_transformers.json", "prompts is wrong"),
    "an adapter's scale": (put("adapter_config.json", lora_alpha=32), "adapter_config.json", "lora_alpha is wrong"),
    "pieces": (lambda made: made.update({"spm.model": "piecez"}), "spm.model", "another tokenizer"),
    "codes": (lambda made: made.update({"bpe.codes": "a c 1\n"}), "bpe.codes", "another tokenizer"),
    "a vocabulary": (put("vocab-src.json", a=1), "vocab-src.json", "another tokenizer"),
}  # fmt: skip


def newer(made: Files) -> None:
    """What newer versions of the programs write."""
    own = made.pop("preprocessor_config.json") | {"image_processor_type": "ViTImageProcessorFast", "data_format": None}
    made["processor_config.json"] = {"image_processor": own, "image_seq_length": 64, "processor_class": "OwnProcessor"}
    for module in made["modules.json"]:
        module["type"] = "sentence_transformers.base." + module["type"].rpartition(".")[2]
    made["config_sentence_transformers.json"]["__version__"] = {"transformers": "5.24"}


HONEST: dict[str, tuple[Change, list[tuple[str, str]]]] = {
    "the same": (lambda made: None, []),
    "newer programs": (newer, []),
    "a size in its newer form": (
        put("preprocessor_config.json", crop_size={"height": 224, "width": 224}), [("preprocessor_config.json", "not compared in full")],
    ),
    "a set in another order": (put("adapter_config.json", target_modules=["v_proj", "q_proj"], peft_version="0.2"), []),
    "another README": (lambda made: made.update({"README.md": "more"}), [("other files", "another text")]),
    "other settings of generate": (put("generation_config.json", do_sample=False), [("other files", "another text")]),
    "no README": (lambda made: made.pop("README.md"), [("other files", "absent")]),
    "no modules": (lambda made: (made.pop("modules.json"), made.pop("1_Pooling/config.json")), [("other files", "absent")]),
}  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("source") / "own", files())


def both(source: Path, manifest: Path, copy: Path) -> list[VerifiedOutput]:
    return [verify(expected, [copy]).outputs[0] for expected in (open_checkpoint(source), load(manifest))]


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_to_other_files_is_named(kind: str, source: Path, manifest: Path, tmp_path: Path) -> None:
    change, name, what = DAMAGE[kind]
    made = files()
    change(made)

    for output in both(source, manifest, write(tmp_path / "copy", made)):
        assert [(found.name, found.what) for found in output.tensors.different] == [(name, what)]
        assert (output.verdict, output.weights, output.companions) == ("different", "identical", "different")


@pytest.mark.parametrize("kind", HONEST)
def test_other_files_of_an_honest_copy_are_no_difference(
    kind: str, source: Path, manifest: Path, tmp_path: Path
) -> None:
    change, notes = HONEST[kind]
    made = files()
    change(made)

    for output in both(source, manifest, write(tmp_path / "copy", made)):
        assert (output.verdict, [(note.name, note.what) for note in output.notes]) == ("identical", notes)


def test_what_is_absent_is_named(source: Path, tmp_path: Path) -> None:
    made = files()
    for name in ("spm.model", "README.md"):
        del made[name]

    output = verify(open_checkpoint(source), [write(tmp_path / "copy", made)]).outputs[0]

    assert output.notes[0].detail == f"`{tmp_path / 'copy'}` has no `README.md`, `spm.model`, but the source has"


def test_a_missing_module_is_named_by_its_files(source: Path, tmp_path: Path) -> None:
    made = files()
    del made["1_Pooling/config.json"]

    output = verify(open_checkpoint(source), [write(tmp_path / "copy", made)]).outputs[0]

    [found] = output.tensors.different
    assert found.detail == f"`{tmp_path / 'copy'}` has no `1_Pooling/config.json`, which its modules.json needs"


@pytest.mark.parametrize(
    "modules", [{"modules": 5}, {"modules": [[], ["1_Pooling"]]}, [5, {"path": 5}], [{"path": "."}]]
)
def test_an_odd_list_of_modules_is_compared_all_the_same(modules: Any, tmp_path: Path) -> None:
    made = files() | {"modules.json": modules}
    source = write(tmp_path / "source", made)
    del made["README.md"]

    output = verify(open_checkpoint(source), [write(tmp_path / "copy", made)]).outputs[0]

    assert (output.verdict, [note.what for note in output.notes]) == ("identical", ["absent"])


def test_a_manifest_names_no_files_elsewhere(manifest: Path, tmp_path: Path) -> None:
    wrong: tuple[Any, ...] = (
        {"files": {}},
        {"settings": {"a": 5}, "files": {}},
        {"settings": {}, "files": {"../x": "a"}},
        5,
    )
    for beside in wrong:
        golden = json.loads(manifest.read_text()) | {"beside": beside}
        (tmp_path / "golden.json").write_text(json.dumps(golden))
        with pytest.raises(ManifestError, match="beside"):
            load(tmp_path / "golden.json")


def test_merges_of_a_tokenizer_that_has_two_forms_are_compared_in_both(tmp_path: Path) -> None:
    """tokenizer.json is what is read; other programs read vocab.json and merges.txt."""
    from tests.build.tokenizers import byte_pair

    two = {"tokenizer.json": byte_pair(), "vocab.json": {"a": 0, "b": 1, "ab": 2}}
    made = {
        "source": "a b\nab c\n",
        "honest": "#version: 0.2 - by another program\na b\nab c",
        "damaged": "ab c\na b\n",
    }
    folders = [write(tmp_path / name, two | {"merges.txt": merges}) for name, merges in made.items()]

    outputs = verify(open_checkpoint(folders[0]), folders[1:]).outputs

    assert [output.verdict for output in outputs] == ["identical", "different"]
    assert [(found.name, found.what) for found in outputs[1].tensors.different] == [("merges.txt", "another tokenizer")]
