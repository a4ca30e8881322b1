"""The rule stage: runs rules over a view and keeps the books (statistics, findings, tolerance, requests)."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from pydantic import JsonValue

import onnx_fp16fix.actions  # noqa: F401  registers the actions that rules may name
from onnx_fp16fix.calibrate import RangeTable
from onnx_fp16fix.document import Edit, Finding, FindingStatus, MissEntry, RuleEntry
from onnx_fp16fix.graph import GraphView
from onnx_fp16fix.language import (
    DEFAULT_ALLOWED,
    MatchRecord,
    Miss,
    PlanRequest,
    Rule,
    RuleRun,
    Target,
    apply_rules,
    load_rules,
    may_rewrite,
    shipped_rules,
)
from onnx_fp16fix.model import Model, Patch, ScopePath, apply_patches, carried_types
from onnx_fp16fix.pipeline.causes import Span
from onnx_fp16fix.plan import Place

__all__ = ["Round", "RuleLoader", "RuleStage", "requests_to_plan", "rule_loader"]


RuleLoader = Callable[[], tuple[Rule, ...]]


def rule_loader(sources: str | Path | Sequence[str | Path] | None) -> RuleLoader:
    """What gives the rules of the sources, all shipped ones if None.

    Named sources are read here, so that mistakes in them are told first; the shipped rules when they are asked for.
    """
    if sources is None:
        return shipped_rules
    rules = load_rules([sources] if isinstance(sources, (str, Path)) else list(sources))
    return lambda: rules


def requests_to_plan(
    requests: Sequence[PlanRequest],
) -> tuple[dict[tuple[ScopePath, int], str], frozenset[str]]:
    """What rules ask of the planner: nodes to keep in FP32 with the reason, and tensors to rescale."""
    fp32 = {
        (scope, index): f"asked for by {request.rule}: {request.reason}"
        for request in requests
        for scope, index in request.fp32_nodes
    }
    return fp32, frozenset(name for request in requests for name in request.rescale_tensors)


@dataclass(frozen=True)
class Round:
    """One run whose rewrites count: the model as it was, its ranges, and the exact rules that rewrote something."""

    view: GraphView
    ranges: RangeTable
    exact: frozenset[str]


@dataclass
class RuleStage:
    """Runs of the same rules over a model that changes in between.

    ``run`` proposes; ``keep`` or ``discard`` says whether its rewrites count.
    """

    MAX_ROUNDS: ClassVar[int] = 4
    load: RuleLoader
    margin: float
    allow: Collection[str] = DEFAULT_ALLOWED
    """Classes of equality that may be used."""
    explain_misses: bool = False
    targets: tuple[Target, ...] = ()
    requests: tuple[PlanRequest, ...] = ()
    tolerance: float = 0.0
    """Largest FP32 deviation that the rules kept so far declare."""
    rounds: list[Round] = field(default_factory=list)
    """The runs kept so far."""
    _seen: tuple[GraphView, RangeTable] | None = None
    _last: RuleRun = field(default_factory=RuleRun)
    _kept: list[MatchRecord] = field(default_factory=list)
    _stats: dict[str, RuleEntry] = field(default_factory=dict)

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """The rules that are run."""
        return self.load()

    def run(
        self,
        view: GraphView,
        ranges: RangeTable,
        *,
        only_nodes: Collection[tuple[ScopePath, int]] | None = None,
        for_targets: bool = False,
        only_rewrites: bool = False,
    ) -> Model | None:
        """The rewritten model, None if no rule rewrites anything; ``for_targets``: of the rules that name targets,
        ``only_rewrites``: without rules that only ask the planner for something."""
        rules = [rule for rule in self.rules if rule.targets or not for_targets]
        rules = [rule for rule in rules if not only_rewrites or may_rewrite(rule)]
        self._seen = view, ranges
        self._last = apply_rules(
            view,
            rules,
            ranges,
            margin=self.margin,
            targets=self.targets,
            only_nodes=only_nodes,
            allow=self.allow,
            explain_misses=self.explain_misses,
        )
        self.requests = self._last.requests
        for stats in self._last.stats:
            entry = self._stats.setdefault(stats.rule, RuleEntry(id=stats.rule, name=stats.name))
            entry.tried += stats.tried
            entry.matched += stats.matched
            entry.skipped = stats.skipped
            entry.seconds += stats.seconds
        if not self.patches:
            return None
        model = apply_patches(view.model, self.patches)
        only = self.patches[0] if len(self.patches) == 1 else None
        types = None if only is None else carried_types(view.types, only, view.model)
        return replace(model, types=types)

    @property
    def patches(self) -> tuple[Patch, ...]:
        """What the last run rewrites."""
        return self._last.patches

    def places(self) -> list[frozenset[Place]]:
        """The nodes of each match that the last run rewrites."""
        return [frozenset((record.scope, index) for index in record.indices) for record in self._rewrites()]

    def only_at(self, nodes: Collection[Place]) -> None:
        """Forget what the last run skipped away from these nodes, and what it asked for away from what it rewrites."""
        chosen = {"skipped": set(nodes), "applied": set[Place]().union(*self.places())}
        near = tuple(
            record
            for record in self._last.records
            if any((record.scope, index) in chosen.get(record.status, ()) for index in record.indices)
        )
        self._last = replace(self._last, records=near)

    def _rewrites(self) -> list[MatchRecord]:
        return [record for record in self._last.records if record.removed or record.added or record.changed]

    def wishes(self, view: GraphView, ranges: RangeTable) -> dict[tuple[ScopePath, int], str]:
        """Nodes that the rules keep in FP32 in this very model; nothing is recorded or rewritten."""
        run = apply_rules(
            view, self.rules, ranges, margin=self.margin, targets=self.targets, allow=self.allow
        )
        return requests_to_plan(run.requests)[0]

    def assuming(self) -> dict[str, tuple[str, ...]]:
        """Rules whose last rewrites are right only under assumptions, and these."""
        done = [record for record in self._last.records if record.status == "applied"]
        return {record.rule: tuple(record.assumes) for record in done if record.assumes}

    def declared(self) -> float:
        """FP32 deviation that the last rewrites declare."""
        done = [record for record in self._last.records if record.status == "applied"]
        return max(map(_tolerance, done), default=0.0)

    def leave_out(self, ids: Collection[str]) -> None:
        """Run these rules no more; the data say that what they assume does not hold."""
        self.rules = tuple(rule for rule in self.rules if rule.id not in ids)

    def keep(self) -> None:
        """Count the last run's rewrites as done."""
        for record in self._last.records:
            if record.status == "applied":
                self._kept.append(record)
                self._stats[record.rule].applied += 1
                self.tolerance = max(self.tolerance, _tolerance(record))
        exact = frozenset(record.rule for record in self._rewrites() if record.equal == "exact")
        if exact and self._seen is not None:
            self.rounds.append(Round(*self._seen, exact))

    def discard(self) -> None:
        """Forget what the last run would have rewritten and asked for."""
        self._last = RuleRun(stats=self._last.stats)
        self.requests = ()

    def entries(self) -> list[RuleEntry]:
        """Statistics per rule."""
        return list(self._stats.values())

    def misses(self) -> list[MissEntry]:
        """How close each rule came that was never applied, in the last run."""
        kept = {record.rule for record in self._kept}
        return [_miss_entry(miss) for miss in self._last.misses if miss.rule not in kept]

    def assumptions(self) -> list[str]:
        """What a user agrees to by taking what the rules did: the ``assumes`` of those kept."""
        texts = (f"{record.rule} assumes: {text}" for record in self._kept for text in record.assumes)
        return list(dict.fromkeys(texts))

    def spans(self) -> list[Span]:
        """The matches that the last run applied."""
        return [
            (record.rule, "/".join(record.scope), frozenset(record.nodes))
            for record in self._last.records
            if record.status == "applied"
        ]

    def rules_by_node(self) -> dict[tuple[str, str], list[str]]:
        """Ids of the rules that the last run applied, by the scopes and names of the nodes they matched."""
        found: dict[tuple[str, str], list[str]] = {}
        for rule, scope, nodes in self.spans():
            for node in nodes:
                rules = found.setdefault((scope, node), [])
                if rule not in rules:
                    rules.append(rule)
        return found

    def findings(self, status: FindingStatus = "fixed") -> list[Finding]:
        """What rules did (``status`` is theirs) and what they skipped for want of a fact, in the last run."""
        done = self._kept if status == "fixed" else [r for r in self._last.records if r.status == "applied"]
        unknown = [
            r for r in self._last.records if r.status == "skipped" and (r.missing or r.clause == "equal")
        ]
        found = [(record, status) for record in done]
        found += [(record, "skipped") for record in unknown]
        if not found:  # rules that nothing was asked of are not read for this
            return []
        of_targets = {rule.id for rule in self.rules if rule.targets}
        return [_finding(record, state, record.rule in of_targets) for record, state in found]


