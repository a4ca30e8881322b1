"""From the YAML tree of one rule to a ``Rule``, or to every problem it has."""

from __future__ import annotations

import re
from typing import Any

from onnx_fp16fix.errors import Problem
from onnx_fp16fix.language.build_case import build_cases
from onnx_fp16fix.language.build_variant import VariantBuilder
from onnx_fp16fix.language.check import Names, check_guard
from onnx_fp16fix.language.compile import Uses, compile_pattern
from onnx_fp16fix.language.evaluate import evaluate
from onnx_fp16fix.language.expression import Expr
from onnx_fp16fix.language.fields import Fields
from onnx_fp16fix.language.guard import NOTHING
from onnx_fp16fix.language.operations import closest
from onnx_fp16fix.language.parse import parse_expression, parse_suite
from onnx_fp16fix.language.pattern import Pattern, Roots
from onnx_fp16fix.language.registry import find_action, is_for_model
from onnx_fp16fix.language.rule import EQUAL, OpsetRange, Rule, Variable
from onnx_fp16fix.language.yaml_source import Branch, Scalar, Tree

__all__ = ["build_rule"]

KEYS = (
    "id",
    "name",
    "status",
    "since",
    "summary",
    "why",
    "references",
    "equal",
    "assumes",
    "tol",
    "opset",
    "targets",
    "match",
    "vars",
    "inner",
    "where",
    "let",
    "replace",
    "action",
    "after",
    "tests",
)
_ID = re.compile(r"[A-Z]{2,12}[0-9]{3}")
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_KIND = re.compile(r"(tensor|const scalar|const tensor|const|attr|axes)(?:\s*\[(.*)\])?")
_OPSET = re.compile(r"(>=|<=|==|>|<)\s*([0-9]{1,4})")


def build_rule(tree: Tree, problems: list[Problem]) -> Rule | None:
    """The rule, or None with all its problems added to ``problems``."""
    if not isinstance(tree, Branch):
        problems.append(tree.place.problem("RULE-TYPE", "a rule must be a mapping with id, name, match, ..."))
        return None
    return _Builder(tree, problems).build()


