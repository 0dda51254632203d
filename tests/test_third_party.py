"""THIRD_PARTY.md, compared with pyproject.toml and, for vendored files in the package, with their SHA-256."""

import hashlib
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "THIRD_PARTY.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FOR_THE_PROJECT_ITSELF = {"dev", "fuzz", "peers", "bench"}
OURS = {".py", ".json", ".md", ".typed", ".html", ".css", ".js"}
VENDORED = "vendored"  # the name of a folder in which every file is somebody else's


def package(requirement: str) -> str:
    """The name in a requirement such as `isal>=1.7; platform_machine == 'x86_64'`."""
    return re.split(r"[^\w.-]", requirement)[0]


def vendored(page: str) -> dict[str, str]:
    """The SHA-256 that the page gives for each file, by path below converter/."""
    return dict(re.findall(r"^\| `([^`]+)` \| [^|]+ \| [^|]+ \| `?([0-9a-f]{64})`? \|$", page, re.MULTILINE))


def others(package: Path) -> dict[str, str]:
    """The SHA-256 of each file that lies among vendored ones, or is of a kind that this project does not write, by path."""
    return {
        str(path.relative_to(package)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in package.rglob("*")
        if path.is_file() and (path.suffix not in OURS or VENDORED in path.parts) and "__pycache__" not in path.parts
    }


def test_the_page_lists_what_pip_installs() -> None:
    rows = re.findall(r"^\| `(\w+)` \| [A-Z][^|`]+ \| [^|]+ \|$", PAGE, re.MULTILINE)

    assert rows == [package(requirement) for requirement in PROJECT["dependencies"]]


def test_the_page_lists_what_each_extra_installs() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| `(\w+)` \| [A-Z][^|]+ \| [^|]+ \|$", PAGE, re.MULTILINE)

    assert rows == [
        (extra, package(requirement))
        for extra, requirements in PROJECT["optional-dependencies"].items()
        if extra not in FOR_THE_PROJECT_ITSELF
        for requirement in requirements
    ]


def test_every_file_of_somebody_else_is_listed_and_unchanged() -> None:
    assert others(ROOT / "converter") == vendored(PAGE)


def test_a_file_of_somebody_else_is_found(tmp_path: Path) -> None:
    (tmp_path / "pages" / "vendored").mkdir(parents=True)
    for name in ("pages/vendored/x.js", "pages/x.wasm", "pages/ours.js", "a.py"):
        (tmp_path / name).write_bytes(b"let x;\n")
    digest = "f72f592e373291c032776b9a9425642258de42abe1779df9182f53134b64fb75"
    page = f"| `pages/vendored/x.js` | 1.0 | MIT | `{digest}` |\n"

    assert vendored(page) == {"pages/vendored/x.js": digest}
    assert others(tmp_path) == {"pages/vendored/x.js": digest, "pages/x.wasm": digest}


def test_the_wheel_carries_the_licence_and_this_page() -> None:
    assert PROJECT["license-files"] == ["LICENSE", "THIRD_PARTY.md"]
