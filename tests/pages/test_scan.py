"""The page of `scan`, without a browser."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from converter.cli.app import app
from tests.build.checkpoints import Call, Global, floats, view, write_checkpoint
from tests.pages.reading import check

RUN = CliRunner()
EVIL = "</details><script>x</script>"


def folder(path: Path) -> Path:
    """A plain file, an unknown global and a dangerous one, with names and arguments that would be markup."""
    path.mkdir()
    tensor = {"a": view("0", (2,))}
    for name, more in {
        "plain.bin": {},
        "unknown<b>.bin": {"x": Call(Global("trainers", EVIL), ())},
        "danger&amp;.bin": {"x": Call(Global("os", "system"), (EVIL,))},
    }.items():
        write_checkpoint(path / name, {**tensor, **more}, {"0": floats(1, 2)})
    (path / "readme.txt").write_text("no pickle")
    return path


def test_a_page_has_every_file_and_its_reasons(tmp_path: Path) -> None:
    path = tmp_path / "page.html"

    done = RUN.invoke(app, ["scan", str(folder(tmp_path / "in")), "--no-fickling", "--explain", "--html", str(path)])

    page = check(path.read_bytes())
    verdicts = {Path(name).name: verdict for name, _, _, _, verdict, _ in page.data["files"]}
    assert done.exit_code == 1
    assert verdicts == {"plain.bin": "plain", "unknown<b>.bin": "unknown-globals", "danger&amp;.bin": "dangerous"}
    assert "1 dangerous, 1 unknown-globals" in page.text
    assert f"Loading it would run os.system('{EVIL}')" in page.text
    assert f"trainers.{EVIL} outside the closed table" in page.text
    assert "os.system runs programs" in page.text
    assert len([1 for tag, _ in page.tags if tag == "script"]) == 4
    assert len([1 for tag, attributes in page.tags if tag == "b"]) == len(
        [1 for _, one in page.tags if one.get("class") == "card"]
    )


def test_one_plain_file_makes_a_page(tmp_path: Path) -> None:
    path = tmp_path / "page.html"

    done = RUN.invoke(app, ["scan", str(folder(tmp_path / "in") / "plain.bin"), "--html", str(path), "--no-fickling"])

    assert done.exit_code == 0
    assert "Verdict: plain" in check(path.read_bytes()).text


def test_the_heading_names_harmful_files_before_malformed_ones(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    made = folder(tmp_path / "in")
    (made / "cut.safetensors").write_bytes(bytes(range(8)))

    RUN.invoke(app, ["scan", str(made), "--no-fickling", "--html", str(path)])

    assert "1 dangerous, 1 malformed, 1 unknown-globals" in check(path.read_bytes()).text


def test_the_heading_of_harmless_files(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    made = folder(tmp_path / "in")
    for other in ("unknown<b>.bin", "danger&amp;.bin"):
        (made / other).write_bytes((made / "plain.bin").read_bytes())

    RUN.invoke(app, ["scan", str(made), "--no-fickling", "--html", str(path)])

    assert "All 3 files plain" in check(path.read_bytes()).text
