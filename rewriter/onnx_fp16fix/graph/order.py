"""Nodes of a graph and of the bodies inside, in the order of computation."""

from __future__ import annotations

from collections.abc import Iterator

from onnx_fp16fix.graph.nodes import ViewNode
from onnx_fp16fix.graph.view import ScopeView

__all__ = ["in_order"]


def in_order(scope: ScopeView) -> Iterator[tuple[ScopeView, ViewNode]]:
    """Each node with its scope; the nodes of a body come before the node it belongs to."""
    for node in scope.nodes:
        for body in scope.bodies.get(node.index, {}).values():
            yield from in_order(body)
        yield scope, node