_DECLARED = {"exact": 0.0, "real": 1e-5, "context": 1e-5, "lossy": 1e-2}
"""FP32 deviation of a rule that gives no ``tol``: summation order for ``real``, its own doing for ``lossy``."""


def _tolerance(record: MatchRecord) -> float:
    return record.tol if record.tol is not None else _DECLARED[record.equal]


def _finding(record: MatchRecord, status: FindingStatus, of_target: bool) -> Finding:
    facts: dict[str, JsonValue] = {name: _plain(value) for name, value in record.facts.items()}
    return Finding(
        rule=record.rule,
        name=record.name,
        kind="structure" if of_target else "overflow",
        severity="warning" if status == "skipped" else "error",
        status=status,
        message=record.reason,
        scope="/".join(record.scope),
        node=record.node,
        tensor=record.tensors[0] if record.tensors else None,
        facts=facts,
        missing=list(record.missing),
        edit=Edit(removed=list(record.removed), added=list(record.added)),
    )


def _miss_entry(miss: Miss) -> MissEntry:
    return MissEntry(
        rule=miss.rule,
        name=miss.name,
        clause=miss.clause,
        reason=miss.reason,
        fitted=miss.fitted,
        size=miss.size,
        scope="/".join(miss.scope),
        node=miss.node or None,
        nodes=list(miss.nodes),
        facts={name: _plain(value) for name, value in miss.facts.items()},
        missing=list(miss.missing),
    )


def _plain(value: object) -> float | str | None:
    if isinstance(value, (bool, int, float)):
        return float(value) if math.isfinite(value) else None
    return str(value)
