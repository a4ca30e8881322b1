"""The part of a rule that mends: ``replace`` with its variants, or an ``action``."""

from __future__ import annotations

import pydantic

from onnx_fp16fix.language.check import Names, check_guard, check_template
from onnx_fp16fix.language.expression import Expr, Suite
from onnx_fp16fix.language.fields import Fields
from onnx_fp16fix.language.operations import closest
from onnx_fp16fix.language.parse import parse_expression, parse_suite
from onnx_fp16fix.language.registry import action_names, find_action
from onnx_fp16fix.language.rule import ActionCall, Variable, Variant
from onnx_fp16fix.language.yaml_source import Branch, Items, Scalar, Tree

__all__ = ["VariantBuilder"]


class VariantBuilder:
    """Builds the variants of one rule; ``moved``: the pattern looks through ops it does not rebuild. ``roots``: how
    many results the pattern has."""

    def __init__(
        self, fields: Fields, names: Names, variables: dict[str, Variable], moved: bool, roots: int = 1
    ) -> None:
        self.roots = roots
        self.fields, self.problems = fields, fields.problems
        self.names, self.variables, self.moved = names, variables, moved

    def variants(self) -> tuple[Variant, ...]:
        """All variants; ``action`` in place of ``replace`` is the only one."""
        trees = self.fields.items("replace")
        action = self.fields.tree("action")
        misspelled = any(map(self.fields.is_meant, ("replace", "action")))
        if (action is None) == (not trees) and not misspelled:
            self.fields.report(self.fields.branch.place, "a rule needs either 'replace' or 'action'")
        found = [self.variant(tree, last=tree is trees[-1]) for tree in trees]
        if action is not None:
            found.append(Variant(action=self.action(action)))
        return tuple(variant for variant in found if variant is not None)

    def variant(self, tree: Tree, last: bool) -> Variant | None:
        if not isinstance(tree, Branch):
            self.fields.report(
                tree.place, "a variant must be a mapping: with, set or action", code="RULE-TYPE"
            )
            return None
        fields = Fields(tree, "a variant", ("when", "with", "set", "action"), self.problems)
        forms = [key for key in ("with", "set", "action") if fields.tree(key) is not None]
        if len(forms) != 1:
            fields.report(tree.place, "a variant needs exactly one of 'with', 'set' and 'action'")
        when_source = fields.scalar("when")
        if when_source is None and not last:
            fields.report(
                tree.place, "only the last variant can do without 'when'; those after it are never reached"
            )
        when = parse_expression(when_source, self.problems) if when_source is not None else None
        if when is not None:
            check_guard(when, self.names, self.problems)
        template = self.template(fields)
        settings = self.settings(fields)
        action_tree = fields.tree("action")
        action = self.action(action_tree) if action_tree is not None else None
        return Variant(when, template, settings, action)

    def template(self, fields: Fields) -> Suite | None:
        source = fields.scalar("with")
        suite = parse_suite(source, self.problems) if source is not None else None
        if source is not None and self.moved:
            hint = "use 'set', which keeps the ops that moved() looked through"
            fields.report(source.place, "'with' cannot rebuild what moved() matched", hint)
        if suite is not None:
            check_template(suite, self.names, self.problems, self.roots)
        return suite

    def settings(self, fields: Fields) -> tuple[tuple[str, Expr], ...]:
        found = []
        for key, source in fields.mapping("set"):
            expr = parse_expression(source, self.problems)
            self.names.used.add(key.text)
            kind = self.variables[key.text].kind if key.text in self.variables else ""
            if kind not in ("tensor", "const", "attr") and (kind or not self.names.partial):
                hint = closest(key.text, self.variables)
                fields.report(
                    key.place,
                    f"'{key.text}' is not a captured tensor, constant or attribute",
                    hint,
                    "RULE-NAME",
                )
            if expr is not None:
                check_template(Suite((), expr), self.names, self.problems)
                found.append((key.text, expr))
        return tuple(found)

    def action(self, tree: Tree) -> ActionCall | None:
        if not isinstance(tree, Branch):
            self.fields.report(tree.place, "'action' must be a mapping: name, parameters", code="RULE-TYPE")
            return None
        name = tree.get("name")
        action = find_action(name.text) if isinstance(name, Scalar) else None
        if action is None:
            place = name.place if name is not None else tree.place
            known = action_names()
            asked = name.text if isinstance(name, Scalar) else ""
            hint = closest(asked, known) or "actions: " + ", ".join(known)
            self.fields.report(place, f"there is no action '{asked}'", hint, "RULE-ACTION")
            return None
        fields = Fields(
            tree, f"action {action.name}", ("name", *action.parameters.model_fields), self.problems
        )
        texts = {key.text: value for key, value in tree.entries if key.text in action.parameters.model_fields}
        try:
            values = {key: _plain(value) for key, value in texts.items()}
            parameters = action.parameters.model_validate(values)
        except pydantic.ValidationError as error:
            for entry in error.errors():
                key = str(entry["loc"][0]) if entry["loc"] else ""
                place = texts[key].place if key in texts else tree.place
                fields.report(place, f"action {action.name}, '{key}': {entry['msg']}", code="RULE-ACTION")
            return None
        return ActionCall(action.name, parameters, self.action_guards(fields, action.guards))

    def action_guards(self, fields: Fields, keys: tuple[str, ...]) -> dict[str, Expr]:
        found = {}
        self.names.tensors.add("out")
        for key in keys:
            source = fields.scalar(key)
            expr = parse_expression(source, self.problems) if source is not None else None
            if expr is not None:
                check_guard(expr, self.names, self.problems)
                found[key] = expr
        self.names.tensors.discard("out")
        return found


def _plain(value: Tree) -> object:
    """Text, or a list of texts; what a parameter cannot be stays a tree, which pydantic refuses."""
    if isinstance(value, Items):
        return [_plain(item) for item in value.values]
    return value.text if isinstance(value, Scalar) else value
