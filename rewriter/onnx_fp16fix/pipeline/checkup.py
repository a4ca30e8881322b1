"""``check``: what FP16 would break and what would repair it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from onnx_fp16fix.calibrate import RangeTable, Source
from onnx_fp16fix.document import CheckEntry, Finding
from onnx_fp16fix.errors import Problem, UsageError
from onnx_fp16fix.graph import GraphView
from onnx_fp16fix.outcome import Outcome
from onnx_fp16fix.pipeline.arguments import check_arguments
from onnx_fp16fix.pipeline.decisions import plan_entry
from onnx_fp16fix.pipeline.diagnosis import (
    annotate,
    harmless_overflows,
    output_findings,
    simulated_findings,
    worst_first,
)
from onnx_fp16fix.pipeline.findings import nan_findings, plan_findings
from onnx_fp16fix.pipeline.naive import complete, simulate_naive
from onnx_fp16fix.pipeline.prepare import ModelSource, Run, calibrated, inline_functions
from onnx_fp16fix.pipeline.repair import RuleSources
from onnx_fp16fix.pipeline.rules import RuleStage, load_all
from onnx_fp16fix.pipeline.weights import measure_weights, weight_findings
from onnx_fp16fix.plan import Plan, make_plan
from onnx_fp16fix.progress import Progress, Silent
from onnx_fp16fix.simulate import Half, Mode, SimulationReport

__all__ = ["check"]

_SILENT = Silent()


def check(
    model: ModelSource,
    data: Source = None,
    rules: RuleSources = None,
    *,
    ranges: str | Path | None = None,
    margin: float = 2.0,
    simulate: bool = True,
    tolerance: float = 1e-2,
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
    takes the model as BF16: its range is that of FP32, so neither plan nor rules nor weights have anything to say, and
    the report is that of the simulation.
    """
    check_arguments(tolerance=tolerance, margin=margin, samples=samples, kernels=kernels, as_type=as_type)
    if as_type == "bf16" and not simulate:
        hint = "BF16 is judged by simulation alone"
        raise UsageError(
            Problem("USAGE-AS", "a BF16 check without simulation has nothing to go by", hint=hint)
        )
    run = Run("check", model, data, progress, samples, seed, ranges, kernels=kernels)
    stage = RuleStage(load_all(rules), margin)
    base = inline_functions(run.model)
    view, table = calibrated(run, base)
    entry = CheckEntry(tolerance=tolerance, as_type=as_type)
    plan = Plan()
    if as_type == "fp16":
        with progress.step("plan"):
            plan = make_plan(view.main, table, margin=margin)
        with progress.step("rules"):
            stage.run(view, table)
        with progress.step("weights"):
            entry.weights = measure_weights(view.main)
    report = simulate_naive(run, base, as_type) if simulate else None
    findings = _diagnose(view, table, plan, stage, report, entry, margin)
    document = run.document
    document.check, document.findings, document.rules = entry, worst_first(findings), stage.entries()
    if as_type == "fp16":
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
) -> list[Finding]:
    """All findings; completes ``entry`` with what simulation shows."""
    scope = view.main
    half = entry.as_type
    harmless = harmless_overflows(view, ranges, margin) if half == "fp16" else frozenset[str]()
    planned = plan_findings(view, plan, "available")
    annotate(planned, ranges, report, harmless, stage.rules_by_node(scope))
    findings = [*nan_findings(scope, ranges), *planned, *stage.findings("available")]
    named = {finding.tensor for finding in planned}
    if report is not None:
        harmless |= report.harmless
        complete(entry, report, harmless)
        found = simulated_findings(scope, report, harmless, named, entry.tolerance, half)
        repairable = any(finding.status == "available" for finding in (*findings, *found))
        findings = [*output_findings(report, entry.tolerance, repairable, half), *findings, *found]
    findings += [finding for finding in weight_findings(entry.weights) if finding.tensor not in named]
    return findings
