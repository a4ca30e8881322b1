"""The graphsurgeon view: nodes and tensors over the proto, for matching and planning. Nothing here changes a model."""

from onnx_fp16fix.graph.borders import Border, body_values, border_slots, borders
from onnx_fp16fix.graph.build import build_view
from onnx_fp16fix.graph.nodes import ConstantTensor, ViewNode
from onnx_fp16fix.graph.order import in_order
from onnx_fp16fix.graph.view import GraphView, ScopeView

__all__ = [
    "Border",
    "ConstantTensor",
    "GraphView",
    "ScopeView",
    "ViewNode",
    "body_values",
    "border_slots",
    "borders",
    "build_view",
    "in_order",
]
