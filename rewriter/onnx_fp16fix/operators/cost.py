"""Floating-point operations of the ops that engines run as matrix products."""

from __future__ import annotations

import math

from onnx_fp16fix.operators.relation import NodeFacts, inp, out

__all__ = ["flops"]

_PRODUCTS = frozenset(
    """MatMul Gemm FusedMatMul FusedGemm Conv FusedConv DeformConv ConvTranspose Attention MultiHeadAttention Einsum
    LSTM GRU RNN""".split()
)


def flops(node: NodeFacts) -> float:
    """Multiply-adds times two of MatMul, Gemm, Conv, ConvTranspose, Einsum, attention and recurrent ops; 0 for others.

    Shapes are those of the calibration run; unknown shapes count as 0.
    """
    if node.op not in _PRODUCTS:
        return 0.0
    results, weight = node.numel(out()), node.shape(inp(1))
    if node.op in ("MatMul", "Gemm", "FusedMatMul", "FusedGemm"):
        data = node.shape(inp(0))
        first = -2 if node.op == "FusedMatMul" else 0
        turned = node.op != "MatMul" and node.attrs.get("transA") and len(data) > 1
        inner = data[first] if turned else (data[-1] if data else 0)
        return 2.0 * results * inner
    if node.op in ("Conv", "FusedConv", "DeformConv"):
        return 2.0 * results * math.prod(weight[1:])
    if node.op == "Attention" and len(weight) == 2:  # ONNX Runtime's: the projection
        return 2.0 * node.numel(inp(0)) * weight[1]
    if node.op in ("Attention", "MultiHeadAttention"):
        # one product per key for each element of Q and of the result; K: [batch, keys, size], heads before keys or not
        keys = weight[-2] if len(weight) in (3, 4) else 0
        past = node.shape(inp(4 if node.op == "Attention" else 6))
        return 2.0 * (node.numel(inp(0)) + results) * (keys + (past[-2] if len(past) == 4 else 0))
    if node.op == "ConvTranspose":
        return 2.0 * node.numel(inp(0)) * math.prod(weight[1:])
    if node.op == "Einsum" and node.has(inp(1)):
        # the contracted size is at most what the operands have beyond the result
        left, right = node.numel(inp(0)), node.numel(inp(1))
        return 2.0 * math.sqrt(float(left) * right * results) if results else 0.0
    if node.op in ("LSTM", "GRU", "RNN") and weight:
        data, recurrent = node.shape(inp(0)), node.shape(inp(2))
        rows = math.prod(data[:2]) if len(data) == 3 else 0
        return 2.0 * rows * (math.prod(weight) + math.prod(recurrent))
    return 0.0
