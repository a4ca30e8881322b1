"""The range obligation: in simulated FP16 the case is wrong without the rule and right with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from onnx_fp16fix.calibrate import calibrate, open_data
from onnx_fp16fix.emit import convert, rescale
from onnx_fp16fix.errors import UserError
from onnx_fp16fix.graph import build_view
from onnx_fp16fix.language.expression import Call, Member, walk
from onnx_fp16fix.language.rule import Rule
from onnx_fp16fix.model import Model
from onnx_fp16fix.plan import make_plan
from onnx_fp16fix.plan.known.facts import Facts
from onnx_fp16fix.proof.inputs import Sample
from onnx_fp16fix.proof.trial import Trial, everything
from onnx_fp16fix.runtime import Array
from onnx_fp16fix.simulate import Mode, rounded_graph

__all__ = ["NEEDLESS", "is_about_range", "obligation"]

NEEDLESS = "FP16 works on this case without the rule: no value leaves its range and no output is wrong"

_WRONG, _RIGHT = 0.05, 0.02
"""Relative to the largest output: beyond the one FP16 has failed, up to the other it works."""
_BEYOND = ("tiny",)
"""Inputs 2**-20 below the largest value they are calibrated with: no scale of FP16 serves both."""
_MODES: tuple[Mode, ...] = ("default", "cuda", "pessimistic")
_RANGES = ("absmax", "vmin", "vmax", "smallest", "rms_min")


def is_about_range(rule: Rule) -> bool:
    """Whether a guard speaks of ranges or of what FP16 holds; rules about structure have no range obligation."""
    if rule.targets:
        return False
    guards = [*rule.where, *(variant.when for variant in rule.variants if variant.when is not None)]
    return any(
        isinstance(part, Member) or (isinstance(part, Call) and part.function in _RANGES)
        for guard in guards
        for part in walk(guard)
    )


@dataclass(frozen=True, slots=True)
class _Verdict:
    """``error``: of the outputs, relative to the largest. ``spoilt``: an inner value that became Inf or NaN."""

    error: float
    spoilt: str | None


def obligation(trial: Trial, samples: Iterable[Sample]) -> str | None:
    """None where FP16 fails before and works after; else what is missing.

    The first kernel mode in which something fails before decides. Inputs count as FP16 holds them, so their own
    rounding is nobody's fault.
    """
    samples = [_as_fp16(sample) for sample in samples if sample.kind not in _BEYOND]
    try:
        after = _typed(trial, samples)
        true = [trial.sessions[0].run(sample.feeds) for sample in samples]
        for mode in _MODES:
            before = _verdicts(trial, rounded_graph(trial.before, assume_fp16=True, mode=mode), samples, true)
            if any(map(_is_wrong, before)):
                later = _verdicts(trial, rounded_graph(after, mode=mode), samples, true)
                return _after(samples, before, later, mode)
    except (UserError, ValueError) as error:
        return f"the FP16 model cannot be made or run: {error}"
    return NEEDLESS


def _after(samples: list[Sample], before: list[_Verdict], after: list[_Verdict], mode: Mode) -> str | None:
    for sample, earlier, found in zip(samples, before, after, strict=True):
        if _is_wrong(earlier) and not found.error <= _RIGHT:
            return f"outputs are off by {found.error:.2g} in FP16 after the rule ({sample.kind} inputs, mode {mode})"
        if not found.error <= max(_WRONG, 2 * earlier.error):
            return f"FP16 was right without the rule and is off by {found.error:.2g} with it ({sample.kind} inputs)"
    return None


def _is_wrong(verdict: _Verdict) -> bool:
    return verdict.spoilt is not None or not verdict.error <= _WRONG


def _as_fp16(sample: Sample) -> Sample:
    with np.errstate(over="ignore"):
        feeds = {
            name: _rounded(value) if value.dtype == np.float32 else value
            for name, value in sample.feeds.items()
        }
    return Sample(sample.kind, sample.seed, feeds)


def _rounded(value: Array) -> Array:
    """What does not fit FP16 stays: a graph input may come in FP32."""
    half = value.astype(np.float16).astype(np.float32)
    return np.where(np.isfinite(half), half, value)


def _typed(trial: Trial, samples: list[Sample]) -> onnx.ModelProto:
    """The FP16 model after the rule: rewritten, with what it asked of the planner, everything else in FP16.

    The planner gets what the samples show.
    """
    model = Model(trial.after)
    view = build_view(model)
    wished = {
        index: trial.rule.id for request in trial.requests for scope, index in request.fp32_nodes if not scope
    }
    only = {name for request in trial.requests for name in request.rescale_tensors}
    if not only:
        return convert(view.main, frozenset(wished)).model.proto
    data = open_data([dict(sample.feeds) for sample in samples], trial.after)
    table = calibrate(trial.after, data)
    plan = make_plan(view.main, table, margin=1.0, fp32=wished, only=only)
    if plan.is_empty():
        return convert(view.main, frozenset(plan.fp32)).model.proto
    done = rescale(view.main, Facts(view.main, table, 1.0), plan)
    return convert(build_view(done.model).main, done.fp32_nodes, guards=done.raised).model.proto


def _verdicts(
    trial: Trial, graph: onnx.ModelProto, samples: list[Sample], true: list[dict[str, Any]]
) -> list[_Verdict]:
    names = {info.name for info in trial.before.graph.output}
    session, found = everything(graph), []
    for sample, expected in zip(samples, true, strict=True):
        values: dict[str, Any] = session.run(sample.feeds)
        with np.errstate(all="ignore"):
            lost = (name for name, value in expected.items() if name in values and _lost(values[name], value))
            error = max((_error(values[name], expected[name]) for name in names), default=0.0)
            found.append(_Verdict(error, next(lost, None)))
    return found


def _lost(actual: Array, true: Array) -> bool:
    if true.dtype.kind != "f" or actual.shape != true.shape:
        return False
    return bool((np.isfinite(true) & ~np.isfinite(actual)).any())


def _error(actual: Array, true: Array) -> float:
    if true.dtype.kind != "f":
        return float((actual != true).mean()) if true.size else 0.0
    known = np.isfinite(true)
    if not known.any():
        return 0.0
    scale = float(np.abs(true[known]).max())
    error = np.abs(actual.astype(np.float64) - true)[known]
    worst = float(error.max())
    if not np.isfinite(worst):
        return np.inf
    return worst / scale if scale > 2.0**-14 else (0.0 if worst < 2.0**-14 else np.inf)
