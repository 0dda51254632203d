"""The wheel holds the package and its schemas, and nothing else; the package runs from any folder."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_the_package_and_its_schemas_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        large = [entry.filename for entry in archive.infolist() if entry.file_size > 1_000_000]

    tops = {name.split("/")[0] for name in names}
    assert tops == {"converter", "cerebras_tool-0.1.0.dist-info"}
    kinds = {Path(name).suffix for name in names if name.startswith("converter/")}
    assert kinds == {".py", ".json", ".typed", ".html", ".css", ".js", ".LICENSE"}
    assert "converter/pages/templates/inspection.html" in names
    assert "converter/schemas/architectures/gpt2.json" in names
    assert len([name for name in names if name.startswith("converter/schemas/models/")]) == 7
    assert not [name for name in names if name.startswith("converter/schemas/") and name.endswith(".py")]
    assert not large


def test_the_installed_wheel_inspects_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    installed = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    script = f"import sys; sys.path.insert(0, {str(installed)!r}); import converter; assert converter.__file__.startswith({str(installed)!r}); from converter.cli.app import app; app(sys.argv[1:])"

    for arguments in (["sample", "made"], ["inspect", "made"]):
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        )

    assert done.stdout.startswith("GPT-2 with 4 layers of 64")


def test_the_wheel_has_the_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read("cerebras_tool-0.1.0.dist-info/entry_points.txt").decode()

    assert "cerebras-tool = converter.__main__:main" in text
