"""Findings that have one cause: an overflow is found again at each node it flows through, and by each rule around it.

Findings are joined where a rule that repairs one covers the place of another, where what one node makes is read by the
next and goes wrong in the same way, and where one is said to follow from another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from onnx_fp16fix.document import Finding
from onnx_fp16fix.graph import GraphView, in_order
from onnx_fp16fix.pipeline.places import key_of, place_of

__all__ = ["Span", "name_causes"]

Span = tuple[str, str, frozenset[str]]
"""A match: the rule's id, the scope, the names of the nodes it covers."""
_SPREADS = frozenset({"overflow", "nan", "underflow"})


def name_causes(findings: Sequence[Finding], view: GraphView, spans: Iterable[Span]) -> None:
    """Write into ``cause`` of every finding in the graph where its cause begins, in the order of computation."""
    placed = [finding for finding in findings if finding.node and finding.status != "skipped"]
    groups = _Groups(len(placed))
    at: dict[tuple[str, str], list[int]] = {}
    for index, finding in enumerate(placed):
        at.setdefault((finding.scope, finding.node or ""), []).append(index)
    for rule, scope, nodes in spans:
        covered = [
            index for node in nodes for index in at.get((scope, node), ()) if _repairs(rule, placed[index])
        ]
        groups.join(covered)
    order: dict[tuple[str, str], int] = {}
    made: dict[str, list[int]] = {}
    for position, (scope_view, node) in enumerate(in_order(view.main)):
        place = (place_of(scope_view), node.label)
        order.setdefault(place, position)
        here = [index for index in at.get(place, ()) if placed[index].kind in _SPREADS]
        if not here:
            continue
        for tensor in node.inputs:
            before = made.get(key_of(scope_view, tensor.name), ())
            groups.join([*here, *(other for other in before if _same_way(placed[here[0]], placed[other]))])
        for tensor in node.outputs:
            found = [index for index in here if placed[index].tensor == tensor.name]
            made.setdefault(key_of(scope_view, tensor.name), []).extend(found)
    for members in groups.members():
        first = min(
            members, key=lambda i: (order.get((placed[i].scope, placed[i].node or ""), len(order)), i)
        )
        for index in members:
            placed[index].cause = placed[first].place()


def _repairs(rule: str, finding: Finding) -> bool:
    return finding.rule == rule or rule in finding.repaired_by


def _same_way(one: Finding, other: Finding) -> bool:
    return one.kind == other.kind or {one.kind, other.kind} == {"overflow", "nan"}


class _Groups:
    """Disjoint sets of the numbers below ``count``."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def join(self, indices: Sequence[int]) -> None:
        for index in indices[1:]:
            self._parent[self._root(index)] = self._root(indices[0])

    def members(self) -> list[list[int]]:
        found: dict[int, list[int]] = {}
        for index in range(len(self._parent)):
            found.setdefault(self._root(index), []).append(index)
        return list(found.values())

    def _root(self, index: int) -> int:
        while self._parent[index] != index:
            self._parent[index] = index = self._parent[self._parent[index]]
        return index
