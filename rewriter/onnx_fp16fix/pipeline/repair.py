"""``fix`` and ``apply``: from a model that breaks in FP16 to one that is proven right."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from onnx_fp16fix.calibrate import Source
from onnx_fp16fix.collector import few_collections
from onnx_fp16fix.errors import Problem, UsageError
from onnx_fp16fix.graph import build_view
from onnx_fp16fix.keywords import typed
from onnx_fp16fix.language import DEFAULT_ALLOWED
from onnx_fp16fix.outcome import Outcome
from onnx_fp16fix.pipeline.accuracy import (
    admit_floor,
    aimed_error,
    measure_up,
    mend_accuracy,
    simulate,
    tell_narrow,
)
from onnx_fp16fix.pipeline.answers import planned_findings
from onnx_fp16fix.pipeline.arguments import check_arguments
from onnx_fp16fix.pipeline.border import check_half_io
from onnx_fp16fix.pipeline.channels import equalize_channels
from onnx_fp16fix.pipeline.conclude import TensorRTMode, conclude
from onnx_fp16fix.pipeline.exact import broken_promises
from onnx_fp16fix.pipeline.findings import nan_findings, resized_findings
from onnx_fp16fix.pipeline.improve import improve, rescue
from onnx_fp16fix.pipeline.lock import Step, find_lock
from onnx_fp16fix.pipeline.opset import refuse_old_opset
from onnx_fp16fix.pipeline.planning import budget_findings, planned, settle, with_headroom
from onnx_fp16fix.pipeline.prepare import ModelSource, Run, calibrated, inline_functions
from onnx_fp16fix.pipeline.replay import locked, replay
from onnx_fp16fix.pipeline.rules import RuleStage, requests_to_plan, rule_loader
from onnx_fp16fix.pipeline.state import Io, Precision, State, by_scope, emit, made_for, type_for
from onnx_fp16fix.pipeline.steep import steep_findings
from onnx_fp16fix.pipeline.targets import apply_rules, asked_targets
from onnx_fp16fix.pipeline.trust import refuse_unproven
from onnx_fp16fix.pipeline.wishes import Names, Targets, gather_wishes
from onnx_fp16fix.plan import Plan, make_plan
from onnx_fp16fix.progress import Progress, Silent
from onnx_fp16fix.simulate import Mode
from onnx_fp16fix.verify import Tolerances, usual_tolerance

__all__ = ["RuleSources", "TensorRTMode", "apply", "fix"]

RuleSources = str | Path | Sequence[str | Path] | None
_SILENT = Silent()


@typed
@few_collections()
def fix(
    model: ModelSource,
    data: Source = None,
    rules: RuleSources = None,
    *,
    ranges: str | Path | None = None,
    precision: Precision = "fp16",
    io: Io = "fp32",
    target: str | None = None,
    tolerance: float | None = None,
    margin: float = 2.0,
    samples: int = 4,
    seed: int = 0,
    keep_fp32: Names = (),
    keep_fp32_ops: Names = (),
    force_fp16: Names = (),
    force_fp16_ops: Names = (),
    limits: Mapping[str, float] | None = None,
    max_fp32_flops: float | None = None,
    allow: Names | None = None,
    force: bool = False,
    verify: bool = True,
    kernels: Mode = "default",
    tensorrt: TensorRTMode = "auto",
    trust_rules: bool = False,
    progress: Progress = _SILENT,
) -> Outcome:
    """The whole way: calibrate, plan, use rules where exact rescaling still pays, emit, verify.

    ``data``: see ``calibrate.open_data``. ``ranges``: a table that ``calibrate`` wrote for this model, instead of
    measuring again. ``rules``: files, folders or packs, all shipped rules if None; the islands they ask for are kept.
    A rule of the user's own whose quick proof fails is refused unless ``trust_rules``.
    ``target``: what the model is made for (``tensorrt:11.2``): rules for this target come first; see ``Target``.
    ``onnxruntime-cuda`` leaves in FP32 what its provider has no BF16 kernel of.
    ``precision="bf16"`` plans for BF16 and types in it; ``io`` is then "fp32" or "bf16". ``precision="fp32"`` gives the
    rescaled FP32 model for weakly typed engines, judged as FP16 with those layers in FP32 that the sidecar files name.
    ``tolerance``: largest relative L2 error of an output in simulated FP16; None is 1e-2 (BF16: 8e-2), or more (with a
    finding) where the type's own rounding costs more; ``kernels``: what it takes GPU kernels to keep in FP16 inside
    (default, cuda, pessimistic). ``margin``: factor between calibrated maxima and what FP16 must hold.

    Wishes: ``keep_fp32`` and ``force_fp16`` take regular expressions that match names of nodes from their
    start, ``..._ops`` op types. ``limits``: regular expression of tensor names -> largest magnitude to plan for, in
    place of the measured one. ``max_fp32_flops``: share of the FLOPs that FP32 is to have at most; more than that is a
    finding left. ``allow``: equality classes of rules that may be used (exact, real, context, lossy; None: not lossy).
    ``force``: obey a wish that cannot go well, and report what it leaves at risk, instead of refusing it.

    Raises UserError for whatever a user can mend; a result that fails verification has status ``rejected``.
    """
    check_arguments(
        precision=precision,
        io=io,
        tensorrt=tensorrt,
        kernels=kernels,
        tolerance=tolerance,
        margin=margin,
        samples=samples,
    )
    wishes = gather_wishes(
        keep_fp32=keep_fp32,
        keep_fp32_ops=keep_fp32_ops,
        force_fp16=force_fp16,
        force_fp16_ops=force_fp16_ops,
        limits=limits,
        max_fp32_flops=max_fp32_flops,
        allow=allow,
        force=force,
    )
    chosen, half = rule_loader(rules), type_for(precision)
    stage = RuleStage(
        chosen, margin, wishes.allow or DEFAULT_ALLOWED, targets=asked_targets(target, rules, chosen, half)
    )
    half = made_for(half, target)
    run = Run("fix", model, data, progress, samples, seed, ranges, kernels=kernels)
    refuse_old_opset(run.model, half)
    refuse_unproven(run, stage, rules, trusted=trust_rules)
    base = inline_functions(run.model)
    targets = wishes.targets(build_view(base)) if wishes.name_nodes() else Targets()
    view, table = calibrated(run, base)
    steps: tuple[Step, ...] = ()
    if stage.targets:
        retargeted = apply_rules(
            run, State(base, view, table, margin, half_type=half), stage, for_targets=True
        )
        if retargeted.model is not base:
            base, view, table, steps = retargeted.model, retargeted.view, retargeted.ranges, retargeted.steps
            targets = wishes.targets(view)
    table = wishes.limited(table, view)
    check_half_io(run, view.main, table, half, io, force=force)
    run.document.findings += [*nan_findings(view.main, table), *steep_findings(view.main, table, half)]
    if (equalized := equalize_channels(run, view, table, margin, half)) is not None:
        base, steps = equalized[0], (*steps, equalized[1])  # the same nodes at the same places
        view, table = calibrated(run, base)
        table = wishes.limited(table, view, strict=False)
    state = State(
        base, view, table, margin, Plan(), dict(targets.keep), dict(targets.half), {}, max_fp32_flops, steps,
        half_type=half,
    )  # fmt: skip
    with progress.step("plan"):
        state = settle(run, state, force=force)
    left = {("/".join(place[0]), state.node(place).label) for place in state.obeyed}  # told already
    first, told = state, len(run.document.findings)
    state = improve(run, state, stage, wishes)
    if rules is not None and (asked := stage.wishes(state.view, state.ranges)):
        with progress.step("plan again"):
            state = planned(replace(state, wished={**asked, **state.wished}), headroom=False)
    with progress.step("headroom"):
        state = second = with_headroom(state)
    # engines that are to obey the sidecar files compute what the typed model does: its accuracy is theirs
    typed: Precision = "fp16" if verify and precision == "fp32" else precision
    emitted = emit(run, state, typed, io)
    report, limit = None, usual_tolerance(half) if tolerance is None else tolerance
    if verify:
        report = simulate(run, emitted)
        aim = min(limit, aimed_error(half)) if tolerance is None else limit
        if report.output_rel_l2 > aim:
            before, mark = state, len(run.document.findings)
            state, emitted = mend_accuracy(run, state, report, typed, io, aim)
            report = simulate(run, emitted)
            if report.output_rel_l2 > limit and (
                rescued := rescue(run, before, stage, wishes, typed, io, report.output_rel_l2, limit)
            ):
                del run.document.findings[mark:]  # what did not help is not done
                state, emitted, report = rescued
        state, emitted, report = measure_up(run, (state, emitted, report), typed, io, aim, limit)
        if report.output_rel_l2 > limit:
            run.document.findings += resized_findings(report, half)
        if tolerance is None and limit < report.output_rel_l2 < math.inf:
            limit = admit_floor(run, half, report.output_rel_l2, limit)
        else:
            tell_narrow(run, half, report.output_rel_l2, limit)
    if typed != precision:
        emitted = emit(run, state, precision, io)
    at_risk = planned_findings(first, second, state, stage.findings())
    run.document.findings[told:told] = [risk for risk in at_risk if (risk.scope, risk.node) not in left]
    run.document.findings += [*stage.findings(), *budget_findings(state, targets.keep)]
    run.document.rules = stage.entries()
    for text in stage.assumptions():
        run.warn(text)
    tolerances = Tolerances(limit, max(Tolerances().fp32, stage.tolerance))
    # the shipped rules are proven; those that a user brings are held to the bits that they promise
    broken = broken_promises(run, stage, beside_others=False) if verify and rules is not None else []
    outcome = conclude(run, state, emitted, tolerances, verify, tensorrt, report, broken=broken)
    return locked(run, state, emitted, outcome, precision, io, tolerances)


@typed
@few_collections()
def apply(
    model: ModelSource,
    rules: RuleSources,
    data: Source = None,
    *,
    ranges: str | Path | None = None,
    precision: Precision | None = None,
    io: Io | None = None,
    target: str | None = None,
    tolerance: float | None = None,
    margin: float = 2.0,
    samples: int = 4,
    seed: int = 0,
    allow: Names | None = None,
    explain_misses: bool = False,
    verify: bool = True,
    kernels: Mode = "default",
    tensorrt: TensorRTMode = "auto",
    trust_rules: bool = False,
    progress: Progress = _SILENT,
) -> Outcome:
    """Apply the named rules and nothing else; options as in ``fix``. Or a lock file: do what ``fix`` did.

    ``precision`` and ``io``: None is "fp32", and with a lock what that says. A lock decides all else too: options that
    ask for something other than it makes raise UsageError (LOCK-OPTION); ``tolerance`` is for its verification.
    Where no rule matches, the result is the input, byte for byte. FP32 islands that rules ask for exist in a typed
    model only (``precision="fp16"``): a FP32 model cannot hold them. A rule of the user's own whose quick proof fails
    is refused unless ``trust_rules``. ``allow``: as in ``fix``. ``explain_misses``: for each rule that is applied
    nowhere, look for the place where it came closest (``run.misses``).
    """
    lock = find_lock(rules)
    asked = {
        "precision": precision, "io": io, "ranges": ranges, "target": target, "allow": allow,
        "margin": None if margin == 2.0 else margin, "explain_misses": explain_misses or None,
    }  # fmt: skip
    types = {"precision": precision or "fp32", "io": io or "fp32"} if lock is None else {}
    check_arguments(
        tensorrt=tensorrt, kernels=kernels, tolerance=tolerance, margin=margin, samples=samples, **types
    )
    if lock is not None:
        return replay(
            lock,
            model,
            data,
            samples=samples,
            seed=seed,
            verify=verify,
            kernels=kernels,
            tensorrt=tensorrt,
            progress=progress,
            tolerance=tolerance,
            asked={name: value for name, value in asked.items() if value is not None},
        )
    precision, io = precision or "fp32", io or "fp32"
    if rules is None or (not isinstance(rules, (str, Path)) and not rules):
        raise UsageError(Problem("USAGE-RULES", "apply needs rules: a file, a folder or pack:NAME"))
    chosen, half = rule_loader(rules), type_for(precision)
    allowed = gather_wishes(allow=allow).allow or DEFAULT_ALLOWED
    stage = RuleStage(
        chosen, margin, allowed, explain_misses, targets=asked_targets(target, rules, chosen, half)
    )
    half = made_for(half, target)
    run = Run("apply", model, data, progress, samples, seed, ranges, kernels=kernels)
    refuse_old_opset(run.model, half)
    refuse_unproven(run, stage, rules, trusted=trust_rules)
    view, table = calibrated(run, run.model)
    run.document.findings += nan_findings(view.main, table)
    state = State(run.model, view, table, margin, half_type=half)
    state = apply_rules(run, state, stage)
    fp32, only = requests_to_plan(stage.requests)
    main, bodies = by_scope(fp32)
    if not only:
        # islands alone are no reason to rescale anything
        inside = {scope.path: Plan(fp32=bodies.get(scope.path, {})) for scope in state.scope.inside()}
        state.plan = Plan(fp32=main, bodies=inside)
    else:
        with progress.step("plan"):
            state.plan = make_plan(
                state.scope, state.ranges, margin=margin, fp32=main, bodies=bodies, only=only, half=half
            )
    run.document.findings += stage.findings()
    run.document.rules, run.document.misses = stage.entries(), stage.misses()
    for text in stage.assumptions():
        run.warn(text)
    emitted = emit(run, state, precision, io)
    # rules that call themselves exact are held to it
    limits = Tolerances(usual_tolerance(half) if tolerance is None else tolerance, stage.tolerance)
    broken = broken_promises(run, stage, beside_others=True) if verify else []
    return conclude(run, state, emitted, limits, verify, tensorrt, broken=broken)
