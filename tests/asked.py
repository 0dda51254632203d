"""Which tests are asked about a change, and in which order: what `tests.mutants` runs."""

from __future__ import annotations

import ast
import re
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

from tests.traced import Traces

# They check figures, texts or the shape of the code: they notice a change of behaviour only by chance, if at all.
LEFT_OUT: Final = ("tests/peers/*", "tests/bench/*", "tests/test_bench.py", "tests/test_guard.py", "tests/test_docs.py",
                   "tests/test_packaging.py", "tests/test_structure.py", "tests/test_record.py", "tests/test_ci.py",
                   "tests/test_corpus*.py", "tests/scanning/test_corpus.py", "tests/test_mutants.py")  # fmt: skip
# Imports that a test file is nearer by where it is called like the module; twice as many if just like it.
NAMED: Final = 2
# The tests of one file are asked in slices: until they take so many seconds, then until so many, then the others.
SLICES: Final = (0.4, 2.0, 8.0)
FILES: Final = (
    4  # test files whose slices have the same rank; a file's next slice is asked with the next but one such files
)
ROUND: Final = 3.0  # seconds of tests that one process runs
BUDGET: Final = 40.0  # seconds of tests for one change that execute it, if so many exist
OTHERS: Final = 15.0  # seconds of tests that execute other code of the module, for changes outside of functions

# ---- near test files --------------------------------------------------------------------------------------------------------


