"""What must hold before a release: `make release-check`. It prints a line for each check, and ends with 1 if one failed.

The wheel and the sdist are built twice and must be the same; then the wheel is installed in a fresh environment of every Python
that is there, and used from an empty folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from converter.reports import maker

ROOT: Final = Path(__file__).resolve().parent.parent
PYTHONS: Final = ("python3.11", "python3.12", "python3.13")
PYENV: Final = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
TESTS: Final = (
    "tests/reports",
    "tests/cli/test_json.py",
    "tests/test_python_api.py",
    "tests/formats/test_safetensors.py",
)
FOR_TESTS: Final = ("pytest", "jsonschema", "hypothesis")
MOST: Final = 2_000_000  # bytes of a wheel
EPOCH: Final = "315532800"  # 1980-01-01, the first day that a zip can name
TOOLS: Final = (("uvx", "--from"), ("pipx", "run", "--spec"))  # they run a tool once
KEPT: Final = {  # they install it, where these variables say
    ("uv", "tool", "install"): {"UV_TOOL_DIR": "tools", "UV_TOOL_BIN_DIR": "bin"},
    ("pipx", "install"): {"PIPX_HOME": "home", "PIPX_BIN_DIR": "bin"},
}
STEPS: Final = (
    ("--version",),
    ("sample", "checkpoint", "-q"),
    ("inspect", "checkpoint"),
    ("check", "checkpoint", "--junit", "check.xml", "--sarif", "check.sarif"),
    ("convert", "checkpoint", "model.gguf", "--dtype", "q8_0"),
    ("verify", "checkpoint", "model.gguf", "--level", "inference"),
    ("scan", "checkpoint", "--bom", "bom.json"),
    ("schema", "scan"),
    ("help", "--man"),
)


def run(*words: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None) -> str:
    """Run a program and return what it prints. Raises AssertionError with its last words if it fails."""
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=os.environ | (env or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, f"{' '.join(map(str, words))}: {(done.stdout + done.stderr)[-600:]}"
    return done.stdout


def built(folder: Path) -> list[Path]:
    """The wheel and the sdist, built into a folder."""
    run(sys.executable, "-m", "hatchling", "build", "-d", folder, env={"SOURCE_DATE_EPOCH": EPOCH})
    return sorted(folder.iterdir())


def digests(files: Sequence[Path]) -> list[str]:
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


def same(first: Sequence[Path], second: Sequence[Path]) -> str:
    assert digests(first) == digests(second), "two builds differ"
    return ", ".join(f"{file.name} {digest[:12]}" for file, digest in zip(first, digests(first), strict=True))


def from_sdist(sdist: Path, wheel: Path, folder: Path) -> str:
    """The wheel that is built from the sdist is the wheel."""
    folder.mkdir()
    run("tar", "-xzf", sdist, "-C", folder)
    (inside,) = folder.iterdir()
    run(
        sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=inside, env={"SOURCE_DATE_EPOCH": EPOCH}
    )  # fmt: skip
    (again,) = folder.glob("*.whl")
    assert digests([again]) == digests([wheel]), "the sdist makes another wheel"
    return "the sdist makes the same wheel"


def contents(wheel: Path) -> str:
    """What is in the wheel: the package alone, the licences, and not too much."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names if not name.split("/")[0].endswith(".dist-info")}
    assert tops == {"converter"}, tops
    licences = sorted(Path(name).name for name in names if ".dist-info/licenses/" in name)
    assert licences == ["LICENSE", "THIRD_PARTY.md"], licences
    vendored = [name for name in names if "/vendored/" in name and name.endswith(".js")]
    assert sum(name.endswith(".LICENSE") for name in names) >= len(vendored), (
        "a library that is carried along lacks its licence"
    )
    nbytes = wheel.stat().st_size
    assert nbytes <= MOST, f"{nbytes:,} bytes"
    return f"{nbytes:,} bytes, {len(names)} files, {' and '.join(licences)}"


def described(files: Sequence[Path]) -> str:
    run(sys.executable, "-m", "twine", "check", "--strict", *files)
    return "twine check --strict"


def linter() -> str | None:
    """The program that lints a Containerfile: the one beside this Python, or on the PATH."""
    return shutil.which(
        "hadolint", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    )


def linted(hadolint: str) -> str:
    """The Containerfile has no fault, not even one of style."""
    run(hadolint, "--no-color", "--failure-threshold", "style", ROOT / "Containerfile")
    return run(hadolint, "--version").strip()


