"""Pages of HTML in Chromium: nothing is requested, nothing runs but the page's own script, and what people use works."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter import scan, verify
from converter.conversion.convert import convert
from converter.difference.diff import diff
from converter.difference.three_way import three_way
from converter.inspection.report import inspect
from converter.opening import open_checkpoint
from converter.pages.batch import batch
from converter.pages.difference import difference
from converter.pages.inspection import inspection
from converter.pages.scan import scan as as_page
from converter.pages.three_way import three_way as as_page_of_three
from converter.pages.verification import verification
from converter.reports.batch import BatchReport, TaskReport
from converter.sample import write_sample
from tests.build.seeds import safetensors_file
from tests.pages.hostile import NAMES

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

Show = Callable[[bytes], Any]
AXE = os.environ.get("CEREBRAS_TOOL_AXE")  # the file axe.min.js of the npm package axe-core
LATEST = 10_000  # milliseconds: the machine of a test can be busy with others
SORTED = 2_000  # 30 ms where nothing else runs; a comparison that looks for numbers in names took 6,000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Show]:
    """Opens a page from a file. In the end nothing may have been requested but it, or been said on the console."""
    said: list[str] = []
    asked: list[str] = []
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    path = tmp_path / "page.html"

    def opened(document: bytes) -> Any:
        path.write_bytes(document)
        page.goto(path.as_uri())
        return page

    yield opened
    page.close()
    assert said == []
    assert set(asked) == {path.as_uri()}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_sample(folder, "tiny")
    return folder


@pytest.fixture(scope="module")
def document(tiny: Path) -> bytes:
    return inspection(inspect(open_checkpoint(tiny), stats=True, heat=True))


def rows(page: Any) -> list[str]:
    """The names in the table of tensors, as they are shown."""
    return page.locator("#table tbody th bdi").all_inner_texts()


def test_search_order_and_folding(show: Show, document: bytes) -> None:
    page = show(document)
    status = page.locator("#table [role=status]")
    assert (status.inner_text(), len(rows(page))) == ("60 tensors", 18)

    page.fill("#table-search", "MLP.C_FC")
    assert status.inner_text() == "8 of 60 tensors"
    assert rows(page) == ["transformer.h.{0..3}.mlp.c_fc.weight", "transformer.h.{0..3}.mlp.c_fc.bias"]
    page.fill("#table-search", "*.h.2.*weight")
    assert rows(page) == [
        f"transformer.h.2.{part}.weight"
        for part in ("attn.c_attn", "attn.c_proj", "ln_1", "ln_2", "mlp.c_fc", "mlp.c_proj")
    ]
    page.fill("#table-search", "")
    page.get_by_label("a row for each tensor").check()
    page.get_by_role("button", name="size", exact=True).click()
    assert len(rows(page)) == 60
    assert rows(page)[:2] == ["transformer.wte.weight", "transformer.h.0.mlp.c_fc.weight"]
    assert page.locator("#table th[aria-sort=descending]").inner_text() == "size"
    page.get_by_role("button", name="size", exact=True).click()
    assert rows(page)[0].endswith("masked_bias")


def test_a_row_opens_with_its_histogram_and_picture(show: Show, document: bytes) -> None:
    page = show(document)

    page.get_by_role("button", name="transformer.wte.weight", exact=True).click()

    detail = page.locator("tr.detail")
    assert "0.1 % below" in detail.inner_text()
    assert detail.locator(".uplot canvas").count() == 1
    picture = detail.locator("canvas.heat")
    assert picture.get_attribute("aria-label").startswith("A picture of the matrix: 24 by 24 cells")
    colours = picture.evaluate("one => new Set(one.getContext('2d').getImageData(0, 0, 24, 24).data).size")
    assert colours > 3
    page.get_by_role("button", name="transformer.wte.weight", exact=True).click()
    assert detail.count() == 0


def test_the_map_is_entered_and_left(show: Show, document: bytes) -> None:
    page = show(document)
    crumbs = page.locator(".crumbs button")
    assert crumbs.all_inner_texts() == ["all 898.8 kB", "transformer 898.8 kB"]

    page.locator(".tile.group").first.click(position={"x": 4, "y": 4})
    assert crumbs.all_inner_texts()[-1] == "h 816.1 kB"
    assert page.locator(".tile.group").all_inner_texts() == [f"{layer}\n204.0 kB" for layer in range(4)]
    crumbs.first.click()
    assert crumbs.count() == 1


def test_plots_along_the_depth_follow_the_choice(show: Show, document: bytes) -> None:
    page = show(document)
    plots = page.locator("#depth-plots figure")
    assert plots.count() == 3

    page.select_option("#group", label="transformer.h.{0..3}.ln_1.weight")
    plots.nth(2).locator("summary").click()

    norms = plots.nth(2).locator("details tbody td").all_inner_texts()
    assert len(norms) == 4
    assert all(7 < float(norm) < 9 for norm in norms)


def test_the_theme_changes(show: Show, document: bytes) -> None:
    page = show(document)
    colours = []
    for _ in range(3):
        page.click("#theme")
        colours.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    assert colours[0] == "rgb(255, 255, 255)"
    assert colours[1] == "rgb(20, 23, 26)"
    assert page.locator("#theme").inner_text() == "Theme: automatic"


def test_it_prints(show: Show, document: bytes) -> None:
    assert show(document).pdf().startswith(b"%PDF-")


def test_the_keyboard_reaches_everything(show: Show, document: bytes) -> None:
    page = show(document)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"

    page.focus("#table tbody .open")
    page.keyboard.press("Enter")

    assert page.locator("tr.detail").count() == 1


@pytest.mark.parametrize("width", [400, 1280, 1920])
def test_no_width_needs_to_be_scrolled_sideways(show: Show, document: bytes, width: int) -> None:
    page = show(document)

    page.set_viewport_size({"width": width, "height": 900})

    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if width >= 1280:  # nor does the table
        assert (
            page.evaluate("(one => one.scrollWidth - one.clientWidth)(document.querySelector('#table .scroll'))") == 0
        )


def test_hostile_names_are_text(show: Show, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    values = np.arange(6, dtype="<f4").tobytes()
    path.write_bytes(safetensors_file(dict.fromkeys(NAMES, ("F32", (2, 3), values)), {"<script>x": "</script>"}))

    page = show(inspection(inspect(open_checkpoint(path), stats=True)))

    shown = rows(page)
    assert len(shown) == len(NAMES)
    assert '""' in shown  # the one that is empty
    assert "</script><script>document.title='run'</script>" in shown
    assert r"\u{202e}gpj.exe" in shown
    assert page.title() == "Unknown architecture"
    assert page.locator("img").count() == 0
    page.fill("#table-search", "<img")
    assert len(rows(page)) == 1


def test_names_break_between_words(show: Show, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    names = ["transformer.layers.13.cross_attention.c_proj.weight", "y" * 90]
    path.write_bytes(safetensors_file(dict.fromkeys(names, ("U8", (1,), b"x"))))
    page = show(inspection(inspect(open_checkpoint(path))))
    page.set_viewport_size({"width": 400, "height": 900})

    assert rows(page) == names
    boxes = page.locator("#table tbody th bdi").first.evaluate(
        """one => [...one.childNodes].filter(part => part.data).map(part => {
            const range = document.createRange();
            range.selectNodeContents(part);
            return [part.data, [...range.getClientRects()].map(box => box.top)];
        })"""
    )
    assert [part for part, _ in boxes] == ["transformer.", "layers.", "13.", "cross_attention.", "c_proj.", "weight"]
    assert all(len(tops) == 1 for _, tops in boxes)
    assert len({top for _, (top,) in boxes}) > 1


def test_ten_thousand_tensors(show: Show, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    names = [f"layers.{i}.experts.{j}.w{k}" for i in range(25) for j in range(100) for k in range(4)]
    path.write_bytes(safetensors_file(dict.fromkeys(names, ("U8", (1,), b"x"))))
    page = show(inspection(inspect(open_checkpoint(path))))

    taken = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    search = "q => { const at = performance.now(); const box = document.getElementById('table-search'); box.value = q; box.dispatchEvent(new Event('input')); document.body.offsetHeight; return performance.now() - at; }"
    times = [page.evaluate(search, query) for query in ("w", "w3", "layers.7.", "nothing", "")]

    assert page.locator("#table [role=status]").inner_text() == "10,000 tensors"
    assert taken < LATEST
    assert max(times) < LATEST

    page.get_by_label("a row for each tensor").check()
    page.locator("#table > p button").click()
    assert len(rows(page)) == 560
    assert page.evaluate("document.activeElement.querySelector('bdi').textContent") == "layers.10.experts.2.w0"
    sort = "() => { const at = performance.now(); document.querySelector('#table thead button').click(); document.body.offsetHeight; return performance.now() - at; }"
    times = [page.evaluate(sort) for _ in range(2)]
    assert rows(page)[:5] == [f"layers.24.experts.{name}" for name in ("99.w3", "99.w2", "99.w1", "99.w0", "98.w3")]
    assert len(rows(page)) == 60
    assert max(times) < SORTED


def test_a_row_that_folds_many_tensors_opens_a_part_at_a_time(show: Show, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors_file({f"layers.{i}.w": ("U8", (1,), b"x") for i in range(700)}))
    page = show(inspection(inspect(open_checkpoint(path))))
    row = page.get_by_role("button", name="layers.{0..699}.w", exact=True)

    row.click()
    assert rows(page)[1:] == [f"layers.{i}.w" for i in range(60)]
    page.get_by_role("button", name="640 more rows: show 500 of them").click()
    assert page.evaluate("document.activeElement.querySelector('bdi').textContent") == "layers.60.w"
    page.get_by_role("button", name="140 more rows: show 140 of them").click()
    assert rows(page)[1:] == [f"layers.{i}.w" for i in range(700)]
    page.locator("#table tbody .open").last.click()
    assert page.locator("tr.detail").count() == 1
    row.click()
    assert page.locator("#table tbody tr").count() == 1


def test_numbers_in_names_order_as_numbers(show: Show, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    names = ["b.10", "B.9", "b.1000000000", "a_2.w", "a.11.w", "a.2.w"]
    path.write_bytes(safetensors_file(dict.fromkeys(names, ("U8", (1,), b"x"))))
    page = show(inspection(inspect(open_checkpoint(path))))

    if page.get_by_label("a row for each tensor").count():
        page.get_by_label("a row for each tensor").check()
    page.get_by_role("button", name="name", exact=True).click()

    assert rows(page) == ["a_2.w", "a.2.w", "a.11.w", "B.9", "b.10", "b.1000000000"]


@pytest.mark.skipif(
    AXE is None,
    reason="axe-core is not here, which looks for faults of accessibility: CEREBRAS_TOOL_AXE names its axe.min.js",
)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_serious_violation(browser: Any, tiny: Path, document: bytes, tmp_path: Path, theme: str) -> None:
    convert(open_checkpoint(tiny), tmp_path / "x.gguf", dtype="q4_0")
    source, copy = open_checkpoint(tiny), open_checkpoint(tmp_path / "x.gguf")
    documents = (
        document,
        difference(diff(source, copy, rank=True)),
        as_page_of_three(three_way(source, copy, source)),
        verification(verify(tiny, tmp_path / "x.gguf", level="inference")),
        as_page(scan(tiny, fickling=False)),
    )
    for at, one in enumerate(documents):
        path = tmp_path / f"{at}.html"
        path.write_bytes(one)
        context = browser.new_context(
            color_scheme=theme, bypass_csp=True
        )  # axe runs in the page, which its policy forbids
        page = context.new_page()
        page.goto(path.as_uri())
        if (rows := page.locator("#table tbody .open")).count():
            rows.first.click()
        page.evaluate(Path(str(AXE)).read_text())
        found = page.evaluate("async () => (await axe.run()).violations.map((one) => [one.impact, one.id])")
        context.close()
        assert [violation for violation in found if violation[0] in ("serious", "critical")] == [], at


# ---- the other pages -------------------------------------------------------------------------------------------------


def test_the_page_of_diff(show: Show, tiny: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(tiny), tmp_path / "x.gguf", dtype="q4_0")
    page = show(difference(diff(open_checkpoint(tiny), open_checkpoint(tmp_path / "x.gguf"), rank=True)))

    assert page.locator("#table [role=status]").inner_text() == "17 changes"
    assert page.locator("#depth-plots canvas").count() == 1
    page.locator("#table tbody .open").first.click()
    assert "16,384 of 16,384 elements" in page.locator("tr.detail").inner_text()
    assert page.locator("tr.detail canvas").count() == 1


def test_the_page_of_diff_of_three(show: Show, tiny: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(tiny), tmp_path / "x.gguf", dtype="q4_0")
    convert(open_checkpoint(tiny), tmp_path / "y.gguf", dtype="q8_0")
    page = show(as_page_of_three(three_way(*map(open_checkpoint, (tiny, tmp_path / "x.gguf", tmp_path / "y.gguf")))))

    assert page.locator("#table [role=status]").inner_text() == "17 changes"
    assert page.locator("#depth-plots canvas").count() == 2
    page.locator("#table tbody .open").first.click()
    assert page.locator("tr.detail h3").all_inner_texts() == [
        "AFTER: retyped. F32 to Q4_0, rounded", "OTHER: retyped. F32 to Q8_0, rounded",
    ]  # fmt: skip
    for column in (3, 4):  # the heads stand above the first letters of the words below them
        edges = [
            page.locator(f"#table {part} tr:first-child > :nth-child({column})").evaluate(
                "one => { const range = document.createRange(); range.selectNodeContents(one); return range.getBoundingClientRect().left; }"
            )
            for part in ("thead", "tbody")
        ]
        assert edges[0] == pytest.approx(edges[1], abs=1)
    page.get_by_role("button", name="OTHER", exact=True).click()
    assert page.locator("#table th[aria-sort=descending]").inner_text() == "OTHER"


def test_the_page_of_verify(show: Show, tiny: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(tiny), tmp_path / "x.gguf", dtype="q8_0")
    page = show(verification(verify(tiny, tmp_path / "x.gguf", tiny, level="inference")))

    assert page.locator("h1").inner_text() == "Equivalent"
    assert page.locator("h2").all_inner_texts()[0].startswith("equivalent: ")
    tops = page.locator("#plots-1 figure").evaluate_all("all => all.map(one => one.getBoundingClientRect().top)")
    assert (tops[0], tops[2]) == (tops[1], tops[3])  # two stand side by side
    legend = page.locator("#plots-1 .u-legend th").first
    colon = "one => getComputedStyle(one, '::after').content"
    assert legend.evaluate(colon) == "none"  # until there is a value
    legend.hover()
    assert legend.evaluate(colon) == '":"'
    assert page.locator("#plots-1 canvas").count() == 4
    assert page.locator("#plots-2 canvas").count() == 1
    assert page.locator("#costs-1 tbody tr").count() == 17


def test_the_page_of_scan(show: Show, tmp_path: Path) -> None:
    for name in ("</script><b>x", "fine"):
        (tmp_path / name.replace("/", "&")).write_bytes(b"cos\nsystem\n(S'echo'\ntR." if "x" in name else b"N.")
    page = show(as_page(scan(tmp_path, fickling=False)))

    assert page.locator("#table tbody tr").count() == 2
    page.fill("#table-search", "fine")
    assert page.locator("#table tbody tr").count() == 1
    assert page.locator("details strong").first.inner_text() == "dangerous"
    page.fill("#table-search", "")
    page.set_viewport_size({"width": 400, "height": 900})
    heights = page.locator("#table td.name bdi").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect().height)"
    )
    assert max(heights) < 66  # three lines: in a column as narrow as that of names it took five


def test_the_page_of_batch(show: Show) -> None:
    why = "malformed: `x.safetensors` has 2,031,928 bytes of data; its tensors take 4,069,888"
    task = TaskReport("checkpoints/" + "x" * 50, "converted/x", "failed", "scan", why, 1, 4_100_000, 4_100_000, 0.2)
    scroll = "(one => one.scrollWidth - one.clientWidth)(document.querySelector('#table .scroll'))"
    counts = {"done": 0, "failed": 1}

    for left, columns in (("", 8), ("special_tokens_map.json, merges.txt: the GGUF holds what they say", 9)):
        report = BatchReport("job.toml", counts, 4_100_000, 0, 1.0, None, (replace(task, left=left),))
        page = show(batch(report))
        assert page.locator("#table thead th").count() == columns  # one that is empty is left out
        assert page.evaluate(scroll) == 0


@pytest.mark.parametrize("width", [400, 1280])
def test_what_opens_below_a_row_is_in_sight(show: Show, document: bytes, width: int) -> None:
    page = show(document)
    page.set_viewport_size({"width": width, "height": 900})
    page.locator("#table tbody .open").first.click()

    for scrolled in (0, 300):  # also where the table was scrolled sideways
        page.locator("#table .scroll").first.evaluate("(one, by) => { one.scrollLeft = by; }", scrolled)
        found = page.locator("tr.detail .parts").bounding_box()
        assert found["x"] >= 0
        assert found["x"] + found["width"] <= width
    heights = page.locator("tr.detail dt").evaluate_all("all => all.map(one => one.getBoundingClientRect().height)")
    assert max(heights) < 40  # they are not spread over the height of the picture beside them
