"""Which tests execute a line, and how much processor time each takes; and a run of some tests in a given order.

`Traces` runs each test file once with coverage.py, with a context for each test, and keeps what it found in a folder. A file is
run again if it has changed. Where a module has changed since, its lines are found again by comparing the two texts.
Children of a test are not traced, so a line that only they execute has no test here.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import json
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Final

import pytest

SECONDS: Final = 25.0  # of processor time; the tests of a file that would run later are not asked about changes
SETUP: Final = "setup of "  # before the test's name, in the context of its fixtures

# ---- in the process that runs the tests -------------------------------------------------------------------------------------


def _seconds() -> float:
    """Processor time of this process and of the children that it waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


class Timed:
    """A plugin for pytest that measures each test, its fixtures included, and collects what fails. It stops after `SECONDS`."""

    def __init__(self) -> None:
        self.end = _seconds() + SECONDS
        self.seconds: dict[str, float] = {}
        self.failing: list[str] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        began = _seconds()
        result = yield
        now = _seconds()
        self.seconds[item.nodeid] = round(now - began, 3)
        if now > self.end:
            item.session.shouldstop = f"more than {SECONDS:.0f} s"
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
        self.coverage.switch_context(SETUP + item.nodeid)

    def pytest_runtest_call(self, item: pytest.Item) -> None:
        self.coverage.switch_context(item.nodeid)


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
    """Run a test file with coverage.py; `kept` is the path, without an ending, of what is found."""
    from coverage import Coverage

    coverage = Coverage(f"{kept}.coverage", source=["converter"], config_file=False, messages=False)
    coverage.set_option("run:relative_files", True)
    coverage.set_option("run:disable_warnings", ["trace-changed", "module-not-measured", "no-data-collected"])
    coverage.erase()
    coverage.start()
    timed = Timed()
    code = pytest.main([*OPTIONS, file], plugins=[timed, Contexts(coverage)])
    coverage.stop()
    coverage.save()
    Path(f"{kept}.tests").write_text(json.dumps({"seconds": timed.seconds, "failing": timed.failing}))
    return int(code)


def run(listed: str) -> int:
    """Run the tests that a JSON file lists, in that order, until one fails. A test file is collected when its turn comes."""
    names = json.loads(Path(listed).read_text())
    for file in dict.fromkeys(name.partition("::")[0] for name in names):
        code = pytest.main([*OPTIONS, "-x", file], plugins=[Chosen(names)])
        if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            return int(code)
    return 0


# ---- in the process that asks -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """The lines of a statement, or of the head of a compound one; `inside` a function or not."""

    first: int
    last: int
    inside: bool


EVERYWHERE: Final = Place(0, 0, inside=False)


def place(text: bytes, line: int) -> Place:
    """The statement that a line belongs to."""
    found = Place(line, line, inside=False)

    def visit(node: ast.AST, *, inside: bool) -> None:
        nonlocal found
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None) or getattr(node, "cases", None)
            last = node.end_lineno or node.lineno
            if body:
                head = body[0].pattern if isinstance(body[0], ast.match_case) else body[0]
                last = max(node.lineno, head.lineno - 1)
            if node.lineno <= line <= last:
                found = Place(node.lineno, last, inside=inside)
        inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, inside=inside)

    visit(ast.parse(text), inside=False)
    return found


@dataclass(frozen=True)
class Trace:
    """What one test file executes: the contexts of each line are names of tests, or `SETUP` and a name."""

    kept: Path

    @cached_property
    def _tests(self) -> dict[str, Any]:
        return dict(json.loads(self.kept.with_name(f"{self.kept.name}.tests").read_text()))

    @property
    def seconds(self) -> Mapping[str, float]:
        failing = set(self._tests["failing"])
        return {name: one for name, one in self._tests["seconds"].items() if name not in failing}

    @property
    def failing(self) -> list[str]:
        return list(self._tests["failing"])

    @cached_property
    def digests(self) -> dict[str, str]:
        """Which text of each module was executed, and of the test file."""
        return dict(json.loads(self.kept.with_name(f"{self.kept.name}.digests").read_text()))

    @cache  # noqa: B019
    def lines(self, module: str) -> dict[int, list[str]]:
        from coverage import CoverageData

        data = CoverageData(f"{self.kept}.coverage")
        data.read()
        return data.contexts_by_lineno(module)


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
        self._traces: dict[str, Trace] = {}

    def kept(self, file: str) -> Path:
        return self.folder / file.replace("/", "+")

    def known(self, file: str) -> bool:
        """Whether a test file was traced as it is now."""
        digests = self.folder / f"{self.kept(file).name}.digests"
        return digests.is_file() and json.loads(digests.read_text())[file] == self._digest(file)

    def keep(self, file: str, found: Path) -> None:
        """Take over what `trace` has found."""
        self._traces.pop(file, None)
        for ending in (".coverage", ".tests"):
            shutil.copy(f"{found}{ending}", f"{self.kept(file)}{ending}")
        digests = self.digests | {file: self._digest(file)}
        (self.folder / f"{self.kept(file).name}.digests").write_text(json.dumps(digests))

    def of(self, file: str) -> Trace:
        return self._traces.setdefault(file, Trace(self.kept(file)))

    def executing(self, file: str, module: str, where: Place) -> list[str]:
        """The tests of a file that execute a statement, the fastest first. A statement outside of functions runs on import: first

        come the tests that execute any function of its module, then the others, which may use its tables and constants.
        """
        one = self.of(file)
        contexts, tests = one.lines(module), one.seconds.keys()
        if where.inside:
            former = self._former(one.digests.get(module, ""), module)
            lines = {former[line] for line in range(where.first, where.last + 1) if line in former}
            found = {context for line in lines for context in contexts.get(line, ()) if context}
        else:
            found = {context for names in contexts.values() for context in names if context}
        # Later tests use the same fixtures; and every test may use what the module made on import.
        all_of_them = any(context.startswith(SETUP) for context in found) or (bool(contexts) and not where.inside)
        chosen = tests if all_of_them else found & tests
        return sorted(chosen, key=lambda name: (name not in found, one.seconds[name]))

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


if __name__ == "__main__":
    sys.exit(trace(*sys.argv[2:]) if sys.argv[1] == "trace" else run(sys.argv[2]))
