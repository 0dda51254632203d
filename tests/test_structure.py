"""Rules about the package's code, checked on its syntax trees."""

import ast
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from converter.formats import FORMATS

PACKAGE = Path(__file__).parent.parent / "converter"


@cache
def modules() -> dict[str, ast.Module]:
    """The syntax tree of each file of the package."""
    return {str(path.relative_to(PACKAGE)): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


# ---- no question about what an object happens to have -----------------------------------------------------------------

ASKED = {
    ("reports/__init__.py", "getattr(value, field.name)"),  # a dataclass tells its fields by name only
    ("inference/engines.py", "getattr(transformers, called)"),  # a class of another package, named by data
}


def asked(tree: ast.AST) -> Iterator[str]:
    """Yield the calls of hasattr and getattr, and any other use of the two, as they are written."""
    nodes = [*ast.walk(tree)]
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("hasattr", "getattr"):
            yield ast.unparse(node)
        elif isinstance(node, ast.Name) and node.id in ("hasattr", "getattr") and id(node) not in called:
            yield node.id


def test_nothing_asks_by_name_what_an_object_has() -> None:
    assert {(file, call) for file, tree in modules().items() for call in asked(tree)} == ASKED


def test_the_rule_sees_every_way_to_ask() -> None:
    tree = ast.parse("getattr(a, 'b', None)\nif hasattr(os, 'x'): pass\nmap(getattr, a, b)\na.getattr('x')")

    assert sorted(asked(tree)) == ["getattr", "getattr(a, 'b', None)", "hasattr(os, 'x')"]


# ---- no format and no family is known by its name, but where it is at home ------------------------------------------------

AT_HOME = ("formats/", "models/", "cli/")
NAMES = {format.name for format in FORMATS} | {
    path.stem for path in (PACKAGE.parent / "schemas" / "architectures").glob("*.json")
}
BEGINNINGS = {name[:length] for name in NAMES for length in range(3, len(name) + 1)}


def compared(tree: ast.AST) -> Iterator[str]:
    """Yield the comparisons (==, !=, in and not in something literal) with a format's or family's name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            literal = [one for side in sides for one in ([side] if isinstance(side, ast.Constant) else _inside(side))]
            if any(isinstance(one, ast.Constant) and one.value in NAMES for one in literal):
                yield ast.unparse(node)
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("startswith", "endswith")
            and any(isinstance(one, ast.Constant) and one.value in BEGINNINGS for one in node.args)
        ):
            yield ast.unparse(node)
        elif isinstance(node, ast.MatchValue) and isinstance(node.value, ast.Constant) and node.value.value in NAMES:
            yield f"case {ast.unparse(node)}"


def _inside(side: ast.expr) -> list[ast.expr]:
    return side.elts if isinstance(side, ast.Tuple | ast.List | ast.Set) else []


def test_no_format_and_no_family_is_compared_by_name_outside_its_home() -> None:
    assert [
        (file, comparison)
        for file, tree in modules().items()
        if not file.startswith(AT_HOME)
        for comparison in compared(tree)
    ] == []


def test_the_rule_sees_every_comparison_with_a_name() -> None:
    code = "a == 'gguf'\n'gpt2' != b\nc in ('x', 'safetensors')\nd not in {'torch-zip'}\n'gguf' in e\nf == 'other'\ng('gguf')\ni == 'npz'\nj.startswith('torch')\nmatch h:\n case 'gguf': pass"

    assert list(compared(ast.parse(code))) == [
        "a == 'gguf'", "'gpt2' != b", "c in ('x', 'safetensors')", "d not in {'torch-zip'}", "'gguf' in e", "i == 'npz'", "j.startswith('torch')", "case 'gguf'",
    ]  # fmt: skip


# ---- nothing is decided by what a message says ------------------------------------------------------------------------


def decided_by_a_message(text: str) -> list[int]:
    """The lines of a module that look into an error's message or arguments to decide something."""
    nodes = [*ast.walk(ast.parse(text))]
    handlers = {node.name for node in nodes if isinstance(node, ast.ExceptHandler) and node.name}
    errors = handlers | {
        node.arg
        for node in nodes
        if isinstance(node, ast.arg)
        and node.annotation
        and ast.unparse(node.annotation).endswith(("Error", "Exception"))
    }
    named: set[str] = set()  # variables that hold a message

    def is_error(node: ast.AST) -> bool:
        return (isinstance(node, ast.Name) and node.id in errors) or (
            isinstance(node, ast.Attribute) and node.attr in ("error", "__cause__", "__context__")
        )

    def is_message(node: ast.AST) -> bool:
        match node:
            case ast.Name(id=name):
                return name in named
            case ast.Call(func=ast.Name(id="str" | "repr" | "format"), args=[inner, *_]):
                return is_error(inner)
            case ast.NamedExpr(value=inner) | ast.Subscript(value=inner):
                return is_message(inner)
            case ast.Call(func=ast.Attribute(value=inner), args=args):  # `.lower()`
                return any(map(is_message, [inner, *args]))
            case ast.Call(func=ast.Name(id=name), args=args) if name.islower():  # no class
                return any(map(is_message, args))
            case ast.Attribute(value=inner, attr="strerror" | "args" | "filename" | "reason"):
                return is_error(inner)
            case ast.JoinedStr(values=values):
                return any(isinstance(value, ast.FormattedValue) and is_error(value.value) for value in values)
            case ast.BoolOp(values=values):
                return any(map(is_message, values))
        return False

    def decides(node: ast.AST) -> bool:
        match node:
            case ast.Compare(left=left, ops=ops, comparators=others):
                if all(isinstance(op, ast.Is | ast.IsNot) for op in ops):
                    return False
                return any(map(is_message, [left, *others]))
            case ast.Call(func=ast.Attribute(value=inner, attr=attr), args=args):
                searched = attr in {"startswith", "endswith", "find", "rfind", "index", "rindex", "count", "partition"}
                by_pattern = attr in {"search", "match", "fullmatch", "findall", "finditer"}
                return (searched and is_message(inner)) or (by_pattern and any(map(is_message, args)))
            case ast.Match(subject=subject):
                return is_message(subject)
            case ast.Attribute(value=inner, attr="args"):
                return is_error(inner)
        return False

    for node in nodes:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.NamedExpr(target=ast.Name(id=name), value=value)
            ):
                if is_message(value):
                    named.add(name)
    return sorted({node.lineno for node in nodes if decides(node)})  # type: ignore[attr-defined]


