"""Rules inside ``fix``: where the exact plan pays, and where its result is not right whatever FP32 islands it gets."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace

from onnx_fp16fix.model import Model, ScopePath
from onnx_fp16fix.pipeline.accuracy import simulate
from onnx_fp16fix.pipeline.follow import follow
from onnx_fp16fix.pipeline.planning import planned
from onnx_fp16fix.pipeline.prepare import Run, calibrated
from onnx_fp16fix.pipeline.rules import RuleStage
from onnx_fp16fix.pipeline.state import Emitted, Io, Precision, State, emit
from onnx_fp16fix.pipeline.wishes import Wishes
from onnx_fp16fix.plan import Draft
from onnx_fp16fix.simulate import SimulationReport, compare_fp32

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
    better = _followed(run, state, stage, wishes, trial)
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
    trial = _trial(run, state, stage, nodes)
    return None if trial is None else _followed(run, state, stage, wishes, trial)


def _trial(
    run: Run, state: State, stage: RuleStage, nodes: _Places, *, only_rewrites: bool = False
) -> Model | None:
    """The model as rules rewrite it at these nodes; None where none does.

    Rules that assume something are left out where the outputs change on the data.
    """
    with run.progress.step("rules"):
        trial = stage.run(state.view, state.ranges, only_nodes=nodes, only_rewrites=only_rewrites)
    while trial is not None and (assuming := stage.assuming()):
        if _agree(run, state.model, trial, stage.declared()):
            break
        stage.leave_out(assuming)
        what = "; ".join(f"{rule} assumes that {', and '.join(texts)}" for rule, texts in assuming.items())
        run.warn(f"not used, because the outputs would change: {what}")
        with run.progress.step("rules"):  # what comes after these may assume as much
            trial = stage.run(state.view, state.ranges, only_nodes=nodes, only_rewrites=only_rewrites)
    return trial


def _followed(run: Run, state: State, stage: RuleStage, wishes: Wishes, trial: Model) -> State | None:
    """The state with the rewritten model, calibrated anew; None where a node that users spoke of is gone."""
    view, ranges = calibrated(run, trial)
    ranges = wishes.limited(ranges, view, strict=False)
    steps = (*state.steps, stage.patches)
    return follow(state, replace(state, model=trial, view=view, ranges=ranges, steps=steps))


def _agree(run: Run, before: Model, after: Model, tolerance: float) -> bool:
    report = compare_fp32(
        before.proto, after.proto, run.dataset, before_dir=before.base_dir, after_dir=after.base_dir
    )
    return report.identical or report.rel_l2 <= tolerance
