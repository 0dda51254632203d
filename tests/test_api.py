"""The names that other programs import."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def test_the_public_names_are_functions_whatever_was_imported_before() -> None:
    code = (
        "import converter.conversion.convert, converter.verification.verify, converter\n"
        "from converter import convert, inspect, models, open_checkpoint, verify\n"
        "print(*(f.__module__ + ':' + f.__name__ for f in (convert, inspect, open_checkpoint, verify)), models.__name__)\n"
        "print(converter.convert is convert, converter.verify is verify)"
    )

    assert python(code) == (
        "converter.conversion.convert:convert converter.inspection.report:inspect converter.opening:open_checkpoint "
        "converter.verification.verify:verify converter.models\nTrue True\n"
    )


def test_importing_the_package_imports_nothing_else_of_it() -> None:
    assert python("import sys, converter; print([m for m in sys.modules if m.startswith('converter.')])") == "[]\n"


def test_the_way_of_the_readme_works_from_python(tmp_path: Path) -> None:
    code = (
        "from converter import open_checkpoint, inspect\n"
        "from converter.sample import write_sample\n"
        "from pathlib import Path\n"
        f"write_sample(Path({str(tmp_path)!r}))\n"
        f"catalogue = open_checkpoint({str(tmp_path)!r})\n"
        "print(len(catalogue), catalogue['transformer.wte.weight'].array().shape, inspect(catalogue).totals.parameters)\n"
    )

    assert python(code) == "60 (257, 64) 220608\n"
