"""graphsurgeon objects over the proto.

graphsurgeon's own importer is quadratic in If nodes, copies outer tensors into bodies and decodes every weight; its
exporter loses parts of the model. So the view is built here, one pass per scope, with the classes users of
graphsurgeon know (``gs.Node``, ``gs.Variable``, ``gs.Constant``), and it is read-only: edits are ``model.Patch``es.
What graphsurgeon does to keep both ends of an edge in step at every assignment is left out for that reason, and what
makes and reads a tensor is looked up when it is asked for.

Tensors are told apart by identity. graphsurgeon's ``==`` compares names, which mixes up absent inputs and equal names
in sibling bodies.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper

from onnx_fp16fix.model import ScopePath
from onnx_fp16fix.model.tensors import read_tensor

if TYPE_CHECKING:
    from onnx_fp16fix.graph.view import ScopeView

__all__ = ["ConstantTensor", "VariableTensor", "ViewNode"]


def _makers(tensor: VariableTensor | ConstantTensor) -> list[ViewNode]:
    """The node that makes the tensor."""
    maker = None if tensor._scope is None else tensor._scope.producer(tensor)
    return [] if maker is None else [maker]


def _readers(tensor: VariableTensor | ConstantTensor) -> list[ViewNode]:
    """Nodes that read the tensor, once per operand; those of bodies last."""
    scope = tensor._scope
    scopes = () if scope is None else (scope, *scope.inside())
    return [node for view in scopes for node, _ in view.consumers(tensor)]


class VariableTensor(gs.Variable):  # type: ignore[misc]
    """A tensor that is computed, or given; an absent operand has the name ""."""

    __setattr__ = object.__setattr__
    dtype = None
    shape = None
    type = "tensor_type"

    def __init__(self, name: str = "", scope: ScopeView | None = None) -> None:
        self.name = name
        self._scope = scope

    inputs = property(_makers)
    outputs = property(_readers)


class ConstantTensor(gs.Constant):  # type: ignore[misc]
    """A constant whose values are decoded on each access and never cached; large ones are mapped from disk."""

    __setattr__ = object.__setattr__
    data_location = None
    _export_dtype = None

    def __init__(self, name: str, proto: TensorProto, scope: ScopeView) -> None:
        self.name = name
        self.proto = proto
        self._scope = scope

    inputs = property(_makers)
    outputs = property(_readers)

    @property
    def values(self) -> npt.NDArray[Any]:
        """Values, read from where they are stored."""
        return read_tensor(self.proto, self._scope.model.base_dir)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape without reading the values."""
        return tuple(self.proto.dims)

    @property
    def dtype(self) -> np.dtype[Any]:
        """numpy type without reading the values."""
        return helper.tensor_dtype_to_np_dtype(self.proto.data_type)


class ViewNode(gs.Node):  # type: ignore[misc]
    """A ``gs.Node`` that knows its place (scope and index there) and its proto; attributes are decoded when read."""

    __setattr__ = object.__setattr__

    def __init__(
        self,
        proto: onnx.NodeProto,
        scope: ScopePath,
        index: int,
        inputs: list[gs.Tensor],
        outputs: list[gs.Tensor],
    ) -> None:
        self.proto = proto
        self.scope = scope
        self.index = index
        self.op = proto.op_type
        self.name = proto.name
        domain = proto.domain
        self.domain = "" if domain == "ai.onnx" else domain
        self.inputs = inputs
        self.outputs = outputs

    @cached_property
    def attrs(self) -> dict[str, Any]:
        """Attribute values by name; bodies stay GraphProtos, references to function attributes AttributeProtos."""
        return {
            attribute.name: attribute if attribute.ref_attr_name else helper.get_attribute_value(attribute)
            for attribute in self.proto.attribute
        }

    @property
    def label(self) -> str:
        """How reports call the node: its name, or its first output's where it has none."""
        return str(self.name or self.outputs[0].name)

    def output_slot(self, tensor: gs.Tensor) -> int:
        """The output slot that makes the tensor, which must be one of the node's."""
        return next(slot for slot, made in enumerate(self.outputs) if made is tensor)

    def input(self, slot: int) -> gs.Tensor | None:
        """The tensor at an input slot, or None where it is absent."""
        if slot >= len(self.inputs) or self.inputs[slot].is_empty():
            return None
        return self.inputs[slot]
