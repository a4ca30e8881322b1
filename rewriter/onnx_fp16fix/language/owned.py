"""Nodes of a match that nothing outside it needs."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import onnx_graphsurgeon as gs

from onnx_fp16fix.graph import ScopeView
from onnx_fp16fix.language.bindings import Match

__all__ = ["owned_nodes"]


def owned_nodes(scope: ScopeView, match: Match, among: Collection[int]) -> set[int]:
    """The nodes among these, and the roots, that nothing reads once the results are made elsewhere.

    What a node reads that stays for others stays as well; a root stays where its further outputs are read.
    """
    results = {id(tensor) for tensor in match.results}
    roots = {root.index for root in match.roots}
    going = set(roots)
    while True:
        owned = set(going)
        for index in sorted(set(among) - roots, reverse=True):
            if not _is_read(scope, scope.nodes[index].outputs, owned):
                owned.add(index)
        further = {
            index: [tensor for tensor in scope.nodes[index].outputs if id(tensor) not in results]
            for index in going
        }
        needed = {index for index in going if _is_read(scope, further[index], owned)}
        if not needed:
            return owned
        going -= needed


def _is_read(scope: ScopeView, tensors: Iterable[gs.Tensor], owned: set[int]) -> bool:
    """Whether anything but the owned nodes reads one of the values."""
    made = [tensor for tensor in tensors if not tensor.is_empty()]
    if any(scope.outside_uses(tensor) for tensor in made):
        return True
    return any(node.index not in owned for tensor in made for node, _ in scope.consumers(tensor))
