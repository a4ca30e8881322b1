"""Who counts what a runner computes."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from onnx_fp16fix.runtime import Array

__all__ = ["Observer"]


class Observer:
    """What a runner tells while it runs; the base class looks away."""

    def wants(self, key: str) -> bool:
        """Whether a tensor is to be measured."""
        return True

    def opens(self, node: onnx.NodeProto) -> bool:
        """Whether the bodies of a node are run here, where what is in them can be seen."""
        return True

    def saw(self, keys: Sequence[str], values: Array, source: str | None) -> None:
        """A tensor was computed. ``source``: key of one that holds the same elements in another order or shape."""
