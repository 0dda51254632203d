from pathlib import Path

import pytest

from converter import resources
from converter.errors import SourceError


def test_the_schemas_of_this_checkout_are_found() -> None:
    assert (resources.schemas() / "architectures" / "gpt2.json").is_file()


def test_a_document_is_read_once() -> None:
    first = resources.load_json("models", "Cerebras-GPT-111M.json")

    assert first["name"] == "Cerebras-GPT-111M"
    assert resources.load_json("models", "Cerebras-GPT-111M.json") is first


def test_an_installed_package_has_the_schemas_inside(tmp_path: Path) -> None:
    (tmp_path / "converter" / "schemas").mkdir(parents=True)
    (tmp_path / "schemas").mkdir()
    (tmp_path / "pyproject.toml").touch()

    assert resources.find_schemas(tmp_path / "converter") == tmp_path / "converter" / "schemas"


def test_a_checkout_has_them_beside_the_package(tmp_path: Path) -> None:
    (tmp_path / "schemas").mkdir()
    (tmp_path / "pyproject.toml").touch()

    assert resources.find_schemas(tmp_path / "converter") == tmp_path / "schemas"


def test_a_folder_called_schemas_in_site_packages_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "schemas").mkdir()

    with pytest.raises(SourceError, match="install cerebras-tool again"):
        resources.find_schemas(tmp_path / "converter")


def test_schemas_hold_json_and_markdown_only() -> None:
    assert {path.suffix for path in resources.schemas().rglob("*") if path.is_file()} <= {".json", ".md"}
