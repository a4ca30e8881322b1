"""What FP16 or BF16 does to the constants of a model, before anything runs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnx_fp16fix.calibrate import TensorRange
from onnx_fp16fix.calibrate.statistics import measure_array
from onnx_fp16fix.document import Finding, WeightEntry, WeightsEntry
from onnx_fp16fix.graph import GraphView, ScopeView, ViewNode, in_order
from onnx_fp16fix.half import FP16, FloatType
from onnx_fp16fix.pipeline.places import place_of
from onnx_fp16fix.wording import counted

__all__ = ["measure_weights", "weight_findings"]

_MANY = 0.1
"""Share of elements with lost bits from which on a weight is worth a word: a few tiny values are normal."""
_LISTED = 100
"""Weights of the document; the worst ones."""


def measure_weights(view: GraphView, half: FloatType = FP16) -> WeightsEntry:
    """Counts over all float constants that nodes of the main graph and its bodies read, each constant once."""
    found = WeightsEntry()
    entries = []
    for scope, node, name, values in _constants(view):
        entry = _entry(scope, node, name, measure_array(values), values, half)
        found.constants += 1
        found.elements += entry.elements
        found.beyond += entry.beyond
        found.below_normal += entry.below_normal
        found.vanishing += entry.vanishing
        if entry.beyond or entry.below_normal:
            entries.append(entry)
    entries.sort(key=lambda entry: (-entry.beyond, -entry.below_normal / entry.elements, entry.name))
    found.worst = entries[:_LISTED]
    return found


def _constants(
    view: GraphView,
) -> Iterator[tuple[ScopeView, ViewNode, str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]]:
    """The first reader of each float constant, its name and values; those are read one at a time."""
    seen: set[int] = set()
    for scope, node in in_order(view.main):
        for tensor in node.inputs:
            if tensor.is_empty() or id(tensor) in seen:
                continue
            seen.add(id(tensor))
            values = scope.constant(tensor)
            if values is not None and values.dtype == np.float32 and values.size:
                yield scope, node, tensor.name, values


def _entry(
    scope: ScopeView,
    node: ViewNode,
    name: str,
    measured: TensorRange,
    values: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    half: FloatType,
) -> WeightEntry:
    # an infinity is one in 16 bits too; only what is finite can be beyond
    beyond, below_normal, vanishing = 0, measured.below_normal, measured.below_subnormal
    if measured.absmax > half.max:
        beyond = int(np.count_nonzero((np.abs(values) > half.max) & np.isfinite(values)))
    if half is not FP16:
        sizes = np.abs(values[values != 0]) if measured.smallest < half.min_normal else np.empty(0)
        below_normal, vanishing = (int(np.count_nonzero(sizes < end)) for end in (half.min_normal, half.tiny))
    return WeightEntry(
        name=name,
        scope=place_of(scope),
        node=node.label,
        elements=int(values.size),
        absmax=measured.absmax,
        beyond=beyond,
        below_normal=below_normal,
        vanishing=vanishing,
    )


def weight_findings(weights: WeightsEntry, half: FloatType = FP16) -> list[Finding]:
    """One for each weight beyond the type, and one for each that loses bits in many elements."""
    return [
        Finding(
            name=f"{half.name}-weights",
            kind="weights",
            severity="warning" if entry.beyond else "info",
            status="available" if entry.beyond else "skipped",
            message=_message(entry, half),
            scope=entry.scope,
            node=entry.node,
            tensor=entry.name,
            facts={
                "absmax": entry.absmax,
                "elements": entry.elements,
                "beyond": entry.beyond,
                "below_normal": entry.below_normal,
                "vanishing": entry.vanishing,
            },
            # the planner names what is at risk; what it does not name is read where FP32 is kept anyway
            repaired_by=["plan"] if entry.beyond else [],
        )
        for entry in weights.worst
        if entry.beyond or entry.below_normal > _MANY * entry.elements
    ]


def _message(entry: WeightEntry, half: FloatType) -> str:
    elements = f"{counted(entry.elements, 'element')} of '{entry.name}'"
    if entry.beyond:
        are = "is" if entry.beyond == 1 else "are"
        return f"{entry.beyond:,} of {elements} {are} beyond {half.label}, up to {entry.absmax:.4g}"
    lose = "loses" if entry.below_normal == 1 else "lose"
    return (
        f"{entry.below_normal:,} of {elements} {lose} bits below {half.min_normal:.2g}; of them vanish: "
        f"{entry.vanishing:,}"
    )
