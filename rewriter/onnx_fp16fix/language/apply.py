"""One pass of rules over a model: match, guard, decide between overlapping matches, write the edits.

Nothing is applied twice in a pass and nothing written is matched again: the caller applies the patches and may run
another pass until none is left.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import onnx_graphsurgeon as gs

from onnx_fp16fix.graph import GraphView, ScopeView, ViewNode
from onnx_fp16fix.language.edit import Edit, ScopeEditor
from onnx_fp16fix.language.emitter import METADATA_KEY, Untranslatable
from onnx_fp16fix.language.evaluate import evaluate
from onnx_fp16fix.language.expression import Expr
from onnx_fp16fix.language.facts import MatchFacts, Ranges
from onnx_fp16fix.language.finder import Finder
from onnx_fp16fix.language.guard import Unknown, is_true
from onnx_fp16fix.language.match import Binding, Match, Matcher
from onnx_fp16fix.language.miss import Miss
from onnx_fp16fix.language.misses import missed_match, not_run, refused_match
from onnx_fp16fix.language.op_index import OpIndex
from onnx_fp16fix.language.pause import no_collection
from onnx_fp16fix.language.registry import Call, ModelAction, NotPossible, RewriteAction, find_action
from onnx_fp16fix.language.request import PlanRequest
from onnx_fp16fix.language.rule import DEFAULT_ALLOWED, Rule, Variant
from onnx_fp16fix.language.run import MatchRecord, RuleRun, RuleStats
from onnx_fp16fix.language.shapes import bind_sizes
from onnx_fp16fix.language.target import Target
from onnx_fp16fix.language.whole_model import ask_for_model
from onnx_fp16fix.model import Names, ScopePath

if TYPE_CHECKING:
    from onnx_fp16fix.calibrate.ranges import RangeTable

__all__ = ["apply_rules"]


def apply_rules(
    view: GraphView,
    rules: Sequence[Rule],
    ranges: RangeTable | None,
    *,
    margin: float = 1.0,
    targets: Collection[str | Target] = (),
    only_nodes: Collection[tuple[ScopePath, int]] | None = None,
    allow: Collection[str] = DEFAULT_ALLOWED,
    explain_misses: bool = False,
) -> RuleRun:
    """Match all rules in all scopes and write what applies; the view and its model stay as they are.

    ``margin`` widens measured ranges (2 means: real data may be twice as large). A rule with ``targets`` runs only
    when one of them is asked for, by name or with its version. ``only_nodes``: matches that touch none of these
    (scope, node index) are passed over without a record. Rules whose ``equal`` is not in ``allow`` change nothing and
    say where they would. ``explain_misses``: for each rule that applies nowhere, look for its closest partial match.
    """
    ordered = order_rules(rules)
    with no_collection():
        run = _Pass(view, Ranges(view, ranges, margin), targets, only_nodes, frozenset(allow))
        run.prepare(ordered)
        for rule in ordered:
            run.rule(rule)
        return run.result(ordered if explain_misses else ())


def order_rules(rules: Sequence[Rule]) -> list[Rule]:
    """By ``after``, then larger patterns first, then id. A circle of ``after`` is broken at the smallest id."""
    waiting = sorted(rules, key=lambda rule: (-rule.size, rule.id))
    present, done, ordered = {rule.id for rule in rules}, set[str](), list[Rule]()
    while waiting:
        free = [
            rule for rule in waiting if all(other in done or other not in present for other in rule.after)
        ]
        chosen = free[0] if free else min(waiting, key=lambda rule: rule.id)
        waiting.remove(chosen)
        done.add(chosen.id)
        ordered.append(chosen)
    return ordered


@dataclass(slots=True)
class _Scope:
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


class _Pass:
    def __init__(
        self,
        view: GraphView,
        ranges: Ranges,
        targets: Collection[str | Target],
        only_nodes: Collection[tuple[ScopePath, int]] | None,
        allow: frozenset[str],
    ) -> None:
        self.view, self.ranges, self.only_nodes, self.allow = view, ranges, only_nodes, allow
        asked = [Target(target) if isinstance(target, str) else target for target in targets]
        self.targets = {target.name: target for target in asked}
        names = Names(view.model)
        self.scopes = [_open_scope(scope, names) for scope in view]
        self.records: list[MatchRecord] = []
        self.requests: list[PlanRequest] = []
        self.stats: list[RuleStats] = []

    def result(self, explain: Sequence[Rule]) -> RuleRun:
        misses = tuple(miss for rule in explain if (miss := self.miss(rule)) is not None)
        patches = [scope.editor.finish() for scope in self.scopes]
        changed = tuple(patch for patch in patches if not patch.is_empty())
        return RuleRun(changed, tuple(self.requests), tuple(self.records), tuple(self.stats), misses)

    def miss(self, rule: Rule) -> Miss | None:
        """How close the rule came; None where it is applied."""
        if any(stats.rule == rule.id and stats.applied for stats in self.stats):
            return None
        if (reason := self.not_for(rule)) is not None:
            return not_run(rule, *reason)
        refused = refused_match(rule, self.records)
        return refused or missed_match(rule, [(scope.matcher, scope.index) for scope in self.scopes])

    def not_for(self, rule: Rule) -> tuple[str, str] | None:
        """Clause and reason where the rule is not for this model or target."""
        opset = self.view.model.opset
        if opset not in rule.opset:
            return "opset", f"the model has opset {opset}, the rule is for {rule.opset}"
        if rule.targets and not set(rule.targets) & set(self.targets):
            return "targets", f"the rule is for {', '.join(rule.targets)}"
        return None

    def prepare(self, rules: Sequence[Rule]) -> None:
        """Find out what nodes look alike to the rules that are for this model."""
        wanted = [rule for rule in rules if self.not_for(rule) is None and rule.patterns]
        for scope in self.scopes:
            scope.finder.prepare(wanted)

    def rule(self, rule: Rule) -> None:
        stats = RuleStats(rule.id, rule.name)
        self.stats.append(stats)
        if self.not_for(rule) is not None:
            return
        start = time.process_time()
        if not rule.patterns and self.only_nodes is None:
            stats.tried = stats.matched = stats.applied = 1
            request, decided = ask_for_model(rule, self.view)
            self.requests.append(request)
            self.records.append(decided)
        for scope in self.scopes:
            before = scope.matcher.exhausted
            for _, matches in scope.finder.tries(rule):
                stats.tried += 1
                record = self._at(rule, scope, matches)
                if record is not None:
                    stats.matched += 1
                    self.records.append(record)
                    setattr(stats, record.status, getattr(stats, record.status) + 1)
            stats.given_up += scope.matcher.exhausted - before
            stats.seconds += scope.finder.seconds.get(rule.id, 0.0)
        stats.seconds += time.process_time() - start

    def _at(self, rule: Rule, scope: _Scope, matches: Iterable[Match]) -> MatchRecord | None:
        """At most one match for each root: of the alternatives, the first whose guards hold too."""
        refused = None
        for match in matches:
            if self._is_wanted(match):
                record = self._decide(rule, scope, match)
                if record.status != "skipped":
                    return record
                refused = refused or record
        return refused

    def _is_wanted(self, match: Match) -> bool:
        if self.only_nodes is None:
            return True
        return any((match.scope.path, index) in self.only_nodes for index in match.nodes)

    def _decide(self, rule: Rule, scope: _Scope, match: Match) -> MatchRecord:
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
        self, rule: Rule, variant: Variant, scope: _Scope, match: Match, facts: MatchFacts, clause: str
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
        scope: _Scope,
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
        self, rule: Rule, variant: Variant, scope: _Scope, match: Match, facts: MatchFacts, clause: str
    ) -> MatchRecord:
        assert variant.action is not None
        action = find_action(variant.action.name)
        if action is None or isinstance(
            action, ModelAction
        ):  # the rule was loaded where another one had the name
            reason = f"no action named '{variant.action.name}' works on a match"
            return self._record(rule, match, facts, "skipped", reason, clause)
        site = _Site(rule.id, self.view, match, facts)
        call = Call(variant.action.parameters, variant.action.expressions)
        try:
            if isinstance(action, RewriteAction):
                emitter = scope.editor.emitter(rule, match)
                written = action.rewrite(site, call, emitter)
                edit = scope.editor.place(match, emitter, written.output)
                return self._written(
                    rule, scope, match, facts, edit, written.reason, clause, action=action.name
                )
            request = action.request(site, call)
        except (NotPossible, Untranslatable) as problem:
            return self._record(rule, match, facts, "skipped", str(problem), clause)
        self.requests.append(request)
        return self._record(rule, match, facts, "applied", request.reason, clause, action=action.name)

    def _record(
        self, rule: Rule, match: Match, facts: MatchFacts, status: Any, reason: str, clause: str, **more: Any
    ) -> MatchRecord:
        nodes = [match.scope.nodes[index] for index in sorted(match.nodes)]
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
            assumes=rule.assumes,
            **more,
        )


def _made_by(rule: Rule, node: ViewNode) -> bool:
    """Whether the rule wrote this node or what it reads, or left it for what else it makes, in this run or before."""
    if any(entry.key == METADATA_KEY and entry.value == rule.id for entry in node.proto.metadata_props):
        return True
    mark = f"/fp16fix/{rule.id}/"
    return mark in node.name or any(mark in name for name in (*node.proto.input, *node.proto.output))


def _open_scope(scope: ScopeView, names: Names) -> _Scope:
    matcher = Matcher(scope)
    index = OpIndex(scope, matcher.sketches)
    return _Scope(scope, matcher, ScopeEditor(scope, matcher, names), index, Finder(scope, matcher, index))
