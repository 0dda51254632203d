"""Makes the pictures of docs/gallery/ with Chromium, playwright and textual: `python -m tests.gallery [NAME …]`."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import sync_playwright

import converter as ct
from converter.browsing.app import Browser
from converter.browsing.beside import SideBySide
from converter.browsing.listing import Listing
from converter.difference.diff import diff
from converter.difference.three_way import three_way
from converter.inspection.report import inspect
from converter.opening import open_checkpoint
from converter.pages.difference import difference
from converter.pages.inspection import inspection
from converter.pages.scan import scan as scan_page
from converter.pages.three_way import three_way as three_way_page
from converter.pages.verification import verification
from converter.sample import write_sample

PICTURES: Final = Path(__file__).parent.parent / "docs" / "gallery"
WIDTH: Final = 1000
THEMES: Final = ("light", "dark")
MOST: Final = 150_000  # bytes of a picture

Page = tuple[bytes, Callable[[Any], None], int]  # what is shown, what is done with it, and how high the picture is


def nothing(page: Any) -> None:
    """Leave a page as it opens."""


def opened(name: str) -> Callable[[Any], None]:
    """Scroll to the table and open a row."""

    def steps(page: Any) -> None:
        page.get_by_role("button", name=name, exact=True).first.click()
        page.locator("#table").scroll_into_view_if_needed()
        page.evaluate("document.getElementById('table').scrollIntoView()")

    return steps


def at(name: str) -> Callable[[Any], None]:
    """Scroll to an element."""
    return lambda page: page.evaluate("name => document.getElementById(name).scrollIntoView()", name)


def checkpoints() -> dict[str, str]:
    """Small checkpoints in the working folder, by what they are."""
    write_sample(Path("checkpoint"), "tiny")
    ct.convert("checkpoint", "model-q4_0.gguf", dtype="q4_0")
    ct.convert("checkpoint", "model-q8_0.gguf", dtype="q8_0")
    Path("downloads").mkdir()
    shutil.copy("checkpoint/pytorch_model.bin", "downloads/model.bin")
    Path("downloads/surprise.pkl").write_bytes(b"cos\nsystem\n(S'echo hello'\ntR.")
    Path("downloads/trainer.pkl").write_bytes(b"ctrainer.state\nState\n)R.")
    return {"checkpoint": "checkpoint", "small": "model-q4_0.gguf", "large": "model-q8_0.gguf", "folder": "downloads"}


def pages(places: dict[str, str]) -> dict[str, Page]:
    """Each page, by the name of its picture."""
    source, small, large = (open_checkpoint(places[name]) for name in ("checkpoint", "small", "large"))
    inspected = inspection(inspect(source, stats=True, heat=True))
    return {
        "inspect": (inspected, nothing, 1000),
        "inspect-depth": (inspected, at("depth"), 560),
        "inspect-tensor": (inspected, opened("transformer.wte.weight"), 640),
        "diff": (difference(diff(source, small, rank=True)), nothing, 900),
        "diff-three": (three_way_page(three_way(source, small, large)), at("changes"), 560),
        "verify": (verification(ct.verify(source, small, level="inference")), nothing, 1000),
        "scan": (scan_page(ct.scan(places["folder"], fickling=False)), nothing, 900),
        "notebook": (cell(places["checkpoint"]), nothing, 760),
    }


def cell(place: str) -> bytes:
    """What a notebook shows of a checkpoint and of a tensor, on a page of its own."""
    catalogue = ct.open(place)
    shown = (catalogue._repr_html_(), catalogue["transformer.wte.weight"]._repr_html_())
    style = (
        "body{font:14px system-ui;color-scheme:light dark;background:light-dark(#fff,#111);color:light-dark(#000,#eee)}"
    )
    return f"<!doctype html><meta charset=utf-8><style>{style}</style>{''.join(map(str, shown))}".encode()


def take(pictures: dict[str, Page]) -> None:
    """Take each page's picture in both themes."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, (document, steps, height) in pictures.items():
            path = Path("page.html").absolute()
            path.write_bytes(document)
            for theme in THEMES:
                page = browser.new_page(viewport={"width": WIDTH, "height": height}, color_scheme=theme)
                page.goto(path.as_uri())
                steps(page)
                page.screenshot(path=PICTURES / f"{name}-{theme}.png")
                page.close()
        browser.close()


async def draw(app: Browser, name: str, keys: tuple[str, ...]) -> None:
    """Draw the terminal after some keys."""
    async with app.run_test(size=(100, 30)) as pilot:
        await app.workers.wait_for_complete()
        await pilot.pause()
        app.query_one(Listing).focus()
        for key in keys:
            await pilot.press(key)
        await app.workers.wait_for_complete()
        await pilot.pause(0.3)
        (PICTURES / f"{name}.svg").write_text(app.export_screenshot(title=f"cerebras-tool {name.replace('-', ' ')}"))


@contextmanager
def working_in(folder: str) -> Iterator[None]:
    """Work in a folder, so that pictures show short names."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def main(names: list[str]) -> None:
    """Make the pictures with these names, or all of them. Raises ValueError for one that is too large."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, working_in(folder):
        places = checkpoints()
        take({name: page for name, page in pages(places).items() if not names or name in names})
        one, other = (open_checkpoint(places[name]) for name in ("checkpoint", "small"))
        if not names or "browse" in names:
            asyncio.run(draw(Browser(one), "browse", ("enter",)))
            asyncio.run(draw(SideBySide(one, other), "browse-two", ("enter",)))
    for path in sorted(PICTURES.iterdir()):
        print(f"{path.name}: {path.stat().st_size:,} bytes")
        if path.stat().st_size > MOST:
            raise ValueError(f"{path.name} has more than {MOST:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
