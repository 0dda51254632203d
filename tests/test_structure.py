"""How the package is built, held by its syntax trees."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "converter"
MODULES = {str(path.relative_to(PACKAGE)): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}

# ---- no question about what an object happens to have -----------------------------------------------------------------

ASKED = {("reports/__init__.py", "getattr(value, field.name)")}  # a dataclass tells its fields by name only


def asked(tree: ast.AST) -> Iterator[str]:
    """Yield the calls of hasattr and getattr, and any other use of the two, as they are written."""
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("hasattr", "getattr"):
            yield ast.unparse(node)
        elif isinstance(node, ast.Name) and node.id in ("hasattr", "getattr") and id(node) not in called:
            yield node.id


def test_nothing_asks_by_name_what_an_object_has() -> None:
    assert {(file, call) for file, tree in MODULES.items() for call in asked(tree)} == ASKED


def test_the_rule_sees_every_way_to_ask() -> None:
    tree = ast.parse("getattr(a, 'b', None)\nif hasattr(os, 'x'): pass\nmap(getattr, a, b)\na.getattr('x')")

    assert sorted(asked(tree)) == ["getattr", "getattr(a, 'b', None)", "hasattr(os, 'x')"]


# ---- no format and no family is known by its name, but where it is at home ------------------------------------------------

AT_HOME = ("formats/", "models/", "cli/")
NAMES = {"torch-zip", "torch-legacy", "safetensors", "gguf", "parameters"} | {
    path.stem for path in (PACKAGE.parent / "schemas" / "architectures").glob("*.json")
}


def compared(tree: ast.AST) -> Iterator[str]:
    """Yield the comparisons (==, !=, in and not in something literal) with a format's or family's name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            literal = [one for side in sides for one in ([side] if isinstance(side, ast.Constant) else _inside(side))]
            if any(isinstance(one, ast.Constant) and one.value in NAMES for one in literal):
                yield ast.unparse(node)
        elif isinstance(node, ast.MatchValue) and isinstance(node.value, ast.Constant) and node.value.value in NAMES:
            yield f"case {ast.unparse(node)}"


def _inside(side: ast.expr) -> list[ast.expr]:
    return side.elts if isinstance(side, ast.Tuple | ast.List | ast.Set) else []


@pytest.mark.xfail(strict=True, reason="conversion, verification, scanning and inspection still compare names")
def test_no_format_and_no_family_is_compared_by_name_outside_its_home() -> None:
    assert [
        (file, comparison)
        for file, tree in MODULES.items()
        if not file.startswith(AT_HOME)
        for comparison in compared(tree)
    ] == []


def test_the_rule_sees_every_comparison_with_a_name() -> None:
    code = "a == 'gguf'\n'gpt2' != b\nc in ('x', 'safetensors')\nd not in {'torch-zip'}\n'gguf' in e\nf == 'other'\ng('gguf')\nmatch h:\n case 'gguf': pass"

    assert list(compared(ast.parse(code))) == [
        "a == 'gguf'", "'gpt2' != b", "c in ('x', 'safetensors')", "d not in {'torch-zip'}", "'gguf' in e", "case 'gguf'",
    ]  # fmt: skip
