"""What is particular to the bodies of If, Loop and Scan: how often they run, and what has to stay FP32 in them."""

from __future__ import annotations

from collections.abc import Container, Mapping, Set

import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto

from onnx_fp16fix.calibrate.ranges import RangeTable
from onnx_fp16fix.graph import ScopeView, ViewNode, borders
from onnx_fp16fix.half import FloatType
from onnx_fp16fix.model import ScopePath
from onnx_fp16fix.operators import hands_on
from onnx_fp16fix.plan.known.exact import close, summands
from onnx_fp16fix.plan.known.facts import BORDER, SUMS, Facts
from onnx_fp16fix.plan.known.joint import JointFacts, JointScope, join

__all__ = ["deciding", "executions", "joined", "long_sums", "state_updates", "unmeasured", "untyped"]

_PLANNED = frozenset({"If", "Loop", "Scan"})
_PASSES = SUMS | frozenset(
    "Identity Where Reshape Transpose Squeeze Unsqueeze Flatten Cast Concat Slice Pad ScatterND ScatterElements".split()
)

_MEASURES = frozenset("ReduceMax ReduceMin ReduceMean ReduceL1 ReduceL2 ReduceSumSquare Sqrt Sum".split())
"""Ops that sum up a difference for a comparison."""
_UPDATES = _PASSES | frozenset({"Mul", "Div", "Neg"})


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
    if any(name not in scope.tensors for name in scope.outputs):
        return "the body hands out a value of the graph around it"
    return unmeasured(facts)


def unmeasured(facts: Facts) -> str | None:
    """Why the ranges of a body's tensors are not known, and what would show them; None where they are, or where it has
    none. Bounds from analysis would not do: no simulation proves what never runs."""
    scope, around = facts.scope, holder(facts.scope)
    makes = any(facts.is_float(tensor) and not facts.is_constant(tensor) for tensor in _made(scope))
    if around is None or not makes or executions(facts):
        return None
    graph, place = scope.graph, f"of {around.op} '{around.label}'"
    infos = (*graph.input, *graph.output) if isinstance(graph, onnx.GraphProto) else ()
    if any(info.type.WhichOneof("value") not in (None, "tensor_type") for info in infos):
        return f"the body {place} carries what is no tensor, so its ranges are not known"
    if around.op != "If":
        return f"the body {place} ran on no sample: one that makes it run would show its ranges"
    assert scope.parent is not None
    wanted = "then" if ":then_branch:" in scope.path[-1] else "else"
    condition = around.inputs[0]
    branch = f"the {wanted} branch {place} ran on no sample"
    if scope.parent.is_constant(condition):
        return f"{branch}, and never will: its condition is constant"
    return (
        f"{branch}: one in which '{condition.name}' is {str(wanted == 'then').lower()} would show its ranges"
    )


def _made(scope: ScopeView) -> list[gs.Tensor]:
    return [tensor for node in scope.nodes for tensor in node.outputs if not tensor.is_empty()]


def joined(
    scope: ScopeView,
    ranges: RangeTable,
    margin: float,
    fp32: Mapping[tuple[ScopePath, int], str],
    half: FloatType,
) -> JointFacts:
    """The main graph and its bodies as one scope, without nodes that nothing reads: their results may be wrong.

    ``fp32``: nodes to keep in FP32, with what is inside them, read or not."""
    stays = dict(fp32)
    whole: dict[ScopePath, str] = {}
    per_sample: dict[ScopePath, float] = {}
    for body in scope.inside():
        facts = Facts(body, ranges, margin, half)
        kept = kept_whole(facts, stays)
        if kept is not None:
            whole[body.path] = kept
            stays |= {(body.path, node.index): kept for node in body.nodes}
        per_sample[body.path] = executions(facts) / max(1, ranges.samples)
    unread = {(view.path, index) for view in (scope, *scope.inside()) for index in _unread(view, fp32)}
    return join(Facts(scope, ranges, margin, half), whole, per_sample, unread)


def _unread(scope: ScopeView, wanted: Container[tuple[ScopePath, int]]) -> set[int]:
    """Nodes that nothing reads and that are not wanted either."""
    found = set(scope.unread)
    stack = [index for index in found if (scope.path, index) in wanted]
    while stack:
        index = stack.pop()
        if index in found:
            found.remove(index)
            makers = [scope.producer(tensor) for tensor in scope.nodes[index].inputs]
            stack += [maker.index for maker in makers if maker is not None]
    return found


def untyped(facts: JointFacts) -> dict[int, str]:
    """Borders that no 16-bit value may cross in this opset."""
    opset, half = facts.scope.model.opset, facts.half
    return {
        index: f"opset {opset} has no {half.label} {crossing.holder.op}"
        for index, crossing in facts.joint.crossings.items()
        if not hands_on(crossing.holder.op, opset, half)
    }