def test_nothing_is_decided_by_the_text_of_an_error() -> None:
    handled = "try:\n    f()\nexcept ValueError as error:\n    {}"
    for wrong in (
        'x = "program" if "program" in str(error) else ""',
        "x = str(error).lower().startswith('no')",
        'x = str(error) == "gone"',
        'x = f"{error}".find("gone")',
        'x = re.search("gone", str(error)[:200])',
        'x = PATTERN.match(f"it: {error}")',
        "say(*error.args)",
        'x = "gone" in (error.strerror or str(error))',
        'if "gone" in (text := str(error)): pass',
        'text = repr(error)\n    x = "gone" in text',
        'match str(error):\n        case "gone": pass',
        'x = "gone" in str(seen.error)',
        'x = "gone" in safe_text(str(error), 100)',
    ):
        assert decided_by_a_message(handled.format(wrong)), wrong
    assert decided_by_a_message('def f(problem: OSError) -> bool:\n    return "gone" in str(problem)')
    for right in (
        'raise KeyError(f"`{name}`: {error}")',
        "x = error.errno in (1, 2)",
        "x = isinstance(error, OSError)",
    ):
        assert not decided_by_a_message(handled.format(right)), right

    found = {path: decided_by_a_message(path.read_text()) for path in PACKAGE.rglob("*.py")}

    assert {str(path.relative_to(PACKAGE)): lines for path, lines in found.items() if lines} == {}


# ---- modules with numpy stay apart from those without ---------------------------------------------------------------------

DOORS = {  # modules that import numpy only when a function needs it, because much of them is used without it
    *("tensors/tensor.py", "formats/gguf/reader.py", "formats/gguf/grids.py", "formats/gguf/imatrix.py"),
    *("sample.py", "verification/golden.py"),
}


def test_few_modules_import_numpy_inside_a_function() -> None:
    found = {
        file
        for file, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Import) and node.col_offset and any(alias.name == "numpy" for alias in node.names)
    }

    assert found == DOORS


# ---- tests replace nothing that is private ------------------------------------------------------------------------------

TESTS = Path(__file__).parent


def replaced(text: str) -> Iterator[str]:
    """Yield the private names of modules that a test replaces: by setattr, by `patch.object` or by an assignment.

    A program in a string, which a test runs in a process of its own, is looked at, too.
    """
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Call(func=ast.Attribute(attr="setattr" | "object" | "patch" | "setitem"), args=args):
                words = [arg.value for arg in args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
                yield from (word for word in words[:1] if re.fullmatch(r"(?:converter\.[\w.]*\.)?_[a-zA-Z]\w*", word))
            case ast.Assign(targets=targets):
                for target in targets:
                    if isinstance(target, ast.Attribute) and re.fullmatch("_[A-Z_]+|_[a-z]+_all", target.attr):
                        yield ast.unparse(target)
            case ast.Constant(value=str(value)) if "import" in value and "\n" in value:
                with suppress(SyntaxError):
                    yield from replaced(value)


def test_no_test_replaces_what_is_private() -> None:
    found = {str(path.relative_to(TESTS)): [*replaced(path.read_text())] for path in sorted(TESTS.rglob("*.py"))}

    assert {file: names for file, names in found.items() if names and file != "test_structure.py"} == {}


def test_the_rule_sees_every_way_to_replace() -> None:
    assert [*replaced('monkeypatch.setattr(writer, "_TILE", 1)\npatch.setattr("converter.io.writer._TILE", 1)')] == [
        "_TILE",
        "converter.io.writer._TILE",
    ]
    assert [*replaced("writer._TILE = parts._RUN = 8")] == ["writer._TILE", "parts._RUN"]
    assert [*replaced('SLOW = """\nimport a\na._TILE = 5\n"""')] == ["a._TILE"]
    assert [*replaced('monkeypatch.setattr(os, "pwrite", write)\nself._told = 5')] == []
