"""The findings of ``check``: the planner's risks with what simulation showed of them, wrong outputs, who repairs what.

An overflow is harmless where all that reads it ends in functions that saturate.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from onnx_fp16fix.calibrate import RangeTable
from onnx_fp16fix.calibrate.ranges import tensor_key
from onnx_fp16fix.document import Finding
from onnx_fp16fix.graph import GraphView
from onnx_fp16fix.half import FloatType
from onnx_fp16fix.pipeline.places import key_of, place_of
from onnx_fp16fix.pipeline.simulated import error_facts
from onnx_fp16fix.plan.known.facts import Facts
from onnx_fp16fix.plan.known.tolerate import overflow_tolerant
from onnx_fp16fix.simulate import SimulationReport
from onnx_fp16fix.wording import counted

__all__ = [
    "annotate",
    "harmless_overflows",
    "output_findings",
    "worst_first",
]

_SEVERITY = {"error": 0, "warning": 1, "info": 2}


def harmless_overflows(view: GraphView, ranges: RangeTable, margin: float, half: FloatType) -> frozenset[str]:
    """Tensors, by their keys in a range table, that overflow without harm: what reads them saturates.

    A NaN passes through such functions, so only what is too large in FP32 counts.
    """
    return frozenset(key for scope in view for key in _harmless(Facts(scope, ranges, margin, half), margin))


def _harmless(facts: Facts, margin: float) -> Iterator[str]:
    scope = facts.scope
    tolerant = overflow_tolerant(facts)
    return (
        tensor_key(scope.path, tensor.name)
        for node in scope.nodes
        for tensor in node.outputs
        if id(tensor) in tolerant and facts.range(tensor).absmax * margin > facts.half.max
    )


def annotate(
    findings: Collection[Finding],
    view: GraphView,
    ranges: RangeTable,
    report: SimulationReport | None,
    harmless: frozenset[str],
    rules: Mapping[tuple[str, str], list[str]],
) -> None:
    """Complete the planner's findings: sample, simulated error, rules that repair the node as well, harmless ones.

    ``rules`` has the ids of the rules that rewrite a node, by scope and name.
    """
    scopes = {place_of(scope): scope for scope in view}
    for finding in findings:
        key = key_of(scopes[finding.scope], finding.tensor or "")
        entry = ranges.get(key)
        if entry is not None and finding.kind == "overflow" and entry.absmax_sample >= 0:
            finding.facts["sample"] = entry.absmax_sample
        error = report.tensors.get(key) if report is not None else None
        if error is not None:
            finding.facts.update(error_facts(error))
        measured = report is not None and key in report.harmless
        if measured and finding.severity == "error":  # of other data nobody knows, so it stays a finding
            finding.severity = "warning"
            finding.facts["harmless_on_data"] = True
        if finding.kind == "overflow" and key in harmless:
            finding.severity, finding.status = "info", "skipped"
            risk = finding.message.split(": ")[0]
            finding.message = f"{risk}: harmless, the functions that read it saturate"
        else:
            finding.repaired_by = ["plan", *rules.get((finding.scope, finding.node or ""), ())]


def output_findings(
    report: SimulationReport, tolerance: float, repairable: bool, half: FloatType
) -> list[Finding]:
    """One for each output that plain FP16 or BF16 gets wrong."""
    return [
        Finding(
            name=f"{half.name}-output",
            kind="nan" if output.nonfinite else "precision",
            severity="error",
            status="available" if repairable else "left",
            message=(
                f"plain {half.label} makes {counted(output.nonfinite, 'element')} of output '{output.name}' not finite"
                if output.nonfinite
                else f"plain {half.label} makes output '{output.name}' wrong by {output.rel_l2:.3g} (relative L2)"
            ),
            tensor=output.name,
            facts=error_facts(output),
        )
        for output in report.outputs
        if output.rel_l2 > tolerance
    ]


def worst_first(findings: Collection[Finding]) -> list[Finding]:
    """By severity, then outputs before their causes, then by how far a value is beyond FP16."""

    def key(finding: Finding) -> tuple[int, bool, float]:
        absmax = finding.facts.get("absmax")
        size = float(absmax) if isinstance(absmax, (int, float)) else 0.0
        return _SEVERITY[finding.severity], not finding.name.endswith("-output"), -size

    return sorted(findings, key=key)
