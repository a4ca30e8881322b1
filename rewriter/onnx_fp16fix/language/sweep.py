"""Removes what nothing reads any more once all edits of a scope are written."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnx_fp16fix.graph import ConstantTensor, ScopeView
from onnx_fp16fix.model import Patch

__all__ = ["sweep"]


def sweep(scope: ScopeView, patch: Patch, candidates: set[int]) -> None:
    """Remove from the patch's scope the candidates that nothing reads, and what they and edited nodes alone read."""
    _Sweep(scope, patch).run(candidates)


class _Sweep:
    def __init__(self, scope: ScopeView, patch: Patch) -> None:
        self.scope, self.patch = scope, patch
        self._read: set[str] = set()
        self._made: set[str] = set()

    def run(self, candidates: set[int]) -> None:
        self._read = {name for nodes in self.patch.inserted.values() for node in nodes for name in node.input}
        self._made = {
            name for nodes in self.patch.inserted.values() for node in nodes for name in node.output
        }
        self._remove_dead(candidates)
        edited = {*self.patch.removed, *self.patch.replaced}
        sources: list[gs.Tensor] = []
        while edited:
            read = [
                tensor
                for index in edited
                for tensor in self.scope.nodes[index].inputs
                if not tensor.is_empty()
            ]
            makers = [self.scope.producer(tensor) for tensor in read]
            edited = self._remove_dead({node.index for node in makers if node is not None})
            sources += read
        stored = {str(tensor.name) for tensor in sources if self._is_stored_here(tensor)}
        self.patch.dropped_initializers |= {name for name in stored if not self._is_read(name)}
        self._forget_types({*self.patch.removed, *self.patch.replaced})

    def _remove_dead(self, candidates: set[int]) -> set[int]:
        """Those of the candidates that nothing reads any more, in reverse order."""
        gone = set()
        for index in sorted(candidates - self.patch.removed - set(self.patch.replaced), reverse=True):
            if not any(self._is_read(str(tensor.name)) for tensor in self.scope.nodes[index].outputs):
                self.patch.removed.add(index)
                gone.add(index)
        return gone

    def _forget_types(self, edited: set[int]) -> None:
        """Declared types of values that are gone."""
        for index in edited:
            kept = set(self.patch.replaced[index].output) if index in self.patch.replaced else set()
            for tensor in self.scope.nodes[index].outputs:
                if tensor.name and tensor.name not in kept and tensor.name not in self._made:
                    self.patch.value_info[str(tensor.name)] = None

    def _is_stored_here(self, tensor: gs.Tensor) -> bool:
        own = self.scope.tensors.get(str(tensor.name))
        return isinstance(tensor, ConstantTensor) and own is not None and own is tensor

    def _is_read(self, name: str) -> bool:
        tensor = self.scope.tensors.get(name)
        if tensor is None or not name:
            return False
        if name in self._read or self.scope.outside_uses(tensor):
            return True
        return any(
            node.index not in self.patch.removed
            and name in self.patch.replaced.get(node.index, node.proto).input
            for node, _ in self.scope.consumers(tensor)
        )
