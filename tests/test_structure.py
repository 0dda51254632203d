"""Rules of structure that no linter knows, held against the package's own text."""

from __future__ import annotations

import ast
from pathlib import Path

import converter

PACKAGE = Path(converter.__file__).parent


def decided_by_a_message(text: str) -> list[int]:
    """The lines of a module that look into an error's message or arguments to decide something."""
    tree = ast.parse(text)
    handlers = {node.name for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.name}
    errors = handlers | {
        node.arg
        for node in ast.walk(tree)
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

    for node in ast.walk(tree):
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.NamedExpr(target=ast.Name(id=name), value=value)
            ):
                if is_message(value):
                    named.add(name)
    return sorted({node.lineno for node in ast.walk(tree) if decides(node)})  # type: ignore[attr-defined]


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