def long_sums(facts: JointFacts) -> dict[int, str]:
    """Nodes that add to a carried value in each of many iterations, and the border that carries it, with the reason
    to keep them in FP32: in FP16 the sum loses what is added."""
    joint = facts.joint
    found, label = dict[int, str](), facts.half.label
    for index, crossing in joint.crossings.items():
        if not crossing.border.entries or not crossing.border.exits:
            continue
        body = crossing.border.entries[0][0]
        started = max(1.0, facts.runs(index))
        iterations = facts.per_sample[body.path] / started
        if iterations <= summands(facts.half):
            continue
        for (_, entry), (_, result) in zip(crossing.border.entries, crossing.border.exits, strict=False):
            name = body.inputs[entry]
            nodes = _on_the_way(joint, id(body.tensors[name]), id(body.tensors[body.outputs[result]]), index)
            if any(node.op in SUMS for node in nodes):
                why = f"'{name}' is a sum over {iterations:.0f} iterations, which loses its increments in {label}"
                found.update((node.index, why) for node in nodes)
                found[index] = why
    return found


def deciding(facts: JointFacts) -> dict[int, str]:
    """What the floats are made of that end a loop, with the reason for FP32: where a value converges, FP16 may never
    come near enough, and one turn more or less is another result."""
    joint = facts.joint
    found: dict[int, str] = {}
    for index, bodies in joint.bodies.items():
        body = bodies.get("body:0")
        if joint.nodes[index].op != "Loop" or body is None or body.path in joint.whole:
            continue
        scope, place = joint.places[index]
        why = f"it decides how often '{scope.nodes[place].label}' turns"
        for node in _comparisons(joint, body):
            found[node.index] = why
            for tensor in node.inputs:
                if not tensor.is_empty() and facts.is_float(tensor):
                    close(tensor, facts, found, why, more=_MEASURES)
    return found


def _comparisons(joint: JointScope, body: ScopeView) -> list[ViewNode]:
    """Nodes that make the first value without a float on the way from floats to the condition of a Loop."""
    around = holder(body)
    assert body.parent is not None
    assert around is not None
    last = {
        id(body.tensors[body.inputs[entry]]): body.tensors[body.outputs[result]]
        for border in borders(body.parent, around)
        for (_, entry), (_, result) in zip(border.entries, border.exits, strict=False)
    }
    stack, seen, found = [body.tensors[body.outputs[0]]], set[int](), list[ViewNode]()
    while stack:
        tensor = stack.pop()
        if id(tensor) in seen or tensor.is_empty():
            continue
        seen.add(id(tensor))
        node = joint.producer(tensor)
        if node is None:
            stack += [last[id(tensor)]] if id(tensor) in last else []
            continue
        inside = joint.bodies.get(node.index, {}).values() if node.op == "If" else ()
        slot = node.output_slot(tensor)
        stack += [branch.tensors[branch.outputs[slot]] for branch in inside if branch.path not in joint.whole]
        floats = [
            t
            for t in node.inputs
            if not t.is_empty() and joint.owners[id(t)].dtype(t.name) == TensorProto.FLOAT
        ]
        if floats:
            found.append(node)
        stack += [t for t in node.inputs if all(t is not other for other in floats)]
    return found


def state_updates(scope: ScopeView) -> list[tuple[str, list[ViewNode]]]:
    """Of each float that a body carries on, its name and the element-wise arithmetic that makes it out of the last."""
    around = holder(scope)
    found = []
    for border in [] if around is None or scope.parent is None else borders(scope.parent, around):
        for (_, entry), (_, result) in zip(border.entries, border.exits, strict=False):
            name, made = scope.inputs[entry], scope.tensors.get(scope.outputs[result])
            if scope.dtype(name) == TensorProto.FLOAT and made is not None:
                nodes = _on_the_way(scope, id(scope.tensors[name]), id(made), len(scope.nodes), _UPDATES)
                found += [(name, nodes)] if nodes else []
    return found


def _on_the_way(
    scope: ScopeView, entry: int, result: int, before: int, ops: Set[str] = _PASSES
) -> list[ViewNode]:
    """Sums and moves through which a carried input becomes the output, nodes visited twice in order."""
    reached = {entry}
    onward = []
    for node in scope.nodes[:before]:
        passes = node.domain == BORDER or (node.op in ops and not node.domain)
        if passes and any(id(tensor) in reached for tensor in node.inputs):
            reached.update(id(tensor) for tensor in node.outputs)
            onward.append(node)
    needed = {result}
    nodes = []
    for node in reversed(onward):
        if any(id(tensor) in needed for tensor in node.outputs):
            needed.update(id(tensor) for tensor in node.inputs)
            nodes.append(node)
    return nodes[::-1]
