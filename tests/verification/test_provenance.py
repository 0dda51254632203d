"""A golden manifest says where it comes from, and still verifies whatever it says."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from converter.cli.app import app
from converter.opening import open_checkpoint
from converter.sample import write_sample
from converter.verification.expected import expect
from converter.verification.golden import load
from converter.verification.verify import Options, examine, verify

RUN = CliRunner()
PROVENANCE = ("made", "model", "architecture", "source", "options", "policy")


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    write_sample(tmp_path / "odd", "tiny")
    examined = examine(expect(open_checkpoint("odd")), ["odd"], Options())
    Path("golden.json").write_text(examined.golden().text())
    return tmp_path


def test_a_manifest_names_program_date_source_and_options(made: Path) -> None:
    document = json.loads(Path("golden.json").read_text())

    assert document["made"]["by"] == "cerebras-tool"
    assert document["made"]["date"] == "2023-11-14T22:13:20Z"
    assert document["model"] is None  # the sample is no declared model
    assert document["architecture"] == "GPT-2 with 4 layers of 64"
    data = Path("odd/pytorch_model.bin").read_bytes()
    assert document["source"] == {
        "location": "pytorch_model.bin",
        "format": "torch-zip",
        "revision": None,
        "files": [
            {"name": "pytorch_model.bin", "nbytes": len(data), "sha256": hashlib.sha256(data).hexdigest()},
        ],
    }
    assert document["options"] == {"level": "tensors", "engine": "numpy", "tokens": None, "prompt": None}
    assert document["policy"] == {
        "verdicts": ["identical", "equivalent"],
        "copies": [{"name": "odd", "format": "torch-zip", "verdict": "identical"}],
    }


def test_a_manifest_names_what_copies_had_to_hold_and_the_files_that_were_given(made: Path) -> None:
    Path("tokens.txt").write_text("1 2 3\n")
    assert RUN.invoke(app, ["convert", "odd", "folder/odd.gguf", "--dtype", "q8_0"]).exit_code == 0
    words = ["verify", "odd", "folder/odd.gguf", "--level", "inference", "--tokens", "tokens.txt"]

    done = RUN.invoke(app, [*words, "--write-manifest", "of-this.json"])

    assert done.exit_code == 0, done.output
    document = json.loads(Path("of-this.json").read_text())
    assert document["options"] == {
        "level": "inference", "engine": "numpy", "tokens": "tokens.txt", "prompt": None,
        "tokens_sha256": hashlib.sha256(b"1 2 3\n").hexdigest(),
    }  # fmt: skip
    assert document["policy"]["copies"] == [
        {
            "name": "odd.gguf",
            "format": "gguf",
            "verdict": "equivalent",
            "threshold": {"difference": 0.3, "kl_divergence": 0.0007, "top1": 0.93, "greedy": False},
        }
    ]


def test_the_same_manifest_is_made_twice(made: Path) -> None:
    examined = examine(expect(open_checkpoint("odd")), ["odd"], Options())

    assert examined.golden().text() == Path("golden.json").read_text()


def test_nothing_is_decided_by_it_and_older_manifests_lack_it(made: Path) -> None:
    document = json.loads(Path("golden.json").read_text())
    others: tuple[dict[str, object], ...] = ({"source": 3, "made": None, "options": []}, {})
    for other in others:
        rest = {name: value for name, value in document.items() if name not in PROVENANCE}
        Path("golden.json").write_text(json.dumps(rest | other))
        assert verify(load(Path("golden.json")), ["odd"]).ok


def test_a_manifest_of_a_part_says_which_part_it_is(tmp_path: Path) -> None:
    write_sample(tmp_path / "tiny", "tiny")
    source, copy, golden = tmp_path / "tiny", tmp_path / "copy.safetensors", tmp_path / "golden.json"
    convert = ["convert", source, copy, "--include", "*wte*"]
    verify = ["verify", source, copy, "--include", "*wte*", "--weights", "bin", "--write-manifest", golden]

    for words in (convert, verify):
        done = RUN.invoke(app, [*map(str, words)])
        assert done.exit_code == 0, done.output

    assert json.loads(golden.read_text())["options"] == {
        "level": "tensors", "engine": "numpy", "tokens": None, "prompt": None, "include": ["*wte*"], "weights": "bin",
    }  # fmt: skip
