"""The names that other programs import."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import converter

ROOT = Path(__file__).parent.parent


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


NAMES = [
    "AmbiguousError", "ArchiveError", "Catalogue", "ConverterError", "CutOffError", "EndOfDataError", "ForeignFileError",
    "FormatError", "FrameError", "JobError", "LayoutError", "LimitError", "Limits", "ManifestError", "MissingTensorError", "ModelError",
    "NamesError", "NoWeightsError", "OutputError", "PickleError", "PolicyError", "ProgramError", "ReadError", "RootError", "RuleError",
    "SourceError", "Tensor", "TruncatedPickleError", "UnsafeError", "UnsupportedError", "WordError", "__version__", "batch", "check",
    "convert", "declared_models", "diff", "diff_three_way", "download", "extract", "inspect", "open", "open_checkpoint", "scan",
    "verify",
]  # fmt: skip


def test_dir_shows_the_public_names_alone() -> None:
    assert python("import converter; print(dir(converter))") == f"{NAMES}\n"


def test_a_star_import_leaves_pythons_open() -> None:
    assert sorted(converter.__all__) == [name for name in NAMES if name != "open"]
    assert python("from converter import *; import builtins; print(open is builtins.open, scan.__module__)") == (
        "True converter.api\n"
    )


@pytest.mark.parametrize(
    "before",
    [
        "converter",
        "converter.conversion.convert, converter.verification.verify",
        "converter.conversion.extract, converter.scanning.scan, converter.hub.repository",
        "converter.inspection.report, converter.models.recognition, converter.opening, converter.errors, converter.cli.app",
    ],
)
def test_every_public_name_is_the_same_whatever_was_imported_before(before: str) -> None:
    code = (
        f"import {before}, converter\n"
        "found = {name: getattr(converter, name) for name in dir(converter)}\n"
        "print(all(found[name] == getattr(converter, name) for name in found))\n"
        "print(*(f'{thing.__module__}:{thing.__name__}' for name, thing in found.items() if name.islower() and callable(thing)))\n"
        "print(converter.__version__)"
    )

    functions = [
        "check",
        "convert",
        "declared_models",
        "diff",
        "diff_three_way",
        "download",
        "extract",
        "inspect",
        "open",
    ]
    assert python(code) == (
        f"True\nconverter.fleet.engines:batch {' '.join(f'converter.api:{name}' for name in functions)} converter.opening:open_checkpoint "
        f"converter.api:scan converter.api:verify\n{version('cerebras-tool')}\n"
    )


def test_a_name_that_is_none_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'converter' has no attribute 'nonsense'"):
        converter.nonsense  # noqa: B018


def test_a_public_name_can_be_replaced_and_put_back() -> None:
    real = converter.convert

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(converter, "convert", len)
        from converter import convert

        replaced: Any = len
        assert convert is converter.convert is replaced

    assert converter.convert is real


def test_every_error_is_caught_by_the_one_that_is_public(tmp_path: Path) -> None:
    with pytest.raises(converter.ConverterError, match="no such file or folder"):
        converter.open_checkpoint(tmp_path / "absent")


def test_importing_the_package_imports_nothing_else_of_it() -> None:
    assert python("import sys, converter; print([m for m in sys.modules if m.startswith('converter.')])") == "[]\n"


def test_the_way_of_the_readme_works_from_python(tmp_path: Path) -> None:
    code = (
        "from converter import open_checkpoint, inspect\n"
        "from converter.sample import write_sample\n"
        "from pathlib import Path\n"
        f"write_sample(Path({str(tmp_path)!r}))\n"
        f"catalogue = open_checkpoint({str(tmp_path)!r})\n"
        "print(len(catalogue), catalogue['transformer.wte.weight'].bits().shape, inspect(catalogue).totals.parameters)\n"
    )

    assert python(code) == "60 (257, 64) 220608\n"
