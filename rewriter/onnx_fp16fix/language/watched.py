"""A scope that notes what it is asked: the answer of a try depends on nothing else."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import onnx_graphsurgeon as gs

from onnx_fp16fix.graph import ScopeView, ViewNode

__all__ = ["WatchedScope"]


class WatchedScope(ScopeView):
    """``asked``: tensors that anything but identity was asked of; ``read``: constants whose values were read."""

    def __init__(self, scope: ScopeView) -> None:
        self.__dict__.update(scope.__dict__)  # what is found on demand, the origin finds once for all
        self.origin = scope
        self.asked: dict[int, gs.Tensor] = {}
        self.read: dict[int, gs.Tensor] = {}

    def producer(self, tensor: gs.Tensor) -> ViewNode | None:
        self.asked[id(tensor)] = tensor
        return self.origin.producer(tensor)

    def consumers(self, tensor: gs.Tensor) -> list[tuple[ViewNode, int]]:
        self.asked[id(tensor)] = tensor
        return self.origin.consumers(tensor)

    def outside_uses(self, tensor: gs.Tensor) -> int:
        self.asked[id(tensor)] = tensor
        return self.origin.outside_uses(tensor)

    def dtype(self, name: str) -> int:
        self._name(name)
        return self.origin.dtype(name)

    def shape(self, name: str) -> tuple[int | str | None, ...] | None:
        self._name(name)
        return self.origin.shape(name)

    def _name(self, name: str) -> None:
        tensor = self.tensor(name)
        if tensor is not None:
            self.asked[id(tensor)] = tensor

    def constant(self, tensor: gs.Tensor) -> npt.NDArray[Any] | None:
        self.asked[id(tensor)] = tensor
        values = self.origin.constant(tensor)
        if values is not None:
            self.read[id(tensor)] = tensor
        return values

    def is_constant(self, tensor: gs.Tensor) -> bool:
        self.asked[id(tensor)] = tensor
        return self.origin.is_constant(tensor)
