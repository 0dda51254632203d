"""The commands as a person meets them: what they print, where, and with which exit code."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from converter.cli.app import app
from converter.conversion.convert import convert
from converter.formats import FORMATS
from converter.formats.format import Format
from converter.opening import open_checkpoint
from converter.sample import write_sample
from tests.build.checkpoints import Call, Global, floats, view, write_checkpoint, write_shards
from tests.build.depth import share
from tests.build.formats import BUILDERS, TWO, put

ROOT = Path(__file__).parent.parent.parent
RUN = CliRunner()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_sample(folder, "tiny")
    return folder


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_inspect_says_which_model_it_is_and_folds_the_layers(tiny: Path) -> None:
    done = RUN.invoke(app, ["inspect", str(tiny)])

    assert done.exit_code == 0
    assert done.stdout.startswith("GPT-2 with 4 layers of 64, complete\n")
    assert "transformer.h.{0..3}.attn.c_attn.weight" in done.stdout
    assert "220,608" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("words", [["inspect"], ["inspect", "--all"], ["check"], ["scan", "--no-fickling"]])
def test_lines_of_a_pipe_do_not_end_with_blanks(words: list[str], tiny: Path) -> None:
    lines = RUN.invoke(app, [*words, str(tiny)]).stdout.splitlines()

    assert len(lines) > 0
    assert [line for line in lines if line != line.rstrip()] == []


def test_all_unfolds(tiny: Path) -> None:
    done = RUN.invoke(app, ["inspect", str(tiny), "--all"])

    assert "transformer.h.3.attn.c_attn.weight" in done.stdout
    assert "{" not in done.stdout


def test_json_is_one_ascii_document(tiny: Path) -> None:
    done = RUN.invoke(app, ["inspect", str(tiny), "--json"])

    report = json.loads(done.stdout)
    assert done.stdout.isascii()
    assert report["totals"] == {"tensors": 60, "parameters": 220_608, "buffers": 16_388, "nbytes": 898_832}
    assert report["tensors"][2] == {
        "name": "transformer.h.0.attn.c_attn.weight", "dtype": "F32", "shape": [64, 192], "stride": [1, 64], "offset": 0,
        "storage": "2", "shard": None, "nbytes": 49_152, "contiguous": False,
    }  # fmt: skip
    assert report["safety"]["globals"] == [
        "collections.OrderedDict", "torch.ByteStorage", "torch.FloatStorage", "torch._utils._rebuild_tensor_v2",
    ]  # fmt: skip


def test_filter_and_sort_choose_tensors_and_keep_the_totals(tiny: Path) -> None:
    done = RUN.invoke(app, ["inspect", str(tiny), "--json", "--filter", "*.h.1.*.c_*.weight", "--sort", "size"])

    report = json.loads(done.stdout)
    names = [tensor["name"].removeprefix("transformer.h.1.") for tensor in report["tensors"]]
    assert names == ["mlp.c_fc.weight", "mlp.c_proj.weight", "attn.c_attn.weight", "attn.c_proj.weight"]
    assert report["totals"]["tensors"] == 60


def test_stats_are_those_of_the_numbers(tmp_path: Path) -> None:
    values = floats(1.0, -2.0, 0.0, float("nan"), float("inf"), 4.0)
    tensors = {"w": view("0", (2, 3), (1, 2)), "h": view("1", (3,), dtype="BF16"), "n": view("2", (2,), dtype="I64")}
    storages = {
        "0": values,
        "1": b"\x80\x3f\x00\xc0\x00\x00",
        "2": (7).to_bytes(8, "little") + (1).to_bytes(8, "little"),
    }
    path = write_checkpoint(tmp_path / "x.bin", tensors, storages)

    done = RUN.invoke(app, ["inspect", str(path), "--json", "--stats", "--sha256"])

    w, h, n = (tensor["stats"] for tensor in json.loads(done.stdout)["tensors"])
    # [1, 0, inf; -2, nan, 4] row by row
    assert {key: w[key] for key in ("min", "max", "mean", "zeros", "nan", "inf")} == {
        "min": -2.0, "max": 4.0, "mean": 0.75, "zeros": 1, "nan": 1, "inf": 1,
    }  # fmt: skip
    assert w["std"] == pytest.approx(2.165063509461097)
    # The SHA-256 of the six floats in that order, by sha256sum.
    assert w["sha256"] == "be0b1f08096ed202f722b3633ea6a526cc5c5e20e3d39cb7efd088029f0cb3d1"
    assert (h["min"], h["max"], h["zeros"]) == (-2.0, 1.0, 1)
    assert (n["min"], n["max"], n["mean"], n["std"]) == (1.0, 7.0, 4.0, 3.0)


def test_inspect_names_what_is_dangerous_and_runs_nothing(tmp_path: Path) -> None:
    payload = Call(Global("posix", "system"), (f"touch {tmp_path / 'ran'}",))
    path = write_checkpoint(tmp_path / "x.bin", {"w": view("0", (1,)), "x": payload}, {"0": floats(1.0)})

    done = RUN.invoke(app, ["inspect", str(path), "--json"])

    report = json.loads(done.stdout)
    assert done.exit_code == 0
    assert report["safety"]["verdict"] == "dangerous"
    assert "posix.system" in report["safety"]["globals"]
    assert report["others"] == [
        {"name": "x", "kind": "posix.system", "value": "posix.system(…)", "tensors": []}
        | {"role": "beside", "tensor_count": 0, "nbytes": 0}
    ]
    assert not (tmp_path / "ran").exists()


def test_extract_then_inspect_the_folder(tiny: Path, tmp_path: Path) -> None:
    done = RUN.invoke(app, ["extract", str(tiny), str(tmp_path / "out")])
    again = RUN.invoke(app, ["extract", str(tiny), str(tmp_path / "out")])
    looked = RUN.invoke(app, ["inspect", str(tmp_path / "out")])

    assert done.exit_code == 0
    assert "60 files, 898.8 kB" in " ".join(done.stdout.split())
    assert again.exit_code == 2
    assert "give --force" in again.stderr
    assert "parameters folder · 60 files" in looked.stdout


def test_models_lists_the_seven_and_one(tmp_path: Path) -> None:
    listed = RUN.invoke(app, ["models"])
    one = RUN.invoke(app, ["models", "6.7b"])
    unknown = RUN.invoke(app, ["models", "7B"])

    assert [line.split()[0] for line in listed.stdout.splitlines()[1:] if "not shown" not in line] == [
        f"Cerebras-GPT-{size}" for size in ("111M", "256M", "590M", "1.3B", "2.7B", "6.7B", "13B")
    ]
    assert "26,767,978,209 bytes (published)" in one.stdout
    assert "962ebf74faa3e819a8793be79c3829911a24fb40053b8ae9fc3d51eb7f32eb3a" in one.stdout
    assert unknown.exit_code == 2
    assert "`7B` is not a declared model" in unknown.stderr


def test_demo_runs_every_step(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "converter", "demo", str(tmp_path / "demo")],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip

    assert done.stderr == ""
    assert "  $ cerebras-tool inspect" in done.stdout
    assert (tmp_path / "demo" / "parameters" / "manifest.json").exists()


def wrong_uses(tmp_path: Path) -> dict[str, tuple[list[str], str]]:
    """Wrong uses: the arguments, and what the error message has to say."""
    write_sample(tmp_path / "tiny", "tiny")
    data = (tmp_path / "tiny" / "pytorch_model.bin").read_bytes()
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut.bin").write_bytes(data[:-1])
    (tmp_path / "head.bin").write_bytes(data[:5000])
    (tmp_path / "nothing.bin").write_bytes(b"")
    (tmp_path / "page.bin").write_bytes(b"<!DOCTYPE html><html>404</html>")
    (tmp_path / "pointer.bin").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    write_checkpoint(tmp_path / "short.bin", {"w": view("0", (2,), numel=2)}, {"0": floats(1.0)})
    (tmp_path / "shards").mkdir()
    shards = write_shards(
        tmp_path / "shards", [{"a": view("0", (1,))}, {"b": view("0", (1,))}], [{"0": floats(1.0)}, {"0": floats(2.0)}]
    )
    shards[1].unlink()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    return {
        "no such file": (["inspect", "absent.bin"], "no such file or folder: `absent.bin`"),
        "a folder with nothing in it": (["inspect", "empty"], "`empty` holds no weight file"),
        "an empty file": (["inspect", "nothing.bin"], "is an empty file"),
        "an error page": (["inspect", "page.bin"], "is an HTML page"),
        "an LFS pointer": (["inspect", "pointer.bin"], "git lfs pull"),
        "a file without its last byte": (["inspect", "cut.bin"], "cut.bin"),
        "the first 5,000 bytes": (["extract", "head.bin", "out"], "it was cut off; download it again"),
        "a record that is too short": (["extract", "short.bin", "out"], "storage `0`"),
        "a missing shard": (["extract", "shards", "out"], "`pytorch_model-00002-of-00002.bin`"),
        "a dangling link": (["inspect", "dangling"], "can't be opened"),
        "a device": (["inspect", "/dev/null"], "is not a regular file"),
        "an output that exists": (["extract", "tiny", "tiny"], "tiny"),
        "an output that is the input": (["extract", "tiny", "tiny", "--force"], "holds the input"),
        "a root that is not there": (["inspect", "tiny", "--root", "model"], "there is no `model`"),
        "an unknown sample": (["sample", "out", "--model", "14B"], "14B"),
    }


USES = ["no such file", "a folder with nothing in it", "an empty file", "an error page", "an LFS pointer",
        "a file without its last byte", "the first 5,000 bytes", "a record that is too short", "a missing shard",
        "a dangling link", "a device", "an output that exists", "an output that is the input", "a root that is not there",
        "an unknown sample"]  # fmt: skip


@pytest.mark.parametrize("use", USES)
def test_wrong_use_is_one_sentence_and_nothing_written(
    use: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uses = wrong_uses(tmp_path)
    assert list(uses) == USES
    arguments, said = uses[use]
    monkeypatch.chdir(tmp_path)
    before = everything(tmp_path)

    done = RUN.invoke(app, arguments)

    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert everything(tmp_path) == before


def test_a_broken_download_of_a_declared_model_is_recognised(tmp_path: Path) -> None:
    write_sample(tmp_path, "111M", sparse=True)
    with (tmp_path / "pytorch_model.bin").open("r+b") as file:
        file.truncate(100_000_000)

    done = RUN.invoke(app, ["inspect", str(tmp_path / "pytorch_model.bin")])

    assert done.exit_code == 2
    assert (
        "it has 100,000,000 bytes, and by its shapes it is pytorch_model.bin of Cerebras-GPT-111M, which has 486,188,257 (21% are here)"
        in done.stderr
    )


def test_a_file_of_another_size_than_the_published_one_is_said(tmp_path: Path) -> None:
    write_sample(tmp_path, "111M", sparse=True)

    done = RUN.invoke(app, ["inspect", str(tmp_path), "--json"])

    report = json.loads(done.stdout)
    assert report["model"]["name"] == "Cerebras-GPT-111M"
    assert report["problems"] == []


LIGHT = """
import sys
from typer.testing import CliRunner
from converter.cli.app import app
done = CliRunner().invoke(app, ["inspect", sys.argv[1]] + sys.argv[2:])
assert done.exit_code == 0, done.output
print(" ".join(sorted({name.partition(".")[0] for name in sys.modules})))
print(sum(name.partition(".")[0] == "converter" for name in sys.modules))
"""


def check_light(path: Path, *options: str) -> None:
    """Inspect in a process of its own, and count what it has imported."""
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, str(path), *options], cwd=ROOT, capture_output=True, text=True, check=True
    )

    modules, ours = done.stdout.splitlines()
    loaded = set(modules.split())
    assert int(ours) <= 60
    assert not loaded & {
        "numpy",
        "huggingface_hub",
        "fickling",
        "torch",
        "safetensors",
        "httpx2",
        "rich",
        "pickle",
        "jinja2",
    }


@pytest.mark.parametrize("options", [[], ["--json"]])
@pytest.mark.parametrize("ending", share(["bin", "safetensors", "gguf", "npz", "parameters"], 0, 2))
def test_inspect_of_a_model_imports_only_what_it_needs(
    tiny: Path, tmp_path: Path, ending: str, options: list[str]
) -> None:
    path = tiny
    if ending != "bin":
        path = tmp_path / f"model.{ending}"
        convert(open_checkpoint(tiny), path, to="parameters" if ending == "parameters" else None)

    check_light(path, *options)


@pytest.mark.parametrize("format", share(FORMATS, 0, 3), ids=lambda format: format.name)
def test_inspect_of_every_format_imports_only_what_it_needs(format: Format, tmp_path: Path) -> None:
    builder = BUILDERS[format.name]
    tensors = {"a": TWO["a"]} if builder.nameless else TWO

    check_light(put(builder.write(tensors), tmp_path / "file"))


def test_version_is_one_line() -> None:
    done = RUN.invoke(app, ["--version"])

    assert done.exit_code == 0
    assert done.stdout == "cerebras-tool 0.1.0\n"


def test_version_as_json_says_which_engines_are_there() -> None:
    done = RUN.invoke(app, ["--version", "--json"])

    report = json.loads(done.stdout)
    assert done.exit_code == 0
    assert report["version"] == "0.1.0"
    assert set(report["engines"]) == {"numpy", "transformers", "llama.cpp"}
    assert report["engines"]["numpy"] is True


def test_json_without_a_command_or_version_is_refused() -> None:
    done = RUN.invoke(app, ["--json", "models"])

    assert done.exit_code == 2
    assert json.loads(done.stdout)["error"] == {
        "class": "UsageError",
        "message": "--json comes after a command, or with --version",
    }
    assert "--json comes after a command" in done.stderr


@pytest.mark.parametrize("command", ["inspect", "check", "extract", "verify"])
def test_a_second_root_is_refused(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sample(tmp_path / "tiny", "tiny")
    monkeypatch.chdir(tmp_path)
    output = {"extract": ["out"], "verify": ["tiny"]}.get(command, [])

    done = RUN.invoke(app, [command, "tiny", *output, "--root", "foo", "--root=transformer"])

    assert (done.exit_code, done.stdout) == (2, "")
    assert "--root takes one key, and was given more than once: run the command for each" in done.stderr
