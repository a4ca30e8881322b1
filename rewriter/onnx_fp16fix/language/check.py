"""Names and functions in guards, ``let`` and templates, checked when a file is loaded."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

from onnx_fp16fix.errors import Problem
from onnx_fp16fix.language import operations
from onnx_fp16fix.language.evaluate import evaluate
from onnx_fp16fix.language.expression import (
    Binary,
    Call,
    Compare,
    Expr,
    Listing,
    Logic,
    Member,
    Name,
    Output,
    Suite,
    children,
    walk,
)
from onnx_fp16fix.language.guard import CONSTANTS, FACTS, MATH, NOTHING, Unknown
from onnx_fp16fix.language.rule import Variable
from onnx_fp16fix.wording import counted

__all__ = ["Names", "check_guard", "check_template"]

ENVIRONMENT = ("opset", "target", "target_version")


class Names:
    """Names of one rule: ``tensors`` (with constants and inner values), and ``values`` (attributes, sizes, let).

    ``partial``: a pattern could not be read, so a name that is not known here is no mistake of its own.
    """

    def __init__(
        self,
        variables: Iterable[Variable],
        inner: Collection[str],
        rests: Collection[str],
        partial: bool = False,
    ) -> None:
        variables, self.partial = list(variables), partial
        self.constants = {v.name for v in variables if v.kind == "const"}
        self.tensors = {v.name for v in variables if v.kind in ("tensor", "const")} | set(inner)
        self.values = {v.name for v in variables if v.kind in ("attr", "axes")} | set(ENVIRONMENT)
        self.values |= {size for v in variables for size in v.shape or () if isinstance(size, str)}
        self.rests = set(rests)
        self.used: set[str] = set()

    def all(self) -> set[str]:
        """Every name that may be written."""
        return self.tensors | self.values | self.rests

    def unknown(self, name: Name, message: str, hint: str | None, problems: list[Problem]) -> None:
        """Report a name that is not known, where all that could be known are."""
        if not self.partial:
            problems.append(name.place.problem("RULE-NAME", f"'{name.id}' {message}", hint))


def check_guard(expr: Expr, names: Names, problems: list[Problem]) -> None:
    """Report unknown names and functions, wrong numbers of arguments, and numbers too large."""
    known = len(problems)
    _guard(expr, names, problems)
    if len(problems) == known:
        _check_numbers(expr, problems)


def _guard(expr: Expr, names: Names, problems: list[Problem]) -> None:
    if isinstance(expr, Name):
        _check_value(expr, names, problems)
    elif isinstance(expr, Member):
        if expr.dotted not in CONSTANTS:
            hint = operations.closest(expr.dotted, CONSTANTS) or "constants are " + ", ".join(CONSTANTS)
            problems.append(expr.place.problem("RULE-NAME", f"there is no constant '{expr.dotted}'", hint))
    elif isinstance(expr, Call):
        _check_call(expr, names, problems)
    elif isinstance(expr, Binary) and expr.op in ("@", "|"):
        problems.append(expr.place.problem("RULE-SYNTAX", f"'{expr.op}' has no meaning among numbers"))
    else:
        for child in children(expr):
            _guard(child, names, problems)


def _check_value(name: Name, names: Names, problems: list[Problem]) -> None:
    names.used.add(name.id)
    if name.id in names.values:
        return
    if name.id in names.tensors:
        what = f"value({name.id})" if name.id in names.constants else f"absmax({name.id})"
        message = f"'{name.id}' is a tensor; ask for a fact of it, such as {what}"
        problems.append(name.place.problem("RULE-NAME", message))
        return
    hint = operations.closest(name.id, names.all())
    names.unknown(name, "is not bound by the pattern", hint, problems)


def _check_call(call: Call, names: Names, problems: list[Problem]) -> None:
    if call.keywords or call.star or call.stars:
        problems.append(call.place.problem("RULE-CALL", f"{call.function}() takes plain arguments only"))
        return
    if call.function in MATH:
        fewest, most, _ = MATH[call.function]
        _check_count(call, fewest, most, problems)
        for argument in call.args:
            _guard(argument, names, problems)
        return
    if call.function not in FACTS:
        hint = operations.closest(call.function, [*FACTS, *MATH])
        message = f"there is no function '{call.function}' in guards"
        problems.append(call.place.problem("RULE-CALL", message, hint))
        return
    fact = FACTS[call.function]
    _check_count(call, len(fact.arguments) - fact.optional, len(fact.arguments), problems)
    for kind, argument in zip(fact.arguments, call.args, strict=False):
        if kind in ("tensor", "const"):
            _check_subject(call, kind, argument, names, problems)
        else:
            _guard(argument, names, problems)


def _check_count(call: Call, fewest: int, most: int, problems: list[Problem]) -> None:
    if not fewest <= len(call.args) <= most:
        wanted = counted(most, "argument")
        if fewest != most:
            wanted = f"{fewest} to {wanted}"
        message = f"{call.function}() takes {wanted}, not {len(call.args)}"
        problems.append(call.place.problem("RULE-CALL", message))


def _check_subject(call: Call, kind: str, argument: Expr, names: Names, problems: list[Problem]) -> None:
    if not isinstance(argument, Name):
        problems.append(
            argument.place.problem("RULE-CALL", f"{call.function}() asks about a name of the pattern")
        )
        return
    names.used.add(argument.id)
    if argument.id not in names.tensors:
        hint = operations.closest(argument.id, names.tensors)
        names.unknown(argument, "is not a tensor bound by the pattern", hint, problems)
    elif kind == "const" and argument.id not in names.constants:
        hint = f"declare it in vars: {argument.id}: const scalar"
        message = f"{call.function}() needs a constant, '{argument.id}' is a tensor"
        problems.append(argument.place.problem("RULE-TYPE", message, hint))


def _check_numbers(expr: Expr, problems: list[Problem]) -> None:
    """Parts that are numbers only must have a value: ``9 ** 9 ** 9`` has none in float64."""
    for part in walk(expr):
        if isinstance(part, Binary) and not _has_names(part):
            value = evaluate(part, NOTHING)
            if isinstance(value, Unknown) or value in (math.inf, -math.inf):
                message = "this number has no value in float64 (too large, or not defined)"
                problems.append(part.place.problem("RULE-NUMBER", message))
                return


def _has_names(expr: Expr) -> bool:
    return any(
        isinstance(part, Name) or (isinstance(part, Call) and part.function in FACTS) for part in walk(expr)
    )


def check_template(suite: Suite, names: Names, problems: list[Problem], roots: int = 1) -> None:
    """Report what cannot be written in a replacement of a pattern with so many roots."""
    results = suite.result.items if roots > 1 and isinstance(suite.result, Listing) else (suite.result,)
    if len(results) != roots:
        message = f"the pattern has {roots} roots, so the replacement needs {roots} results: (a, b)"
        problems.append(suite.result.place.problem("RULE-PATTERN", message))
    local = Names((), (), names.rests, names.partial)
    local.constants, local.tensors = set(names.constants), set(names.tensors)
    local.values, local.used = set(names.values), names.used
    for name, expr in suite.steps:
        _template(expr, local, problems)
        local.tensors.add(name.id)
    for result in results:
        _template(result, local, problems)
    exprs = (*(expr for _, expr in suite.steps), suite.result)
    read = {part.id for expr in exprs for part in walk(expr) if isinstance(part, Name)}
    for name, _ in suite.steps:
        if name.id not in read:
            problems.append(name.place.problem("RULE-NAME", f"'{name.id}' is made but never used"))


def _template(expr: Expr, names: Names, problems: list[Problem]) -> None:
    if isinstance(expr, Name):
        names.used.add(expr.id)
        if expr.id not in names.tensors | names.values:
            hint = operations.closest(expr.id, names.all())
            names.unknown(expr, "is not bound by the pattern", hint, problems)
    elif isinstance(expr, Compare | Logic) or (isinstance(expr, Binary) and expr.op == "|"):
        problems.append(
            expr.place.problem("RULE-SYNTAX", "comparisons and '|' have no place in a replacement")
        )
    elif isinstance(expr, Call) and expr.function not in FACTS and expr.function not in MATH:
        _template_call(expr, names, problems)
    elif isinstance(expr, Output):
        _template_call(expr.call, names, problems)
        _check_outputs(expr, problems)
    elif isinstance(expr, Call | Listing | Member):
        check_guard(expr, names, problems)
    else:
        for child in children(expr):
            _template(child, names, problems)


def _check_outputs(expr: Output, problems: list[Problem]) -> None:
    prefix, _, op = expr.call.function.rpartition(".")
    if prefix in ("", "op") and operations.is_known(op) and operations.most_outputs(op) < expr.count:
        message = f"{op} does not have {expr.count} outputs"
        problems.append(expr.call.place.problem("RULE-OP", message))


def _template_call(call: Call, names: Names, problems: list[Problem]) -> None:
    prefix, _, op = call.function.rpartition(".")
    if prefix in ("", "op") and not operations.is_known(op):
        similar = operations.similar_ops(op)
        hint = f"did you mean '{similar}'?" if similar else operations.closest(op, [*FACTS, *MATH])
        problems.append(call.place.problem("RULE-OP", f"ONNX has no operator '{op}'", hint))
        prefix = "unknown"
    for argument in call.args:
        if not (isinstance(argument, Name) and argument.id == "None"):
            _template(argument, names, problems)
    for key, value in call.keywords:
        if prefix in ("", "op") and key not in operations.attribute_names(op):
            hint = operations.closest(key, operations.attribute_names(op))
            problems.append(value.place.problem("RULE-OP", f"{op} has no attribute '{key}'", hint))
        check_guard(value, names, problems)
    for star in (call.star, call.stars):
        if star is not None:
            names.used.add(star.id)
            if star.id not in names.rests:
                message = "does not stand for remaining inputs or attributes of the pattern"
                names.unknown(star, message, None, problems)
