"""Which tests execute a line, and how much processor time each takes; and a run of some tests in a given order.

`Traces` runs each test file once with coverage.py, with a context for each test, and keeps what it found in a folder. A file is
run again if it has changed. Where a module has changed since, its lines are found again by comparing the two texts.
Programs that a test starts are traced, too, unless they get an environment without ours or are killed.
"""

from __future__ import annotations

import difflib
import gzip
import hashlib
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest

from tests.traced_child import STARTED, TEST, started

SETUP: Final = "setup of "  # before the test's name, in the context of its fixtures

# ---- in the process that runs the tests -------------------------------------------------------------------------------------


def _seconds() -> float:
    """Processor time of this process and of the children that it waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


class Timed:
    """A plugin for pytest that measures each test, its fixtures included, and collects what fails."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.failing: list[str] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        began = _seconds()
        result = yield
        self.seconds[item.nodeid] = round(_seconds() - began, 3)
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and report.nodeid not in self.failing:
            self.failing.append(report.nodeid)


class Contexts:
    """A plugin for pytest that tells coverage.py which test runs, and apart from that when its fixtures are set up."""

    def __init__(self, coverage: Any) -> None:
        self.coverage = coverage
        self.trace = sys.gettrace()

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if sys.gettrace() is not self.trace:  # a test had a trace function of its own
            self.coverage.stop()
            self.coverage.start()
            self.trace = sys.gettrace()
        self._switch(SETUP + item.nodeid)

    def pytest_runtest_call(self, item: pytest.Item) -> None:
        self._switch(item.nodeid)

    def _switch(self, context: str) -> None:
        self.coverage.switch_context(context)
        os.environ[TEST] = context


