"""Headroom where it costs nothing: exponents that also hold what new samples can bring, as far as analysis knows it.

Calibrated maxima times a margin are no bounds. Where one is known by analysis (a sigmoid ends at 1, so boxes made of
it end too) and lies a little further out, a plan that holds it is as good as one that does not, if it pays for no more.
What must be scaled anyway, and has no such bound, gets some steps more on the same terms: an exponential of new samples
is soon several times larger.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Set
from dataclasses import dataclass, field, replace

from onnx_fp16fix.calibrate.bounds import Bound, known_bounds
from onnx_fp16fix.calibrate.intervals import BOOLEAN, RULES
from onnx_fp16fix.calibrate.ranges import RangeTable, TensorRange, tensor_key
from onnx_fp16fix.calibrate.spread import expected_growth
from onnx_fp16fix.graph import GraphView, ScopeView
from onnx_fp16fix.half import FloatType
from onnx_fp16fix.model import Model
from onnx_fp16fix.plan import Plan, Prices, Risk

__all__ = ["Analysis", "roomy", "spacious"]

_BOUNDED = RULES.keys() | BOOLEAN | {"Cast"}
"""Ops whose results may have bounds."""
_NEAR = 16.0
"""Bounds further out than this are of no use: intervals that know nothing of each other grow at every step."""
_ROUNDED = 1 + 2.0**-8
"""What rounding in FP16 may add to a value at its bound."""
_SPARE = (64.0, 8.0)
"""How much further than the margin scaled tensors may reach, tried in turn."""
_WORTH = 32 * 4096.0
"""What room for samples that differ much may cost: a dozen small nodes in FP32, or a Mul of 30,000 elements."""
_DIFFER = "the samples differ so much that room for more of them takes FP32"
_TRIALS, _FEW = 2000, 4
"""Plans made for it: so many over the number of tensors, 16 at most, and 4 at least."""
_SMALL = 4000
"""Tensors in graphs that are planned twice for the sake of it."""


@dataclass
class Analysis:
    """Known bounds of tensors of a model's main graph, found once."""

    _model: Model | None = None
    _asked: Set[str] = frozenset()
    _bounds: Mapping[str, Bound] = field(default_factory=dict)

    def bounds(self, view: GraphView, names: Set[str]) -> Mapping[str, Bound]:
        """Those of the view's model; of ``names``, and of others that they follow from."""
        if self._model is not view.model:
            self._model, self._asked, self._bounds = view.model, frozenset(), {}
        if not names <= self._asked:
            self._asked = names | self._asked
            nodes = _bounded(view.main, self._asked)
            self._bounds = known_bounds(view.model.proto, view.model.base_dir, view.types, nodes)
        return self._bounds


def _bounded(scope: ScopeView, names: Iterable[str]) -> Set[int]:
    """The nodes that bounds of these tensors follow from: each up to the first of which none is known."""
    found = set[int]()
    stack = [scope.tensors[name] for name in names if name in scope.tensors]
    while stack:
        node = scope.producer(stack.pop())
        if node is None or node.domain or node.op not in _BOUNDED or node.index in found:
            continue
        found.add(node.index)
        stack += node.inputs
    return found


def roomy(
    plan: Plan,
    ranges: RangeTable,
    bounds: Callable[[Set[str]], Mapping[str, Bound]],
    again: Callable[[RangeTable], Plan],
    margin: float,
    half: FloatType,
) -> Plan:
    """``plan``, or one that pays for no more and holds near bounds as well.

    ``again`` plans with another table; ``bounds`` gives those of tensors of the main graph.
    """
    tight = {
        name: ends
        for name, entry in ranges.tensors.items()
        if (ends := _NEAR * entry.absmax) > half.max * 2.0 ** plan.exponents.get(name, 0)
    }
    if not tight:
        return plan
    known = bounds(tight.keys())
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


