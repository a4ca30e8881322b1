"""Headroom where it costs nothing: exponents that also hold what new samples can bring, as far as analysis knows it.

Calibrated maxima times a margin are no bounds. Where one is known by analysis (a sigmoid ends at 1, so boxes made of
it end too) and lies a little further out, a plan that holds it is as good as one that does not, if it pays for no more.
What must be scaled anyway, and has no such bound, gets some steps more on the same terms: an exponential of new samples
is soon several times larger.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from onnx_fp16fix.calibrate.bounds import Bound, known_bounds
from onnx_fp16fix.calibrate.ranges import RangeTable, TensorRange, tensor_key
from onnx_fp16fix.graph import GraphView
from onnx_fp16fix.half import FloatType
from onnx_fp16fix.model import Model
from onnx_fp16fix.plan import Plan, Prices, Risk

__all__ = ["Analysis", "roomy", "spacious"]

_NEAR = 16.0
"""Bounds further out than this are of no use: intervals that know nothing of each other grow at every step."""
_ROUNDED = 1 + 2.0**-8
"""What rounding in FP16 may add to a value at its bound."""
_SPARE = (64.0, 8.0)
"""How much further than the margin scaled tensors may reach, tried in turn."""
_SMALL = 4000
"""Tensors in graphs that are planned twice for the sake of it."""


@dataclass
class Analysis:
    """Known bounds of the tensors of a model's main graph, found once."""

    _model: Model | None = None
    _bounds: Mapping[str, Bound] = field(default_factory=dict)

    def bounds(self, view: GraphView) -> Mapping[str, Bound]:
        """Those of the view's model."""
        if self._model is not view.model:
            self._model = view.model
            self._bounds = known_bounds(view.model.proto, view.model.base_dir, view.types)
        return self._bounds


def roomy(
    plan: Plan,
    ranges: RangeTable,
    bounds: Callable[[], Mapping[str, Bound]],
    again: Callable[[RangeTable], Plan],
    margin: float,
    half: FloatType,
) -> Plan:
    """``plan``, or one that pays for no more and holds near bounds as well.

    ``again`` plans with another table; ``bounds`` are those of the main graph.
    """
    tight = {
        name: ends
        for name, entry in ranges.tensors.items()
        if (ends := _NEAR * entry.absmax) > half.max * 2.0 ** plan.exponents.get(name, 0)
    }
    if not tight:
        return plan
    known = bounds()
    wide: dict[str, TensorRange] = {}
    for name in tight.keys() & known.keys():
        reach = max(abs(known[name].low), abs(known[name].high)) * _ROUNDED
        holds = half.max * 2.0 ** plan.exponents.get(name, 0)
        if holds < reach <= tight[name]:
            wide[name] = _widened(ranges.tensors[name], known[name], margin)
    if not wide:
        return plan
    found = again(replace(ranges, tensors={**ranges.tensors, **wide}))
    if not found.all_fp32().keys() <= plan.all_fp32().keys() or _paid(found) > _paid(plan):
        return plan
    named = {risk.tensor for risk in plan.risks}
    new = [r for r in found.risks if r.kind == "overflow" and r.tensor in wide.keys() - named]
    return replace(found, risks=(*plan.risks, *(_told(risk, ranges, known, half) for risk in new)))


def spacious(plan: Plan, ranges: RangeTable, again: Callable[[RangeTable], Plan], half: FloatType) -> Plan:
    """``plan``, or one that holds more of what ``plan`` scales down, without a Mul or an FP32 node more.

    It may give up a bit of a small tensor.
    """
    if len(ranges.tensors) > _SMALL:
        return plan
    scaled = {
        tensor_key(path, name): exponent
        for path, part in plan.scopes()
        for name, exponent in part.exponents.items()
        if exponent > 0
    }
    for spare in _SPARE:
        wide = {
            key: replace(entry, minimum=spare * entry.minimum, maximum=spare * entry.maximum)
            for key, exponent in scaled.items()
            if (entry := ranges.tensors.get(key)) is not None
            and spare * entry.absmax > half.max * 2.0 ** (exponent - 1)
        }
        if not wide:
            continue
        found = again(replace(ranges, tensors={**ranges.tensors, **wide}))
        same = found.all_fp32().keys() <= plan.all_fp32().keys()
        if same and _paid(found) < _paid(plan) + Prices().launch:
            return _as_told(found, plan)
    return plan


def _as_told(found: Plan, plan: Plan) -> Plan:
    """``found`` with the reasons of ``plan``, which speak of what was measured."""
    return replace(
        found,
        risks=plan.risks,
        fp32={index: plan.fp32[index] for index in found.fp32},
        muls_why={slot: plan.muls_why.get(slot, why) for slot, why in found.muls_why.items()},
        bodies={path: _as_told(part, plan.bodies[path]) for path, part in found.bodies.items()},
    )


def _widened(entry: TensorRange, bound: Bound, margin: float) -> TensorRange:
    """The range that ``margin`` widens to the bound; a bound needs no margin."""
    low, high = bound.low * _ROUNDED / margin, bound.high * _ROUNDED / margin
    return replace(entry, minimum=min(entry.minimum, low), maximum=max(entry.maximum, high))


def _paid(plan: Plan) -> float:
    """The plan's price without that of steps, which is there to choose among equals."""
    steps = sum(
        abs(exponent)
        for _, part in plan.scopes()
        for exponent in (*part.exponents.values(), *part.operands.values())
    )
    return math.floor(plan.cost - Prices().step * steps)


def _told(risk: Risk, ranges: RangeTable, known: Mapping[str, Bound], half: FloatType) -> Risk:
    bound, entry = known[risk.tensor], ranges.tensors[risk.tensor]
    reach = max(abs(bound.low), abs(bound.high))
    message = (
        f"'{risk.tensor}' {entry.reach()} and may, by analysis, reach {reach:.4g}; {half.label} ends at "
        f"{half.max:.6g}"
    )
    return replace(risk, message=message, facts={"absmax": entry.absmax, "bound": reach})
