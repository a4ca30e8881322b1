"""Appends nodes to a graph and names what they make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["Builder", "Known"]


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a tensor by name, None where it is not: the value of a constant, the number of dimensions."""

    value: Callable[[str], npt.NDArray[Any] | None]
    rank: Callable[[str], int | None]


class Builder:
    """Writes into one graph. ``fresh`` gives names that clash with nothing; ``opset`` is the default domain's."""

    def __init__(self, graph: onnx.GraphProto, fresh: Callable[[str], str], opset: int) -> None:
        self.graph, self.fresh, self.opset = graph, fresh, opset

    def add(self, op_type: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """One node with one output, named after it; returns the output's name."""
        name = output or self.fresh(f"fp16fix.{op_type}")
        self.graph.node.append(helper.make_node(op_type, inputs, [name], **attributes))
        return name

    def constant(self, values: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        """An initializer."""
        name = self.fresh("fp16fix.constant")
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def rounded(self, wide: str, output: str | None = None, half: int = TensorProto.FLOAT16) -> str:
        """``wide`` as ``half`` holds it, in FLOAT: the pair of Casts that rounds."""
        name = output or self.fresh(f"{wide}.rounded")
        middle = self.fresh(f"{name}.half")
        # Filled in place: make_node takes several times as long, and half of all nodes are written here.
        for label, source, made, to in (
            ("half", wide, middle, half),
            ("round", middle, name, TensorProto.FLOAT),
        ):
            node = self.graph.node.add(op_type="Cast", name=f"fp16fix.{label}.{name}")
            node.input.append(source)
            node.output.append(made)
            node.attribute.add(name="to", type=onnx.AttributeProto.INT, i=to)
        return name

    def sum(self, data: str, axes: str | list[int] | None, *, keepdims: bool = True) -> str:
        """ReduceSum in whichever way the opset gives its axes (an input since opset 13); over all axes if None."""
        extra: dict[str, Any] = {"keepdims": int(keepdims)}
        inputs = [data]
        if isinstance(axes, list) and self.opset >= 13:
            axes = self.constant(axes, np.int64)
        if isinstance(axes, list):
            extra["axes"] = axes
        elif axes:
            inputs.append(axes)
        return self.add("ReduceSum", *inputs, **extra)
