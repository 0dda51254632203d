"""docs/architecture.md, compared with the code: the files that it names, and who may import whom."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Final

from converter.scanning.rules import VERDICTS

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text()
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text()
MOST_LINES: Final = 430
MOST_FLAT: Final = 14  # modules in converter/ itself

# A module imports from its own room and from the rows above. Rooms that share a row do not import one another.
ORDER: Final = (
    ("ground",),
    ("io",),
    ("tensors",),
    ("pickles",),
    ("models",),
    ("formats",),
    ("hub",),
    ("opening",),
    ("reports",),
    ("scanning", "inference", "sample", "statistics"),
    ("inspection", "conversion", "verification", "checking"),
    ("difference", "pages", "fleet", "bom"),
    ("api", "browsing"),
    ("cli",),
)
# The modules that lie flat in converter/ and do not have a room's name.
FLAT: Final = dict.fromkeys(("errors", "limits", "dtypes", "text", "words", "steps", "resources"), "ground") | {
    "__init__": "api",
    "__main__": "cli",
}

TABLES: Final[frozenset[str]] = frozenset()  # long files that hold nothing but rows


def module_name(path: Path) -> str:
    """The name that `import` has for a file below the project's folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {module_name(path): path for path in sorted((ROOT / "converter").rglob("*.py"))}


