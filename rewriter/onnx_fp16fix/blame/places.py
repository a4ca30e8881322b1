"""The nodes that a search speaks of: those of the main graph and of the bodies inside, by number and by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from onnx_fp16fix.blame.names import node_names
from onnx_fp16fix.calibrate.ranges import tensor_key
from onnx_fp16fix.graph import ScopeView, ViewNode, in_order
from onnx_fp16fix.model import ScopePath

__all__ = ["Places"]


class Places:
    """Numbers follow the order of computation; without bodies they are the indices of the nodes.

    A node in a body is called as range tables call its tensors: ``4:body:0::name``.
    """

    def __init__(self, main: ScopeView) -> None:
        self.main = main
        self.nodes: list[tuple[ScopeView, ViewNode]] = list(in_order(main))
        scopes = [main, *main.inside()]
        within = {scope.path: node_names(scope) for scope in scopes}
        self.names: Mapping[int, str] = {
            number: tensor_key(scope.path, within[scope.path][node.index])
            for number, (scope, node) in enumerate(self.nodes)
        }
        self._bodies = [scope.path for scope in scopes[1:]]

    def op(self, number: int) -> str:
        """Type of the node."""
        return str(self.nodes[number][1].op)

    def by_scope(self, numbers: Collection[int]) -> tuple[frozenset[int], dict[ScopePath, frozenset[int]]]:
        """Indices in the main graph, and in each body there is."""
        found: dict[ScopePath, set[int]] = {(): set(), **{path: set() for path in self._bodies}}
        for number in numbers:
            scope, node = self.nodes[number]
            found[scope.path].add(node.index)
        return frozenset(found[()]), {path: frozenset(found[path]) for path in self._bodies}
