"""The findings of ``check``: the planner's risks, what plain FP16 did in simulation, and who repairs what.

A tensor that is not finite is blamed on the node that made it from finite operands; those downstream only pass it on.
Its overflow is harmless where all that reads it ends in functions that saturate.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping

from pydantic import JsonValue

from onnx_fp16fix import fp16
from onnx_fp16fix.calibrate import RangeTable
from onnx_fp16fix.calibrate.ranges import tensor_key
from onnx_fp16fix.document import Finding
from onnx_fp16fix.graph import GraphView, ScopeView, ViewNode
from onnx_fp16fix.plan.facts import Facts
from onnx_fp16fix.plan.tolerate import overflow_tolerant
from onnx_fp16fix.simulate import Half, SimulationReport, TensorError

__all__ = [
    "annotate",
    "harmless_overflows",
    "output_findings",
    "simulated_findings",
    "worst_first",
]

_AMPLIFIED = 4.0
"""A result this many times less accurate than the operands: the node itself loses accuracy."""
_FLOOR = 2.0**-10
"""Error of a tensor that was rounded a few times; ratios are taken to no less than this."""
_MOST_AMPLIFIERS = 8
_UPSTREAM = 64
"""Tensors looked at on the way to a cause; beyond, it would be a guess."""
_SEVERITY = {"error": 0, "warning": 1, "info": 2}


def harmless_overflows(view: GraphView, ranges: RangeTable, margin: float) -> frozenset[str]:
    """Tensors, by their keys in a range table, that overflow without harm: what reads them saturates.

    A NaN passes through such functions, so only what is too large in FP32 counts.
    """
    return frozenset(key for scope in view for key in _harmless(Facts(scope, ranges, margin), margin))


def _harmless(facts: Facts, margin: float) -> Iterator[str]:
    scope = facts.scope
    tolerant = overflow_tolerant(facts, [view.relation for view in facts.views()])
    return (
        tensor_key(scope.path, tensor.name)
        for node in scope.nodes
        for tensor in node.outputs
        if id(tensor) in tolerant and facts.range(tensor).absmax * margin > fp16.MAX
    )


def annotate(
    findings: Collection[Finding],
    ranges: RangeTable,
    report: SimulationReport | None,
    harmless: frozenset[str],
    rules: Mapping[str, list[str]],
) -> None:
    """Complete the planner's findings: sample, simulated error, rules that repair the node as well, harmless ones.

    ``rules`` has the ids of the rules that rewrite a node, by its name.
    """
    for finding in findings:
        key = tensor_key(finding.scope.split("/") if finding.scope else (), finding.tensor or "")
        entry = ranges.get(key)
        if entry is not None and finding.kind == "overflow" and entry.absmax_sample >= 0:
            finding.facts["sample"] = entry.absmax_sample
        error = report.tensors.get(key) if report is not None else None
        if error is not None:
            finding.facts.update(_numbers(error))
        measured = report is not None and key in report.harmless
        if measured and finding.severity == "error":  # of other data nobody knows, so it stays a finding
            finding.severity = "warning"
            finding.facts["harmless_on_data"] = True
        if finding.kind == "overflow" and key in harmless:
            finding.severity, finding.status = "info", "skipped"
            risk = finding.message.split(": ")[0]
            finding.message = f"{risk}: harmless, the functions that read it saturate"
        else:
            finding.repaired_by = ["plan", *rules.get(finding.node or "", ())]


def _numbers(error: TensorError) -> dict[str, JsonValue]:
    rel_l2 = error.rel_l2 if math.isfinite(error.rel_l2) else None
    return {"rel_l2": rel_l2, "nonfinite": error.nonfinite}


def output_findings(
    report: SimulationReport, tolerance: float, repairable: bool, half: Half
) -> list[Finding]:
    """One for each output that plain FP16 or BF16 gets wrong."""
    return [
        Finding(
            name=f"{half}-output",
            kind="nan" if output.nonfinite else "precision",
            severity="error",
            status="available" if repairable else "left",
            message=(
                f"plain {half.upper()} makes {output.nonfinite} elements of output '{output.name}' not finite"
                if output.nonfinite
                else f"plain {half.upper()} makes output '{output.name}' wrong by {output.rel_l2:.3g} (relative L2)"
            ),
            tensor=output.name,
            facts=_numbers(output),
        )
        for output in report.outputs
        if output.rel_l2 > tolerance
    ]


def simulated_findings(
    scope: ScopeView,
    report: SimulationReport,
    harmless: frozenset[str],
    known: Collection[str | None],
    tolerance: float,
    half: Half,
) -> list[Finding]:
    """What simulation shows and the planner did not name (``known`` tensors): first infinities, lost accuracy."""
    wrong = report.output_rel_l2 > tolerance
    found = [
        _nonfinite(node, error, error.name in harmless, wrong, _cause(scope, node, known), half)
        for node, error in _sources(scope, report)
        if error.name not in known
    ]
    if wrong:
        found += [
            _inaccurate(node, error, ratio, half)
            for node, error, ratio in _amplifiers(scope, report, tolerance)[:_MOST_AMPLIFIERS]
            if error.name not in known
        ]
    return found


def _sources(scope: ScopeView, report: SimulationReport) -> Iterator[tuple[ViewNode, TensorError]]:
    """Nodes that make something not finite from finite operands."""
    for node in scope.nodes:
        read = [report.tensors[t.name] for t in node.inputs if t.name in report.tensors]
        if any(error.nonfinite for error in read):
            continue
        for tensor in node.outputs:
            error = report.tensors.get(tensor.name)
            if error is not None and error.nonfinite:
                yield node, error


def _cause(scope: ScopeView, node: ViewNode, known: Collection[str | None]) -> str | None:
    """The nearest tensor upstream that the planner names: an eps that vanished, say, before the division by zero."""
    waiting, seen = list(node.inputs), set[int]()
    while waiting and len(seen) < _UPSTREAM:
        tensor = waiting.pop(0)
        if tensor.name in known:
            return str(tensor.name)
        producer = scope.producer(tensor)
        if producer is not None and id(tensor) not in seen:
            seen.add(id(tensor))
            waiting += producer.inputs
    return None


def _nonfinite(
    node: ViewNode, error: TensorError, harmless: bool, wrong: bool, cause: str | None, half: Half
) -> Finding:
    what = f"'{error.name}' is not finite in plain {half.upper()}"
    if harmless:
        why = "harmless, the functions that read it saturate"
    elif cause is not None:
        why = f"it follows from '{cause}'"
    else:
        why = "and the outputs are wrong" if wrong else "and yet the outputs are right on these data"
    repaired = cause is not None and not harmless
    return Finding(
        name=f"{half}-nonfinite",
        kind="nan",
        severity="info" if harmless else "error" if wrong else "warning",
        status="skipped" if harmless else "available" if repaired else "left",
        message=f"{what}: {why}",
        node=node.label,
        tensor=error.name,
        facts=_numbers(error),
        repaired_by=["plan"] if repaired else [],
    )


def _amplifiers(
    scope: ScopeView, report: SimulationReport, tolerance: float
) -> list[tuple[ViewNode, TensorError, float]]:
    """Finite results, wrong by more than a tenth of the tolerance, of operands that are right; worst first."""
    found = []
    for node in scope.nodes:
        read = [report.tensors[t.name].rel_l2 for t in node.inputs if t.name in report.tensors]
        made = [report.tensors[t.name] for t in node.outputs if t.name in report.tensors]
        worst = max(made, key=lambda error: error.rel_l2, default=None)
        if worst is None or not math.isfinite(worst.rel_l2) or worst.rel_l2 <= tolerance / 10:
            continue
        ratio = worst.rel_l2 / max([_FLOOR, *read])
        if ratio > _AMPLIFIED:
            found.append((node, worst, ratio))
    return sorted(found, key=lambda entry: (-entry[2], entry[0].index))


def _inaccurate(node: ViewNode, error: TensorError, ratio: float, half: Half) -> Finding:
    return Finding(
        name=f"{half}-precision",
        kind="precision",
        severity="warning",
        status="available" if half == "fp16" else "left",
        message=f"'{error.name}' is {ratio:.3g} times less accurate than what {node.op} reads",
        node=node.label,
        tensor=error.name,
        facts={**_numbers(error), "ratio": ratio},
        repaired_by=["fix"] if half == "fp16" else [],
    )


def worst_first(findings: Collection[Finding]) -> list[Finding]:
    """By severity, then outputs before their causes, then by how far a value is beyond FP16."""

    def key(finding: Finding) -> tuple[int, bool, float]:
        absmax = finding.facts.get("absmax")
        size = float(absmax) if isinstance(absmax, (int, float)) else 0.0
        return _SEVERITY[finding.severity], not finding.name.endswith("-output"), -size

    return sorted(findings, key=key)
