"""``check``: what FP16 would break and what would repair it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from onnx_fp16fix.calibrate import RangeTable, Source
from onnx_fp16fix.document import CheckEntry, Finding
from onnx_fp16fix.graph import GraphView
from onnx_fp16fix.half import FP16, HALF_TYPES, FloatType, Half
from onnx_fp16fix.keywords import typed
from onnx_fp16fix.outcome import Outcome
from onnx_fp16fix.pipeline.arguments import check_arguments
from onnx_fp16fix.pipeline.causes import name_causes
from onnx_fp16fix.pipeline.decisions import plan_entry
from onnx_fp16fix.pipeline.diagnosis import (
    annotate,
    harmless_overflows,
    output_findings,
    worst_first,
)
from onnx_fp16fix.pipeline.findings import nan_findings, plan_findings
from onnx_fp16fix.pipeline.naive import complete, simulate_naive
from onnx_fp16fix.pipeline.places import keys_of
from onnx_fp16fix.pipeline.prepare import ModelSource, Run, calibrated, inline_functions
from onnx_fp16fix.pipeline.repair import RuleSources
from onnx_fp16fix.pipeline.rules import RuleStage, rule_loader
from onnx_fp16fix.pipeline.simulated import simulated_findings, strayed_findings
from onnx_fp16fix.pipeline.steep import steep_findings
from onnx_fp16fix.pipeline.weights import measure_weights, weight_findings
from onnx_fp16fix.plan import Plan, make_plan
from onnx_fp16fix.progress import Progress, Silent
from onnx_fp16fix.simulate import Mode, SimulationReport
from onnx_fp16fix.verify import usual_tolerance

__all__ = ["check"]

_SILENT = Silent()


@typed
def check(
    model: ModelSource,
    data: Source = None,
    rules: RuleSources = None,
    *,
    ranges: str | Path | None = None,
    margin: float = 2.0,
    simulate: bool = True,
    tolerance: float | None = None,
    kernels: Mode = "default",
    as_type: Half = "fp16",
    samples: int = 4,
    seed: int = 0,
    progress: Progress = _SILENT,
) -> Outcome:
    """Report what FP16 would break and what would repair it; status ``findings`` when there is anything.

    ``simulate`` runs plain FP16 next to FP32: which outputs go wrong by more than ``tolerance`` (relative L2), which
    tensor is the first, which overflows do no harm. Without it the report rests on ranges and weights alone.
    ``kernels``: what GPU kernels are taken to keep in FP16 inside (default, cuda, pessimistic). ``as_type="bf16"``
    asks the same of BF16; the shipped rules, which know FP16's limits, are then left out, those of ``rules`` are not.
    ``tolerance``: None is 1e-2, in BF16 8e-2. Findings with one cause share its ``cause``.
    """
    check_arguments(tolerance=tolerance, margin=margin, samples=samples, kernels=kernels, as_type=as_type)
    half = HALF_TYPES[as_type]
    limit = usual_tolerance(half) if tolerance is None else tolerance
    run = Run("check", model, data, progress, samples, seed, ranges, kernels=kernels)
    stage = RuleStage(rule_loader(rules), margin)
    base = inline_functions(run.model)
    view, table = calibrated(run, base)
    entry = CheckEntry(tolerance=limit, as_type=as_type)
    with progress.step("plan"):
        plan = make_plan(view.main, table, margin=margin, half=half)
    if half is FP16 or rules is not None:
        with progress.step("rules"):
            stage.run(view, table)
    with progress.step("weights"):
        entry.weights = measure_weights(view, half)
    report = simulate_naive(run, base, entry) if simulate else None
    findings = _diagnose(view, table, plan, stage, report, entry, margin, half)
    document = run.document
    findings = worst_first(findings)
    name_causes(findings, view, stage.spans())
    document.check, document.findings, document.rules = entry, findings, stage.entries()
    document.plan = plan_entry(view, plan, sum(part.inserted_muls() for _, part in plan.scopes()))
    document.summary = dict(Counter(finding.kind for finding in findings if finding.severity != "info"))
    broken = any(finding.status in ("available", "left") for finding in findings)
    return run.finish("findings" if broken else "ok")


def _diagnose(
    view: GraphView,
    ranges: RangeTable,
    plan: Plan,
    stage: RuleStage,
    report: SimulationReport | None,
    entry: CheckEntry,
    margin: float,
    half: FloatType,
) -> list[Finding]:
    """All findings; completes ``entry`` with what simulation shows."""
    harmless = harmless_overflows(view, ranges, margin, half)
    planned = plan_findings(view, plan, "available", half)
    annotate(planned, view, ranges, report, harmless, stage.rules_by_node())
    skipped = [*nan_findings(view.main, ranges), *steep_findings(view.main, ranges, half)]
    findings = [*skipped, *planned, *stage.findings("available")]
    named = keys_of(view, planned)
    if report is not None:
        harmless |= report.harmless
        complete(entry, report, harmless)
        found = simulated_findings(view, report, harmless, named, entry.tolerance, half)
        repairable = any(finding.status == "available" for finding in (*findings, *found))
        outputs = output_findings(report, entry.tolerance, repairable, half)
        findings = [*outputs, *findings, *found, *strayed_findings(report.strayed, half)]
    weights = weight_findings(entry.weights, half)
    return [*findings, *(finding for finding in weights if not keys_of(view, [finding]) & named)]
