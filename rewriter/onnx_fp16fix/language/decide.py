"""What becomes of one match: sizes, guards, earlier rules on the same nodes, then a variant or an action."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import onnx_graphsurgeon as gs

from onnx_fp16fix.graph import GraphView, ScopeView, ViewNode
from onnx_fp16fix.language.edit import Edit
from onnx_fp16fix.language.editor import ScopeEditor
from onnx_fp16fix.language.emitter import METADATA_KEY, Untranslatable
from onnx_fp16fix.language.evaluate import evaluate
from onnx_fp16fix.language.expression import Expr
from onnx_fp16fix.language.facts import MatchFacts, Ranges
from onnx_fp16fix.language.finder import Finder
from onnx_fp16fix.language.guard import Unknown, is_true
from onnx_fp16fix.language.match import Binding, Match, Matcher
from onnx_fp16fix.language.op_index import OpIndex
from onnx_fp16fix.language.registry import Action, Call, NotPossible, find_action, is_for_model, is_rewrite
from onnx_fp16fix.language.request import PlanRequest
from onnx_fp16fix.language.rule import Rule, Variant
from onnx_fp16fix.language.run import MatchRecord
from onnx_fp16fix.language.shapes import bind_sizes
from onnx_fp16fix.language.target import Target
from onnx_fp16fix.model import Names

__all__ = ["Decider", "OpenScope", "may_rewrite", "open_scope"]


@dataclass(slots=True)
class OpenScope:
    """What a pass keeps for one scope."""

    view: ScopeView
    matcher: Matcher
    editor: ScopeEditor
    index: OpIndex
    finder: Finder
    taken: dict[int, str] = field(default_factory=dict)
    copied: dict[int, str] = field(default_factory=dict)

    def winner(self, index: int, rule: Rule) -> str | None:
        """The rule that has this node already; one rule may copy a node for several of its matches."""
        copier = self.copied.get(index)
        return self.taken.get(index) or (copier if copier != rule.id else None)


@dataclass(frozen=True, slots=True)
class _Site:
    """A match as an action sees it."""

    rule: str
    view: GraphView
    match: Match
    facts: MatchFacts

    @property
    def target(self) -> Target | None:
        """What the model is made for, as far as the rule names it."""
        return self.facts.target

    def evaluate(self, expr: Expr, out: gs.Tensor) -> Any:
        """Value of a guard in which ``out`` is this tensor."""
        bindings = {**self.match.bindings, "out": Binding(out)}
        match = replace(self.match, bindings=bindings)
        facts = MatchFacts(
            match, self.facts.matcher, self.facts.ranges, self.facts.variables, self.facts.target
        )
        facts.lets, facts.sizes = self.facts.lets, self.facts.sizes
        return evaluate(expr, facts)


def open_scope(scope: ScopeView, names: Names) -> OpenScope:
    matcher = Matcher(scope)
    index = OpIndex(scope, matcher.sketches)
    return OpenScope(scope, matcher, ScopeEditor(scope, matcher, names), index, Finder(scope, matcher, index))


def may_rewrite(rule: Rule) -> bool:
    """Whether any variant of the rule changes the model; the others only ask the planner for something."""
    called = (variant.action for variant in rule.variants)
    actions = [None if call is None else find_action(call.name) for call in called]
    return any(action is None or is_rewrite(action) for action in actions)


class Decider:
    """``requests`` collects what actions ask of the planner; edits are written into the scopes."""

    def __init__(
        self, view: GraphView, ranges: Ranges, targets: Mapping[str, Target], allow: Collection[str]
    ) -> None:
        self.view, self.ranges, self.targets, self.allow = view, ranges, targets, allow
        self.requests: list[PlanRequest] = []

    def decide(self, rule: Rule, scope: OpenScope, match: Match) -> MatchRecord:
        target = next((self.targets[name] for name in rule.targets if name in self.targets), None)
        facts = MatchFacts(match, scope.matcher, self.ranges, rule.variables, target)
        problem = bind_sizes(rule, match, facts)
        if problem is not None:
            return self._record(rule, match, facts, "skipped", *problem)
        for position, guard in enumerate(rule.where):
            value = evaluate(guard, facts)
            if not is_true(value):
                return self._unmet(rule, match, facts, value, f"where[{position}]")
        for name, expr in rule.let:
            facts.lets[name] = evaluate(expr, facts)
        if _made_by(rule, match.root):
            return self._record(rule, match, facts, "skipped", f"{rule.id} has been here already", "again")
        winner = next(filter(None, (scope.winner(index, rule) for index in sorted(match.nodes))), None)
        if winner is not None:
            reason = f"shadowed by {winner}, which changes the same nodes"
            return self._record(rule, match, facts, "shadowed", reason, "overlap")
        if rule.equal not in self.allow:
            reason = f"equal: {rule.equal} is not allowed here"
            return self._record(rule, match, facts, "skipped", reason, "equal")
        for position, variant in enumerate(rule.variants):
            if variant.when is None or is_true(evaluate(variant.when, facts)):
                return self._write(rule, variant, scope, match, facts, f"replace[{position}]")
        return self._record(
            rule, match, facts, "skipped", "no variant of 'replace' is allowed here", "replace"
        )

    def _unmet(self, rule: Rule, match: Match, facts: MatchFacts, value: Any, clause: str) -> MatchRecord:
        if isinstance(value, Unknown) and not facts.unbound.issuperset(value.missing):
            reason = f"{clause} is unknown: {'; '.join(value.missing)}"
            return self._record(rule, match, facts, "skipped", reason, clause, missing=value.missing)
        return self._record(rule, match, facts, "skipped", f"{clause} is not met", clause)

    def _write(
        self, rule: Rule, variant: Variant, scope: OpenScope, match: Match, facts: MatchFacts, clause: str
    ) -> MatchRecord:
        if variant.action is not None:
            return self._act(rule, variant, scope, match, facts, clause)
        try:
            edit = scope.editor.write(rule, variant, match, facts)
        except Untranslatable as reason:
            return self._record(rule, match, facts, "skipped", str(reason), clause)
        return self._written(rule, scope, match, facts, edit, rule.summary, clause)

    def _written(
        self,
        rule: Rule,
        scope: OpenScope,
        match: Match,
        facts: MatchFacts,
        edit: Edit,
        reason: str,
        clause: str,
        **more: Any,
    ) -> MatchRecord:
        scope.taken.update(dict.fromkeys(edit.taken, rule.id))
        scope.copied.update(dict.fromkeys(edit.copied, rule.id))
        names = {"removed": tuple(edit.removed), "added": tuple(edit.added), "changed": tuple(edit.changed)}
        return self._record(rule, match, facts, "applied", reason, clause, **names, **more)

    def _act(
        self, rule: Rule, variant: Variant, scope: OpenScope, match: Match, facts: MatchFacts, clause: str
    ) -> MatchRecord:
        assert variant.action is not None
        action = find_action(variant.action.name)
        if action is None or is_for_model(action):  # the rule was loaded where another one had the name
            reason = f"no action named '{variant.action.name}' works on a match"
            return self._record(rule, match, facts, "skipped", reason, clause)
        site = _Site(rule.id, self.view, match, facts)
        call = Call(variant.action.parameters, variant.action.expressions)
        try:
            if is_rewrite(action):
                emitter = scope.editor.emitter(rule, match)
                written = action.rewrite(site, call, emitter)
                edit = scope.editor.place(match, emitter, written.output)
                return self._written(
                    rule, scope, match, facts, edit, written.reason, clause, action=action.name
                )
            request = cast(Action, action).request(site, call)
        except (NotPossible, Untranslatable) as problem:
            return self._record(rule, match, facts, "skipped", str(problem), clause)
        self.requests.append(request)
        return self._record(rule, match, facts, "applied", request.reason, clause, action=action.name)

    def _record(
        self, rule: Rule, match: Match, facts: MatchFacts, status: Any, reason: str, clause: str, **more: Any
    ) -> MatchRecord:
        indices = sorted(match.nodes)
        nodes = [match.scope.nodes[index] for index in indices]
        tensors = {b.tensor.name: None for b in match.bindings.values() if b.tensor is not None}
        return MatchRecord(
            rule=rule.id,
            name=rule.name,
            status=status,
            scope=match.scope.path,
            node=match.root.label,
            nodes=tuple(node.label for node in nodes),
            tensors=tuple(tensors),
            reason=reason,
            clause=clause,
            facts=facts.seen,
            equal=rule.equal,
            tol=rule.tol,
            indices=tuple(indices),
            assumes=rule.assumes,
            **more,
        )


def _made_by(rule: Rule, node: ViewNode) -> bool:
    """Whether the rule wrote this node or what it reads, or left it for what else it makes, in this run or before."""
    written = node.proto.metadata_props
    if written and any(entry.key == METADATA_KEY and entry.value == rule.id for entry in written):
        return True
    return f"/fp16fix/{rule.id}/" in "\n".join((node.name, *node.proto.input, *node.proto.output))
