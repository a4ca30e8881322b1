"""What simulation shows and the planner did not name: first infinities, lost accuracy, loops that end elsewhere.

A tensor that is not finite is blamed on the node that made it from finite operands; those downstream only pass it on.
In a loop what comes round was made before, so the number of the run decides.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping

from pydantic import JsonValue

from onnx_fp16fix.document import Finding
from onnx_fp16fix.graph import GraphView, ScopeView, ViewNode, in_order
from onnx_fp16fix.half import FP16, FloatType
from onnx_fp16fix.pipeline.places import key_of, place_of
from onnx_fp16fix.simulate import SimulationReport, TensorError
from onnx_fp16fix.wording import counted

__all__ = ["error_facts", "simulated_findings", "strayed_findings"]

_AMPLIFIED = 4.0
"""A result this many times less accurate than the operands: the node itself loses accuracy."""
_MOST_AMPLIFIERS = 8
_UPSTREAM = 64
"""Tensors looked at on the way to a cause; beyond, it would be a guess."""

_Place = tuple[ScopeView, ViewNode]


def error_facts(error: TensorError) -> dict[str, JsonValue]:
    """Facts of a finding; ``run``: see ``TensorError``."""
    facts: dict[str, JsonValue] = {
        "rel_l2": error.rel_l2 if math.isfinite(error.rel_l2) else None,
        "nonfinite": error.nonfinite,
    }
    return facts if error.run is None else {**facts, "run": error.run}


def simulated_findings(
    view: GraphView,
    report: SimulationReport,
    harmless: frozenset[str],
    known: Collection[str],
    tolerance: float,
    half: FloatType,
) -> list[Finding]:
    """Findings of all scopes. ``known`` and ``harmless``: keys of tensors that the planner named, that do no harm."""
    wrong = report.output_rel_l2 > tolerance
    found = [
        _nonfinite(place, error, error.name in harmless, wrong, _cause(place, known), half)
        for place, error in _sources(view, report)
        if error.name not in known
    ]
    if wrong:
        found += [
            _inaccurate(place, error, ratio, half)
            for place, error, ratio in _amplifiers(view, report, tolerance, half)[:_MOST_AMPLIFIERS]
            if error.name not in known
        ]
    return found


def _errors(report: SimulationReport, place: _Place, *, made: bool) -> list[TensorError]:
    """What is known of the tensors that a node makes or reads."""
    scope, node = place
    keys = (key_of(scope, tensor.name) for tensor in (node.outputs if made else node.inputs))
    return [report.tensors[key] for key in keys if key in report.tensors]


def _sources(view: GraphView, report: SimulationReport) -> Iterator[tuple[_Place, TensorError]]:
    """Nodes that make something not finite from finite operands."""
    for place in in_order(view.main):
        if place[0].bodies.get(place[1].index):
            continue  # its bodies have been looked at
        read = _errors(report, place, made=False)
        for error in _errors(report, place, made=True):
            if error.nonfinite and not any(_came_before(operand, error) for operand in read):
                yield place, error


def _came_before(operand: TensorError, result: TensorError) -> bool:
    """Whether an operand was not finite when the result first was not; runs of one body can be compared."""
    if not operand.nonfinite or operand.run is None or result.run is None:
        return operand.nonfinite > 0
    return operand.name.rpartition("::")[0] != result.name.rpartition("::")[0] or operand.run <= result.run


def _cause(place: _Place, known: Collection[str]) -> str | None:
    """The nearest tensor upstream that the planner names: an eps that vanished, say, before the division by zero."""
    scope, node = place
    waiting, seen = list(node.inputs), set[int]()
    while waiting and len(seen) < _UPSTREAM:
        tensor = waiting.pop(0)
        if key_of(scope, tensor.name) in known:
            return str(tensor.name)
        owner = scope.owner(tensor.name)
        producer = None if owner is None else owner.producer(tensor)
        if producer is not None and id(tensor) not in seen:
            seen.add(id(tensor))
            waiting += producer.inputs
    return None


def _nonfinite(
    place: _Place, error: TensorError, harmless: bool, wrong: bool, cause: str | None, half: FloatType
) -> Finding:
    scope, node = place
    name = error.name.rpartition("::")[2] if scope.path else error.name
    what = f"'{name}' is not finite in plain {half.label}"
    if error.run:
        what += f" from run {error.run} of its body on"
    if harmless:
        why = "harmless, the functions that read it saturate"
    elif cause is not None:
        why = f"it follows from '{cause}'"
    else:
        why = "and the outputs are wrong" if wrong else "and yet the outputs are right on these data"
    repaired = cause is not None and not harmless
    return Finding(
        name=f"{half.name}-nonfinite",
        kind="nan",
        severity="info" if harmless else "error" if wrong else "warning",
        status="skipped" if harmless else "available" if repaired else "left",
        message=f"{what}: {why}",
        scope=place_of(scope),
        node=node.label,
        tensor=name,
        facts=error_facts(error),
        repaired_by=["plan"] if repaired else [],
    )


def _amplifiers(
    view: GraphView, report: SimulationReport, tolerance: float, half: FloatType
) -> list[tuple[_Place, TensorError, float]]:
    """Finite results, wrong by more than a tenth of the tolerance, of operands that are right; worst first."""
    found = []
    for place in in_order(view.main):
        made = _errors(report, place, made=True)
        worst = max(made, key=lambda error: error.rel_l2, default=None)
        if worst is None or not math.isfinite(worst.rel_l2) or worst.rel_l2 <= tolerance / 10:
            continue
        if place[0].bodies.get(place[1].index):
            continue
        # a tensor that was rounded a few times is off by this much; ratios are taken to no less
        ratio = worst.rel_l2 / max(
            [half.eps, *(error.rel_l2 for error in _errors(report, place, made=False))]
        )
        if ratio > _AMPLIFIED:
            found.append((place, worst, ratio))
    return sorted(found, key=lambda entry: -entry[2])


def _inaccurate(place: _Place, error: TensorError, ratio: float, half: FloatType) -> Finding:
    scope, node = place
    name = error.name.rpartition("::")[2] if scope.path else error.name
    return Finding(
        name=f"{half.name}-precision",
        kind="precision",
        severity="warning",
        status="available",
        message=f"'{name}' is {ratio:.3g} times less accurate than what {node.op} reads",
        scope=place_of(scope),
        node=node.label,
        tensor=name,
        facts={**error_facts(error), "ratio": ratio},
        repaired_by=["fix" if half is FP16 else f"fix --precision {half.name}"],
    )


def strayed_findings(strayed: Mapping[str, tuple[int, int]], half: FloatType) -> list[Finding]:
    """One for each body that runs more or less often than in FP32: its condition hangs on a rounding."""
    return [
        Finding(
            name=f"{half.name}-control-flow",
            kind="precision",
            severity="warning",
            status="left",
            message=f"runs {counted(runs[0], 'time')} in FP32 and {counted(runs[1], 'time')} in plain {half.label}: "
            "its condition depends on values that are rounded",
            scope=scope,
            facts={"runs_fp32": runs[0], f"runs_{half.name}": runs[1]},
        )
        for scope, runs in strayed.items()
    ]
