"""What would go wrong in plain FP16, tensor by tensor, before anything is repaired."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from onnx_fp16fix.half import FloatType
from onnx_fp16fix.plan.known.edges import TensorView
from onnx_fp16fix.plan.known.facts import Facts
from onnx_fp16fix.plan.known.need import Need
from onnx_fp16fix.plan.known.table import UNKNOWN, Ints

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
    views, table, operands = facts.views(), facts.table(), _doubtful(facts, need)
    risks: dict[int, list[Risk]] = {index: [] for index in sorted({*exact, *table.node[operands].tolist()})}
    for index, why in exact.items():
        risks[index].append(Risk("precision", index, views[index].node.outputs[0].name, why, {}))
    told: dict[int, _Danger | None] = {}
    columns = (column[operands].tolist() for column in (table.node, table.slot, table.value, table.reads))
    for index, slot, number, reads in zip(*columns, strict=True):
        value, guards = table.values[number], reads and need.guarding((index, slot))
        if guards and (value.lowest is None or value.lowest <= 0):
            danger = _guard_danger(facts, (index, slot), need, value)
        elif number in told:
            danger = told[number]
        else:
            danger = told[number] = _danger(facts, need, value)
        if danger is not None:
            risks[index].append(Risk(danger.kind, index, value.tensor.name, danger.message, danger.facts))
    for index in table.inner:
        view = views[index]
        for inner in filter(facts.outgrows, view.relation.inner):
            message = f"{inner.what} reaches {inner.magnitude:.4g}"
            name, size = view.node.outputs[0].name, {"magnitude": inner.magnitude}
            risks.setdefault(index, []).append(Risk("overflow", index, name, message, size))
    # like an initializer a Constant matters where it is read
    return tuple(risk for index in sorted(risks) if views[index].op != "Constant" for risk in risks[index])


def _doubtful(facts: Facts, need: Need) -> Ints:
    """Operands that may be at risk: most are harmless, and this is asked of all."""
    table = facts.table()
    lowest, typical = table.sizes.lowest, table.sizes.typical
    wide = (lowest > 0) & (lowest != UNKNOWN)
    small = (typical < -_TOLERATED) | table.among(
        key
        for key, (highest, guard) in need.limited.items()
        if (highest is not None and highest < -_TOLERATED) or (guard is not None and guard < 0)
    )
    doubtful = (wide | small)[table.value]
    if need.raised or need.guards:
        readers = table.at({index for index, _ in need.raised | need.guards.keys()})
        doubtful |= readers & table.constant & table.reads
    return np.flatnonzero(doubtful & table.half)


class _Danger(NamedTuple):
    """A risk wherever the tensor is read or made."""

    kind: Literal["overflow", "underflow"]
    message: str
    facts: Mapping[str, float]


def _named(value: TensorView) -> str:
    name = value.tensor.name
    return f"'{name}'" if not value.constant else f"the constant '{name}'"


def _guard_danger(facts: Facts, slot: tuple[int, int], need: Need, value: TensorView) -> _Danger | None:
    """That of a constant which keeps a value from zero."""
    half, size = facts.half, value.range.absmax
    if slot in need.raised:
        if size > half.tiny / 2:
            return None
        what = "guards a denominator"
    elif need.guards[slot] < 0:
        what = "guards against zero"
    else:
        return _loss(facts, need, value)
    message = f"{_named(value)} = {size:.4g} {what} and rounds to zero in {half.label}"
    return _Danger("underflow", message, {"value": size})


def _danger(facts: Facts, need: Need, value: TensorView) -> _Danger | None:
    half, entry = facts.half, value.range
    if value.lowest is not None and value.lowest > 0:
        message = f"{_named(value)} {entry.reach()}; {half.label} ends at {half.max:.6g}"
        return _Danger("overflow", message, {"absmax": entry.absmax})
    if (danger := _loss(facts, need, value)) is not None:
        return danger
    if value.typical is not None and value.typical < -_TOLERATED:
        message = f"{_named(value)} has a typical magnitude of {entry.mean_abs:.4g}; {_lost(half)}"
        return _Danger("underflow", message, {"typical": entry.mean_abs})
    return None


def _loss(facts: Facts, need: Need, value: TensorView) -> _Danger | None:
    """What the tensor loses of small values that matter."""
    half, (highest, guard) = facts.half, need.limits(value.key)
    if guard is not None and guard < 0:
        smallest = need.guarded[value.key]
        message = f"{_named(value)} may be as small as {smallest:.4g}, which is zero in {half.label}"
        return _Danger("underflow", message, {"smallest": smallest})
    if highest is not None and highest < -_TOLERATED:
        smallest = need.smallest[value.key]
        message = f"{_named(value)} must be accurate down to {smallest:.4g}; {_lost(half)}"
        return _Danger("underflow", message, {"smallest": smallest})
    return None


def _lost(half: FloatType) -> str:
    return f"{half.label} loses bits below {half.min_normal:.2g}"
