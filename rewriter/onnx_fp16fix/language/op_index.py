"""Which nodes a pattern is worth trying at: ops among the operands of each node, as bit masks.

A mask may hold too much (a node is tried in vain), never too little. The masks of a scope are made when a rule first
asks for them, in time linear in its nodes, and shared by all rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from onnx_fp16fix.graph import ScopeView, ViewNode
from onnx_fp16fix.language.combine import TREE_DEPTH
from onnx_fp16fix.language.constants import DOING_NOTHING
from onnx_fp16fix.language.pattern import Combination, Either, Inner, Operation, Pattern, Roots
from onnx_fp16fix.language.roots import needed_ops, root_ops, root_slot, start_ops
from onnx_fp16fix.language.rule import Variable
from onnx_fp16fix.language.sketch import Sketch
from onnx_fp16fix.language.sketches import Sketches
from onnx_fp16fix.language.spellings import SPLITS
from onnx_fp16fix.language.terms import Term

__all__ = ["OpIndex", "alternatives"]

_OPAQUE = frozenset(("ReduceL2", "Clip"))
"""Ops whose operands are values that no tensor holds: anything may be among them."""
_HIDDEN, _EVERYTHING = 1, -1
"""The bit of operands that are no node, which every wanted mask holds; all bits."""
_FEW = 1 / 8
"""Part of a scope's nodes below which sketches are asked at once: masks are made for all nodes."""
_CONE = 6
"""Steps upwards that ``likeness`` looks."""
Kinds = tuple[str, ...]