class Chosen:
    """A plugin for pytest that keeps the named tests only, in the given order."""

    def __init__(self, names: Sequence[str]) -> None:
        self.places = {name: place for place, name in enumerate(names)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted(
            (item for item in items if item.nodeid in self.places), key=lambda item: self.places[item.nodeid]
        )


OPTIONS: Final = ("-q", "-p", "no:cacheprovider", "--tb=no", "-rf", "-W", "ignore:Module already imported")


def trace(file: str, kept: str) -> int:
    """Run a test file with coverage.py, and write to `kept` what is found."""
    with tempfile.TemporaryDirectory(prefix="traced-") as folder:
        coverage = started(Path.cwd())
        os.environ[STARTED] = folder
        os.environ["PYTHONPATH"] = os.pathsep.join([folder, os.environ["PYTHONPATH"]])
        Path(folder, "sitecustomize.py").write_text("import tests.traced_child\n\ntests.traced_child.begin()\n")
        timed = Timed()
        code = pytest.main([*OPTIONS, file], plugins=[timed, Contexts(coverage)])
        coverage.stop()
        names = {name: place for place, name in enumerate(timed.seconds)}
        found: dict[bool, dict[str, dict[int, int]]] = {False: {}, True: {}}

        def add(module: str, line: int, context: str) -> None:
            place = names.get(context.removeprefix(SETUP))
            if place is not None:
                lines = found[context.startswith(SETUP)].setdefault(module, {})
                lines[line] = lines.get(line, 0) | 1 << place

        data = coverage.get_data()
        for path in data.measured_files():
            module = str(Path(path).relative_to(Path.cwd()))
            for line, contexts in data.contexts_by_lineno(path).items():
                for context in contexts:
                    add(module, line, context)
        for path in Path(folder).glob("*.json"):
            with suppress(ValueError):  # cut off: the test had limited how long files may be, or the child was killed
                child = json.loads(path.read_text())
                for module, executed in child["lines"].items():
                    for line in executed:
                        add(module, line, child["test"])
    result = {"seconds": timed.seconds, "failing": timed.failing} | {
        key: {module: {line: f"{tests:x}" for line, tests in lines.items()} for module, lines in found[setup].items()}
        for key, setup in (("lines", False), ("setup", True))
    }
    Path(kept).write_bytes(gzip.compress(json.dumps(result).encode(), 3))
    return int(code)


def run(listed: str) -> int:
    """Run the tests that a JSON file lists, in that order, until one fails."""
    return run_all(listed, "-x")


def run_all(listed: str, *options: str) -> int:
    """Run the tests that a JSON file lists, in that order."""
    names = json.loads(Path(listed).read_text())
    files = list(dict.fromkeys(name.partition("::")[0] for name in names))
    return int(pytest.main([*OPTIONS, *options, *files], plugins=[Chosen(names)]))


# ---- in the process that asks -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trace:
    """What one test file executes: bit n of a line's number stands for the n-th test."""

    names: Sequence[str]
    seconds: Mapping[str, float]  # of the tests that pass
    failing: Sequence[str]
    lines: Mapping[str, Mapping[int, int]]
    setup: Mapping[str, Mapping[int, int]]  # what the tests' fixtures execute
    digests: Mapping[str, str]  # which text of each module was executed, and of the test file

    def executing(self, module: str, lines: Set[int] | None) -> list[str]:
        """The tests that execute any of these lines, or any line of the module; the fastest first. If a fixture executes one,

        tests further down use it, too, so that all of them follow.
        """
        chosen = lines if lines is not None else self.lines.get(module, {}).keys() | self.setup.get(module, {}).keys()
        bits = shared = 0
        for line in chosen:
            bits |= self.lines.get(module, {}).get(line, 0)
            shared |= self.setup.get(module, {}).get(line, 0)
        bits |= shared
        found = [name for place, name in enumerate(self.names) if bits >> place & 1 and name in self.seconds]
        some = set(found)
        rest = [name for name in self.seconds if name not in some] if shared else []
        return sorted(found, key=self.seconds.__getitem__) + sorted(rest, key=self.seconds.__getitem__)


class Traces:
    """What the tests of a checkout execute. `folder` keeps it for the next run."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder, self.root = folder, root
        (folder / "texts").mkdir(parents=True, exist_ok=True)
        self.digests: dict[str, str] = {}
        for path in sorted((root / "converter").rglob("*.py")):
            text = path.read_bytes()
            digest = self.digests[str(path.relative_to(root))] = hashlib.sha256(text).hexdigest()
            kept = folder / "texts" / digest
            if not kept.is_file():
                kept.write_bytes(text)

    def kept(self, file: str) -> Path:
        return self.folder / f"{file.replace('/', '+')}.gz"

    def _kept_digests(self, file: str) -> Path:
        return self.folder / f"{file.replace('/', '+')}.digests"

    def known(self, file: str) -> bool:
        """Whether a test file was traced as it is now."""
        digests = self._kept_digests(file)
        return digests.is_file() and json.loads(digests.read_text())[file] == self._digest(file)

    def keep(self, file: str, found: Path) -> None:
        """Take over what `trace` has found."""
        self.kept(file).write_bytes(found.read_bytes())
        self._kept_digests(file).write_text(json.dumps(self.digests | {file: self._digest(file)}))
        found.unlink()

    @cache  # noqa: B019
    def of(self, file: str) -> Trace:
        found = json.loads(gzip.decompress(self.kept(file).read_bytes()))
        failing = set(found["failing"])
        lines, setup = (
            {module: {int(line): int(tests, 16) for line, tests in one.items()} for module, one in found[key].items()}
            for key in ("lines", "setup")
        )
        seconds = {name: one for name, one in found["seconds"].items() if name not in failing}
        digests = json.loads(self._kept_digests(file).read_text())
        return Trace(list(found["seconds"]), seconds, found["failing"], lines, setup, digests)

    def executing(self, file: str, places: Mapping[str, Set[int]]) -> list[str]:
        """The tests of a file that execute any of these lines of modules, the fastest first."""
        one = self.of(file)
        chosen: dict[str, None] = {}
        for module, lines in places.items():
            former = self._former(one.digests.get(module, ""), module)
            then = {former[line] for line in lines if line in former}
            chosen |= dict.fromkeys(one.executing(module, then))
        return sorted(chosen, key=one.seconds.__getitem__)

    def using(self, file: str, module: str) -> list[str]:
        """The tests of a file that execute anything in a module's functions, the fastest first."""
        return self.of(file).executing(module, None)

    @cache  # noqa: B019
    def _former(self, digest: str, module: str) -> dict[int, int]:
        """The line that each line of a module had when it was traced."""
        now = (self.root / module).read_text().splitlines()
        kept = self.folder / "texts" / digest
        if digest == self.digests[module]:
            return {line: line for line in range(1, len(now) + 1)}
        before = kept.read_text().splitlines() if digest and kept.is_file() else []
        blocks = difflib.SequenceMatcher(None, before, now, autojunk=False).get_matching_blocks()
        return {b + step + 1: a + step + 1 for a, b, size in blocks for step in range(size)}

    def _digest(self, file: str) -> str:
        return hashlib.sha256((self.root / file).read_bytes()).hexdigest()
