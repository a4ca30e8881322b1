"""Planning: find what is at risk, optimise the region around it, and put the answer into words."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property

from onnx_fp16fix.calibrate.ranges import RangeTable
from onnx_fp16fix.graph import ScopeView
from onnx_fp16fix.half import FP16, FloatType
from onnx_fp16fix.model import ScopePath
from onnx_fp16fix.operators import flops
from onnx_fp16fix.plan.explain import reason_for_fp32, reason_for_mul
from onnx_fp16fix.plan.exponents.local import find_parts, touching
from onnx_fp16fix.plan.exponents.scaling import scale_alone
from onnx_fp16fix.plan.exponents.unpaid import places_that_pay
from onnx_fp16fix.plan.known.bodies import deciding, joined, long_sums, untyped
from onnx_fp16fix.plan.known.exact import exact_nodes
from onnx_fp16fix.plan.known.facts import Facts, NodeView
from onnx_fp16fix.plan.known.joint import JointFacts
from onnx_fp16fix.plan.known.need import Need, needs
from onnx_fp16fix.plan.known.region import is_small, region
from onnx_fp16fix.plan.known.risk import Risk, find_risks
from onnx_fp16fix.plan.known.room import find_rooms
from onnx_fp16fix.plan.known.tolerate import overflow_tolerant
from onnx_fp16fix.plan.pieces.problem import Problem
from onnx_fp16fix.plan.pieces.solution import Solution
from onnx_fp16fix.plan.pieces.variables import largest_exponent
from onnx_fp16fix.plan.plan import Place, Plan
from onnx_fp16fix.plan.prices import Prices
from onnx_fp16fix.plan.solving import Settings, solved
from onnx_fp16fix.plan.split import split

__all__ = ["Draft", "draft_plan", "make_plan"]


def make_plan(
    scope: ScopeView,
    ranges: RangeTable,
    *,
    margin: float = 2.0,
    fp32: Mapping[int, str] | None = None,
    bodies: Mapping[ScopePath, Mapping[int, str]] | None = None,
    only: Collection[str] | None = None,
    prices: Prices | None = None,
    time_limit: float | None = None,
    fp16: Collection[int] = (),
    fp16_bodies: Mapping[ScopePath, Collection[int]] | None = None,
    max_fp32_flops: float | None = None,
    half: FloatType = FP16,
) -> Plan:
    """Plan the main graph and the bodies of If, Loop and Scan inside it, in one program.

    ``margin``: factor between calibrated maxima and what FP16 must hold. ``fp32``: nodes to keep in FP32 with the
    reason (islands asked for by rules). ``only``: tensors whose risk counts (the rules' ``rescale``); None = all.
    ``bodies``: the same as ``fp32`` for the nodes of bodies. A node of ``fp32`` that has bodies keeps these in FP32
    as a whole. ``time_limit``: seconds for the solver; None lets it grow with the program. ``fp16``: nodes that are
    not to become FP32; where no plan does without, they do; ``fp16_bodies``: the same for the nodes of bodies.
    ``max_fp32_flops``: share of all FLOPs that FP32 is to have at most; a plan with more is better than none.
    ``half``: the 16-bit type, here called FP16 whichever it is. A graph without risk gives an empty plan apart from
    nodes that cannot run in FP16 at all. Nodes whose results nobody reads are left out of it.
    """
    settings = Settings(only, prices or Prices(), time_limit, max_fp32_flops)
    if not scope.bodies and not scope.unread:
        return Draft(scope, Facts(scope, ranges, margin, half), fp32, settings, fp16).plan()
    places = {(scope.path, node): why for node, why in (fp32 or {}).items()}
    places |= {(path, node): why for path, nodes in (bodies or {}).items() for node, why in nodes.items()}
    chosen = {(scope.path, node) for node in fp16}
    chosen |= {(path, node) for path, nodes in (fp16_bodies or {}).items() for node in nodes}
    return _draft_joint(scope, joined(scope, ranges, margin, places, half), places, settings, chosen).plan()


def draft_plan(scope: ScopeView, ranges: RangeTable, *, margin: float = 2.0, half: FloatType = FP16) -> Draft:
    """What ``make_plan`` does first; its ``plan`` is what ``make_plan`` makes of the same."""
    settings = Settings(None, Prices(), None, None)
    if not scope.bodies and not scope.unread:
        return Draft(scope, Facts(scope, ranges, margin, half), None, settings)
    return _draft_joint(scope, joined(scope, ranges, margin, {}, half), {}, settings, ())


def _draft_joint(
    scope: ScopeView,
    facts: JointFacts,
    places: Mapping[Place, str],
    settings: Settings,
    fp16: Collection[Place],
) -> Draft:
    indices = facts.joint.indices
    wished = {indices[place]: why for place, why in places.items() if place in indices}
    found = {**long_sums(facts), **deciding(facts)} if settings.only is None else {}
    forced = {**untyped(facts), **found, **wished}
    return Draft(scope, facts, forced, settings, {indices[place] for place in fp16 if place in indices})


class Draft:
    """A plan as far as exponents alone make it; the whole program is solved when it is asked for.

    ``risks``: what plain FP16 gets wrong. ``open``: whether more than exponents, and border Muls, is
    needed: FP32 nodes or Muls inside.
    """

    def __init__(
        self,
        scope: ScopeView,
        facts: Facts,
        fp32: Mapping[int, str] | None,
        settings: Settings,
        fp16: Collection[int] = (),
    ) -> None:
        only = settings.only
        self._scope, self._facts, self._settings = scope, facts, settings
        views = facts.views()
        self._need = needs(facts)
        exact = exact_nodes(facts)
        forced = {**exact, **(fp32 or {})} if only is None else dict(fp32 or {})
        self.risks = find_risks(facts, self._need, exact)
        seeds = {risk.node for risk in self.risks if only is None or risk.tensor in only} | set(forced)
        if only is None or seeds:  # what joins FP32 nodes may be cheaper in FP32 than behind casts
            table = facts.table()
            seeds |= set(table.node[~table.fp16[table.node]].tolist())
        nodes = region(facts.table(), seeds)
        self._whole = Problem(facts, views, self._need, nodes, forced, settings.prices, half=frozenset(fp16))
        self._whole.tolerant = overflow_tolerant(facts)
        self._whole.bound = largest_exponent(self._whole)
        self._whole.rooms = find_rooms(facts, self._whole.bound)
        self._scaling = scale_alone(self._whole, settings.time_limit)
        self.open = self._scaling is not None and self._scaling.breached

    @cached_property
    def _parts(self) -> list[frozenset[int]]:
        """Nodes whose choice is open in a large region, by what hangs together."""
        return [] if self._scaling is None else find_parts(self._whole, self._scaling)

    @cached_property
    def _plan(self) -> Plan:
        solution = solved(self._whole, self._scaling, lambda: self._parts, self._settings)
        if solution is None:
            return self._split(_all_fp32(self._whole, self.risks))
        return self._split(_read(self._whole, solution, self.risks, self._need))

    def plan(self) -> Plan:
        """The cheapest plan."""
        return self._plan

    def outline(self) -> Plan:
        """The risks, and nothing done about them."""
        return self._split(Plan(risks=self.risks))

    def places(self) -> frozenset[Place]:
        """Nodes that the plan may have to pay at."""
        whole, found = self._whole, self._scaling
        local = found is not None and not is_small(len(whole.nodes))
        free = frozenset[int]().union(*self._parts) if local else whole.nodes
        kept = (view.node.index for view in whole.views if whole.is_fp32(view.node.index))
        return frozenset(self._place(index) for index in {*free, *kept})

    def unanswered(self) -> frozenset[Place]:
        """Nodes around what exponents alone pay for or cannot answer."""
        if self._scaling is None:
            return self.places()
        return frozenset(map(self._place, touching(self._whole, self._scaling.paid)))

    def least_cost(self, places: Sequence[Collection[Place]]) -> tuple[list[bool], float]:
        """Which of the places any plan pays at, and what it pays for all of them at least."""
        taken, chosen = set[int](), list[set[int]]()
        for nodes in places:
            chosen.append({index for place in nodes if (index := self._index(place)) is not None} - taken)
            taken |= chosen[-1]
        paying = places_that_pay(self._whole, chosen)
        return paying, self._settings.prices.launch * sum(paying)

    def _index(self, place: Place) -> int | None:
        """None in bodies that stay as they are."""
        return self._facts.joint.indices.get(place) if isinstance(self._facts, JointFacts) else place[1]

    def _place(self, index: int) -> Place:
        if not isinstance(self._facts, JointFacts):
            return self._scope.path, index
        scope, own = self._facts.joint.places[index]
        return scope.path, own

    def _split(self, plan: Plan) -> Plan:
        if not isinstance(self._facts, JointFacts):
            return plan
        return split(self._scope, self._facts, self._whole.views, plan)


def _read(problem: Problem, solution: Solution, risks: tuple[Risk, ...], need: Need) -> Plan:
    facts, tensors = problem.facts, problem.facts.tensors
    exponents: dict[str, int] = {}
    entries: dict[str, int] = {}
    for key, value in solution.exponent.items():
        made = tensors[key].maker is not None
        (exponents if made else entries)[facts.key(tensors[key].tensor)] = value
    results = {facts.key(tensors[key].tensor): value for key, value in solution.result.items()}
    muls, operands = solution.shift, solution.constant
    kept = {
        view.node.index
        for view in problem.views
        if problem.is_fp32(view.node.index) and view.operands and not _only_holds_bodies(problem, view)
    }
    fp32 = solution.fp32 | kept
    reasons = {
        index: reason_for_fp32(problem, index, {**entries, **exponents}, operands, muls)
        for index in sorted(fp32)
    }
    total, share = _flops(problem, reasons)
    return Plan(
        exponents=exponents,
        entries=entries,
        operands=operands,
        muls=muls,
        results=results,
        fp32=reasons,
        muls_why={slot: reason_for_mul(problem, slot) for slot in muls},
        raised=frozenset(slot for slot in need.raised if slot[0] not in reasons),
        lost_bits=_lost_bits(problem, exponents),
        flops=total,
        fp32_flops_share=share,
        cost=solution.cost,
        risks=risks,
    )


def _lost_bits(problem: Problem, exponents: Mapping[str, int]) -> dict[str, int]:
    lost = {}
    for view in problem.views:
        for value in view.outputs:
            if value is None or not value.float or value.typical is None:
                continue
            key = problem.facts.key(value.tensor)
            if (exponent := exponents.get(key, 0)) and exponent > value.typical:
                lost[key] = exponent - value.typical
    return lost


def _only_holds_bodies(problem: Problem, view: NodeView) -> bool:
    """Whether the node computes in its bodies, whose plans say in what."""
    index = view.node.index
    return index in problem.facts.scope.bodies and index not in problem.forced


def _flops(problem: Problem, fp32: Collection[int]) -> tuple[float, float]:
    """FLOPs of one run of the scope, and the FP32 nodes' share of them."""
    counts = [flops(view) * problem.facts.runs(index) for index, view in enumerate(problem.views)]
    total = sum(counts)
    return total, sum(counts[index] for index in fp32) / total if total else 0.0


def _all_fp32(problem: Problem, risks: tuple[Risk, ...]) -> Plan:
    """The answer when no plan was found in time: the region in FP32, which is always right."""
    why = "no plan was found within the time limit: kept in FP32 to be safe"
    fp32 = dict.fromkeys(problem.nodes, why)
    fp32 |= {v.node.index: why for v in problem.views if problem.is_fp32(v.node.index) and v.operands}
    total, share = _flops(problem, fp32)
    return Plan(fp32=fp32, flops=total, fp32_flops_share=share, cost=float("inf"), risks=risks, optimal=False)