class _Builder:
    def __init__(self, tree: Branch, problems: list[Problem]) -> None:
        self.tree, self.problems = tree, problems
        self.fields = Fields(tree, "a rule", KEYS, problems)
        self.partial = False
        """Whether a pattern could not be read, so that its names are not known."""

    def build(self) -> Rule | None:
        known = len(self.problems)
        fields = self.fields
        rule_id, name = self.identity()
        summary = fields.text("summary", required=True)
        equal = fields.text("equal", required=True, choices=EQUAL)
        assumes = tuple(item.text for item in fields.scalars("assumes"))
        if equal == "context" and not assumes:
            fields.report(
                self.tree.place, "equal: context needs 'assumes', the sentences a user must agree to"
            )
        shared = fields.text("inner", choices=("exclusive", "shared")) == "shared"
        patterns, uses = self.patterns()
        variables = self.variables(uses)
        names = Names(variables.values(), _inner(uses), _rests(uses), self.partial)
        where = self.guards("where", names)
        let = self.lets(names)
        self.needless()
        moved = any(use.moved for use in uses)
        variants = VariantBuilder(self.fields, names, variables, moved, self.roots(patterns)).variants()
        if not any(problem.code == "RULE-SYNTAX" for problem in self.problems[known:]):
            self.unused(let, names)  # what cannot be read may use them
        tol, opset = self.tolerance(), self.opset()
        cases = build_cases(self.fields)
        if len(self.problems) > known or not (patterns or self.for_model()):
            return None
        return Rule(
            id=rule_id,
            name=name,
            summary=summary,
            equal=equal,
            patterns=patterns,
            variables=variables,
            variants=variants,
            place=self.tree.place,
            why=fields.text("why"),
            status=fields.text("status") or "stable",
            references=tuple(item.text for item in fields.scalars("references")),
            assumes=assumes,
            tol=tol,
            where=where,
            let=let,
            shared=shared,
            opset=opset,
            targets=tuple(item.text for item in fields.scalars("targets")),
            after=tuple(item.text for item in fields.scalars("after")),
            cases=cases,
        )

    def for_model(self) -> bool:
        """Whether the rule's action finds its nodes itself."""
        action = self.fields.tree("action")
        name = action.get("name") if isinstance(action, Branch) else None
        return isinstance(name, Scalar) and is_for_model(find_action(name.text))

    def needless(self) -> None:
        """Nothing but the action decides in a rule for the whole model."""
        for key in ("match", "vars", "inner", "where", "let", "tests") if self.for_model() else ():
            if (tree := self.fields.tree(key)) is not None:
                self.fields.report(
                    tree.place, f"the action finds its nodes itself, so '{key}' has no meaning here"
                )

    def identity(self) -> tuple[str, str]:
        found = []
        for key, form, example in (("id", _ID, "NORM001"), ("name", _NAME, "rms-square-overflow")):
            value = self.fields.scalar(key, required=True)
            if value is not None and not form.fullmatch(value.text):
                message = f"'{key}' must look like {example}, not '{value.text}'"
                self.fields.report(value.place, message, code="RULE-TYPE")
            found.append(value.text if value is not None else "")
        return found[0], found[1]

    def patterns(self) -> tuple[tuple[Pattern, ...], list[Uses]]:
        tree = self.fields.tree("match")
        sources: list[Scalar] = []
        if isinstance(tree, Scalar):
            sources = [tree]
        elif isinstance(tree, Branch):
            sources = list(Fields(tree, "match", ("any",), self.problems).scalars("any"))
        elif tree is None:
            if not self.for_model() and not self.fields.is_meant("match"):
                self.fields.report(self.tree.place, "a rule needs the key 'match'")
        else:
            self.fields.report(tree.place, "'match' must be text or 'any:' with a list", code="RULE-TYPE")
        suites = [parse_suite(source, self.problems) for source in sources]
        compiled = [compile_pattern(suite, self.problems) for suite in suites if suite is not None]
        self.partial = len(compiled) < len(suites) or not suites
        patterns = tuple(pattern for pattern, _ in compiled if pattern is not None)
        return patterns, [uses for _, uses in compiled]

    def roots(self, patterns: tuple[Pattern, ...]) -> int:
        """How many results the alternatives have; all must have as many."""
        counts = {len(found.patterns) if isinstance(found, Roots) else 1 for found in patterns}
        if len(counts) > 1:
            tree = self.fields.tree("match") or self.tree
            self.fields.report(tree.place, "the alternatives of 'any' must have the same number of roots")
        return max(counts, default=1)

    def variables(self, uses: list[Uses]) -> dict[str, Variable]:
        bound = {name for use in uses for name in use.all()}
        variables: dict[str, Variable] = {}
        for key, value in self.fields.mapping("vars"):
            form = _KIND.fullmatch(value.text.strip())
            if form is None:
                hint = (
                    "tensor, const, const scalar, const tensor, attr or axes, with a shape such as [..., D]"
                )
                self.fields.report(value.place, f"'{value.text}' is not a kind", hint, "RULE-TYPE")
                continue
            if uses and not self.partial and key.text not in bound:
                message = f"'{key.text}' is not a name of the pattern"
                self.fields.report(key.place, message, closest(key.text, bound), "RULE-NAME")
            kind = form.group(1)
            shape = self.shape(value, form.group(2)) if form.group(2) is not None else None
            variables[key.text] = Variable(key.text, kind.split()[0], kind == "const scalar", shape)
        for use in uses:
            for name in use.tensors:
                variables.setdefault(name, Variable(name, "tensor"))
            for name in use.attributes:
                variables.setdefault(name, Variable(name, "axes" if name in ("ax", "axes") else "attr"))
            self.kinds(use, variables)
        return variables

    def kinds(self, use: Uses, variables: dict[str, Variable]) -> None:
        """A name is a tensor where the pattern has an input, and an attribute where it has a keyword."""
        for names, kinds, role in (
            (use.tensors, ("tensor", "const"), "a tensor"),
            (use.attributes, ("attr", "axes"), "an attribute"),
        ):
            for name, place in names.items():
                if variables[name].kind not in kinds:
                    message = f"'{name}' is {role} in the pattern but declared as '{variables[name].kind}'"
                    self.fields.report(place, message, code="RULE-TYPE")

    def shape(self, value: Scalar, text: str) -> tuple[Any, ...]:
        sizes: list[Any] = []
        for item in filter(None, (part.strip() for part in text.split(","))):
            if item == "...":
                sizes.append(Ellipsis)
            elif item == "_":
                sizes.append(None)
            elif item.isdigit():
                sizes.append(int(item))
            elif item.isidentifier():
                sizes.append(item)
            else:
                self.fields.report(value.place, f"'{item}' is not a size", code="RULE-TYPE")
        if sizes.count(Ellipsis) > 1:
            self.fields.report(value.place, "a shape can hold '...' once", code="RULE-TYPE")
        return tuple(sizes)

    def guards(self, key: str, names: Names) -> tuple[Expr, ...]:
        found = []
        for source in self.fields.scalars(key):
            expr = parse_expression(source, self.problems)
            if expr is not None:
                check_guard(expr, names, self.problems)
                found.append(expr)
        return tuple(found)

    def lets(self, names: Names) -> tuple[tuple[str, Expr], ...]:
        found = []
        for key, source in self.fields.mapping("let"):
            expr = parse_expression(source, self.problems)
            if key.text in names.all() or not key.text.isidentifier():
                self.fields.report(
                    key.place, f"'{key.text}' is already bound, or is no name", code="RULE-NAME"
                )
            if expr is not None:
                check_guard(expr, names, self.problems)
                found.append((key.text, expr))
            names.values.add(key.text)
        return tuple(found)

    def unused(self, let: tuple[tuple[str, Expr], ...], names: Names) -> None:
        places = {key.text: key.place for key, _ in self.fields.mapping("let")} if let else {}
        for name, _ in let:
            if name not in names.used:
                self.fields.report(places[name], f"'{name}' is computed but never used", code="RULE-NAME")

    def tolerance(self) -> float | None:
        source = self.fields.scalar("tol")
        if source is None:
            return None
        expr = parse_expression(source, self.problems)
        if expr is None:
            return None
        known = len(self.problems)
        check_guard(expr, Names((), (), ()), self.problems)
        if len(self.problems) > known:
            return None
        value = evaluate(expr, NOTHING)
        if not isinstance(value, float) or not 0 < value < 1:
            self.fields.report(source.place, "'tol' must be a number between 0 and 1", code="RULE-TYPE")
            return None
        return value

    def opset(self) -> OpsetRange:
        low, high = 1, 1 << 30
        source = self.fields.scalar("opset")
        for part in source.text.split(",") if source is not None else ():
            form = _OPSET.fullmatch(part.strip())
            if form is None:
                assert source is not None
                self.fields.report(
                    source.place, f"'{part.strip()}' is not a range such as '>=13'", code="RULE-TYPE"
                )
                continue
            op, version = form.group(1), int(form.group(2))
            if op in (">=", ">", "=="):
                low = max(low, version + (op == ">"))
            if op in ("<=", "<", "=="):
                high = min(high, version - (op == "<"))
        return OpsetRange(low, high)


def _inner(uses: list[Uses]) -> set[str]:
    return {name for use in uses for name in use.inner}


def _rests(uses: list[Uses]) -> set[str]:
    return {name for use in uses for name in use.rests}
