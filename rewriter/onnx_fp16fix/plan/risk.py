"""What would go wrong in plain FP16, tensor by tensor, before anything is repaired."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from onnx_fp16fix.plan.edges import Edge
from onnx_fp16fix.plan.facts import Facts, NodeView
from onnx_fp16fix.plan.need import Need

__all__ = ["Risk", "find_risks"]

_TOLERATED = 2
"""Bits that may be lost unremarked: the error stays below that of a handful of ordinary roundings."""


@dataclass(frozen=True, slots=True)
class Risk:
    """One tensor (or value inside a kernel) that FP16 cannot hold well. ``node`` is the index of the node at which
    it shows; ``facts`` are the numbers it rests on, true values."""

    kind: Literal["overflow", "underflow", "precision"]
    node: int
    tensor: str
    message: str
    facts: Mapping[str, float]


def find_risks(facts: Facts, need: Need, exact: Mapping[int, str]) -> tuple[Risk, ...]:
    """All risks of the scope in node order; a tensor read at several places is named at each of them."""
    risks: list[Risk] = []
    for view in facts.views():
        if view.node.op == "Constant":  # like an initializer it matters where it is read
            continue
        index = view.node.index
        if index in exact:
            tensor = view.node.outputs[0].name
            risks.append(Risk("precision", index, tensor, exact[index], {}))
        for edge in view.edges.values():
            if not edge.half:
                continue
            value = edge.value
            # most operands are harmless, and this is asked of all
            if (
                (value.lowest is not None and value.lowest > 0)
                or (value.typical is not None and value.typical < -_TOLERATED)
                or need.matters(value.key)
                or (value.constant and edge.reads and need.guarding((index, edge.slot)))
            ):
                risk = _operand_risk(facts, view, need, edge)
                if risk is not None:
                    risks.append(risk)
        for inner in view.relation.inner:
            if inner.magnitude * facts.margin > facts.half.max:
                message = f"{inner.what} reaches {inner.magnitude:.4g}"
                risks.append(
                    Risk(
                        "overflow", index, view.node.outputs[0].name, message, {"magnitude": inner.magnitude}
                    )
                )
    return tuple(risks)


def _operand_risk(facts: Facts, view: NodeView, need: Need, edge: Edge) -> Risk | None:
    tensor, index, half = edge.value.tensor, view.node.index, facts.half
    entry, name = edge.value.range, str(tensor.name)
    what = f"'{name}'" if not edge.value.constant else f"the constant '{name}'"
    if (edge.value.lowest or 0) > 0:
        message = f"{what} {entry.reach()}; {half.label} ends at {half.max:.6g}"
        return Risk("overflow", index, name, message, {"absmax": entry.absmax})
    slot = (index, edge.slot)
    if edge.reads and slot in need.raised:
        if half.encode(np.array(entry.absmax)):
            return None
        message = f"{what} = {entry.absmax:.4g} guards a denominator and rounds to zero in {half.label}"
        return Risk("underflow", index, name, message, {"value": entry.absmax})
    guard = need.guards.get(slot) if edge.reads else None
    if guard is not None and guard < 0:
        message = f"{what} = {entry.absmax:.4g} guards against zero and rounds to zero in {half.label}"
        return Risk("underflow", index, name, message, {"value": entry.absmax})
    bound = need.highest_guard(tensor)
    if bound is not None and bound < 0:
        smallest = need.guarded[id(tensor)]
        message = f"{what} may be as small as {smallest:.4g}, which is zero in {half.label}"
        return Risk("underflow", index, name, message, {"smallest": smallest})
    lost = f"{half.label} loses bits below {half.min_normal:.2g}"
    highest = need.highest(tensor)
    if highest is not None and highest < -_TOLERATED:
        smallest = need.smallest[id(tensor)]
        message = f"{what} must be accurate down to {smallest:.4g}; {lost}"
        return Risk("underflow", index, name, message, {"smallest": smallest})
    typical = edge.value.typical
    if typical is not None and typical < -_TOLERATED and guard is None:
        message = f"{what} has a typical magnitude of {entry.mean_abs:.4g}; {lost}"
        return Risk("underflow", index, name, message, {"typical": entry.mean_abs})
    return None
