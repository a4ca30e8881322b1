"""Reading expressions: Python's grammar, a small part of it, and nothing is ever run.

``ast`` reads the text, and every node of it must be on the allow-list below: what is not there is reported with its
place, never ignored.
"""

from __future__ import annotations

import ast
import warnings

from onnx_fp16fix.errors import Problem
from onnx_fp16fix.language.expression import (
    Binary,
    Call,
    Compare,
    Expr,
    Index,
    Listing,
    Logic,
    Member,
    Name,
    Number,
    Output,
    Suite,
    Text,
    Unary,
)
from onnx_fp16fix.language.yaml_source import Place, Scalar

__all__ = ["MAX_DEPTH", "MAX_TEXT", "parse_expression", "parse_suite"]

MAX_TEXT = 4000
"""Most characters of one expression; keeps Python's parser far from its own limits."""
MAX_DEPTH = 40
"""Deepest nesting of one expression."""

_BINARY = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.Pow: "**",
    ast.MatMult: "@",
    ast.BitOr: "|",
}
_COMPARE = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.In: "in",
    ast.NotIn: "not in",
}


def parse_expression(source: Scalar, problems: list[Problem]) -> Expr | None:
    """One expression, or None with the reason in ``problems``."""
    suite = parse_suite(source, problems)
    if suite is not None and suite.steps:
        message = "one expression is expected here, without '='"
        problems.append(suite.steps[0][0].place.problem("RULE-SYNTAX", message))
        return None
    return suite.result if suite is not None else None


def parse_suite(source: Scalar, problems: list[Problem]) -> Suite | None:
    """``name = expression`` lines and a last expression, or None with the reasons in ``problems``."""
    if len(source.text) > MAX_TEXT:
        problems.append(
            source.place.problem("RULE-LIMIT", f"an expression of more than {MAX_TEXT} characters")
        )
        return None
    body = _python(source, problems)
    if body is None:
        return None
    if not body:
        problems.append(source.place.problem("RULE-SYNTAX", "an expression is missing here"))
        return None
    try:
        return _Reader(source).suite(body)
    except _Refused as refused:
        problems.append(refused.problem)
        return None


class _Refused(Exception):
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def _python(source: Scalar, problems: list[Problem]) -> list[ast.stmt] | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a rule file shall not print Python's advice
            return ast.parse(source.text, mode="exec").body
    except SyntaxError as error:
        # Python's own wording and columns change between versions; only the place is taken over.
        line = max((error.lineno or 1) - 1, 0)
        place = source.at(line, max((error.offset or 1) - 1, 0))
        hint = "patterns and guards are written like Python expressions"
        if source.text.count("(") != source.text.count(")"):
            hint = (
                "a bracket is open: inside [ ] and { } of YAML a comma ends the text, unless it is in quotes"
            )
        problems.append(place.problem("RULE-SYNTAX", "this cannot be read as an expression", hint))
    except (RecursionError, MemoryError):
        problems.append(source.place.problem("RULE-LIMIT", "the expression is nested too deeply"))
    except ValueError:
        problems.append(
            source.place.problem("RULE-SYNTAX", "the expression holds a character that is not allowed")
        )
    return None


