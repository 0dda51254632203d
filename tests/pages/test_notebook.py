"""What a notebook shows of a checkpoint and of a tensor."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import converter as ct
from converter.pages import notebook
from converter.sample import write_sample
from tests.build import gguf_files as files
from tests.build.checkpoints import Global, floats, view, write_checkpoint
from tests.build.seeds import safetensors_file
from tests.pages.hostile import NAMES
from tests.pages.reading import read

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_sample(folder, "tiny")
    return folder


def shown(thing: ct.Catalogue | ct.Tensor) -> str:
    html = thing._repr_html_()
    assert html is not None
    for tag, attributes in read(html.encode()).tags:
        assert tag not in {"script", "style", "img", "link", "iframe"}
        assert not [name for name in attributes if name.startswith("on") or name in {"href", "src"}]
    return html


def test_a_catalogue_shows_what_it_is(tiny: Path) -> None:
    html = shown(ct.open(tiny))

    text = read(html.encode()).text
    assert text.startswith("GPT-2 with 4 layers of 64, complete")
    assert "60 tensors, 220,608 parameters · pickle: plain" in text
    assert "module bytes transformer.h 816.1 kB transformer.wte 65.8 kB transformer.wpe 16.4 kB" in text
    assert "transformer.h.{0..3}.ln_1.weight F32 64 4× 256 B" in text
    assert "more" not in text


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors_file({f"w{'a' * number}": ("U8", (1,), b"x") for number in range(25)}))

    html = shown(ct.open(path))

    assert html.count("<bdi>w") == 8 + 20
    assert "and 5 more lines" in html


def test_a_dangerous_pickle_is_said(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "x.bin", {"a": view("0", (1,)), "x": Global("os", "system")}, {"0": floats(1)})

    assert "pickle: DANGEROUS" in shown(ct.open(path))


def test_hostile_names_are_text(tmp_path: Path) -> None:
    path = tmp_path / "<b>.safetensors"
    path.write_bytes(safetensors_file(dict.fromkeys(NAMES, ("F32", (2,), bytes(8)))))

    html = shown(ct.open(path))

    assert {tag for tag, _ in read(html.encode()).tags} <= {
        "div", "p", "b", "br", "bdi", "table", "thead", "tr", "th", "td", "svg", "rect",
    }  # fmt: skip
    assert "\u202e" not in html


def test_a_tensor_shows_its_histogram(tmp_path: Path) -> None:
    values = np.concatenate([np.zeros(600), np.linspace(-1, 1, 400)]).astype("<f4")
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors_file({"a": ("F32", (10, 100), values.tobytes())}))

    html = shown(ct.open(path)["a"])

    text = read(html.encode()).text
    assert "F32 10×100 · 4.0 kB" in text
    assert "min -1, max 1" in text
    assert "600 zeros" in text
    heights = [float(height) for height in re.findall(r'<rect [^>]*height="([\d.]+)"', html)]
    assert len(heights) > 10
    assert max(heights) == 40
    assert sorted(heights)[-2] < 4


def test_tensors_without_numbers_to_draw(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    nan = np.full(3, np.nan, "<f4").tobytes()
    path.write_bytes(safetensors_file({"a": ("F32", (3,), nan), "b": ("F32", (0,), b""), "c": ("F32", (), bytes(4))}))
    catalogue = ct.open(path)

    assert "3 NaN" in shown(catalogue["a"])
    assert "F32 0</b>" in shown(catalogue["b"])
    assert "F32 scalar</b>" in shown(catalogue["c"])
    assert not any("<svg" in shown(tensor) for tensor in catalogue.values())


def test_a_damaged_tensor_says_so(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "x.bin", {"a": view("0", (2,))}, {"0": floats(1, 2, 3, 4)})
    path.write_bytes(path.read_bytes().replace(floats(1, 2, 3, 4), floats(1, 2, 3, 5)))

    assert "CRC" in shown(ct.open(path)["a"])


def test_a_large_tensor_is_not_read(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebook, "READ", 1000)
    catalogue = ct.open(tiny)
    large = shown(catalogue["transformer.wte.weight"])

    assert "Not read, because it has more than 1.0 kB: inspect(…, stats=True) reads it." in large
    assert "<svg" not in large
    assert "min " in shown(catalogue["transformer.ln_f.weight"])


def test_without_jinja2_a_table_is_shown(tiny: Path) -> None:
    code = (
        "import importlib.util as u; find = u.find_spec; u.find_spec = lambda n, *a: None if n == 'jinja2' else find(n, *a)\n"
        f"import converter as ct; c = ct.open({str(tiny)!r}); print(c._repr_html_()[:6], c['transformer.wte.weight']._repr_html_())"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout == "<p><b> None\n"


def test_a_quantised_tensor_has_the_size_of_its_blocks(tmp_path: Path) -> None:
    keys = [files.key("general.architecture", "string", "other")]
    path = tmp_path / "a.gguf"
    path.write_bytes(files.gguf(keys, [files.Info("a", (32, 64), 2)], bytes(64 * 18)))

    assert "<b>Q4_0 64×32</b> · 1.2 kB" in shown(ct.open(path)["a"])
