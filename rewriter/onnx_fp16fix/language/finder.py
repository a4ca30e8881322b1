"""Where rules match in one scope. Large graphs repeat themselves: what was found at one node holds at all that have the
same around them, so the matcher looks once and the match is carried over to the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final

import numpy as np
import numpy.typing as npt

from onnx_fp16fix.graph import ScopeView, ViewNode
from onnx_fp16fix.language.bindings import Match
from onnx_fp16fix.language.canonical import Canonical
from onnx_fp16fix.language.copies import Copies
from onnx_fp16fix.language.footprint import Footprint, footprint
from onnx_fp16fix.language.match import Matcher
from onnx_fp16fix.language.op_index import OpIndex, alternatives
from onnx_fp16fix.language.pattern import Operation, Pattern, Roots, patterns_in
from onnx_fp16fix.language.roots import needed_ops, root_ops, root_slot
from onnx_fp16fix.language.rule import Rule
from onnx_fp16fix.language.scope_table import Hashes, ScopeTable
from onnx_fp16fix.language.terms import Term
from onnx_fp16fix.language.watched import WatchedScope

__all__ = ["Finder"]

FEWEST: Final = 32
"""Nodes that must look alike: watching and comparing takes as long as trying all rules at some twenty."""
_ROUNDS = 6
"""Steps upwards in which nodes must agree to be compared at all."""
_ATTEMPTS = 3
"""Nodes of a group at which tries are watched, when few of the others turn out to have the same around them."""
Integers = npt.NDArray[np.int64]


@dataclass(slots=True)
class _Family:
    """Nodes with one footprint, and by rule what was found at the one that was watched."""

    nodes: Integers
    tensors: Integers
    """[nodes, positions of the footprint]"""
    footprint: Footprint
    found: dict[str, list[Match]] = field(default_factory=dict)
    given_up: dict[str, int] = field(default_factory=dict)


class Finder:
    """``seconds``: CPU time by rule that was spent before ``tries`` is asked for that rule."""

    def __init__(self, scope: ScopeView, matcher: Matcher, index: OpIndex) -> None:
        self.scope, self.matcher, self.index = scope, matcher, index
        self.seconds: dict[str, float] = {}
        self._families: list[_Family] = []
        self._alone = index

    def prepare(self, rules: Sequence[Rule]) -> None:
        """Try all rules once for all nodes that look alike."""
        if len(self.scope.nodes) < 2 * FEWEST:
            return
        survey = _Survey(self.scope, self.matcher, [rule for rule in rules if _may_be_shared(rule)])
        alone = survey.run()
        self._families, self.seconds = survey.families, survey.seconds
        self._alone = OpIndex(self.scope, self.matcher.sketches, among=alone)

    def tries(self, rule: Rule, wanted: Set[int] | None = None) -> Iterator[tuple[int, Iterable[Match]]]:
        """Nodes where the rule may match, in order, each with its matches there: one an alternative, when asked.

        Matches without any ``wanted`` node may be left out.
        """
        families = [family for family in self._families if rule.id in family.found]
        index = self._alone if _may_be_shared(rule) else self.index
        alone = alternatives(rule.patterns, rule.variables, index)
        if not families:
            for node, patterns in alone:
                yield node, self._matches(rule, node, patterns)
            return
        sites: list[tuple[int, Callable[[], Iterable[Match]]]] = [
            (node, lambda node=node, patterns=patterns: self._matches(rule, node, patterns))  # type: ignore[misc]
            for node, patterns in alone
        ]
        for family in families:
            self.matcher.exhausted += family.given_up.get(rule.id, 0) * len(family.nodes)
            copies = [
                Copies(self.scope, match, family.footprint, family.tensors) for match in family.found[rule.id]
            ]
            sites += [
                (node, lambda row=row, copies=copies: _copied(copies, row, wanted))  # type: ignore[misc]
                for row, node in enumerate(family.nodes.tolist())
            ]
        for node, matches in sorted(sites, key=itemgetter(0)):
            yield node, matches()

    def _matches(self, rule: Rule, node: int, patterns: Iterable[Pattern]) -> Iterator[Match]:
        for pattern in patterns:
            match = self.matcher.at(pattern, self.scope.nodes[node], rule.variables, rule.shared)
            if match is not None:
                yield match


class _Survey:
    """Tries rules at one node of each group that looks alike."""

    def __init__(self, scope: ScopeView, matcher: Matcher, rules: Sequence[Rule]) -> None:
        self.scope, self.matcher = scope, matcher
        self.families: list[_Family] = []
        self.seconds = dict.fromkeys((rule.id for rule in rules), 0.0)
        present = {node.op for node in scope.nodes}
        self._rules: dict[str, list[tuple[Rule, list[Pattern]]]] = {}
        for rule in rules:
            by_op: dict[str, list[Pattern]] = {}
            for pattern in rule.patterns:
                if all(ops & present for ops in needed_ops(pattern)):
                    for op in root_ops(pattern):
                        by_op.setdefault(op, []).append(pattern)
            for op, patterns in by_op.items():
                self._rules.setdefault(op, []).append((rule, patterns))

    def run(self) -> list[int]:
        """Fill ``families``; the nodes that are in none and may be roots of a match."""
        start = time.process_time()
        table = ScopeTable(self.scope, self.matcher.canonical.varying)
        roots = np.array(
            [
                node.index
                for node in self.scope.nodes
                if node.op in self._rules and node.outputs and not node.outputs[0].is_empty()
            ],
            np.int64,
        )
        alone: list[int] = []
        if not any(map(self._may_match, _alike(roots, table.likeness_of_ops(_ROUNDS)))):
            alone = roots.tolist()
        else:
            for group in _alike(roots, table.likeness(_ROUNDS)):
                alone += self._group(table, group).tolist()
        rest = time.process_time() - start - sum(self.seconds.values())
        for rule in self.seconds:  # what all rules need once is shared out
            self.seconds[rule] += rest / len(self.seconds)
        return sorted(alone)

    def _may_match(self, nodes: Integers) -> bool:
        """Whether these are many, and anything fits at one or another of them: else they need no closer look."""
        some = nodes[len(nodes) // 4 :: max(len(nodes) // 4, 1)] if len(nodes) >= FEWEST else nodes[:0]
        return any(
            _fitting(self.matcher, rule, patterns, self.scope.nodes[node])
            for node in some.tolist()
            for rule, patterns in self._rules[self.scope.nodes[node].op]
        )

    def _group(self, table: ScopeTable, nodes: Integers) -> Integers:
        """Families among nodes that look alike; the nodes left over."""
        attempts = 0
        while len(nodes) >= FEWEST and attempts < _ATTEMPTS:
            family = self._family(table, nodes)
            if family is None:
                break
            attempts += len(family.nodes) < FEWEST
            self.families.append(family)
            nodes = np.setdiff1d(nodes, family.nodes, assume_unique=True)
        return nodes

    def _family(self, table: ScopeTable, nodes: Integers) -> _Family | None:
        root = self.scope.nodes[nodes[len(nodes) // 2]]  # the first ones are at the border of what repeats
        watched = WatchedScope(self.scope)
        canonical = Canonical(watched, self.matcher.canonical.varying)
        matcher = Matcher(watched, canonical, self.matcher.sketches.book)
        found: dict[str, list[Match]] = {}
        given_up: dict[str, int] = {}
        clock = time.process_time()
        for rule, patterns in self._rules[root.op]:
            matches = _all_matches(matcher, rule, patterns, root)
            if matches is not None:
                found[rule.id] = matches
            if matcher.exhausted:
                given_up[rule.id], matcher.exhausted = matcher.exhausted, 0
            before, clock = clock, time.process_time()
            self.seconds[rule.id] += clock - before
        seen = footprint(table, watched, root)
        if seen is None:
            return None
        same, tensors = seen.of(nodes)
        return _Family(nodes[same], tensors, seen, found, given_up)


def _copied(copies: Sequence[Copies], row: int, wanted: Set[int] | None) -> Iterator[Match]:
    return (copy.at(row) for copy in copies if wanted is None or copy.touches(row, wanted))


def _all_matches(
    matcher: Matcher, rule: Rule, patterns: Sequence[Pattern], root: ViewNode
) -> list[Match] | None:
    """At most one match for each alternative; None where not even a sketch fits."""
    fitting = _fitting(matcher, rule, patterns, root)
    if not fitting:
        return None
    tried = (matcher.at(pattern, root, rule.variables, rule.shared) for pattern in fitting)
    return [match for match in tried if match is not None]


def _fitting(matcher: Matcher, rule: Rule, patterns: Sequence[Pattern], root: ViewNode) -> list[Pattern]:
    """The alternatives whose sketch fits."""
    sketches, value = matcher.sketches, Term(root.outputs[0])
    return [pattern for pattern in patterns if sketches.fits(sketches.of(pattern, rule.variables), value)]


def _alike(nodes: Integers, likeness: Hashes) -> list[Integers]:
    """The nodes in groups that look alike."""
    order = np.argsort(likeness[nodes], kind="stable")
    borders = np.flatnonzero(np.diff(likeness[nodes][order])) + 1
    return np.split(nodes[order], borders) if len(nodes) else []


def _may_be_shared(rule: Rule) -> bool:
    """Further roots lie below the first one, where a footprint does not go, and it starts at the first output of a
    node; the attributes of a Constant are its own."""
    if any(map(root_slot, rule.patterns)):
        return False
    parts = [part for pattern in rule.patterns for part in patterns_in(pattern)]
    return not any(
        isinstance(part, Roots) or (isinstance(part, Operation) and part.op == "Constant") for part in parts
    )