def imported(text: str, modules: Mapping[str, object] = PATHS, package: str = "converter") -> set[str]:
    """The modules of `modules` that a module in `package` imports when it runs, in a function or not.

    A module's whole name in a string counts, since `lazily` and `import_module` take it. `if TYPE_CHECKING:` does not.
    """
    found: set[str] = set()
    for node in running(ast.parse(text)):
        match node:
            case ast.Import(names=names):
                found.update(alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                above = package.split(".")[: len(package.split(".")) - level + 1] if level else []
                base = ".".join([*above, *([module] if module else [])])
                inner = (f"{base}.{alias.name}" for alias in names)
                found.update(name if name in modules else base for name in inner)
            case ast.Constant(value=str(value)) if "." in value:
                found.add(value)
    return found & modules.keys()


def running(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a tree, without what only a type checker sees."""
    waiting = [tree]
    while waiting:
        for node in ast.iter_child_nodes(waiting.pop()):
            if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
                yield from node.orelse
                waiting += node.orelse
            else:
                yield node
                waiting.append(node)


def room(module: str) -> str:
    """The room that a module lies in."""
    flat = module.split(".")[1] if "." in module else "__init__"
    return FLAT.get(flat, flat)


def upward(graph: Mapping[str, set[str]]) -> set[tuple[str, str]]:
    """The imports, as pairs of modules, that go to a room which is not above the importer's in ORDER."""
    row = {name: at for at, names in enumerate(ORDER) for name in names}
    return {
        (module, other)
        for module, others in graph.items()
        for other in others
        if room(module) != room(other) and row[room(module)] <= row[room(other)]
    }


def circles(graph: Mapping[str, set[str]]) -> set[tuple[str, ...]]:
    """The largest sets of modules in which each imports every other, directly or through others; each set sorted."""
    reached = {module: reach(module, graph) for module in graph}
    together = {
        module: {module, *(other for other in others if module in reached[other])} for module, others in reached.items()
    }
    return {tuple(sorted(modules)) for modules in together.values() if len(modules) > 1}


def reach(module: str, graph: Mapping[str, set[str]]) -> set[str]:
    """The modules that a module imports, directly or through others."""
    waiting, seen = [module], set[str]()
    while waiting:
        new = graph[waiting.pop()] - seen
        seen |= new
        waiting += new
    return seen


@cache
def graph() -> dict[str, set[str]]:
    """The modules that each module of the package imports."""
    return {
        name: imported(path.read_text(), package=name if path.stem == "__init__" else name.rpartition(".")[0]) - {name}
        for name, path in PATHS.items()
    }


# ---- the rules -----------------------------------------------------------------------------------------------------------


def test_every_module_lies_in_a_room() -> None:
    assert {room(module) for module in PATHS} == {name for row in ORDER for name in row}


def test_imports_go_one_way() -> None:
    assert upward(graph()) == set()


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(graph()) == set()


def test_no_file_is_too_long_but_tables() -> None:
    lines = {str(path.relative_to(ROOT / "converter")): len(path.read_text().splitlines()) for path in PATHS.values()}

    assert {file for file, count in lines.items() if count > MOST_LINES} == TABLES


def test_few_modules_lie_flat() -> None:
    assert len(list((ROOT / "converter").glob("*.py"))) <= MOST_FLAT


# ---- the rules notice what they forbid ------------------------------------------------------------------------------------

SEEN = dict.fromkeys(("converter", "converter.io", "converter.io.local", "converter.errors", "converter.formats.gguf"))


def test_imports_are_seen_however_they_are_written() -> None:
    for text in (
        "import converter.io.local",
        "import converter.io.local as local",
        "from converter.io import local",
        "from converter.io.local import LocalFile",
        "def f():\n    from converter.io.local import LocalFile",
        "if TYPE_CHECKING:\n    pass\nelse:\n    import converter.io.local",
        "from . import local",
        "from .local import LocalFile",
        "from ..io import local",
        "read = lazily('converter.io.local', 'read')",
    ):
        assert imported(text, SEEN, "converter.io") == {"converter.io.local"}, text
    assert imported("from converter import convert", SEEN) == {"converter"}
    assert imported("from converter import io, convert", SEEN) == {"converter", "converter.io"}


def test_code_that_does_not_run_imports_nothing() -> None:
    for text in (
        "if TYPE_CHECKING:\n    from converter.io import local",
        "if typing.TYPE_CHECKING:\n    from converter.io import local",
        "import json\nfrom pathlib import Path",
        '"""See converter.io.local for more."""',
    ):
        assert imported(text, SEEN) == set(), text


def test_wrong_arrows_are_seen() -> None:
    graph = {
        "converter.io.local": {"converter.errors", "converter.io.source", "converter.tensors.tensor"},
        "converter.errors": {"converter.limits"},  # in one room
        "converter.scanning.scan": {
            "converter.reports.scan",
            "converter.sample",
        },  # a room above, a room of the same row
        "converter.opening": {"converter"},
        "converter.cli.app": {"converter.api"},
    }

    assert upward(graph) == {
        ("converter.io.local", "converter.tensors.tensor"),
        ("converter.scanning.scan", "converter.sample"),
        ("converter.opening", "converter"),
    }


def test_circles_are_seen() -> None:
    graph = {"a": {"b", "e"}, "b": {"c"}, "c": {"a"}, "d": {"e"}, "e": {"d"}, "f": {"a", "e"}, "g": set[str]()}

    assert circles(graph) == {("a", "b", "c"), ("d", "e")}
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == set()


# ---- the pages -----------------------------------------------------------------------------------------------------------


def named_files(page: str) -> list[str]:
    """The paths in backticks on a page; NAME in one means any name."""
    return [word for word in re.findall(r"`([\w./-]+)`", page) if "/" in word or Path(word).suffix in (".py", ".md")]


def test_every_file_that_the_page_names_exists() -> None:
    named = named_files(PAGE)

    assert len(named) > 20
    assert [path for path in named if not list(ROOT.glob(path.replace("NAME", "*").rstrip("/")))] == []


# Calls whose name is that of one that writes a file.
OTHERS: Final = {
    ("converter/cli/app.py", "formatter.write_text(said)"),  # of a help text
    ("converter/io/local.py", "descriptors.touch(self)"),  # a descriptor was used
    ("converter/io/local.py", "self._descriptors.touch(self)"),
    ("converter/cli/streams.py", "open(os.devnull, 'w', encoding='utf-8')"),  # nothing is kept there
}
WRITING: Final = {
    *(
        "write_text",
        "write_bytes",
        "touch",
        "mkdir",
        "makedirs",
        "symlink",
        "symlink_to",
        "link",
        "hardlink_to",
        "pwrite",
    ),
    *("rename", "replace", "copyfile", "copytree", "truncate", "ftruncate", "sendfile", "copy_file_range", "call_s3"),
    *("TemporaryFile", "NamedTemporaryFile", "SpooledTemporaryFile", "TemporaryDirectory", "mkstemp", "mkdtemp"),
}


def writing(text: str) -> Iterator[str]:
    """Yield the calls of a module that make, fill or move a file or a folder, as they are written."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        match node.func:
            case ast.Name(id="replace"):
                continue  # of a dataclass
            case ast.Attribute(value=owner, attr="replace") if ast.unparse(owner) != "os":
                continue  # of a text
            case ast.Name(id="open") | ast.Attribute(attr="open"):
                modes = [
                    each.value
                    for each in [*node.args, *(word.value for word in node.keywords)]
                    if isinstance(each, ast.Constant)
                ]
                if any(isinstance(mode, str) and re.fullmatch("[rwxab]*[wxa+][b+]*", mode) for mode in modes):
                    yield ast.unparse(node)
            case ast.Name(id=name) | ast.Attribute(attr=name) if name in WRITING:
                yield ast.unparse(node)


def test_the_page_names_every_module_that_writes_files() -> None:
    (row,) = re.findall(r"^\| Who writes files\? \| (.*) \|$", PAGE, re.MULTILINE)
    files = {str(path.relative_to(ROOT)): path.read_text() for path in PATHS.values()}

    assert {file for file, text in files.items() for call in writing(text) if (file, call) not in OTHERS} == {
        *named_files(row)
    }


def test_calls_that_write_are_seen() -> None:
    for text in (
        "open(path, 'w')",
        "open(path, mode='r+b')",
        "path.open('ab')",
        "os.pwrite(file, data, 0)",
        "path.write_text(said)",
        "Path(a, b).symlink_to(c)",
        "os.replace(a, b)",
        "with tempfile.TemporaryDirectory() as folder: pass",
    ):
        assert [*writing(text)] != [], text
    for text in ("open(path)", "open(path, 'rb')", "text.replace('a', 'w')", "archive.open('a.b')", "replace(a, b=c)"):
        assert [*writing(text)] == [], text


def test_files_are_seen_on_a_page() -> None:
    page = "`a.py`, `b/c/`, `d/NAME.json`, `word`, `F32`, `make test`"

    assert named_files(page) == ["a.py", "b/c/", "d/NAME.json"]


def test_the_page_lists_the_rooms_in_their_order() -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", PAGE, re.MULTILINE)

    assert [(int(row), name) for row, name in rows] == [
        (at, name) for at, names in enumerate(ORDER, start=1) for name in names
    ]


def test_the_glossary_has_a_line_a_word_in_order() -> None:
    entries = [line for line in GLOSSARY.splitlines() if line.startswith(("* ", "  "))]
    words = [match[1] for line in entries if (match := re.fullmatch(r"\* \*\*([^*]+)\*\*: .+\.", line))]

    assert len(words) == len(entries)
    assert words == sorted(set(words), key=str.lower)
    assert {*VERDICTS, "identical", "equivalent", "different"} <= {*words}


def test_a_family_touches_one_file() -> None:
    """No module names a family: what belongs to one is in its JSON, and the engine computes all from there.

    A word that means something else besides the family's name is no mention of it.
    """
    names = {path.stem for path in (ROOT / "schemas" / "architectures").glob("*.json")}
    elsewhere = {
        "converter/models/families.py": {"gpt2"},  # whose table is read first
        "converter/sample.py": {"gpt2"},  # of which the declared models are
        "converter/formats/gguf/tokenizer.py": {"gpt2", "llama"},  # kinds of tokenizers in GGUF
        "converter/formats/gguf/recipes.py": {"llama"},  # llama.cpp has a rule for its largest model alone
        "converter/models/tokenizers/pre.py": {"bloom", "qwen2"},  # names of cuts into words
        "converter/models/tokenizers/hashes.py": {"bloom", "qwen2"},
        "converter/pickles/weights.py": {"opt"},  # an optimizer
    }
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "converter").rglob("*.py")):
        tree = ast.parse(path.read_text())
        words = {
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        place = str(path.relative_to(ROOT))
        if named := (words & names) - elsewhere.get(place, set()):
            found[place] = named

    assert found == {}
    # These tables hold what transformers says, for families without a file, too; no other file has a family's `model_type`.
    tables = {"config-defaults.json", "tied-heads.json"}
    for name in names - {"gpt2"}:  # the declared models are of GPT-2
        schemas = {path.name for path in (ROOT / "schemas").rglob("*.json") if f'"{name}"' in path.read_text()}
        assert schemas - tables <= {f"{name}.json"}, name
    # inference/llama.py asks llama.cpp, for every family that it computes.
    assert names & {path.stem for path in (ROOT / "converter").rglob("*.py")} == {"llama"}
