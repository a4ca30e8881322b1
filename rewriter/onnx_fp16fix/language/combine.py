"""The operands of an n-ary product, sum or extremum, whatever way the model nests them."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING

from onnx_fp16fix.language.spellings import without_sign
from onnx_fp16fix.language.terms import Term, Weight, whole

if TYPE_CHECKING:
    from onnx_fp16fix.language.canonical import Canonical

__all__ = ["TREE_DEPTH", "Tree", "TreeNode", "build_tree", "may_nest", "members", "ratio", "weight_key"]

_TREE_NODES = 24
"""A tree stops growing here: no formula has more factors, and a long chain of Adds must stay linear."""
TREE_DEPTH = 6
"""Nesting of one kind that is looked through."""
_IDENTITY = {"*": 1.0, "+": 0.0}


class TreeNode:
    """A value and its weight in the whole; ``nodes`` are the ops that join its children into it."""

    __slots__ = ("children", "nodes", "parent", "term", "weight")

    def __init__(self, term: Term, weight: Weight, parent: int) -> None:
        self.term, self.weight, self.parent = term, weight, parent
        self.nodes: tuple[int, ...] = ()
        self.children: tuple[int, ...] = ()


class Tree:
    """Node 0 is the whole. A match covers an antichain: no covered node lies inside another one.

    Sets of tree nodes are bit masks; ``covered`` is such a set.
    """

    def __init__(self, nodes: list[TreeNode], view: Canonical, kind: str) -> None:
        self.nodes, self._view, self._identity = nodes, view, _IDENTITY.get(kind)
        self._clashes: dict[int, int] = {}
        # answers by ``covered``: many patterns take the same operands
        self._behind: dict[int, list[int]] = {}
        self._left: dict[int, list[int]] = {}
        self._inner: dict[int, frozenset[int]] = {}
        self.fitting: dict[tuple[int, float], int] = {}
        """Which of them each part of a pattern may be, kept here by ``sketch``."""
        self.made: dict[str | None, int] | None = None
        """Nodes by the op that makes them, kept here by ``sketch``; None for those that no tensor holds."""
        self.all = (1 << len(nodes)) - 2
        self.weighing: dict[float, int] = {}
        """Operands by ``weight_key``."""
        for index in range(1, len(nodes)):
            key = weight_key(nodes[index].weight)
            self.weighing[key] = self.weighing.get(key, 0) | 1 << index

    @cached_property
    def scalars(self) -> list[tuple[int, float, Weight]]:
        """The constant operands with one element: bit, value, weight."""
        found = []
        for index in range(1, len(self.nodes)):
            value = self._view.scalar(self.nodes[index].term)
            if value is not None:
                found.append((1 << index, value, self.nodes[index].weight))
        return found

    @cached_property
    def constant(self) -> int:
        """The constant operands."""
        nodes = self.nodes
        return sum(1 << i for i in range(1, len(nodes)) if self._view.is_constant(nodes[i].term))

    @cached_property
    def single(self) -> int:
        """The constant operands with one element."""
        return sum(bit for bit, _, _ in self.scalars)

    def vanishes(self, index: int) -> bool:
        """Whether an operand does not count: a one in a product, a zero in a sum."""
        return self._identity is not None and self._view.scalar(self.nodes[index].term) == self._identity

    def above(self, index: int) -> int:
        """The ancestors of a node, the whole included."""
        mask, parent = 0, self.nodes[index].parent
        while parent >= 0:
            mask |= 1 << parent
            parent = self.nodes[parent].parent
        return mask

    def _below(self, index: int) -> int:
        """The node and what lies inside it."""
        mask = 1 << index
        for child in self.nodes[index].children:
            mask |= self._below(child)
        return mask

    def blocked(self, covered: int) -> int:
        """Nodes that lie inside a covered one or hold one."""
        mask = 1
        while covered:
            last = covered.bit_length() - 1
            mask |= self._clash(last)
            covered ^= 1 << last
        return mask

    def _clash(self, index: int) -> int:
        if index not in self._clashes:
            self._clashes[index] = self.above(index) | self._below(index)
        return self._clashes[index]

    def candidates(self, covered: int, outermost: bool) -> list[int]:
        """Nodes that may still be covered, in order; ``outermost``: only those with something covered beside them."""
        nodes, blocked = self.nodes, self.blocked(covered)
        free = self.all & ~blocked
        return [i for i in members(free) if not outermost or blocked >> nodes[i].parent & 1] if free else []

    def behind(self, covered: int) -> list[int]:
        """The outermost candidates, each followed by its only operand that counts: 1 / b, -b are as outer as b."""
        found = self._behind.get(covered)
        if found is None:
            found = self._behind[covered] = []
            for index in self.candidates(covered, outermost=True):
                found.append(index)
                while len(counts := [i for i in self.nodes[index].children if not self.vanishes(i)]) == 1:
                    index = counts[0]
                    found.append(index)
        return found

    def left(self, covered: int) -> list[int]:
        """The largest subtrees that count and hold nothing covered."""
        found = self._left.get(covered)
        if found is None:
            uncovered = self.candidates(covered, outermost=True) if covered else [0]
            found = self._left[covered] = [index for index in uncovered if not self.vanishes(index)]
        return found

    def inner_nodes(self, covered: int) -> frozenset[int]:
        """Graph nodes above the covered values: they compute the combination itself."""
        found = self._inner.get(covered)
        if found is None:
            above = 0
            for index in members(covered):
                above |= self.above(index)
            nodes = (node for index in members(above) for node in self.nodes[index].nodes)
            found = self._inner[covered] = frozenset(nodes)
        return found

    def is_spread(self, covered: int) -> bool:
        """Whether the covered values lie in several branches of the whole; if not, a smaller root matches alone."""
        return len({self._branch(index) for index in members(covered)}) > 1

    def _branch(self, index: int) -> int:
        while self.nodes[index].parent > 0:
            index = self.nodes[index].parent
        return index


def members(mask: int) -> Iterator[int]:
    """Positions of the bits that are set, in order."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def weight_key(weight: Weight) -> float:
    """What stands for a weight in tables: fractions are slow to hash."""
    return weight if weight.__class__ is int else float(weight)


