"""The end of a run: verify, and say what is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from onnx_fp16fix.document import Finding, RunStatus
from onnx_fp16fix.half import FloatType
from onnx_fp16fix.model import ScopePath
from onnx_fp16fix.outcome import Outcome
from onnx_fp16fix.pipeline.decisions import decision_findings
from onnx_fp16fix.pipeline.findings import left_findings
from onnx_fp16fix.pipeline.opset import late_forms
from onnx_fp16fix.pipeline.prepare import Run, inline_functions
from onnx_fp16fix.pipeline.state import Emitted, State
from onnx_fp16fix.plan.known.bodies import unmeasured
from onnx_fp16fix.simulate import SimulationReport
from onnx_fp16fix.verify import Tolerances, verify_models
from onnx_fp16fix.wording import spelled

__all__ = ["TensorRTMode", "conclude"]

TensorRTMode = Literal["auto", "off", "require"]


def conclude(
    run: Run,
    state: State,
    emitted: Emitted,
    tolerances: Tolerances,
    verify: bool,
    tensorrt: TensorRTMode,
    report: SimulationReport | None = None,
    broken: Sequence[str] = (),
) -> Outcome:
    """Verify the result, unless told not to; the outcome is rejected, has findings left, or is in order.

    ``report``: its simulation, where that was made before; an FP32 model is judged by it too.
    ``broken``: what is known to be wrong with it already; none of it passes.
    """
    emitted.note(run.document)
    findings = run.document.findings
    findings += [*decision_findings(state.view, state.plan, state.half_type, findings), *emitted.findings]
    if emitted.half is not None and (late := late_forms(state.scope, state.half_type)):
        run.warn(late)
    if emitted.half is not None:
        _tell_unmeasured(run, state)
    if not state.plan.optimal:
        run.warn("the planner ran out of time: the nodes around what is at risk stay in FP32")
    if verify:
        verified = verify_models(
            run.model,
            emitted.result,
            run.dataset,
            fp32_after=emitted.fp32,
            exponents=emitted.exponents,
            half=emitted.half,
            as_type="fp16" if emitted.half is None and report is not None else None,
            tolerances=tolerances,
            tensorrt_mode=tensorrt,
            simulation=report,
            kernels=run.kernels,
            progress=run.progress,
        )
        run.document.verification = verified.entry
        if broken:
            verified.entry.failures += broken
            verified.entry.passed = False
        if not verified.entry.passed and not run.forced:
            return run.finish("rejected", emitted.result)
        findings += [_failed(text, state.half_type) for text in verified.entry.failures]
        findings += left_findings(
            state.view, inline_functions(run.model).proto.graph, verified.simulation, state.half_type
        )
    else:
        run.warn(f"not verified: {spelled('verify', False)} writes the result without proof")
    outcome = run.finish(_status(findings), emitted.result)
    outcome.sidecars = emitted.sidecars
    return outcome


def _tell_unmeasured(run: Run, state: State) -> None:
    """Which bodies never ran, and what would make them; not those inside them."""
    told = set[ScopePath]()
    for body in state.scope.inside():
        why = unmeasured(replace(state.facts, scope=body))
        if why is not None and body.path[:-1] not in told:
            run.warn(f"{why}; it stays in FP32")
        if why is not None or body.path[:-1] in told:
            told.add(body.path)


def _failed(text: str, half: FloatType) -> Finding:
    """What verification found wrong of a result that users force through."""
    return Finding(
        name=f"{half.name}-forced", kind="precision", severity="error", status="left", message=text
    )


def _status(findings: Sequence[Finding]) -> RunStatus:
    return "findings" if any(finding.status == "left" for finding in findings) else "ok"
