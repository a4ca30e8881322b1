"""What is particular to the bodies of If, Loop and Scan: how often they run, and what has to stay FP32 in them."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_graphsurgeon as gs

from onnx_fp16fix.graph import ScopeView, ViewNode
from onnx_fp16fix.model import ScopePath
from onnx_fp16fix.plan.exact import summands
from onnx_fp16fix.plan.facts import Facts

__all__ = ["carried", "executions", "kept_whole", "long_sums"]

_PLANNED = frozenset({"If", "Loop", "Scan"})
_SUMS = frozenset({"Add", "Sub", "Sum"})
_PASSES = _SUMS | frozenset(
    "Identity Where Reshape Transpose Squeeze Unsqueeze Flatten Cast Concat Slice Pad ScatterND ScatterElements".split()
)


def holder(scope: ScopeView) -> ViewNode | None:
    """The node around a body."""
    if scope.parent is None:
        return None
    return scope.parent.nodes[int(scope.path[-1].split(":")[0])]


def executions(facts: Facts) -> float:
    """How many times a body ran in calibration, over all samples; 0 if never, or if nothing in it was measured."""
    scope = facts.scope
    names = (*scope.inputs, *(tensor.name for node in scope.nodes for tensor in node.outputs))
    entries = [facts.range(tensor) for name in names if (tensor := scope.tensors.get(name)) is not None]
    return max(((entry.count + entry.nonfinite) / max(1, entry.numel) for entry in entries), default=0.0)


def kept_whole(facts: Facts, fp32: Mapping[tuple[ScopePath, int], str]) -> str | None:
    """Why a body is left in FP32 as it is; None if it is to be planned. ``fp32``: nodes that must be FP32."""
    scope = facts.scope
    around = holder(scope)
    if around is None or around.domain or around.op not in _PLANNED:
        return "only the bodies of If, Loop and Scan are typed"
    assert scope.parent is not None
    if (why := fp32.get((scope.parent.path, around.index))) is not None:
        return why
    makes = any(facts.is_float(tensor) and not facts.is_constant(tensor) for tensor in _made(scope))
    if makes and not executions(facts):
        return "it did not run in calibration, so its ranges are not known"
    return None


def _made(scope: ScopeView) -> list[gs.Tensor]:
    return [tensor for node in scope.nodes for tensor in node.outputs if not tensor.is_empty()]


def carried(scope: ScopeView) -> list[tuple[int, int]]:
    """What a body hands to its next run: positions of (input, output)."""
    around = holder(scope)
    if around is None or around.domain:
        return []
    if around.op == "Loop":
        return [(2 + state, 1 + state) for state in range(len(scope.inputs) - 2)]
    if around.op == "Scan":
        return [(state, state) for state in range(len(scope.inputs) - around.attrs["num_scan_inputs"])]
    return []


def long_sums(facts: Facts) -> dict[int, str]:
    """Nodes that add to a carried value in each of many iterations, with the reason to keep them in FP32: in FP16 the
    sum loses what is added."""
    scope = facts.scope
    pairs = carried(scope)
    if not pairs or scope.parent is None:
        return {}
    outer = Facts(scope.parent, facts.ranges, facts.margin, facts.half)
    started = facts.ranges.samples if scope.parent.parent is None else executions(outer)
    iterations = executions(facts) / max(1.0, started)
    if iterations <= summands(facts.half):
        return {}
    found, label = dict[int, str](), facts.half.label
    for entry, result in pairs:
        nodes = _on_the_way(scope, scope.inputs[entry], scope.outputs[result])
        if any(node.op in _SUMS for node in nodes):
            name = scope.inputs[entry]
            why = f"'{name}' is a sum over {iterations:.0f} iterations, which loses its increments in {label}"
            found.update((node.index, why) for node in nodes)
    return found


def _on_the_way(scope: ScopeView, entry: str, result: str) -> list[ViewNode]:
    """Sums and moves through which a carried input becomes the output; nodes in file order, visited twice."""
    reached = {id(scope.tensors[entry])}
    onward = []
    for node in scope.nodes:
        if node.op in _PASSES and not node.domain and any(id(tensor) in reached for tensor in node.inputs):
            reached.update(id(tensor) for tensor in node.outputs)
            onward.append(node)
    needed = {id(scope.tensor(result))}
    nodes = []
    for node in reversed(onward):
        if any(id(tensor) in needed for tensor in node.outputs):
            needed.update(id(tensor) for tensor in node.inputs)
            nodes.append(node)
    return nodes[::-1]
