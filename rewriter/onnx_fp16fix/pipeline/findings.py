"""Plans, rule records and simulation reports as findings of the run document."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import onnx

from onnx_fp16fix.calibrate import RangeTable
from onnx_fp16fix.calibrate.ranges import tensor_key
from onnx_fp16fix.document import Finding, FindingKind, FindingStatus, many_findings
from onnx_fp16fix.emit import Converted
from onnx_fp16fix.graph import GraphView, ScopeView, in_order
from onnx_fp16fix.half import FP16, FloatType
from onnx_fp16fix.model import ScopePath
from onnx_fp16fix.pipeline.places import place_of
from onnx_fp16fix.plan import Plan, Risk
from onnx_fp16fix.plan.plan import Slot
from onnx_fp16fix.simulate import SimulationReport, matching_bodies
from onnx_fp16fix.wording import counted

__all__ = [
    "constant_findings",
    "left_findings",
    "nan_findings",
    "plan_findings",
    "plan_remedy",
    "resized_findings",
]


_NONE = Plan()
"""What is decided about a scope that no plan covers."""


def plan_findings(
    view: GraphView,
    plan: Plan,
    status: FindingStatus,
    half: FloatType = FP16,
    remedy: Callable[[ScopePath, Risk], str] | None = None,
) -> list[Finding]:
    """One finding per tensor at risk, with what the plan does about it, or what ``remedy`` says is done."""
    found, plans = [], dict(plan.scopes())
    for path, part in plans.items():
        scope = view.scopes[path]
        answer = partial(plan_remedy, scope, plans, half=half) if remedy is None else partial(remedy, path)
        found += _scope_findings(scope, part, status, half, answer)
    return found


def _scope_findings(
    scope: ScopeView, plan: Plan, status: FindingStatus, half: FloatType, answer: Callable[[Risk], str]
) -> list[Finding]:
    first: dict[tuple[str, str], Risk] = {}
    for risk in plan.risks:
        first.setdefault((risk.kind, risk.tensor), risk)
    where = place_of(scope)
    return many_findings(
        {
            "name": f"{half.name}-{risk.kind}",
            "kind": risk.kind,
            "severity": "error" if risk.kind == "overflow" else "warning",
            "status": status,
            "message": f"{risk.message}: {answer(risk)}",
            "scope": where,
            "node": scope.nodes[risk.node].label,
            "tensor": risk.tensor,
            "facts": {name: value for name, value in risk.facts.items() if math.isfinite(value)},
        }
        for risk in first.values()
    )


def plan_remedy(scope: ScopeView, plans: Mapping[ScopePath, Plan], risk: Risk, half: FloatType) -> str:
    """What the plans, by scope, do about a risk in ``scope``, in words."""
    plan, node = plans.get(scope.path, _NONE), scope.nodes[risk.node]

    def slots() -> Iterator[Slot]:
        return ((risk.node, slot) for slot, tensor in enumerate(node.inputs) if tensor.name == risk.tensor)

    if plan.raised and any(slot in plan.raised for slot in slots()):
        return f"raised to {half.label}'s smallest value"
    if (why := plan.fp32.get(risk.node)) is not None:
        return f"{node.op} stays in FP32" + (f" ({why})" if why != risk.message else "")
    exponent = _stored(scope.path, plans, risk.tensor)
    if exponent is None:
        exponent = next((plan.operands[slot] for slot in slots() if slot in plan.operands), 0)
    if exponent:
        return f"stored times 2**{-exponent}, exactly"
    if (shift := next((plan.muls[slot] for slot in slots() if slot in plan.muls), 0)) != 0:
        return f"multiplied by 2**{-shift} in front of {node.op}, exactly"
    return "may become infinite, for what reads it saturates" if risk.kind == "overflow" else "kept as it is"


def _stored(path: ScopePath, plans: Mapping[ScopePath, Plan], tensor: str) -> int | None:
    """The exponent of a tensor of this scope or of one around it, None if no plan names it."""
    for depth in range(len(path), -1, -1):
        plan = plans.get(path[:depth], _NONE)
        if (exponent := plan.exponents.get(tensor, plan.entries.get(tensor))) is not None:
            return exponent
    return None


def nan_findings(main: ScopeView, ranges: RangeTable) -> list[Finding]:
    """The first tensor, in the order of computation, that is not finite in FP32 already: no precision mends that."""
    for scope, node in in_order(main):
        for tensor in node.outputs:
            entry = ranges.get(tensor_key(scope.path, tensor.name))
            if entry is not None and entry.nonfinite:
                return [
                    Finding(
                        name="fp32-nonfinite",
                        kind="nan",
                        severity="info",
                        status="skipped",
                        message=f"'{tensor.name}' has {counted(entry.nonfinite, 'non-finite value')} in FP32 already",
                        scope=place_of(scope),
                        node=node.label,
                        tensor=tensor.name,
                        facts={"nonfinite": entry.nonfinite, "sample": entry.nonfinite_sample},
                    )
                ]
    return []


def constant_findings(converted: Converted, half: FloatType, exponents: Mapping[str, int]) -> list[Finding]:
    """Constants whose 16-bit value is no rounding to nearest within range; ``exponents``: scales of raised ones."""
    least = half.least - half.bits + 1

    def raised(name: str) -> str:
        smallest = f"{half.label}'s smallest value, 2**{least}"
        if exponent := exponents.get(name, 0):
            smallest += f", which stands for {2.0 ** (least + exponent):.3g} because it is stored times 2**{-exponent}"
        return f"keeps a denominator from zero and would vanish: it becomes {smallest}"

    def overflowed(_: str) -> str:
        return f"is beyond {half.label} and becomes an infinity there"

    changed: tuple[tuple[FindingKind, Callable[[str], str], tuple[str, ...]], ...] = (
        ("underflow", raised, converted.raised),
        ("overflow", overflowed, converted.overflowed),
    )
    return [
        Finding(
            name=f"{half.name}-{kind}",
            kind=kind,
            severity="info",
            status="fixed",
            message=f"the constant '{name}' {what(name)}",
            tensor=name,
        )
        for kind, what, names in changed
        for name in names
    ]


def resized_findings(report: SimulationReport, half: FloatType) -> list[Finding]:
    """The first tensor of another size than in FP32, if there is one: what selects its elements decided otherwise."""
    for key, error in report.tensors.items():
        if error.resized:
            *scope, name = key.split("::")
            message = (
                f"'{name}' has another size in simulated {half.label}: what selects its elements (a comparison, TopK, "
                f"NonZero) is so close that {half.bits} bits decide otherwise"
            )
            return [
                Finding(
                    name=f"{half.name}-decision",
                    kind="precision",
                    severity="warning",
                    status="left",
                    message=message,
                    scope="".join(scope),
                    tensor=name,
                )
            ]
    return []


def left_findings(
    view: GraphView, given: onnx.GraphProto, report: SimulationReport, half: FloatType
) -> list[Finding]:
    """Intermediates that are not finite in simulation although the outputs are right.

    ``given``: the graph that ``report`` has the keys of; rules may have moved the bodies of ``view``.
    """
    places = {(): (), **matching_bodies(given, view.model.proto.graph)}
    made = {
        tensor_key(places[scope.path], tensor.name): (places[scope.path], tensor.name, node.label)
        for scope in view
        if scope.path in places
        for node in scope.nodes
        for tensor in node.outputs
    }
    found = []
    for key, error in report.tensors.items():
        if not error.nonfinite or key not in made:
            continue
        path, name, node = made[key]
        harmless = key in report.harmless
        found.append(
            Finding(
                name=f"{half.name}-nonfinite",
                kind="overflow",
                severity="info" if harmless else "warning",
                status="skipped" if harmless else "left",
                message=(
                    f"'{name}' overflows in {half.label}, and what reads it gives the same result as from the "
                    "true value"
                    if harmless
                    else f"'{name}' is not finite in simulated {half.label}"
                ),
                scope="/".join(path),
                node=node,
                tensor=name,
                facts={"nonfinite": error.nonfinite},
            )
        )
    return found
