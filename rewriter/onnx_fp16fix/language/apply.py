"""One pass of rules over a model: match, guard, decide between overlapping matches, write the edits.

Nothing is applied twice in a pass and nothing written is matched again: the caller applies the patches and may run
another pass until none is left.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from onnx_fp16fix.collector import few_collections
from onnx_fp16fix.graph import GraphView
from onnx_fp16fix.language.decide import Decider, OpenScope, open_scope
from onnx_fp16fix.language.facts import Ranges
from onnx_fp16fix.language.match import Match
from onnx_fp16fix.language.miss import Miss
from onnx_fp16fix.language.misses import missed_match, not_run, refused_match
from onnx_fp16fix.language.rule import DEFAULT_ALLOWED, Rule
from onnx_fp16fix.language.run import MatchRecord, RuleRun, RuleStats
from onnx_fp16fix.language.target import Target
from onnx_fp16fix.language.whole_model import ask_for_model
from onnx_fp16fix.model import ScopePath

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
    with few_collections():
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


class _Pass:
    def __init__(
        self,
        view: GraphView,
        ranges: Ranges,
        targets: Collection[str | Target],
        only_nodes: Collection[tuple[ScopePath, int]] | None,
        allow: frozenset[str],
    ) -> None:
        self.view = view
        self.wanted: dict[ScopePath, set[int]] | None = None
        """The nodes of ``only_nodes`` by scope."""
        if only_nodes is not None:
            self.wanted = {scope.path: set() for scope in view}
            for path, index in only_nodes:
                self.wanted.setdefault(path, set()).add(index)
        asked = [Target(target) if isinstance(target, str) else target for target in targets]
        self.targets = {target.name: target for target in asked}
        names = view.main.fresh_names()
        self.scopes = [open_scope(scope, names) for scope in view]
        self.decider = Decider(view, ranges, self.targets, allow)
        self.records: list[MatchRecord] = []
        self.stats: list[RuleStats] = []

    def result(self, explain: Sequence[Rule]) -> RuleRun:
        misses = tuple(miss for rule in explain if (miss := self.miss(rule)) is not None)
        patches = [scope.editor.finish() for scope in self.scopes]
        changed = tuple(patch for patch in patches if not patch.is_empty())
        return RuleRun(changed, tuple(self.decider.requests), tuple(self.records), tuple(self.stats), misses)

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
        if not rule.patterns and self.wanted is None:
            stats.tried = stats.matched = stats.applied = 1
            request, decided = ask_for_model(rule, self.view)
            self.decider.requests.append(request)
            self.records.append(decided)
        for scope in self.scopes:
            before = scope.matcher.exhausted
            wanted = None if self.wanted is None else self.wanted[scope.matcher.scope.path]
            for _, matches in scope.finder.tries(rule, wanted):
                stats.tried += 1
                record = self._at(rule, scope, matches)
                if record is not None:
                    stats.matched += 1
                    self.records.append(record)
                    setattr(stats, record.status, getattr(stats, record.status) + 1)
            stats.given_up += scope.matcher.exhausted - before
            stats.seconds += scope.finder.seconds.get(rule.id, 0.0)
        stats.seconds += time.process_time() - start

    def _at(self, rule: Rule, scope: OpenScope, matches: Iterable[Match]) -> MatchRecord | None:
        """At most one match for each root: of the alternatives, the first whose guards hold too."""
        refused = None
        for match in matches:
            if self._is_wanted(match):
                record = self.decider.decide(rule, scope, match)
                if record.status != "skipped":
                    return record
                refused = refused or record
        return refused

    def _is_wanted(self, match: Match) -> bool:
        return self.wanted is None or not self.wanted[match.scope.path].isdisjoint(match.nodes)
