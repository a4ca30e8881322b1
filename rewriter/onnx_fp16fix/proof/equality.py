"""Before against after in numbers: the same bits in FP32, or equal in float64, as the rule's equality class says."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from onnx_fp16fix.errors import ModelError
from onnx_fp16fix.language import Rule
from onnx_fp16fix.proof.inputs import Sample
from onnx_fp16fix.proof.trial import Trial, values_of
from onnx_fp16fix.runtime import Array, Session, open_session
from onnx_fp16fix.wording import counted

__all__ = ["allowed", "compare", "in_double"]

_DECLARED = {"exact": 0.0, "real": 1e-5, "context": 1e-5, "lossy": 1e-2}
_FLOOR = 2.0**-10
"""Part of the largest output of all samples that counts as the scale of a sample whose own output is smaller."""
_ULPS = 2.0**-21


def allowed(rule: Rule) -> float:
    """Difference that the rule declares, relative to the largest output: ``tol``, or what its class stands for."""
    return rule.tol if rule.tol is not None else _DECLARED[rule.equal]


def compare(trial: Trial, samples: Iterable[Sample], *, rounds: bool = False) -> tuple[Sample, str] | None:
    """The first sample on which both models differ by more than allowed, with the difference in words.

    ``exact`` compares bits in FP32; ``rounds`` lets a unit in the last place pass, for spellings whose own op rounds
    otherwise. The other classes are compared in float64 where ONNX Runtime has the ops in it, and in FP32 everywhere.
    """
    limit = max(allowed(trial.rule), _ULPS if rounds else 0.0)
    pairs = [trial.sessions]
    if limit:
        wide = _double(trial)
        pairs += [wide] if wide is not None else []
    samples = list(samples)
    for before, after in pairs:
        try:
            found = _compare(trial, samples, before, after, limit)
        except ModelError as error:
            return samples[0], f"the rewritten model does not run: {error.problems[0].message}"
        if found is not None:
            return found
    return None


def _compare(
    trial: Trial, samples: list[Sample], before: Session, after: Session, limit: float
) -> tuple[Sample, str] | None:
    expected = [values_of(before, trial.before, sample.feeds) for sample in samples]
    scales = _scales(expected)
    for sample, true in zip(samples, expected, strict=True):
        actual = values_of(after, trial.after, sample.feeds)
        for name, values in true.items():
            message = _difference(actual[name], values, limit, scales[name])
            if message is not None:
                return sample, f"'{name}' {message} ({sample.kind} inputs, seed {sample.seed})"
    return None


def _scales(expected: list[dict[str, Array]]) -> dict[str, float]:
    scales: dict[str, float] = {}
    for values in expected:
        for name, value in values.items():
            scales[name] = max(scales.get(name, 0.0), _largest(value))
    return scales


def _largest(values: Array) -> float:
    if values.dtype.kind != "f":
        return 0.0
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max()) if finite.size else 0.0


def _difference(actual: Array, true: Array, limit: float, scale: float) -> str | None:
    """None where they agree; what is not finite before need not agree."""
    if actual.shape != true.shape or actual.dtype != true.dtype:
        return f"is {actual.dtype} {list(actual.shape)} instead of {true.dtype} {list(true.shape)}"
    if true.dtype.kind != "f":
        differing = int((actual != true).sum())
        return f"differs in {differing} of {counted(true.size, 'element')}" if differing else None
    known = np.isfinite(true)
    if not limit:
        wrong = known & (actual != true)
        if not wrong.any():
            return None
        place = np.unravel_index(int(np.argmax(wrong)), true.shape)
        share = f"{int(wrong.sum())} of {counted(true.size, 'element')}"
        return f"has other bits in {share}: {actual[place]!r}, not {true[place]!r}"
    with np.errstate(all="ignore"):
        error = np.where(known, np.abs(actual.astype(np.float64) - true.astype(np.float64)), 0.0)
    worst = float(error.max()) if error.size else 0.0
    unit = max(_largest(true), _FLOOR * scale)
    if np.isfinite(worst) and worst <= limit * unit:
        return None
    relative = worst / unit if unit else np.inf
    return f"is off by {relative:.2g} of its largest value, {limit:.2g} is allowed"


def _double(trial: Trial) -> tuple[Session, Session] | None:
    """Both models with every FP32 tensor as float64, None where ONNX Runtime has no such kernel."""
    try:
        return open_session(in_double(trial.before)), open_session(in_double(trial.after))
    except (ModelError, ValueError):
        return None


def in_double(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with FLOAT inputs, weights, constants and Cast targets as DOUBLE."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    graph = wide.graph
    del graph.value_info[:]
    for info in (*graph.input, *graph.output):
        if info.type.tensor_type.elem_type == TensorProto.FLOAT:
            info.type.tensor_type.elem_type = TensorProto.DOUBLE
    for tensor in graph.initializer:
        _widen(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                _widen(attribute.t)
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
    return wide


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        wide = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
