"""Bounds that hold whatever the data, from what the operators are: intervals, carried forward through the main graph.

A bound holds for finite inputs, in exact arithmetic; a kernel may pass it by a rounding error.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import onnx

from onnx_fp16fix.calibrate.constants import constant_ranges
from onnx_fp16fix.calibrate.intervals import ALL, BOOLEAN, RULES, UNIT, Bound, BoundedNode
from onnx_fp16fix.calibrate.ranges import RangeTable, TensorRange
from onnx_fp16fix.model.infer import TypeTable, infer_types
from onnx_fp16fix.model.model import Model

__all__ = ["Bound", "complete", "known_bounds"]


def known_bounds(
    proto: onnx.ModelProto,
    base_dir: Path | None = None,
    types: TypeTable | None = None,
    only: Collection[int] | None = None,
) -> dict[str, Bound]:
    """Bounds of the main graph's computed tensors, where at least one end is known.

    ``types``: those of this model, where they are inferred already. ``only``: indices of the nodes to look at;
    nothing is known of what others make.
    """
    inferred = infer_types(Model(proto, base_dir)) if types is None else types
    nodes = [proto.graph.node[index] for index in sorted(only)] if only is not None else proto.graph.node
    nodes = [node for node in nodes if node.domain in ("", "ai.onnx")]
    named = {name for node in nodes for name in (*node.input, *node.output)}
    shapes = {
        name: tuple(dim if isinstance(dim, int) else None for dim in entry.shape)
        for name, entry in inferred.scopes[()].items()
        if name in named and entry.shape is not None
    }
    read = {name for node in nodes if node.op_type in RULES for name in node.input}
    constants = constant_ranges(proto, base_dir, only=read)
    known = {name: _of_constant(entry) for name, entry in constants.items()}
    boolean: set[str] = set()
    found: dict[str, Bound] = {}
    for node in nodes:
        if node.op_type in BOOLEAN:
            boolean.update(node.output)
        elif node.op_type == "Cast" and node.input[0] in boolean:
            known[node.output[0]] = found[node.output[0]] = _shaped(UNIT, shapes.get(node.output[0]))
        elif node.op_type in RULES:
            bound = RULES[node.op_type](BoundedNode(node, known, shapes))
            if math.isfinite(bound.low) or math.isfinite(bound.high):
                for name in node.output if node.op_type == "Split" else node.output[:1]:
                    known[name] = found[name] = _shaped(bound, shapes.get(name))
    return found


def _of_constant(entry: TensorRange) -> Bound:
    if entry.nonfinite or not entry.count:
        return ALL
    return Bound(entry.minimum, entry.maximum, entry.shape)


def _shaped(bound: Bound, shape: tuple[int | None, ...] | None) -> Bound:
    return Bound(bound.low, bound.high, tuple(size or 1 for size in shape or ()))


def complete(table: RangeTable, bounds: Mapping[str, Bound]) -> RangeTable:
    """The table with measured ranges widened to their bounds, and finite bounds for what was not measured.

    A range is never narrower than measured. An entry that analysis alone has given counts no element.
    """
    found = dict(table.tensors)
    for name, bound in bounds.items():
        measured = found.get(name)
        if measured is None:
            if bound.finite:
                found[name] = TensorRange(bound.low, bound.high, shape=bound.shape)
        else:
            low = min(measured.minimum, bound.low) if math.isfinite(bound.low) else measured.minimum
            high = max(measured.maximum, bound.high) if math.isfinite(bound.high) else measured.maximum
            found[name] = replace(measured, minimum=low, maximum=high)
    return replace(table, tensors=found)
