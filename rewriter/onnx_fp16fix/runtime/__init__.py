"""ONNX Runtime on the CPU: the only place that opens sessions."""

from onnx_fp16fix.runtime.extract import Array, node_reads
from onnx_fp16fix.runtime.seeds import DRAWING, may_draw, random_nodes
from onnx_fp16fix.runtime.session import Session, as_value, open_session

__all__ = [
    "DRAWING",
    "Array",
    "Session",
    "as_value",
    "may_draw",
    "node_reads",
    "open_session",
    "random_nodes",
]