def may_nest(inner: Weight, outer: Weight) -> bool:
    """Whether ``(a ** inner) ** outer`` is ``a ** (inner * outer)``: not for the root of a square, which is abs."""
    return outer.denominator == 1 or inner.denominator != 1 or inner.numerator % 2 == 1


def ratio(weight: Weight, by: Weight) -> Weight:
    """The exact quotient."""
    return weight if by == 1 else -weight if by == -1 else Fraction(weight) / by


def build_tree(view: Canonical, kind: str, term: Term) -> Tree | None:
    """All operands of ``term`` seen as a combination of ``kind``; None when it is none."""
    if view.parts(kind, term) is None:
        return None
    flat: list[TreeNode] = [TreeNode(term, 1, -1)]
    depths = [0]
    for index, node in enumerate(flat):  # grows meanwhile
        parts = view.parts(kind, node.term) if depths[index] < TREE_DEPTH else None
        if parts is None and kind == "*" and node.weight.denominator == 1 and node.weight.numerator % 2 == 0:
            parts = without_sign(node.term, view)
        if parts is None or len(flat) + len(parts.items) > _TREE_NODES:
            continue
        if kind == "*" and not all(may_nest(weight, node.weight) for _, weight in parts.items):
            continue
        node.nodes = parts.nodes
        node.children = tuple(range(len(flat), len(flat) + len(parts.items)))
        for child, weight in parts.items:
            flat.append(TreeNode(child, weight if node.weight == 1 else whole(node.weight * weight), index))
            depths.append(depths[index] + 1)
    return Tree(flat, view, kind)
