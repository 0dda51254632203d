"""The page of `inspect`, without a browser; tests/peers/test_pages.py opens it in one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from converter import pages
from converter.cli.app import app
from converter.inspection.report import inspect
from converter.opening import open_checkpoint
from converter.pages.inspection import inspection
from converter.sample import write_sample
from tests.build.checkpoints import Call, Global, floats, view, write_checkpoint
from tests.build.seeds import safetensors_file
from tests.pages.hostile import NAMES
from tests.pages.reading import check, read

RUN = CliRunner()
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_sample(folder, "tiny")
    return folder


def named(folder: Path, names: tuple[str, ...]) -> Path:
    """A safetensors file with a small matrix of each name."""
    values = np.arange(6, dtype="<f4").tobytes()
    path = folder / f"{len(list(folder.iterdir()))}.safetensors"
    path.write_bytes(safetensors_file(dict.fromkeys(names, ("F32", (2, 3), values))))
    return path


def test_a_page_says_what_the_terminal_says(tiny: Path) -> None:
    page = check(inspection(inspect(open_checkpoint(tiny))))

    assert "GPT-2 with 4 layers of 64, complete" in page.text
    assert "The pickle is plain: it asks for nothing but tensors." in page.text
    assert "parameters 220,608" in page.text
    assert "4 globals that the pickle names" in page.text
    assert "60 tensors in 60 storages; 16 of them are views that do not lie row by row." in page.text
    assert len(page.data["name"]) == 60
    assert page.data["stats"] is None
    assert "Along the depth" not in page.text


def test_with_statistics_it_has_what_plots_show(tiny: Path) -> None:
    page = check(inspection(inspect(open_checkpoint(tiny), stats=True, heat=True)))
    data = page.data
    at = data["name"].index("transformer.wte.weight")
    low, high, mean, std, norm, zeros, nan, inf, points, histogram, heat = data["stats"][at]

    assert (zeros, nan, inf, len(points), len(histogram[4])) == (0, 0, 0, 9, 32)
    assert low < points[0] < mean < points[-1] < high
    assert norm == pytest.approx(std * (257 * 64) ** 0.5, rel=1e-3)
    assert heat[:2] == [24, 24]
    assert "Every tensor shown was read; no damage, NaN or Inf was found." in page.text
    group = next(members for label, members in data["depth"] if label == "transformer.h.{0..3}.mlp.c_fc.weight")
    assert [(number, data["name"][index]) for number, index in group] == [
        (layer, f"transformer.h.{layer}.mlp.c_fc.weight") for layer in range(4)
    ]


def test_tied_tensors_share_an_area_of_the_map(tmp_path: Path) -> None:
    views = {"a.weight": view("0", (2, 2)), "b.weight": view("0", (2, 2)), "c": view("0", (2,), (1,))}
    path = write_checkpoint(tmp_path / "x.bin", views, {"0": floats(1, 2, 3, 4)})

    page = check(inspection(inspect(open_checkpoint(path))))

    assert page.data["again"] == [1]
    assert "1 storage with more than one view" in page.text


def test_globals_have_words(tmp_path: Path) -> None:
    value = {"a": view("0", (2,)), "x": Call(Global("os", "system"), ("ls",))}
    path = write_checkpoint(tmp_path / "x.bin", value, {"0": floats(1, 2)})

    page = check(inspection(inspect(open_checkpoint(path))))

    assert "The pickle is DANGEROUS: loading it with pickle would run code." in page.text
    assert "os.system outside the closed table: the reasons above say what is known of it" in page.text
    assert "torch.FloatStorage in the closed table" in page.text


def test_names_of_tensors_are_text_and_nothing_else(tmp_path: Path) -> None:
    plain = tuple(f"n{index}" for index in range(len(NAMES)))

    hostile = check(inspection(inspect(open_checkpoint(named(tmp_path, NAMES)), stats=True)))
    harmless = check(inspection(inspect(open_checkpoint(named(tmp_path, plain)), stats=True)))

    assert Counter(tag for tag, _ in hostile.tags) == Counter(tag for tag, _ in harmless.tags)
    assert sorted(hostile.data["name"]) == sorted(NAMES)
    shown = {hostile.data["name"][int(at)]: text for at, text in hostile.data["shown"].items()}
    assert shown["\u202egpj.exe"] == r"\u{202e}gpj.exe"
    assert shown["line\nbreak"] == r"line\x0abreak"
    assert not any(len(name) > 200 for name in shown)  # a long name is shown as it is, and whole


def test_metadata_and_names_beside_the_weights_are_text(tmp_path: Path) -> None:
    evil = "</td></table><script>x</script>"
    path = tmp_path / "x.bin"
    value = {"model": {"a": view("0", (2,))}, evil: 3, "args": {"b": evil}}
    write_checkpoint(path, value, {"0": floats(1, 2)})

    page = check(inspection(inspect(open_checkpoint(path))))

    assert evil in page.text
    assert page.raw.count("<script>x") == 0


def test_a_location_is_text(tmp_path: Path) -> None:
    path = named(tmp_path, ("a",)).rename(tmp_path / "<b>&\u202e.safetensors")

    page = check(inspection(inspect(open_checkpoint(path))))

    assert r"<b>&\u{202e}.safetensors" in page.text


def test_the_page_of_the_largest_model_is_small(tmp_path: Path) -> None:
    write_sample(tmp_path, "13B", sparse=True)

    page = inspection(inspect(open_checkpoint(tmp_path)))

    assert len(read(page).data["name"]) == 564
    assert len(page) < 200_000


def test_what_a_tensor_adds_to_a_page_fits_the_largest_model(tiny: Path) -> None:
    report = inspect(open_checkpoint(tiny), stats=True, heat=True)
    empty = inspect(open_checkpoint(tiny))

    added = len(inspection(report)) - len(inspection(empty))

    assert added / 60 * 564 < 1_500_000


def test_no_tensors_make_a_page_too(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes((2).to_bytes(8, "little") + b"{}")

    assert "No tensors" in check(inspection(inspect(open_checkpoint(path)))).text


def test_json_in_a_script_can_not_end_it() -> None:
    texts = [*NAMES, "</SCRIPT >", "<!--", "-->", "\ud800"]

    written = pages.in_script(texts)

    assert written.isascii()
    assert not set(written) & set("<>&")
    assert json.loads(written) == texts


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command_writes_a_page_and_prints_as_ever(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    alone = RUN.invoke(app, ["inspect", str(tiny)])

    done = RUN.invoke(app, ["inspect", str(tiny), "--stats", "--filter", "wte", "--html", str(path)])
    again = RUN.invoke(app, ["inspect", str(tiny), "--html", str(path)])

    assert done.exit_code == again.exit_code == 0, done.output
    assert again.stdout == alone.stdout
    assert len(check(path.read_bytes()).data["name"]) == 60


def test_what_is_there_is_not_overwritten(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text('<!doctype html>\n<html lang="en"><p>mine')

    done = RUN.invoke(app, ["inspect", str(tiny), "--html", str(path)])

    assert done.exit_code == 2
    assert "exists and is not an older report: choose another path" in done.stderr
    assert path.read_text().endswith("mine")


def test_one_page_is_for_one_source(tiny: Path, tmp_path: Path) -> None:
    done = RUN.invoke(app, ["inspect", str(tiny), str(tiny), "--html", str(tmp_path / "page.html")])

    assert done.exit_code == 2
    assert "--html makes the page of one SOURCE" in done.stderr


def test_without_jinja2_a_sentence_says_what_to_install(tiny: Path, tmp_path: Path) -> None:
    code = "import sys; sys.modules['jinja2'] = None; import importlib.util as u; find = u.find_spec; u.find_spec = lambda n, *a: None if n == 'jinja2' else find(n, *a); from converter.cli.app import app; app(sys.argv[1:])"
    path = tmp_path / "page.html"

    done = subprocess.run(
        [sys.executable, "-c", code, "inspect", str(tiny), "--html", str(path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: a page of HTML needs the package `jinja2`: install it with `pip install 'cerebras-tool[pages]'`\n"
    )
    assert not path.exists()
