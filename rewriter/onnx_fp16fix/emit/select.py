"""What selects (comparisons, ArgMax, TopK, ...) reads graph inputs as they are, in FP32.

That takes no Cast, and values that are close stay apart. It does not depend on which other nodes are FP32: a trial of
``blame`` is the model that would be shipped.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from onnx import TensorProto

from onnx_fp16fix.graph import ScopeView, ViewNode
from onnx_fp16fix.half import FloatType
from onnx_fp16fix.operators import float_slots

__all__ = ["selecting_inputs"]

_SELECTING = frozenset(
    "Greater GreaterOrEqual Less LessOrEqual Equal ArgMax ArgMin TopK NonZero IsNaN IsInf".split()
)
_MOVERS = frozenset("Reshape Transpose Squeeze Unsqueeze Flatten Slice Gather Expand Identity".split())
"""On the way from a graph input: FP32 where nothing else reads what they make."""


def selecting_inputs(scope: ScopeView, half: FloatType, without: Collection[int] = ()) -> frozenset[int]:
    """Indices of such nodes of the main graph, and of those that only move data on the way to them; ``without``: nodes
    that are to run in FP16 all the same."""
    nodes = scope.nodes
    wanted = [node for node in nodes if node.index not in without] if without else nodes
    chosen = {node.index for node in wanted if node.op in _SELECTING and not node.domain}
    if not chosen:
        return frozenset()
    made = {
        id(tensor): node
        for node in nodes
        for slot, tensor in enumerate(node.outputs)
        if node.index in scope.bodies or slot in _half_outputs(scope, node, half)
    }
    moving = _movers(scope, [nodes[index] for index in chosen], made).difference(without)
    while True:  # what is given up on one side may be all that the other one was for
        kept = {n for n in chosen if _reads_inputs(scope, nodes[n], made, moving)}
        moved = {
            n
            for n in moving
            if _reads_inputs(scope, nodes[n], made, moving)
            and all(reader.index in kept | moving for reader, _ in scope.consumers(nodes[n].outputs[0]))
        }
        if (kept, moved) == (chosen, moving):
            return frozenset(kept | moved)
        chosen, moving = kept, moved


def _half_outputs(scope: ScopeView, node: ViewNode, half: FloatType) -> frozenset[int]:
    opset = scope.model.opset_of(node.domain)
    return float_slots(node.domain, node.op, opset, len(node.inputs), len(node.outputs), half).outputs


def _movers(scope: ScopeView, selecting: list[ViewNode], made: Mapping[int, ViewNode]) -> set[int]:
    """Nodes above them that only move data, and whose result does not leave the graph."""
    found, stack = set[int](), selecting
    while stack:
        for tensor in stack.pop().inputs:
            node = made.get(id(tensor))
            if node is None or node.op not in _MOVERS or node.domain or node.index in found:
                continue
            if not scope.outside_uses(node.outputs[0]):
                found.add(node.index)
                stack.append(node)
    return found


def _reads_inputs(scope: ScopeView, node: ViewNode, made: Mapping[int, ViewNode], moving: set[int]) -> bool:
    """Whether no float that it reads could be 16-bit, but for constants; and it reads one that is none."""
    floats = [
        tensor
        for tensor in node.inputs
        if tensor.name and scope.dtype(tensor.name) == TensorProto.FLOAT and not scope.is_constant(tensor)
    ]
    makers = [made[id(tensor)] for tensor in floats if id(tensor) in made]
    return bool(floats) and all(maker.index in moving for maker in makers)