class OpIndex:
    """Nodes of one scope by op, and what is among their operands. ``among``: the nodes that may be roots, else all."""

    def __init__(self, scope: ScopeView, sketches: Sketches, among: Sequence[int] | None = None) -> None:
        self.scope, self.sketches, self.canonical = scope, sketches, sketches.canonical
        self.by_op: dict[str, list[int]] = {}
        for node in scope.nodes:
            self.by_op.setdefault(node.op, []).append(node.index)
        self._tried = self.by_op
        self._few = among is not None and len(among) < len(scope.nodes) * _FEW
        if among is not None:
            self._tried = {}
            for index in among:
                self._tried.setdefault(scope.nodes[index].op, []).append(index)
        self._bits = {op: 1 << position for position, op in enumerate(self.by_op, 1)}
        self._sources: list[tuple[int, ...]] | None = None
        self._members: dict[str, list[int]] = {}
        self._reach: dict[Kinds, dict[int, int]] = {}
        self._cone: list[int] | None = None
        self._direct: dict[int, int] = {}
        self._within: dict[tuple[Kinds, frozenset[str]], set[int]] = {}
        self._fit: dict[int, list[int]] = {}

    def roots(self, pattern: Pattern) -> list[int]:
        """Nodes where a match may have its (first) root, in order."""
        if not all(ops & self.by_op.keys() for ops in needed_ops(pattern)):
            return []
        first = pattern.patterns[0] if isinstance(pattern, Roots) else pattern
        if isinstance(first, Either):
            return sorted({index for option in first.options for index in self.roots(option)})
        if isinstance(first, Inner):
            return self.roots(first.pattern)
        found = sorted(index for op in root_ops(first) for index in self._tried.get(op, ()))
        if self._few or not found:
            return found
        if isinstance(first, Combination):
            passing = [self._passing(kinds, ops) for kinds, ops in _wanted(first, ())]
            members = set(self._of_kind(first.kind))
            found = sorted(members.intersection(found, *sorted(passing, key=len)))
        elif isinstance(first, Operation):
            masks = [self._mask(ops) for argument in first.args if (ops := start_ops(argument)) is not None]
            for mask in masks:
                found = [i for i in found if self.scope.nodes[i].op != first.op or self._operands(i) & mask]
        return found

    def fitting(self, pattern: Pattern, variables: Mapping[str, Variable]) -> list[int]:
        """Those of the roots whose value fits as far as names are left aside, in order."""
        sketch = self.sketches.of(pattern, variables)
        key = sketch.number
        if isinstance(pattern, Roots):  # its sketch is that of the first root only
            return self._fitting(sketch, self.roots(pattern), root_slot(pattern))
        if key not in self._fit:
            self._fit[key] = self._fitting(sketch, self.roots(pattern), root_slot(pattern))
        return self._fit[key]

    def _fitting(self, sketch: Sketch, roots: list[int], slot: int) -> list[int]:
        fits, nodes, found = self.sketches.fits, self.scope.nodes, []
        for root in roots:
            outputs = nodes[root].outputs
            if len(outputs) > slot and fits(sketch, Term(outputs[slot])):
                found.append(root)
        return found

    def likeness(self, pattern: Pattern, most: int) -> list[int]:
        """The nodes of a root's op that have most of the pattern's ops above them, best first."""
        groups = [self._mask(ops) for ops in needed_ops(pattern)]
        roots = sorted(index for op in root_ops(pattern) for index in self.by_op.get(op, ()))
        cone = self._cones()
        scored = sorted(roots, key=lambda index: -sum(bool(cone[index] & mask) for mask in groups))
        return scored[:most]

    def _passing(self, kinds: Kinds, ops: frozenset[str]) -> set[int]:
        """Nodes with one of the ops within reach."""
        known = self._within.get((kinds, ops))
        if known is None:
            mask = self._mask(ops)
            known = {index for index, reach in self.reach(kinds).items() if reach & mask}
            self._within[kinds, ops] = known
        return known

    def reach(self, kinds: Kinds) -> dict[int, int]:
        """For each node of the first kind: ops among its operands; with more kinds, among the operands of those of
        its operands that are of the next kind, and so on."""
        if kinds not in self._reach:
            self._reach[kinds] = self._make_reach(kinds)
        return self._reach[kinds]

    def _make_reach(self, kinds: Kinds) -> dict[int, int]:
        sources, bits, nodes = self.sources(), self._bits, self.scope.nodes
        below = self.reach(kinds[1:]) if len(kinds) > 1 else None
        base: dict[int, int] = {}
        members = self._of_kind(kinds[0])
        for index in members:
            mask = _EVERYTHING if nodes[index].op in _OPAQUE else 0
            for source in sources[index]:
                mask |= bits[nodes[source].op] if below is None else below.get(source, 0)
            base[index] = mask
        reach, nested = base, [i for i in members if any(source in base for source in sources[i])]
        for _ in range(TREE_DEPTH - 1):
            deeper = {i: reach[i] for i in nested}
            for index in nested:
                for source in sources[index]:
                    deeper[index] |= reach.get(source, 0)
            changed = [i for i in nested if deeper[i] != reach[i]]
            if not changed:
                break
            reach = {**reach, **deeper}
        return reach

    def _of_kind(self, kind: str) -> list[int]:
        """Nodes that are a combination of the kind; a Mul is a sum only when it multiplies by -1."""
        if kind not in self._members:
            found = []
            for op in SPLITS[kind]:
                for index in self.by_op.get(op, ()):
                    node = self.scope.nodes[index]
                    if node.domain or not node.outputs or node.outputs[0].is_empty():
                        continue
                    if op != "Mul" or kind == "*" or self.canonical.parts(kind, Term(node.outputs[0])):
                        found.append(index)
            self._members[kind] = sorted(found)
        return self._members[kind]

    def sources(self) -> list[tuple[int, ...]]:
        """For each node, the nodes of this scope that make its inputs; those that do nothing are looked through."""
        if self._sources is None:
            self._sources = [tuple(self._makers(node)) for node in self.scope.nodes]
        return self._sources

    def _makers(self, node: ViewNode) -> Iterator[int]:
        for tensor in node.inputs:
            maker = self.scope.producer(tensor)
            if maker is not None and maker.op in DOING_NOTHING:
                maker = self.scope.producer(self.canonical.strip(tensor)[0])
            if maker is not None:
                yield maker.index

    def _operands(self, index: int) -> int:
        if index not in self._direct:
            mask = 0
            for source in self.sources()[index]:
                mask |= self._bits[self.scope.nodes[source].op]
            self._direct[index] = mask
        return self._direct[index]

    def _cones(self) -> list[int]:
        if self._cone is None:
            own = [self._bits[node.op] for node in self.scope.nodes]
            cone = own
            for _ in range(_CONE):
                wider = list(own)
                for index, sources in enumerate(self.sources()):
                    for source in sources:
                        wider[index] |= cone[source]
                cone = wider
            self._cone = cone
        return self._cone

    def _mask(self, ops: frozenset[str]) -> int:
        return _HIDDEN | sum(self._bits.get(op, 0) for op in ops)


def _wanted(pattern: Combination, kinds: Kinds) -> Iterator[tuple[Kinds, frozenset[str]]]:
    """What must be among the operands, and among the operands of operands."""
    kinds = (*kinds, pattern.kind)
    for part, _ in pattern.parts:
        inner: Pattern = part
        while isinstance(inner, Inner):
            inner = inner.pattern
        ops = start_ops(inner)
        if ops is not None:
            yield kinds, ops
        if isinstance(inner, Combination) and inner.parts:
            yield from _wanted(inner, kinds)


def alternatives(
    patterns: Sequence[Pattern], variables: Mapping[str, Variable], index: OpIndex
) -> list[tuple[int, list[Pattern]]]:
    """Nodes to try, in order, each with the alternatives that may have their root there."""
    if len(patterns) == 1:
        return [(root, [patterns[0]]) for root in index.fitting(patterns[0], variables)]
    found: dict[int, list[Pattern]] = {}
    for pattern in patterns:
        for root in index.fitting(pattern, variables):
            found.setdefault(root, []).append(pattern)
    return sorted(found.items())
