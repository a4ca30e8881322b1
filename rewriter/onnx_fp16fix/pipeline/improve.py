"""Rules inside ``fix``: where the exact plan pays, and where its result is not right whatever FP32 islands it gets."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace

from onnx_fp16fix.calibrate import RangeTable
from onnx_fp16fix.graph import GraphView
from onnx_fp16fix.model import Model, ScopePath
from onnx_fp16fix.pipeline.accuracy import simulate
from onnx_fp16fix.pipeline.follow import follow
from onnx_fp16fix.pipeline.planning import planned
from onnx_fp16fix.pipeline.prepare import Run, calibrated
from onnx_fp16fix.pipeline.rules import RuleStage
from onnx_fp16fix.pipeline.state import Emitted, Io, Precision, State, emit
from onnx_fp16fix.pipeline.wishes import Wishes
from onnx_fp16fix.plan import Draft
from onnx_fp16fix.simulate import SimulationReport, compare_fp32, compare_outputs

__all__ = ["improve", "rescue"]

_WORTHWHILE = 0.5
_Places = Collection[tuple[ScopePath, int]]


def improve(run: Run, state: State, stage: RuleStage, wishes: Wishes) -> State:
    """Try rules at the nodes where the exact plan pays; keep what they do if the plan gets cheaper.

    Nodes that the user spoke of are not rewritten. Where the plan is a draft, it is made whole only if what it would
    pay is not known well enough.
    """
    if state.draft is None:
        return _improved(run, state, stage, wishes)
    early = _early(run, state, stage, wishes, state.draft)
    if early.better is not None and early.better.plan.cost < early.least:
        stage.only_at(state.draft.unanswered())
        stage.keep()
        return early.better if early.complete else _improved(run, early.better, stage, wishes)
    with run.progress.step("plan"):
        state = replace(state, plan=state.draft.plan(), draft=None)
    if early.better is None or not early.same:
        return state if early.same else _improved(run, state, stage, wishes)
    if early.better.plan.cost < state.plan.cost:  # told as where the plan is whole at once
        _trial(run, state, stage, state.plan.costly_nodes())
    return _cheaper(state, early.better, stage)


@dataclass(frozen=True)
class _Early:
    """Rules tried before there is a whole plan. ``better``: what they make of the model, planned; None: they do nothing
    or it is not worth a try. ``least``: what any plan without them costs at least."""

    better: State | None = None
    least: float = 0.0
    complete: bool = True
    """Whether they did all that they can wherever a plan may pay."""
    same: bool = True
    """Whether they do the same where the whole plan pays."""


def _early(run: Run, state: State, stage: RuleStage, wishes: Wishes, draft: Draft) -> _Early:
    """Rules where exponents alone do not do."""
    while True:
        trial = _trial(run, state, stage, draft.places(), only_rewrites=True) if stage.rules else None
        if trial is None:
            stage.discard()
            return _Early()
        asked = draft.unanswered()
        complete = not any(asked.isdisjoint(nodes) for nodes in stage.places())
        if not complete:
            trial = _trial(run, state, stage, asked, only_rewrites=True)
        paying, least = draft.least_cost(stage.places())
        if trial is None or not any(paying):
            return _Early(same=False)
        view, ranges = calibrated(run, trial)
        if _may_assume(run, state.view, view, stage):
            break
    better = _followed(state, stage, wishes, view, ranges)
    better = None if better is None else _planned_again(run, better)
    return _Early(better, least, complete, same=complete and all(paying))


def _improved(run: Run, state: State, stage: RuleStage, wishes: Wishes) -> State:
    """``improve`` with a whole plan."""
    costly = state.plan.costly_nodes() - (state.wished.keys() | state.half.keys())
    if not costly or not stage.rules:
        return state
    better = _rewritten(run, state, stage, wishes, costly)
    return _cheaper(state, None if better is None else _planned_again(run, better), stage)


def _planned_again(run: Run, state: State) -> State:
    with run.progress.step("plan again"):
        return planned(state, headroom=False)


def _cheaper(state: State, better: State | None, stage: RuleStage) -> State:
    """Of the two the one with the cheaper plan."""
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
    """The state with the model as rules rewrite it at these nodes, calibrated anew; None where none does."""
    while (trial := _trial(run, state, stage, nodes)) is not None:
        view, ranges = calibrated(run, trial)
        if _may_assume(run, state.view, view, stage):
            return _followed(state, stage, wishes, view, ranges)
    return None


def _trial(
    run: Run, state: State, stage: RuleStage, nodes: _Places, *, only_rewrites: bool = False
) -> Model | None:
    """The model as rules rewrite it at these nodes; None where none does."""
    with run.progress.step("rules"):
        return stage.run(state.view, state.ranges, only_nodes=nodes, only_rewrites=only_rewrites)


def _may_assume(run: Run, before: GraphView, after: GraphView, stage: RuleStage) -> bool:
    """Whether what the last rewrites assume holds as far as the data show: both models, calibrated, have the same
    outputs. If not, rules that assume anything are left out from now on; those that come after them may assume as much.
    """
    assuming = stage.assuming()
    if not assuming or _agree(run, before, after, stage.declared()):
        return True
    stage.leave_out(assuming)
    what = "; ".join(f"{rule} assumes that {', and '.join(texts)}" for rule, texts in assuming.items())
    run.warn(f"not used, because the outputs would change: {what}")
    return False


def _followed(
    state: State, stage: RuleStage, wishes: Wishes, view: GraphView, ranges: RangeTable
) -> State | None:
    """The state with the rewritten model; None where a node that users spoke of is gone."""
    ranges = wishes.limited(ranges, view, strict=False)
    steps = (*state.steps, stage.patches)
    return follow(state, replace(state, model=view.model, view=view, ranges=ranges, steps=steps))


def _agree(run: Run, before: GraphView, after: GraphView, tolerance: float) -> bool:
    """Whether the outputs are the same in FP32, but for ``tolerance``."""
    names = [info.name for info in before.model.proto.graph.output]
    kept = [run.outputs[view].samples() if view in run.outputs else None for view in (before, after)]
    if kept[0] and kept[1] and len(kept[0]) == len(kept[1]):
        report = compare_outputs(names, zip(*kept, strict=True))
        if report.identical or report.rel_l2 <= tolerance:
            return True
    # Parts of two models may be cut, and run, differently, and data may be read in another order each time: what
    # differs in calibration is no proof.
    old, new = before.model, after.model
    report = compare_fp32(old.proto, new.proto, run.dataset, before_dir=old.base_dir, after_dir=new.base_dir)
    return report.identical or report.rel_l2 <= tolerance
