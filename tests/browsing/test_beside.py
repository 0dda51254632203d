"""The browser with two checkpoints side by side, driven by textual's own pilot."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
from textual.pilot import Pilot
from textual.widgets import Sparkline

from converter.browsing.app import Browser
from converter.browsing.beside import SideBySide
from converter.browsing.listing import Listing
from converter.conversion.convert import convert
from converter.opening import open_checkpoint
from converter.sample import write_sample
from tests.browsing.test_browser import command, drawn, lines, text, until
from tests.difference.arrays import base, write
from tests.pages.hostile import NAMES

Steps = Callable[[Pilot[None], Browser], Awaitable[None]]
BASE = base(5)
AFTER = {
    **{name: array for name, array in BASE.items() if name not in ("count", "embedding")},
    "layers.1.wide": BASE["layers.1.wide"] * np.float32(1.25),
    "new": np.ones((2, 2), "<f4"),
    "wte": BASE["embedding"],
}


def beside(before: Path, after: Path, steps: Steps, size: tuple[int, int] = (100, 30)) -> None:
    async def run() -> None:
        with open_checkpoint(before) as one, open_checkpoint(after) as two:
            app = SideBySide(one, two)
            async with app.run_test(size=size) as pilot:
                await until(pilot, lambda: "equal in every bit" in text(app, "heading"))
                await app.workers.wait_for_complete()
                await pilot.pause()
                await steps(pilot, app)

    asyncio.run(run())


def test_changes_come_first_in_the_order_of_diff(tmp_path: Path) -> None:
    async def steps(pilot: Pilot[None], app: Browser) -> None:
        assert text(app, "heading").splitlines()[2] == "4 changes, 5 equal in every bit"
        assert text(app, "status") == "9 tensors · in the order of: change"
        drawn = [" ".join(line.split()) for line in lines(app)]
        assert drawn[:5] == [
            "count removed 5", "new added 2×2", "layers.1.wide changed 25 % 48×64", "embedding renamed 40×8",
            "layers.0.wide equal 48×64",
        ]  # fmt: skip

    beside(write(tmp_path / "a.safetensors", BASE), write(tmp_path / "b.safetensors", AFTER), steps)


@pytest.mark.parametrize("size", [(60, 20), (80, 24), (120, 40)])
def test_both_histograms_and_what_is_said_are_not_cut(tiny: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    async def steps(pilot: Pilot[None], app: Browser) -> None:
        await pilot.press("down", "enter")
        await until(pilot, lambda: text(app, "details").count("mean ") == 2)
        await pilot.pause()

        lines = list(app.query(Sparkline))
        assert [(line.region.height, line.region.bottom <= size[1] - 1) for line in lines] == [(3, True)] * 2
        said = " ".join(" ".join(one.strip() for one in drawn(app)).split())
        assert " ".join(text(app, "details").split()) in said
        assert app.query_one(Listing).size.height >= 2

    convert(open_checkpoint(tiny), tmp_path / "x.gguf", dtype="q8_0")
    beside(tiny, tmp_path / "x.gguf", steps, size)


def test_both_sides_of_a_tensor_are_shown_and_read(tmp_path: Path) -> None:
    async def steps(pilot: Pilot[None], app: Browser) -> None:
        await pilot.press("down", "down")
        await until(pilot, lambda: "multiplied by 1.25" in text(app, "details"))
        assert text(app, "details").splitlines()[:4] == [
            "layers.1.wide",
            "before F32 48×64, 12,288 bytes, row by row, storage layers.1.wide",
            "after F32 48×64, 12,288 bytes, row by row, storage layers.1.wide",
            "changed: multiplied by 1.25",
        ]
        await pilot.press("enter")
        await until(pilot, lambda: "after min" in text(app, "details"))
        assert "before min" in text(app, "details")
        assert [line.display for line in app.query(Sparkline)] == [True, True]
        await pilot.press("up", "enter")
        await until(pilot, lambda: "min 1, max 1" in text(app, "details"))
        assert "before" not in text(app, "details")

    beside(write(tmp_path / "a.safetensors", BASE), write(tmp_path / "b.safetensors", AFTER), steps)


def test_other_orders_and_filters_work_as_with_one(tmp_path: Path) -> None:
    async def steps(pilot: Pilot[None], app: Browser) -> None:
        await pilot.press("s")
        await until(pilot, lambda: text(app, "status") == "9 tensors · in the order of: file")
        assert lines(app)[0].startswith("layers.0.wide")
        await pilot.press("slash", *"norm")
        await until(pilot, lambda: text(app, "status").startswith("3 of 9 tensors"))

    beside(write(tmp_path / "a.safetensors", BASE), write(tmp_path / "b.safetensors", AFTER), steps)


def test_forms_are_paired_by_the_names_of_the_family(tmp_path: Path) -> None:
    write_sample(tmp_path / "tiny", "tiny")
    convert(open_checkpoint(tmp_path / "tiny"), tmp_path / "x.gguf", dtype="q4_0")

    async def steps(pilot: Pilot[None], app: Browser) -> None:
        assert text(app, "heading").splitlines()[2] == "17 changes, 35 equal in every bit"
        assert "Q4_0" in text(app, "details")
        assert "retyped" in lines(app)[0]
        await pilot.press("end")
        await until(pilot, lambda: any("left out" in line for line in lines(app)))

    beside(tmp_path / "tiny", tmp_path / "x.gguf", steps)


def test_what_was_joined_stands_first_and_its_parts_say_where_they_are(tmp_path: Path) -> None:
    parts = {f"h.{name}": BASE["layers.0.wide"] * np.float32(at) for at, name in enumerate("qkv", 1)}
    one = write(tmp_path / "a.safetensors", dict(BASE) | parts)
    two = write(tmp_path / "b.safetensors", dict(BASE) | {"h.qkv": np.concatenate([*parts.values()])})

    async def steps(pilot: Pilot[None], app: Browser) -> None:
        found = {line.split()[0]: line.split()[1] for line in lines(app)[:4]}
        assert found == {"h.q": "removed", "h.k": "removed", "h.v": "removed", "h.qkv": "joined"}
        assert "it is now part of h.qkv" in " ".join(text(app, "details").split())

    beside(one, two, steps)


def test_damage_is_said(tmp_path: Path) -> None:
    write_sample(tmp_path / "tiny", "tiny")
    path = tmp_path / "tiny" / "pytorch_model.bin"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)

    async def run() -> None:
        with open_checkpoint(tmp_path / "tiny") as one, open_checkpoint(tmp_path / "tiny") as two:
            app = SideBySide(one, two)
            async with app.run_test(size=(100, 30)) as pilot:
                await until(pilot, lambda: "CRC" in text(app, "heading"))

    asyncio.run(run())


def test_names_can_not_move_what_is_drawn(tmp_path: Path) -> None:
    one = write(tmp_path / "a.safetensors", {name: np.zeros(2, "<f4") for name in NAMES})
    two = write(tmp_path / "b.safetensors", {name: np.ones(2, "<f4") for name in NAMES[::2]})

    async def steps(pilot: Pilot[None], app: Browser) -> None:
        for _ in NAMES:
            await pilot.press("down")
            assert not {"\x1b", "\u202e", "\x00"} & set("".join(lines(app)) + text(app, "details"))

    beside(one, two, steps, (60, 20))


def test_without_a_terminal_a_sentence_says_what_to_use(tmp_path: Path) -> None:
    path = str(write(tmp_path / "a.safetensors", BASE))

    done = command(path, path)

    assert (done.returncode, done.stdout) == (2, "")
    assert "browse needs a terminal: use diff for a report" in done.stderr
