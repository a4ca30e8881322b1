"""Rules inside ``fix``: where the exact plan pays, and where its result is not right whatever FP32 islands it gets."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace

from onnx_fp16fix.model import Model, ScopePath
from onnx_fp16fix.pipeline.accuracy import simulate
from onnx_fp16fix.pipeline.follow import follow
from onnx_fp16fix.pipeline.planning import planned
from onnx_fp16fix.pipeline.prepare import Run, calibrated
from onnx_fp16fix.pipeline.rules import RuleStage
from onnx_fp16fix.pipeline.state import Emitted, Io, Precision, State, emit
from onnx_fp16fix.pipeline.wishes import Wishes
from onnx_fp16fix.simulate import SimulationReport, compare_fp32

__all__ = ["improve", "rescue"]

_WORTHWHILE = 0.5
_Places = Collection[tuple[ScopePath, int]]


def improve(run: Run, state: State, stage: RuleStage, wishes: Wishes) -> State:
    """Try rules at the nodes where the exact plan pays; keep what they do if the plan gets cheaper.

    Nodes that the user spoke of are not rewritten.
    """
    costly = state.plan.costly_nodes() - (state.wished.keys() | state.half.keys())
    if not costly or not stage.rules:
        return state
    better = _rewritten(run, state, stage, wishes, costly)
    if better is not None:
        with run.progress.step("plan again"):
            better = planned(better, headroom=False)
    if better is None or better.plan.cost >= state.plan.cost:
        stage.discard()
        return state
    stage.keep()
    return better


def rescue(
    run: Run,
    state: State,
    stage: RuleStage,
    wishes: Wishes,
    precision: Precision,
    io: Io,
    error: float,
    limit: float,
) -> tuple[State, Emitted, SimulationReport] | None:
    """All rules everywhere, and the islands they ask for, where the result is off by ``error``; None: they do not help.

    They help if the error comes to ``limit`` or to half of what it was.

    What a plan takes to be free may be what goes wrong, such as an epsilon raised to what FP16 holds.
    """
    if not stage.rules:
        return None
    spoken = state.wished.keys() | state.half.keys()
    everywhere = {
        (path, node.index)
        for path, scope in state.view.scopes.items()
        for node in scope.nodes
        if (path, node.index) not in spoken
    }
    found = _rewritten(run, state, stage, wishes, everywhere)
    better = state if found is None else found
    asked = stage.wishes(better.view, better.ranges)
    if found is not None or asked:
        with run.progress.step("plan again"):
            better = planned(replace(better, wished={**asked, **better.wished}))
        emitted = emit(run, better, precision, io)
        report = simulate(run, emitted)
        if report.output_rel_l2 <= max(limit, _WORTHWHILE * error) and math.isfinite(report.output_rel_l2):
            stage.keep()
            return better, emitted, report
    stage.discard()
    return None


def _rewritten(run: Run, state: State, stage: RuleStage, wishes: Wishes, nodes: _Places) -> State | None:
    """The state with the model as rules rewrite it at these nodes, calibrated anew; None where none does.

    Rules that assume something are left out where the outputs change on the data.
    """
    with run.progress.step("rules"):
        trial = stage.run(state.view, state.ranges, only_nodes=nodes)
    while trial is not None and (assuming := stage.assuming()):
        if _agree(run, state.model, trial, stage.declared()):
            break
        stage.leave_out(assuming)
        what = "; ".join(f"{rule} assumes that {', and '.join(texts)}" for rule, texts in assuming.items())
        run.warn(f"not used, because the outputs would change: {what}")
        with run.progress.step("rules"):  # what comes after these may assume as much
            trial = stage.run(state.view, state.ranges, only_nodes=nodes)
    if trial is None:
        return None
    view, ranges = calibrated(run, trial)
    ranges = wishes.limited(ranges, view, strict=False)
    steps = (*state.steps, stage.patches)
    return follow(state, replace(state, model=trial, view=view, ranges=ranges, steps=steps))


def _agree(run: Run, before: Model, after: Model, tolerance: float) -> bool:
    report = compare_fp32(
        before.proto, after.proto, run.dataset, before_dir=before.base_dir, after_dir=after.base_dir
    )
    return report.identical or report.rel_l2 <= tolerance
