"""The operands of an n-ary product, sum or extremum, whatever way the model nests them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from onnx_fp16fix.language.terms import Term

if TYPE_CHECKING:
    from onnx_fp16fix.language.canonical import Canonical

__all__ = ["TREE_DEPTH", "Tree", "TreeNode", "build_tree", "may_nest"]

_TREE_NODES = 24
"""A tree stops growing here: no formula has more factors, and a long chain of Adds must stay linear."""
TREE_DEPTH = 6
"""Nesting of one kind that is looked through."""


@dataclass(frozen=True, slots=True)
class TreeNode:
    """A value and its weight in the whole; ``nodes`` are the ops that join its children into it."""

    term: Term
    weight: Fraction
    parent: int
    nodes: tuple[int, ...] = ()
    children: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Tree:
    """Node 0 is the whole. A match covers an antichain: no covered node lies inside another one."""

    nodes: tuple[TreeNode, ...]

    def candidates(self, covered: frozenset[int], outermost: bool) -> list[int]:
        """Nodes that may still be covered, in order; ``outermost``: only those with something covered beside them."""
        blocked = set(covered)
        for index in covered:
            blocked.update(self._ancestors(index))
        free = [i for i in range(1, len(self.nodes)) if i not in blocked and not self._below(i, covered)]
        if not outermost:
            return free
        return [i for i in free if self.nodes[i].parent == 0 or self.nodes[i].parent in blocked]

    def behind(self, indices: list[int], vanishes: Callable[[int], bool]) -> list[int]:
        """These nodes, each followed by its only operand that counts: Reciprocal(b), Neg(b), 1 / b are as outer as b.

        ``vanishes`` tells the operands that do not count: a one in a product, a zero in a sum.
        """
        found = []
        for index in indices:
            found.append(index)
            while len(counts := [i for i in self.nodes[index].children if not vanishes(i)]) == 1:
                index = counts[0]
                found.append(index)
        return found

    def uncovered(self, covered: frozenset[int]) -> list[int]:
        """The largest subtrees that hold nothing covered."""
        return self.candidates(covered, outermost=True) if covered else [0]

    def inner_nodes(self, covered: frozenset[int]) -> frozenset[int]:
        """Graph nodes above the covered values: they compute the combination itself."""
        above = {ancestor for index in covered for ancestor in self._ancestors(index)}
        return frozenset(node for index in above for node in self.nodes[index].nodes)

    def is_spread(self, covered: frozenset[int]) -> bool:
        """Whether the covered values lie in several branches of the whole; if not, a smaller root matches alone."""
        return len({self._branch(index) for index in covered}) > 1

    def _branch(self, index: int) -> int:
        while self.nodes[index].parent > 0:
            index = self.nodes[index].parent
        return index

    def _ancestors(self, index: int) -> list[int]:
        found = []
        while (index := self.nodes[index].parent) >= 0:
            found.append(index)
        return found

    def _below(self, index: int, covered: frozenset[int]) -> bool:
        return bool(covered) and any(ancestor in covered for ancestor in self._ancestors(index))


def may_nest(inner: Fraction, outer: Fraction) -> bool:
    """Whether ``(a ** inner) ** outer`` is ``a ** (inner * outer)``: not for the root of a square, which is abs."""
    return outer.denominator == 1 or inner.denominator != 1 or inner.numerator % 2 == 1


def build_tree(view: Canonical, kind: str, term: Term) -> Tree | None:
    """All operands of ``term`` seen as a combination of ``kind``; None when it is none."""
    if view.parts(kind, term) is None:
        return None
    flat: list[TreeNode] = [TreeNode(term, Fraction(1), -1)]
    queue = [(0, 0)]
    while queue:
        index, depth = queue.pop(0)
        node = flat[index]
        parts = view.parts(kind, node.term) if depth < TREE_DEPTH else None
        if parts is None or len(flat) + len(parts.items) > _TREE_NODES:
            continue
        if kind == "*" and not all(may_nest(weight, node.weight) for _, weight in parts.items):
            continue
        children = tuple(range(len(flat), len(flat) + len(parts.items)))
        flat[index] = TreeNode(node.term, node.weight, node.parent, parts.nodes, children)
        flat += [TreeNode(child, node.weight * weight, index) for child, weight in parts.items]
        queue += [(child, depth + 1) for child in children]
    return Tree(tuple(flat))
