"""What would go wrong in plain FP16, tensor by tensor, before anything is repaired."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from onnx_fp16fix.plan.edges import Edge
from onnx_fp16fix.plan.facts import Facts
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
    sensitive, guarded = need.smallest.keys() | need.guarded.keys(), need.raised | need.guards.keys()
    told: dict[int, str] = {}
    for index, view in enumerate(facts.views()):
        if view.op == "Constant":  # like an initializer it matters where it is read
            continue
        if index in exact:
            tensor = view.node.outputs[0].name
            risks.append(Risk("precision", index, tensor, exact[index], {}))
        for edge in view.edges.values():
            value, lowest, typical = edge.value, edge.value.lowest, edge.value.typical
            # most operands are harmless, and this is asked of all
            if not edge.half:
                continue
            if lowest is not None and lowest > 0:
                message = told.get(value.key) or told.setdefault(value.key, _overflows(facts, edge))
                name, size = value.tensor.name, value.range.absmax
                risks.append(Risk("overflow", index, name, message, {"absmax": size}))
            elif (
                (typical is not None and typical < -_TOLERATED)
                or value.key in sensitive
                or (value.constant and edge.reads and (index, edge.slot) in guarded)
            ):
                risk = _operand_risk(facts, index, need, edge)
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


def _named(edge: Edge) -> str:
    name = edge.value.tensor.name
    return f"'{name}'" if not edge.value.constant else f"the constant '{name}'"


def _overflows(facts: Facts, edge: Edge) -> str:
    return f"{_named(edge)} {edge.value.range.reach()}; {facts.half.label} ends at {facts.half.max:.6g}"


def _operand_risk(facts: Facts, index: int, need: Need, edge: Edge) -> Risk | None:
    """What the operand of the node loses at the small end."""
    tensor, entry, half = edge.value.tensor, edge.value.range, facts.half
    name, what = str(tensor.name), _named(edge)
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
