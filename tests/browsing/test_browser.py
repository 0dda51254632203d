"""The browser, driven by textual's own pilot."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Sparkline, Static, Tree

from converter.browsing import app as browsing
from converter.browsing.app import Browser
from converter.browsing.listing import Listing
from converter.browsing.rows import Row, chosen, modules, rows
from converter.conversion.convert import convert
from converter.dtypes import F32
from converter.io.source import Memory
from converter.opening import open_checkpoint
from converter.sample import write_sample
from converter.tensors.tensor import Storage, Tensor
from tests.build.checkpoints import floats, view, write_checkpoint
from tests.build.depth import share
from tests.build.ends import ends
from tests.build.seeds import safetensors_file
from tests.pages.hostile import NAMES

ROOT = Path(__file__).parent.parent.parent
Steps = Callable[[Pilot[None], Browser], Awaitable[None]]
PATIENCE = 30.0  # seconds


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_sample(folder, "tiny")
    return folder


def browse(path: Path, steps: Steps, size: tuple[int, int] = (80, 24)) -> None:
    """Run the browser on a checkpoint of the path, and do something in it."""

    async def run() -> None:
        with open_checkpoint(path) as catalogue:
            app = Browser(catalogue)
            async with app.run_test(size=size) as pilot:
                await app.workers.wait_for_complete()
                await pilot.pause()
                await steps(pilot, app)

    asyncio.run(run())


async def until(pilot: Pilot[None], holds: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        await pilot.pause(0.02)


def text(app: Browser, name: str) -> str:
    return str(app.query_one(f"#{name}", Static).render())


def lines(app: Browser) -> list[str]:
    """What is drawn of the list."""
    listing = app.query_one(Listing)
    return [listing.render_line(y).text.rstrip() for y in range(listing.size.height)]


def test_it_says_what_the_checkpoint_is_and_lists_its_tensors(tiny: Path) -> None:
    async def steps(pilot: Pilot[None], app: Browser) -> None:
        assert text(app, "heading").startswith("GPT-2 with 4 layers of 64, complete")
        assert text(app, "status") == "60 tensors · in the order of: file"
        assert text(app, "details").startswith(
            "transformer.wte.weight\nF32 257×64, 65,792 bytes, row by row, storage 0"
        )
        assert lines(app)[0].split()[-2:] == ["65.8", "kB"]
        tree: Tree[Any] = app.query_one("#modules", Tree)
        assert [str(node.label) for node in tree.root.children] == ["transformer  898.8 kB"]

    browse(tiny, steps)


def test_a_tensor_is_read_when_it_is_chosen(tiny: Path) -> None:
    async def steps(pilot: Pilot[None], app: Browser) -> None:
        await pilot.press("down", "enter")
        await until(pilot, lambda: "min " in text(app, "details"))

        assert text(app, "details").startswith("transformer.wpe.weight")
        assert "50.0% " in text(app, "details")
        assert app.query_one(Sparkline).display
        await pilot.press("up")
        assert not app.query_one(Sparkline).display

    browse(tiny, steps)


def drawn(app: Browser) -> list[str]:
    """The lines of the screen."""
    strips = app.screen._compositor.render_strips()
    return ["".join(segment.text for segment in strip).rstrip() for strip in strips]


@pytest.mark.parametrize("size", [(60, 20), (80, 24), (120, 40)])
def test_the_histogram_and_what_is_said_are_not_cut(tiny: Path, size: tuple[int, int]) -> None:
    async def steps(pilot: Pilot[None], app: Browser) -> None:
        await pilot.press("down", "enter")
        await until(pilot, lambda: "norm " in text(app, "details"))
        await pilot.pause()

        line, details = app.query(Sparkline).first(), app.query_one("#details", Static)
        assert (line.region.height, line.region.bottom <= size[1] - 1) == (3, True)
        assert details.region.bottom <= line.region.y
        said = [one.strip() for one in drawn(app)]
        assert " ".join(text(app, "details").split()) in " ".join(" ".join(said).split())
        assert app.query_one(Listing).size.height >= 4

    browse(tiny, steps, size)


def test_blocks_have_the_size_that_they_have_in_the_file(tiny: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(tiny), tmp_path / "x.gguf", dtype="q8_0")

    (row,) = (row for row in rows(open_checkpoint(tmp_path / "x.gguf")) if row.name == "token_embd.weight")

    assert (row.dtype, row.nbytes) == ("Q8_0", 257 * 64 // 32 * 34)


@pytest.mark.parametrize("elements", [4, 2], ids=["the whole storage", "a part of it"])
def test_damage_is_said_where_statistics_would_be(tmp_path: Path, elements: int) -> None:
    path = write_checkpoint(tmp_path / "x.bin", {"a": view("0", (elements,))}, {"0": floats(1, 2, 3, 4)})
    data = path.read_bytes()
    path.write_bytes(data.replace(floats(1, 2, 3, 4), floats(1, 2, 3, 5)))

    async def steps(pilot: Pilot[None], app: Browser) -> None:
        await pilot.press("enter")
        await until(pilot, lambda: "CRC" in text(app, "details"))

    browse(path, steps)


def test_it_filters_as_one_types_and_sorts(tiny: Path) -> None:
    async def steps(pilot: Pilot[None], app: Browser) -> None:
        await pilot.press("slash", *"MLP.c_fc")
        await until(pilot, lambda: text(app, "status").startswith("8 of 60 tensors"))
        await pilot.press("enter", "s", "s")
        await until(pilot, lambda: text(app, "status").endswith("in the order of: size"))
        await until(pilot, lambda: "weight" in text(app, "details"))
        await pilot.press("escape")
        await until(pilot, lambda: text(app, "status").startswith("60 tensors"))
        assert app.query_one(Input).value == ""
        await until(pilot, lambda: text(app, "details").startswith("transformer.wte.weight"))

    browse(tiny, steps)


def test_a_module_is_listed_alone(tiny: Path) -> None:
    async def steps(pilot: Pilot[None], app: Browser) -> None:
        tree: Tree[Any] = app.query_one("#modules", Tree)
        node = tree.root.children[0]
        node.expand()
        await until(pilot, lambda: node.children)
        layers = next(one for one in node.children if str(one.label).startswith("h "))
        layers.expand()
        await until(pilot, lambda: layers.children)
        tree.select_node(layers.children[2])
        tree.action_select_cursor()
        await until(pilot, lambda: text(app, "status").startswith("14 of 60 tensors"))
        await until(pilot, lambda: text(app, "details").startswith("transformer.h.2."))

    browse(tiny, steps)


def test_the_name_is_copied_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors_file({"[red]a\u202eb": ("F32", (), bytes(4))}))

    async def steps(pilot: Pilot[None], app: Browser) -> None:
        await pilot.press("c")
        assert app.clipboard == "[red]a\u202eb"
        assert lines(app)[0].startswith(r"[red]a\u{202e}b")

    browse(path, steps)


def test_the_mouse_moves_and_chooses(tiny: Path) -> None:
    async def steps(pilot: Pilot[None], app: Browser) -> None:
        await pilot.click(Listing, offset=(3, 2))
        assert app.query_one(Listing).cursor == 2
        await pilot.click(Listing, offset=(3, 2))
        await until(pilot, lambda: "min " in text(app, "details"))

    browse(tiny, steps, (120, 40))


@pytest.mark.parametrize("size", share([(40, 12), (80, 24), (200, 60)], 0, 3))
def test_names_can_not_move_what_is_drawn(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors_file({name: ("F32", (2,), bytes(8)) for name in NAMES}))

    async def steps(pilot: Pilot[None], app: Browser) -> None:
        listing = app.query_one(Listing)
        width = listing.scrollable_content_region.width
        drawn = [listing.render_line(y) for y in range(listing.size.height)]
        assert {line.cell_length for line in drawn} <= {width, listing.size.width}
        assert not {"\x1b", "\u202e", "\n", "\x00"} & set("".join(line.text for line in drawn))
        for _ in NAMES:
            await pilot.press("down")
        assert listing.cursor == len(NAMES) - 1

    browse(path, steps, size)


def test_a_hundred_thousand_tensors_are_sorted_and_grouped() -> None:
    one = Tensor(F32, (2,), (1,), 0, Storage(Memory(bytes(8)), 0, 8, "0"))
    found = [Row(f"layers.{i // 1000}.experts.{i % 1000}.w", one) for i in range(100_000)]

    with ends():
        root = modules(found)
        kept = chosen(found, "layers.7.", ".W", "name")

    assert (root.tensors, root.nbytes, len(root.inner["layers"].inner)) == (100_000, 800_000, 100)
    assert [row.name for row in kept] == [f"layers.7.experts.{i}.w" for i in range(1000)]
    assert chosen(found, "", "", "file") == chosen(found[::-1], "", "", "name")


def test_rows_say_what_a_tensor_is(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "x.bin", {"a.b": view("0", (2, 1))}, {"0": floats(1, 2)})

    (row,) = rows(open_checkpoint(path))

    assert (row.name, row.dtype, row.shape, row.size) == ("a.b", "F32", "2×1", "8 B")


# ---- the command -----------------------------------------------------------------------------------------------------


def command(*words: str, before: str = "") -> subprocess.CompletedProcess[str]:
    code = f"import sys; {before}\nfrom converter.cli.app import app; app(sys.argv[1:])"
    return subprocess.run(
        [sys.executable, "-c", code, "browse", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_without_a_terminal_a_sentence_says_so(tiny: Path) -> None:
    done = command(str(tiny))

    assert (done.returncode, done.stdout) == (2, "")
    assert "browse needs a terminal: use inspect for a report" in done.stderr


def test_without_textual_a_sentence_says_what_to_install(tiny: Path) -> None:
    hide = "import importlib.util as u; find = u.find_spec; u.find_spec = lambda n, *a: None if n == 'textual' else find(n, *a)"

    done = command(str(tiny), before=hide)

    assert done.returncode == 2
    assert done.stderr == (
        "error: the browser needs the package `textual`: install it with `pip install 'cerebras-tool[browse]'`; `inspect` "
        "works without it\n"
    )


def test_what_takes_time_for_many_tensors_is_done_in_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(
        safetensors_file({f"layers.{i // 1000}.experts.{i % 1000}.w": ("U8", (0,), b"") for i in range(20_000)})
    )
    asked: list[tuple[str, threading.Thread]] = []

    def recorded(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*words: Any) -> Any:
            asked.append((function.__name__, threading.current_thread()))
            return function(*words)

        return called

    monkeypatch.setattr(browsing, "chosen", recorded(chosen))
    monkeypatch.setattr(browsing, "modules", recorded(modules))

    async def run() -> None:
        with open_checkpoint(path) as catalogue:
            app = Browser(catalogue)
            async with app.run_test(size=(80, 24)) as pilot:
                assert lines(app)[0].startswith("layers.0.experts.0.w")
                await pilot.press("slash", *"experts.77", "enter", "s", "s")
                await until(pilot, lambda: text(app, "status").startswith("220 of 20,000 tensors"))
                await until(pilot, lambda: "Unknown architecture" in text(app, "heading"))

    asyncio.run(run())
    assert {name for name, _ in asked} == {"chosen", "modules"}
    assert threading.main_thread() not in {thread for _, thread in asked}
