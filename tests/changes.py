"""The small changes that can be made to a module, one at a time: what `tests.mutants` tries."""

from __future__ import annotations

import ast
import copy
import difflib
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True)
class Mutant:
    """A change: `new` replaces the bytes from `start` to `end` of a module."""

    module: str
    line: int
    kind: str
    start: int
    end: int
    new: str

    def applied(self, text: bytes) -> bytes:
        return text[: self.start] + self.new.encode() + text[self.end :]

    def lines(self, text: bytes) -> tuple[list[str], list[str]]:
        """The lines that are removed and those that are added."""
        before, after = text.decode().splitlines(), self.applied(text).decode().splitlines()
        diff = list(difflib.unified_diff(before, after, n=0, lineterm=""))[3:]
        return [line[1:].strip() for line in diff if line[0] == "-"], [
            line[1:].strip() for line in diff if line[0] == "+"
        ]


COMPARED: Final[dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]]] = {
    ast.Lt: (ast.LtE, ast.Gt), ast.LtE: (ast.Lt, ast.GtE), ast.Gt: (ast.GtE, ast.Lt), ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}  # fmt: skip
COMPUTED: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitAnd,
}  # fmt: skip


def changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Yield kinds of change, each with the changed node."""
    match node:
        case ast.Compare():
            for index, operator in enumerate(node.ops):
                for other in COMPARED[type(operator)]:
                    yield "comparison", _with(node, ops=[*node.ops[:index], other(), *node.ops[index + 1 :]])
        case ast.BoolOp():
            yield "and/or", _with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
            for index in range(len(node.values)):
                rest = node.values[:index] + node.values[index + 1 :]
                yield "condition", rest[0] if len(rest) == 1 else _with(node, values=rest)
        case ast.UnaryOp(op=ast.Not()):
            yield "not", node.operand
        case ast.BinOp() if type(node.op) in COMPUTED and not _is_text(node.left) and not _is_text(node.right):
            yield "operator", _with(node, op=COMPUTED[type(node.op)]())
        case ast.Constant(value=bool()):
            yield "constant", ast.Constant(not node.value)
        case ast.Constant(value=int() as number):
            yield "constant", ast.Constant(number + 1)
            if number:
                yield "constant", ast.Constant(number - 1)
        case ast.IfExp():
            yield "condition", _with(node, body=node.orelse, orelse=node.body)
        case ast.If() | ast.While():
            yield "condition", _with(node, test=ast.UnaryOp(ast.Not(), node.test))
        case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and value.value is None):
            boolean = isinstance(value, ast.Compare | ast.BoolOp) or (
                isinstance(value, ast.Constant) and type(value.value) is bool
            )
            yield "return", ast.Return(ast.UnaryOp(ast.Not(), value) if boolean else ast.Constant(None))
        case ast.Expr(value=ast.Call() | ast.Yield() | ast.YieldFrom()) | ast.AugAssign() | ast.Raise() | ast.Delete():
            yield "statement", ast.Pass()
        case ast.Continue() | ast.Break():
            yield "statement", ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield "statement", ast.Pass()
        case ast.Call():
            for index in range(len(node.keywords)):
                if _says_nothing(node.keywords[index]):
                    continue
                yield "argument", _with(node, keywords=node.keywords[:index] + node.keywords[index + 1 :])
            if len(node.args) > 1:
                yield "argument", _with(node, args=node.args[:-1])
                if not any(isinstance(one, ast.Starred) for one in node.args[:2]):
                    yield "argument", _with(node, args=[node.args[1], node.args[0], *node.args[2:]])


def entries(node: ast.AST) -> list[tuple[int, int, int, int]]:
    """Where the entries of a table start and end, as lines and columns."""
    match node:
        case ast.Tuple() | ast.List() | ast.Set():
            pairs: list[tuple[ast.expr | None, ast.expr]] = [(one, one) for one in node.elts]
        case ast.Dict():
            pairs = list(zip(node.keys, node.values, strict=True))
        case _:
            return []
    return [
        (
            *((key.lineno, key.col_offset) if key else (value.lineno, value.col_offset - len("**"))),
            value.end_lineno or 0,
            value.end_col_offset or 0,
        )
        for key, value in pairs
    ]


def _with(node: ast.AST, **fields: Any) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))


def mutants(module: str, text: bytes) -> list[Mutant]:
    """All changes to a module, in the order of its lines."""
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found: dict[tuple[int, int, str], Mutant] = {}

    def place(line: int, column: int) -> int:
        return starts[line - 1] + column

    def visit(node: ast.AST, *, table: bool, parameters: bool = False) -> None:
        if _says_nothing(node):
            return
        if isinstance(node, ast.expr | ast.stmt):
            start, end = place(node.lineno, node.col_offset), place(node.end_lineno or 0, node.end_col_offset or 0)
            for kind, changed in changes(node):
                if isinstance(node, ast.If | ast.While):
                    continue  # only its test changes; see below
                new = ast.unparse(ast.fix_missing_locations(changed))
                new = f"({new})" if isinstance(changed, ast.BoolOp | ast.UnaryOp | ast.BinOp | ast.IfExp) else new
                kind = "default" if parameters and kind == "constant" else kind
                found.setdefault((start, end, new), Mutant(module, node.lineno, kind, start, end, new))
            spans = [(place(*one[:2]), place(*one[2:])) for one in entries(node)] if table else []
            for index, (start, end) in enumerate(spans if len(spans) > 2 else []):
                start, end = (start, spans[1][0]) if not index else (spans[index - 1][1], end)
                found[start, end, ""] = Mutant(module, text.count(b"\n", 0, end) + 1, "entry", start, end, "")
            if isinstance(node, ast.If | ast.While) and not isinstance(node.test, ast.Compare):
                test = node.test
                start, end = place(test.lineno, test.col_offset), place(test.end_lineno or 0, test.end_col_offset or 0)
                new = f"(not ({ast.unparse(test)}))"
                found.setdefault((start, end, new), Mutant(module, test.lineno, "condition", start, end, new))
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list", "type_params"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    inside = table and not isinstance(
                        child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda
                    )
                    visit(child, table=inside, parameters=isinstance(node, ast.arguments) or parameters)

    visit(ast.parse(text), table=True)
    return [one for _, one in sorted(found.items())]


def sampled(every: Sequence[Mutant], texts: Mapping[str, bytes], count: int, seed: int) -> list[Mutant]:
    """A sample, without changes that give the same program or one that can't be compiled."""
    chosen: list[Mutant] = []
    for mutant in random.Random(seed).sample(every, len(every)):
        if len(chosen) == count:
            break
        text = texts[mutant.module]
        with suppress(SyntaxError):
            if ast.dump(ast.parse(mutant.applied(text))) != ast.dump(ast.parse(text)):
                chosen.append(mutant)
    return chosen


def _says_nothing(node: ast.AST) -> bool:
    """Whether a node is for people or for the type checker or asserts what always holds, so that changes to it are not sought."""
    match node:
        case ast.JoinedStr() | ast.Import() | ast.ImportFrom() | ast.Assert():
            return True
        case ast.keyword(arg="strict", value=ast.Constant(value=True)):  # of zip: an assertion
            return True
        case ast.Expr(value=ast.Constant()):  # a docstring, or `...`
            return True
        case ast.FunctionDef(name="__repr__" | "__str__"):
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.Assign(value=ast.Call(func=ast.Name(id="TypeVar" | "ParamSpec" | "NewType"))):
            return True
        case ast.Assign(value=ast.Subscript(value=ast.Name(id="Callable" | "tuple" | "dict" | "list" | "Literal"))):
            return True  # a name for a type
        case ast.Call(func=ast.Attribute(value=ast.Name(id="typer" | "logging" | "log"))):
            return True
    return False