class _Reader:
    """Turns allow-listed ``ast`` nodes into ours."""

    def __init__(self, source: Scalar) -> None:
        self.at = source.at
        self.lines = None if source.text.isascii() else source.text.split("\n")

    def place(self, node: ast.expr | ast.stmt | ast.keyword) -> Place:
        line, column = node.lineno - 1, node.col_offset
        if self.lines is not None:  # ast counts bytes of UTF-8, an editor counts characters
            column = len(self.lines[line].encode()[:column].decode(errors="ignore"))
        return self.at(line, column)

    def refuse(self, node: ast.expr | ast.stmt, message: str, code: str = "RULE-SYNTAX") -> _Refused:
        return _Refused(self.place(node).problem(code, message))

    def suite(self, body: list[ast.stmt]) -> Suite:
        steps: list[tuple[Name, Expr]] = []
        for statement in body[:-1]:
            if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
                raise self.refuse(statement, "each line but the last must read 'name = expression'")
            steps += self.step(statement.targets[0], self.expr(statement.value, 0))
        last = body[-1]
        if not isinstance(last, ast.Expr):
            raise self.refuse(last, "the last line must be an expression, it is the result")
        return Suite(tuple(steps), self.expr(last.value, 0))

    def step(self, target: ast.expr, value: Expr) -> list[tuple[Name, Expr]]:
        """``name = value``, or ``a, _, b = Op(...)``: a name for each output of an op, ``_`` where it is not needed."""
        several = isinstance(target, ast.Tuple)
        targets = target.elts if isinstance(target, ast.Tuple) else [target]
        names = [Name(each.id, self.place(each)) for each in targets if isinstance(each, ast.Name)]
        if len(names) < len(targets) or all(name.id == "_" for name in names):
            raise self.refuse(target, "only a plain name, or several, can stand left of '='")
        if not several:
            return [(names[0], value)]
        if not isinstance(value, Call):
            raise self.refuse(target, "several names can only be given to the outputs of an op")
        return [
            (name, Output(value, slot, len(names), name.place))
            for slot, name in enumerate(names)
            if name.id != "_"
        ]

    def expr(self, node: ast.expr, depth: int) -> Expr:
        if depth > MAX_DEPTH:
            raise self.refuse(node, f"the expression is nested deeper than {MAX_DEPTH} levels", "RULE-LIMIT")
        place, inner = self.place(node), depth + 1
        if isinstance(node, ast.Name):
            return Name(node.id, place)
        if isinstance(node, ast.Constant):
            return self._constant(node)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
            op = "-" if isinstance(node.op, ast.USub) else "not"
            return Unary(op, self.expr(node.operand, inner), place)
        if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
            left, right = self.expr(node.left, inner), self.expr(node.right, inner)
            return Binary(_BINARY[type(node.op)], left, right, place)
        if isinstance(node, ast.BoolOp):
            op = "and" if isinstance(node.op, ast.And) else "or"
            return Logic(op, tuple(self.expr(value, inner) for value in node.values), place)
        if isinstance(node, ast.Compare) and all(type(op) in _COMPARE for op in node.ops):
            operands = tuple(self.expr(value, inner) for value in (node.left, *node.comparators))
            return Compare(tuple(_COMPARE[type(op)] for op in node.ops), operands, place)
        if isinstance(node, ast.List | ast.Tuple):
            return Listing(tuple(self.expr(item, inner) for item in node.elts), place)
        if isinstance(node, ast.Subscript):
            return Index(self.expr(node.value, inner), self.expr(node.slice, inner), place)
        if isinstance(node, ast.Attribute):
            return Member(self._dotted(node), place)
        if isinstance(node, ast.Call):
            return self._call(node, inner)
        raise self.refuse(node, f"{_describe(node)} is not part of the rule language")

    def _constant(self, node: ast.Constant) -> Expr:
        value, place = node.value, self.place(node)
        if value is None:  # an input that is not there; no name can be spelled so
            return Name("None", place)
        if isinstance(value, str):
            return Text(value, place)
        if isinstance(value, int | float) and not isinstance(value, bool):
            try:
                return Number(float(value), place, isinstance(value, int))
            except OverflowError:
                raise self.refuse(node, "the number is too large") from None
        raise self.refuse(node, f"'{value!r}' is not a value of the rule language")

    def _dotted(self, node: ast.expr) -> str:
        parts: list[str] = []
        current = node
        while isinstance(current, ast.Attribute):
            if current.attr.startswith("_"):
                raise self.refuse(current, f"'.{current.attr}': names must not start with an underscore here")
            parts.append(current.attr)
            current = current.value
        if not isinstance(current, ast.Name):
            raise self.refuse(node, "only names can be joined with '.', such as op.Div or FP16.max")
        return ".".join([current.id, *reversed(parts)])

    def _call(self, node: ast.Call, depth: int) -> Call:
        function = self._dotted(node.func)
        args: list[Expr] = []
        star = stars = None
        for argument in node.args:
            if isinstance(argument, ast.Starred):
                star = self._bare(argument.value, "*")
            elif star is not None:
                raise self.refuse(argument, "nothing may follow '*name' but attributes")
            else:
                args.append(self.expr(argument, depth))
        keywords: list[tuple[str, Expr]] = []
        for keyword in node.keywords:
            if keyword.arg is None:
                stars = self._bare(keyword.value, "**")
            else:
                keywords.append((keyword.arg, self.expr(keyword.value, depth)))
        return Call(function, tuple(args), tuple(keywords), star, stars, self.place(node))

    def _bare(self, node: ast.expr, prefix: str) -> Name:
        if not isinstance(node, ast.Name):
            raise self.refuse(node, f"only a name can follow '{prefix}'")
        return Name(node.id, self.place(node))


def _describe(node: ast.expr) -> str:
    words = {
        ast.Lambda: "a lambda",
        ast.IfExp: "'if ... else'",
        ast.JoinedStr: "an f-string",
        ast.Dict: "a dictionary",
        ast.Set: "a set",
        ast.NamedExpr: "':='",
        ast.Starred: "'*'",
        ast.Slice: "a slice",
        ast.BinOp: "this operator",
        ast.UnaryOp: "this operator",
        ast.Compare: "this comparison",
    }
    comprehensions = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    return (
        "a comprehension" if isinstance(node, comprehensions) else words.get(type(node), type(node).__name__)
    )