def spacious(
    plan: Plan,
    ranges: RangeTable,
    again: Callable[[RangeTable], Plan],
    given: Collection[str],
    margin: float,
    half: FloatType,
) -> Plan:
    """``plan``, or one that holds more of what ``plan`` scales down, and of what differs much between samples.

    ``given``: the graph's inputs, whose range is the user's matter. A bit of a small tensor may go for it, but neither
    Mul nor FP32 node may come, but for a few where samples differ.
    """
    if len(ranges.tensors) > _SMALL:
        return plan
    search = _Search(plan, ranges, again, margin, half)
    search.hold(
        {
            key: growth
            for key, entry in ranges.tensors.items()
            if key not in given and (growth := expected_growth(entry, ranges.samples)) > margin
        },
        _WORTH,
    )
    for spare in _SPARE:
        search.hold(dict.fromkeys(search.scaled() & ranges.tensors.keys(), spare))
    return plan if search.best is plan else _as_told(search.best, plan)


class _Search:
    """The best plan so far, and by what factors it holds more of which tensors."""

    def __init__(
        self,
        plan: Plan,
        ranges: RangeTable,
        again: Callable[[RangeTable], Plan],
        margin: float,
        half: FloatType,
    ) -> None:
        self.best, self._first, self._held = plan, plan, dict[str, float]()
        self._ranges, self._again, self._margin, self._half = ranges, again, margin, half
        self._trials = max(_FEW, min(4 * _FEW, _TRIALS // max(1, len(ranges.tensors))))

    def scaled(self) -> Set[str]:
        """Keys of the tensors that are scaled down."""
        return {key for key, exponent in self._exponents().items() if exponent > 0}

    def hold(self, wanted: Mapping[str, float], worth: float = 0.0) -> None:
        """Hold tensors this much further, all or those halves of them for which that is next to free, or at most
        ``worth`` in all."""
        order = {key: place for place, key in enumerate(self._ranges.tensors)}
        waiting = [
            sorted((key for key in wanted if self._held.get(key, 1.0) < wanted[key]), key=order.__getitem__)
        ]
        while waiting and self._trials:
            part = waiting.pop()
            held = {**self._held, **{key: wanted[key] for key in part}}
            wide = {key: self._wider(key, factor) for key, factor in held.items()}
            exponents, most = self._exponents(), self._half.max / self._margin
            if all(wide[key].absmax <= most * 2.0 ** exponents.get(key, 0) for key in part):
                self._held = held
                continue
            self._trials -= 1
            found = self._again(replace(self._ranges, tensors={**self._ranges.tensors, **wide}))
            if _free(found, self.best) or _cheap(found, self._first, worth):
                self.best, self._held = found, held
            elif len(part) > 1:
                middle = len(part) // 2
                waiting += [part[middle:], part[:middle]]

    def _exponents(self) -> dict[str, int]:
        return {
            tensor_key(path, name): exponent
            for path, part in self.best.scopes()
            for name, exponent in part.exponents.items()
        }

    def _wider(self, key: str, factor: float) -> TensorRange:
        entry = self._ranges.tensors[key]
        return replace(entry, minimum=factor * entry.minimum, maximum=factor * entry.maximum)


def _free(found: Plan, plan: Plan) -> bool:
    """Whether ``found`` pays for no Mul and no FP32 node more."""
    return found.all_fp32().keys() <= plan.all_fp32().keys() and _paid(found) < _paid(plan) + Prices().launch


def _cheap(found: Plan, plan: Plan, worth: float) -> bool:
    """Whether ``found`` pays for no more than ``worth``, no more products in FP32 and no body that takes FP32."""
    borders = all(
        part.float_borders == plan.bodies[path].float_borders for path, part in found.bodies.items()
    )
    return borders and found.fp32_flops_share <= plan.fp32_flops_share and _paid(found) < _paid(plan) + worth


def _as_told(found: Plan, plan: Plan) -> Plan:
    """``found`` with the reasons of ``plan``, which speak of what was measured."""
    return replace(
        found,
        risks=plan.risks,
        fp32={index: plan.fp32.get(index, _DIFFER) for index in found.fp32},
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
