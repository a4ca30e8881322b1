"""From the expression of ``match`` to a pattern."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction

from onnx_fp16fix.errors import Problem
from onnx_fp16fix.language import operations
from onnx_fp16fix.language.expression import (
    Binary,
    Call,
    Expr,
    Listing,
    Name,
    Number,
    Output,
    Suite,
    Text,
    Unary,
)
from onnx_fp16fix.language.flatten import flatten, kind_of, number_of, power_of
from onnx_fp16fix.language.pattern import (
    Absent,
    Capture,
    Combination,
    Either,
    Inner,
    Moved,
    Operation,
    Pattern,
    Roots,
    Wild,
    patterns_in,
)
from onnx_fp16fix.language.terms import whole
from onnx_fp16fix.language.yaml_source import Place
from onnx_fp16fix.wording import counted

__all__ = ["Uses", "compile_pattern"]

_EXTREMA = ("Max", "Min", "And", "Or")


class Uses:
    """Names a pattern binds, by the role they play there, with the place of the first use."""

    def __init__(self) -> None:
        self.tensors: dict[str, Place] = {}
        self.inner: dict[str, Place] = {}
        self.attributes: dict[str, Place] = {}
        self.rests: dict[str, Place] = {}
        self.moved = False

    def all(self) -> dict[str, Place]:
        """Every bound name."""
        return {**self.rests, **self.attributes, **self.inner, **self.tensors}


def compile_pattern(suite: Suite, problems: list[Problem]) -> tuple[Pattern | None, Uses]:
    """The pattern and the names it binds; None in place of the pattern with the reasons in ``problems``."""
    return _Compiler(problems).suite(suite)


class _Compiler:
    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        self.uses = Uses()
        self.named: dict[str, Inner] = {}
        self.nodes: dict[Call, Pattern] = {}
        self.read: set[str] = set()

    def suite(self, suite: Suite) -> tuple[Pattern | None, Uses]:
        known = len(self.problems)
        for name, expr in suite.steps:
            if name.id in self.named or name.id in self.uses.tensors:
                self.report(name.place, "RULE-NAME", f"'{name.id}' is already bound in this pattern")
            found = self.output(expr) if isinstance(expr, Output) else self.pattern(expr)
            self.named[name.id] = Inner(name.id, found)
            self.uses.inner[name.id] = name.place
        result = self.roots(suite.result) if isinstance(suite.result, Listing) else self.pattern(suite.result)
        for name, _ in suite.steps:
            if name.id not in self.read:
                self.report(name.place, "RULE-NAME", f"'{name.id}' is named but never used in the pattern")
        for root in result.patterns if isinstance(result, Roots) else (result,):
            root = root.pattern if isinstance(root, Inner) else root
            if len(self.problems) == known and not isinstance(root, Operation | Combination | Either | Roots):
                message = "a pattern must be an operation; a name alone matches everything"
                self.report(suite.result.place, "RULE-PATTERN", message)
        return result if len(self.problems) == known else None, self.uses

    def roots(self, listing: Listing) -> Pattern:
        """``(a, b)``: each root after the first must share a name with those before, or it could be anywhere."""
        patterns: list[Pattern] = []
        seen: set[str] = set()
        for item in listing.items:
            patterns.append(self.pattern(item))
            names = _bound_in(patterns[-1])
            if len(patterns) > 1 and not names & seen:
                self.report(item.place, "RULE-PATTERN", "the roots of a pattern must share a name")
            seen |= names
        if not patterns:
            return self.report(listing.place, "RULE-PATTERN", "a pattern must be an operation")
        return Roots(tuple(patterns)) if len(patterns) > 1 else patterns[0]

    def report(self, place: Place, code: str, message: str, hint: str | None = None) -> Wild:
        self.problems.append(place.problem(code, message, hint))
        return Wild()

    def pattern(self, expr: Expr) -> Pattern:
        if isinstance(expr, Name):
            return self.name(expr)
        if isinstance(expr, Number) or number_of(expr) is not None:
            return Combination("+", (), number_of(expr))
        if isinstance(expr, Binary) and expr.op == "|":
            return self.either(expr)
        if isinstance(expr, Binary) and expr.op == "@":
            return Operation(
                "MatMul", "", False, (self.pattern(expr.left), self.pattern(expr.right)), None, (), None
            )
        if isinstance(expr, Call) and expr.function == "Neg" and len(expr.args) == 1:
            return self.combination(Unary("-", expr.args[0], expr.place))
        if isinstance(expr, Binary | Unary) or power_of(expr) is not None:
            return self.combination(expr)
        if isinstance(expr, Call):
            return self.call(expr)
        words = {Listing: "several roots", Text: "quoted text"}
        message = f"{words.get(type(expr), 'this')} cannot stand in a pattern"
        return self.report(expr.place, "RULE-PATTERN", message)

    def output(self, expr: Output) -> Pattern:
        """One output of ``a, b = Op(...)``; the op is read once for all of them."""
        if expr.call not in self.nodes:
            self.nodes[expr.call] = self.several(expr.call, expr.count)
        node = self.nodes[expr.call]
        return replace(node, output=expr.slot) if isinstance(node, Operation) else node

    def several(self, call: Call, count: int) -> Pattern:
        known = len(self.problems)
        node = self.pattern(call)
        if len(self.problems) > known:
            return Wild()
        if not isinstance(node, Operation) or not (node.domain or count <= operations.most_outputs(node.op)):
            return self.report(call.place, "RULE-OP", f"{call.function} does not have {count} outputs")
        return replace(node, outputs=count, group=f"{call.place.line}:{call.place.column}")

    def name(self, name: Name) -> Pattern:
        if name.id == "_":
            return Wild()
        if name.id == "None":
            return self.report(
                name.place, "RULE-PATTERN", "None stands for an input that an op does not have"
            )
        if name.id in self.named:
            self.read.add(name.id)
            return self.named[name.id]
        self.uses.tensors.setdefault(name.id, name.place)
        return Capture(name.id)

    def either(self, expr: Binary) -> Pattern:
        options: list[Pattern] = []
        bound: list[tuple[set[str], Place]] = []
        before = set(self.uses.tensors) | set(self.uses.attributes)
        for side in _alternatives(expr):
            outer, self.uses = self.uses, Uses()
            options.append(self.pattern(side))
            inner, self.uses = self.uses, outer
            bound.append(({*inner.tensors, *inner.attributes, *inner.rests} - before, side.place))
            for mine, theirs in (
                (self.uses.tensors, inner.tensors),
                (self.uses.attributes, inner.attributes),
                (self.uses.rests, inner.rests),
            ):
                mine.update({name: place for name, place in theirs.items() if name not in mine})
            self.uses.moved |= inner.moved
        for names, place in bound[1:]:
            if names != bound[0][0]:
                odd = ", ".join(sorted(names ^ bound[0][0]))
                message = f"the alternatives of '|' must bind the same names; these differ: {odd}"
                self.report(place, "RULE-NAME", message)
        return Either(tuple(options))

    def combination(self, expr: Expr) -> Pattern:
        kind = kind_of(expr)
        parts: list[tuple[Pattern, int | Fraction]] = []
        numbers: list[float] = []
        for item in flatten(kind, expr):
            if isinstance(item, Problem):
                self.problems.append(item)
            elif isinstance(item, tuple):
                part, weight = item
                parts.append((self.pattern(part), whole(weight)))
            else:
                numbers.append(item)
        joined, neutral = (math.prod, 1) if kind == "*" else (math.fsum, 0)
        number = joined(numbers) if numbers else None
        return Combination(kind, tuple(parts), None if number == neutral else number)

    def call(self, call: Call) -> Pattern:
        if call.function == "moved":
            if len(call.args) != 1 or call.keywords or call.star or call.stars:
                return self.report(call.place, "RULE-PATTERN", "moved() takes one argument")
            self.uses.moved = True
            return Moved(self.pattern(call.args[0]))
        domain, literal, op = _resolve(call.function)
        known = domain != "" or self.check_op(call, op)
        args = tuple(self.argument(argument) for argument in call.args)  # for its names, if nothing else
        if not known:
            return Wild()
        if op in _EXTREMA and not literal and len(args) > 1 and not domain and not call.keywords:
            return self.extremum(op, call, args)
        for _, value in call.keywords:
            self.attribute(value)
        for name in (call.star, call.stars):
            if name is not None:
                self.uses.rests.setdefault(name.id, name.place)
        return Operation(
            op,
            domain,
            literal,
            args,
            call.star.id if call.star else None,
            call.keywords,
            call.stars.id if call.stars else None,
        )

    def argument(self, expr: Expr) -> Pattern:
        return Absent() if isinstance(expr, Name) and expr.id == "None" else self.pattern(expr)

    def extremum(self, op: str, call: Call, args: tuple[Pattern, ...]) -> Pattern:
        values = [number_of(argument) for argument in call.args]
        numbers = [value for value in values if value is not None]
        if len(numbers) > 1:
            return self.report(
                call.place, "RULE-PATTERN", f"{op} of several numbers: write the one that counts"
            )
        parts = tuple((part, 1) for part, value in zip(args, values, strict=True) if value is None)
        return Combination(op, parts, numbers[0] if numbers else None)

    def attribute(self, value: Expr) -> None:
        if isinstance(value, Name) and value.id != "_":
            self.uses.attributes.setdefault(value.id, value.place)
        elif not isinstance(value, Name | Text | Listing) and number_of(value) is None:
            message = "an attribute in a pattern is a number, a text, a list or a name"
            self.report(value.place, "RULE-PATTERN", message)

    def check_op(self, call: Call, op: str) -> bool:
        if not operations.is_known(op):
            similar = operations.similar_ops(op)
            hint = (
                f"did you mean '{similar}'?"
                if similar
                else "write domain.Op(...) for an op of another domain"
            )
            self.report(call.place, "RULE-OP", f"ONNX has no operator '{op}'", hint)
            return False
        if len(call.args) > operations.most_inputs(op):
            message = (
                f"{op} takes at most {counted(operations.most_inputs(op), 'input')}, not {len(call.args)}"
            )
            self.report(call.place, "RULE-OP", message)
            return False
        known = operations.attribute_names(op)
        for key, value in call.keywords:
            if key not in known:
                self.report(
                    value.place, "RULE-OP", f"{op} has no attribute '{key}'", operations.closest(key, known)
                )
        return True


def _bound_in(pattern: Pattern) -> set[str]:
    return {part.name for part in patterns_in(pattern) if isinstance(part, Capture | Inner)}


def _resolve(function: str) -> tuple[str, bool, str]:
    """Domain, whether it is literal, and op of a function name."""
    prefix, _, op = function.rpartition(".")
    return ("", prefix == "op", op) if prefix in ("", "op") else (prefix, True, op)


def _alternatives(expr: Expr) -> Iterable[Expr]:
    if isinstance(expr, Binary) and expr.op == "|":
        yield from _alternatives(expr.left)
        yield from _alternatives(expr.right)
    else:
        yield expr