def imports(tree: ast.AST, known: Mapping[str, Path]) -> set[str]:
    """Our modules that a file imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name in known}


def nearest(root: Path) -> Callable[[str], list[str]]:
    """A function that gives all test files, those nearest to a module first: by how many imports lie between."""
    known = {
        _dotted(path.relative_to(root)): path for top in ("converter", "tests") for path in (root / top).rglob("*.py")
    }
    users: dict[str, set[str]] = {name: set() for name in known}
    for name, path in known.items():
        for used in imports(ast.parse(path.read_bytes()), known):
            users[used].add(name)
    tests = [file for path in known.values() if is_test(file := str(path.relative_to(root)))]

    def files(module: str) -> list[str]:
        distances, waiting = {_dotted(Path(module)): 0}, deque([_dotted(Path(module))])
        while waiting:
            name = waiting.popleft()
            for user in sorted(users[name]):
                if user not in distances:
                    distances[user] = distances[name] + 1
                    waiting.append(user)
        far = max(distances.values()) + 1
        return sorted(
            tests, key=lambda file: (distances.get(_dotted(Path(file)), far) - NAMED * _alike(file, module), file)
        )

    return files


def is_test(file: str) -> bool:
    """Whether a path from the root is that of a test file that is asked."""
    return Path(file).name.startswith("test_") and not any(fnmatch(file, pattern) for pattern in LEFT_OUT)


def _dotted(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def _alike(file: str, module: str) -> int:
    """2 if the test file is called as the module is, 1 if the two names share the start of a word, otherwise 0."""
    if Path(file).stem == f"test_{Path(module).stem}":
        return 2
    words, others = (
        re.findall(r"[a-z0-9]{3,}", path.split("/", 1)[1].removesuffix(".py").replace("test_", ""))
        for path in (file, module)
    )
    return any(word[:4] == other[:4] for word in words for other in others)


# ---- the lines that show a change -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Places:
    """Lines of modules that execute a change or use what it makes; `inside` a function, so that no other line can show it."""

    lines: Mapping[str, frozenset[int]]
    inside: bool


@dataclass(frozen=True)
class _Use:
    """A name that a module mentions: in a function, or in a statement outside that gives other names their values."""

    module: str
    line: int
    inside: bool
    gives: frozenset[str]


class Lines:
    """The lines of a package that show a change to a statement."""

    def __init__(self, texts: Mapping[str, bytes]) -> None:
        self.trees = {module: ast.parse(text) for module, text in texts.items()}
        self.uses: dict[str, list[_Use]] = defaultdict(list)
        for module, tree in self.trees.items():
            for statement in tree.body:
                self._note(module, statement, inside=False, gives=frozenset())

    def _note(self, module: str, node: ast.AST, *, inside: bool, gives: frozenset[str]) -> None:
        if isinstance(node, ast.stmt) and not inside:
            gives = given(node) or gives
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            self.uses[node.id].append(_Use(module, node.lineno, inside, gives))
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            self.uses[node.attr].append(_Use(module, node.lineno, inside, gives))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for default in (*node.decorator_list, *node.args.defaults, *node.args.kw_defaults):
                if default is not None:
                    self._note(module, default, inside=inside, gives=gives)
            for statement in node.body:
                self._note(module, statement, inside=True, gives=gives)
            return
        for child in ast.iter_child_nodes(node):
            self._note(module, child, inside=inside or isinstance(node, ast.Lambda), gives=gives)

    def of(self, module: str, line: int) -> Places:
        """Inside a function: the lines of the statement, or of the head of a compound one. In a function's head: all of

        its lines. Elsewhere the lines inside functions, of any module, that use a name to which the statement gives a value.
        """
        statements = _around(self.trees[module], line)
        function = next(
            (one for one in reversed(statements) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)), None
        )
        if function is not None:
            first, last = _head(statements[-1], line)
            if statements[-1] is function:
                first, last = function.body[0].lineno, function.end_lineno or function.lineno
            return Places({module: frozenset(range(first, last + 1))}, inside=True)
        names = given(statements[-1]) if statements else frozenset()
        found: dict[str, set[int]] = defaultdict(set)
        known, waiting = set(names), list(names)
        while waiting:
            for use in self.uses[waiting.pop()]:
                if use.inside:
                    found[use.module].add(use.line)
                else:
                    waiting += use.gives - known
                    known |= use.gives
        return Places({name: frozenset(lines) for name, lines in found.items()}, inside=False)


def given(statement: ast.AST) -> frozenset[str]:
    """The names to which a statement gives a value."""
    match statement:
        case ast.Assign(targets=targets):
            return frozenset(node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name))
        case ast.AnnAssign(target=ast.Name(id=name)) | ast.AugAssign(target=ast.Name(id=name)):
            return frozenset([name])
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return frozenset([name])
    return frozenset()


def _head(statement: ast.stmt, line: int) -> tuple[int, int]:
    """The first and the last line of the part of a statement that a line belongs to: of all of it, or, if it is a compound

    one, of its head, of the head of a case, or of that of a handler.
    """
    match statement:
        case ast.Match(cases=cases):
            starts = [(one.pattern.lineno, one.body[0].lineno) for one in cases]
        case ast.Try(handlers=handlers, body=body):
            starts = [(statement.lineno, body[0].lineno), *((one.lineno, one.body[0].lineno) for one in handlers)]
        case (
            ast.If(body=body)
            | ast.For(body=body)
            | ast.While(body=body)
            | ast.With(body=body)
            | ast.ClassDef(body=body)
        ):
            starts = [(statement.lineno, body[0].lineno)]
        case _:
            return statement.lineno, statement.end_lineno or statement.lineno
    within = [(first, max(first, body - 1)) for first, body in starts if first <= line]
    return within[-1] if within else (statement.lineno, max(statement.lineno, starts[0][0] - 1))


def _around(tree: ast.Module, line: int) -> list[ast.stmt]:
    """The statements around a line, the innermost last."""
    found = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.stmt) and _first(node) <= line <= (node.end_lineno or node.lineno)
    ]
    return sorted(found, key=lambda node: (_first(node), -(node.end_lineno or 0)))


def _first(node: ast.stmt) -> int:
    match node:
        case ast.FunctionDef(decorator_list=[one, *_]) | ast.ClassDef(decorator_list=[one, *_]):
            return one.lineno
    return node.lineno


# ---- the order --------------------------------------------------------------------------------------------------------------


def rounds(
    traces: Traces, files: Sequence[str], module: str, places: Places, killing: Mapping[str, int]
) -> Iterator[list[str]]:
    """Yield the tests that are asked about a change, as many at a time as one process runs: from the nearest test file to the

    farthest, and within a file those that execute the change, the fastest first. For a change outside of functions, tests
    that execute anything in the module come at the end. `killing` counts the changes to the module that a file noticed.
    """
    files = sorted(files, key=lambda file: -killing.get(file, 0))
    executing = {file: names for file in files if (names := traces.executing(file, places.lines))}
    yield from _rounds(traces, executing, BUDGET)
    if not places.inside:
        some = {name for names in executing.values() for name in names}
        others = {file: [name for name in traces.using(file, module) if name not in some] for file in files}
        yield from _rounds(traces, others, OTHERS)


def _rounds(traces: Traces, tests: Mapping[str, Sequence[str]], left: float) -> Iterator[list[str]]:
    chosen: list[str] = []
    together = 0.0
    for file, names in _slices(traces, tests):
        seconds = traces.of(file).seconds
        for name in names:
            if seconds[name] > left:
                continue
            chosen.append(name)
            together += seconds[name]
            left -= seconds[name]
            if together >= ROUND:
                yield chosen
                chosen, together = [], 0.0
    if chosen:
        yield chosen


def _slices(traces: Traces, tests: Mapping[str, Sequence[str]]) -> list[tuple[str, list[str]]]:
    """Some tests of a file at a time, in the order in which they are asked."""
    found: list[tuple[int, str, list[str]]] = []
    for place, (file, names) in enumerate(tests.items()):
        seconds, sums = traces.of(file).seconds, 0.0
        slices: dict[int, list[str]] = defaultdict(list)
        for name in names:
            sums += seconds[name]
            slices[sum(sums > end for end in SLICES)].append(name)
        found += [(place // FILES + 2 * rank, file, chosen) for rank, chosen in slices.items()]
    return [(file, chosen) for _, file, chosen in sorted(found, key=lambda one: one[0])]
