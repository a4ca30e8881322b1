"""Ops of ONNX Runtime's own that its optimizers write, and which ONNX has no schema for.

Most belong to the domain ``com.microsoft``, which files need not import. Two stand under ONNX's name: ONNX Runtime
takes LayerNormalization in any version of the default domain, and SimplifiedLayerNormalization, which ONNX never had.
Operands from ContribOperators.md of ONNX Runtime 1.31: those of the type variable that every kernel of the op has
for data; what is always FLOAT (statistics, scales of some ops) or INT32 is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain

import onnx

__all__ = ["CONTRIB_DOMAIN", "admit_contrib", "contrib_slots", "is_contrib"]

CONTRIB_DOMAIN = "com.microsoft"
_UNDER_ONNX = {"LayerNormalization": 17, "SimplifiedLayerNormalization": 1 << 30}
"""Ops that ONNX Runtime takes in the default domain, and the version from which they are ONNX's own."""

_SLOTS: Mapping[str, tuple[frozenset[int], frozenset[int]]] = {
    op: (frozenset(inputs), frozenset(outputs))
    for op, inputs, outputs in (
        ("LayerNormalization", (0, 1, 2), (0,)),
        ("SimplifiedLayerNormalization", (0, 1), (0,)),
        ("SkipLayerNormalization", (0, 1, 2, 3, 4), (0, 3)),
        ("SkipSimplifiedLayerNormalization", (0, 1, 2, 3), (0, 3)),
        ("EmbedLayerNormalization", (2, 3, 4, 5, 6), (0, 2)),
        ("BiasGelu", (0, 1), (0,)),
        ("FastGelu", (0, 1), (0,)),
        ("QuickGelu", (0,), (0,)),
        ("Gelu", (0,), (0,)),
        ("FusedMatMul", (0, 1), (0,)),
        ("FusedGemm", (0, 1, 2), (0,)),
        ("FusedConv", (0, 1, 2, 3), (0,)),
        ("Attention", (0, 1, 2, 4, 5), (0, 1)),
        ("MultiHeadAttention", (0, 1, 2, 3, 5, 6, 7), (0, 1, 2)),
        ("RotaryEmbedding", (0, 2, 3), (0,)),
    )
}


def is_contrib(domain: str, op: str, opset: int) -> bool:
    """Whether the node is ONNX Runtime's; ``opset`` is the version of the default domain where that is its domain."""
    return domain == CONTRIB_DOMAIN or (domain in ("", "ai.onnx") and opset < _UNDER_ONNX.get(op, 0))


def contrib_slots(domain: str, op: str, opset: int) -> tuple[frozenset[int], frozenset[int]] | None:
    """Inputs and outputs that share one float type, FP16 or FP32; None for ops of ONNX and ops not listed."""
    return _SLOTS.get(op) if is_contrib(domain, op, opset) else None


def admit_contrib(proto: onnx.ModelProto) -> None:
    """Write a copy that the ONNX checker judges as ONNX Runtime would: its own ops in their domain, imported."""
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    opset = versions.get("", versions.get("ai.onnx", 0))
    found = [node for node in _nodes(proto.graph) if is_contrib(node.domain, node.op_type, opset)]
    for node in found:
        node.domain = CONTRIB_DOMAIN
    if found and CONTRIB_DOMAIN not in versions:
        proto.opset_import.add(domain=CONTRIB_DOMAIN, version=1)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from chain.from_iterable(
                map(_nodes, (*attribute.graphs, *([attribute.g] * attribute.HasField("g"))))
            )