def installed(python: str, wheel: Path, folder: Path) -> str:
    """The wheel in a fresh environment, used from an empty folder."""
    run(python, "-m", "venv", folder / "env")
    binary = folder / "env" / "bin"
    run(binary / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel)
    run(binary / "python", "-m", "pip", "check", "--disable-pip-version-check")
    (folder / "empty").mkdir()
    for step in STEPS:
        run(binary / "cerebras-tool", *step, cwd=folder / "empty", env={"PYTHONPATH": ""})
    where = run(
        binary / "python",
        "-c",
        "import converter; print(converter.__file__)",
        cwd=folder / "empty",
        env={"PYTHONPATH": ""},
    )
    assert where.startswith(str(folder / "env")), where
    return f"{len(STEPS)} commands"


def tested(env: Path, sdist: Path, folder: Path) -> str:
    """Tests from the sdist, run from outside: without the package's own files, they can only mean the one that is installed."""
    python = env / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *FOR_TESTS)
    folder.mkdir()
    run("tar", "-xzf", sdist, "-C", folder)
    (inside,) = folder.iterdir()
    shutil.rmtree(inside / "converter")
    shutil.rmtree(inside / "schemas")
    said = run(python, "-m", "pytest", "-p", "no:cacheprovider", *TESTS, cwd=inside, env={"PYTHONPATH": ""})
    return said.strip().splitlines()[-1]


def as_tool(words: Sequence[str], wheel: Path) -> str:
    """The command as a program that runs tools starts it."""
    return run(*words, wheel, "cerebras-tool", "--version").strip()


def kept_as_tool(words: Sequence[str], wheel: Path, folder: Path, env: Mapping[str, str]) -> str:
    """The command as a program that keeps tools installs it, started by its name."""
    homes = {name: str(folder / where) for name, where in env.items()}
    run(*words, wheel, env=homes)
    return run(folder / "bin" / "cerebras-tool", "--version", env=homes).strip()


def found(name: str) -> str | None:
    """A Python that starts: the one on the PATH, or pyenv's newest. A name that pyenv puts on the PATH may start none."""
    series = name.removeprefix("python")
    installed = PYENV.glob(f"{series}.*/bin/{name}")
    newest = sorted(installed, key=lambda path: int("0" + "".join(filter(str.isdigit, path.parts[-3].split(".")[-1]))))
    for python in (shutil.which(name), *map(str, reversed(newest))):
        if python and not subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode:
            return python
    return None


def checks(folder: Path) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield each check with its name, in order."""
    first, second = (built(folder / name) for name in ("first", "second"))
    wheel, sdist = first
    yield "reproducible", lambda: same(first, second)
    yield "from the sdist", lambda: from_sdist(sdist, wheel, folder / "unpacked")
    yield "contents", lambda: contents(wheel)
    yield "description", lambda: described(first)
    if (hadolint := linter()) is not None:
        yield "Containerfile", lambda: linted(hadolint)
    for name in PYTHONS:
        if (python := found(name)) is not None:
            place = folder / name
            place.mkdir()
            yield name, partial(installed, python, wheel, place)
            yield f"{name}, tests from outside", partial(tested, place / "env", sdist, place / "outside")
    for once in TOOLS:
        if shutil.which(once[0]):
            yield " ".join(once), partial(as_tool, once, wheel)
    for words, env in KEPT.items():
        if shutil.which(words[0]):
            yield " ".join(words), partial(kept_as_tool, words, wheel, folder / words[0], env)


def main() -> None:
    failed = 0
    with tempfile.TemporaryDirectory(prefix="release-") as temporary:
        for name, check in checks(Path(temporary)):
            try:
                print(f"ok      {name}: {check()}", flush=True)
            except AssertionError as error:
                failed += 1
                print(f"FAILED  {name}: {error}", flush=True)
    absent = [name for name in PYTHONS if found(name) is None]
    absent += [name for name in ("uv", "uvx", "pipx") if not shutil.which(name)]
    absent += [] if linter() is not None else ["hadolint"]
    if absent:
        print(f"not here, so not tried: {', '.join(absent)}")
    if maker.home() is None or maker.is_placeholder(str(maker.home())):
        print("to do: put the project's address into pyproject.toml; the links of reports lead nowhere until then")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
