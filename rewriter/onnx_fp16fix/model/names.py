"""New names that clash with nothing in any scope."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from onnx_fp16fix.model.model import Model, ScopePath

__all__ = ["Names"]


class Names:
    """All names of tensors and nodes of a model; ``fresh`` hands out new ones and remembers them."""

    def __init__(self, model: Model, known: Mapping[ScopePath, Iterable[str]] = MappingProxyType({})) -> None:
        """``known``: the names of the nodes of scopes and of what they read and make, where these are at hand."""
        self._used: set[str] = {""}
        self._next: dict[str, int] = {}
        for scope in model.scopes():
            graph = scope.graph
            if (names := known.get(scope.path)) is not None:
                self._used.update(names)
            else:
                for node in graph.node:
                    self._used.add(node.name)
                    self._used.update(node.input[:])
                    self._used.update(node.output[:])
            self._used.update(info.name for info in graph.value_info)
            if hasattr(graph, "initializer"):
                self._used.update(tensor.name for tensor in graph.initializer)
                self._used.update(sparse.values.name for sparse in graph.sparse_initializer)
                self._used.update(info.name for info in (*graph.input, *graph.output))
            else:
                self._used.update((*graph.input, *graph.output))

    def fresh(self, base: str) -> str:
        """``base`` itself if it is free, else ``base_1``, ``base_2``, ..."""
        name = base
        while name in self._used:
            self._next[base] = self._next.get(base, 0) + 1
            name = f"{base}_{self._next[base]}"
        self._used.add(name)
        return name
