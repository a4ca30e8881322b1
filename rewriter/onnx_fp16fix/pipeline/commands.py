"""``verify`` and ``calibrate``: runs that change nothing, like ``check`` (``checkup.py``)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from onnx_fp16fix.calibrate import Dataset, RangeTable, Source
from onnx_fp16fix.calibrate.bounds import complete, known_bounds
from onnx_fp16fix.calibrate.inputs import Shape, model_inputs
from onnx_fp16fix.errors import DataError, ModelError, Problem
from onnx_fp16fix.keywords import typed
from onnx_fp16fix.model import Model, load_model
from onnx_fp16fix.outcome import Outcome
from onnx_fp16fix.pipeline.arguments import check_arguments
from onnx_fp16fix.pipeline.nonfinite import measured_nonfinite, nonfinite_text
from onnx_fp16fix.pipeline.prepare import ModelSource, Run
from onnx_fp16fix.progress import Progress, Silent
from onnx_fp16fix.simulate import Half, Mode
from onnx_fp16fix.wording import spelled

if TYPE_CHECKING:
    from onnx_fp16fix.pipeline.repair import TensorRTMode

__all__ = ["calibrate", "verify"]

_SILENT = Silent()


@typed
def verify(
    before: ModelSource,
    after: ModelSource,
    data: Source = None,
    *,
    tolerance: float | None = None,
    samples: int = 4,
    seed: int = 0,
    kernels: Mode = "default",
    as_type: Half | None = None,
    tensorrt: TensorRTMode = "auto",
    progress: Progress = _SILENT,
) -> Outcome:
    """Compare two models in FP32, in simulated FP16 and in TensorRT; status ``rejected`` when they differ.

    ``tolerance``: largest relative L2 error of an output; None is 1e-2, in BF16 8e-2.
    ``kernels``: what GPU kernels are taken to keep in FP16 inside (default, cuda, pessimistic). ``as_type``: take an
    FP32 ``after`` as FP16 or BF16 throughout and judge it as such; without it, it is simulated in FP16 unjudged.
    """
    from onnx_fp16fix.verify import Tolerances, verify_models

    check_arguments(
        tensorrt=tensorrt, tolerance=tolerance, samples=samples, kernels=kernels, as_type=as_type or "fp16"
    )
    run = Run("verify", before, data, progress, samples, seed, kernels=kernels)
    second = load_model(after)
    _check_inputs(run.dataset, second, None if isinstance(after, onnx.ModelProto) else str(after))
    verified = verify_models(
        run.model,
        second,
        run.dataset,
        tolerances=Tolerances(tolerance),
        tensorrt_mode=tensorrt,
        kernels=kernels,
        as_type=as_type,
        progress=progress,
    )
    run.document.verification = entry = verified.entry
    if not verified.judged:
        entry.not_checked.append(
            "fp16: the second model is FP32: its error in FP16 decides nothing, "
            f"{spelled('as_type', 'fp16')} judges it"
        )
    if verified.simulation.incomparable and (found := measured_nonfinite(run, run.model)):
        run.warn(found)
    return run.finish("ok" if verified.entry.passed else "rejected")


def _check_inputs(data: Dataset, model: Model, place: str | None) -> None:
    """Raise ModelError (MODEL-INPUTS) where the second model cannot be fed what the first one is."""
    first = {item.name: item for item in data.inputs}
    problems = []
    for item in model_inputs(model.proto):
        if item.name not in first:
            found, names = (
                f"needs an input '{item.name}', which the first model does not have",
                ", ".join(first),
            )
            hint = f"inputs of the first model: {names or 'none'}"
            problems.append(Problem("MODEL-INPUTS", found, file=place, tensor=item.name, hint=hint))
        elif not _alike(first[item.name].shape, item.shape):
            shapes = f"{_shown(item.shape)}, the first model {_shown(first[item.name].shape)}"
            found = f"has an input '{item.name}' of shape {shapes}"
            problems.append(Problem("MODEL-INPUTS", found, file=place, tensor=item.name))
    if problems:
        raise ModelError(problems)


def _alike(one: Shape, other: Shape) -> bool:
    """Whether one array can have both shapes, as far as their fixed sizes tell."""
    if one is None or other is None:
        return True
    fixed = [(a, b) for a, b in zip(one, other, strict=False) if isinstance(a, int) and isinstance(b, int)]
    return len(one) == len(other) and all(a == b for a, b in fixed)


def _shown(shape: Shape) -> str:
    return f"[{', '.join('?' if dim is None else str(dim) for dim in shape or ())}]"


@typed
def calibrate(
    model: ModelSource,
    data: Source = None,
    *,
    samples: int = 4,
    seed: int = 0,
    histogram: bool = False,
    memory: int | None = None,
    resume: str | Path | None = None,
    interrupted: Callable[[RangeTable], None] | None = None,
    progress: Progress = _SILENT,
) -> RangeTable:
    """Ranges of all float tensors of a model: main graph, bodies, local functions, constants.

    ``data``: see ``calibrate.open_data``. ``histogram``: count exponents too. ``memory``: bytes that tensors may take
    at a time. ``resume``: the file of an earlier run over the first samples of the same data, which are not run again.
    ``interrupted`` gets the table so far when the user interrupts. Without data the ranges of random inputs are
    widened to the bounds known by analysis. Raises DataError, ModelError, and UsageError when ``memory`` is too little.
    """
    from onnx_fp16fix.calibrate import calibrate as measure

    run = Run("calibrate", model, data, progress, samples, seed, resume, lean=True)
    if run.table is not None:
        _check_resumable(run.table, run.dataset, histogram, str(resume))
        histogram = run.table.has_histograms()
    table = measure(
        run.model.proto,
        run.dataset,
        base_dir=run.model.base_dir,
        histogram=histogram,
        constants=True,
        memory=memory,
        resume=run.table,
        interrupted=interrupted,
        progress=progress,
    )
    if (found := nonfinite_text(table, run.model)) is not None:
        run.warn(found)
    if table.random:
        return complete(table, known_bounds(run.model.proto, run.model.base_dir))
    return table


def _check_resumable(table: RangeTable, data: Dataset, histogram: bool, place: str) -> None:
    """Raise DataError (RANGES-RESUME) unless the table can go on with these data."""
    found = None
    if table.source and table.source != data.source:
        found = f"holds samples of {table.source}, not of {data.source}"
    elif histogram and table.samples and not table.has_histograms():
        found = "was begun without a histogram"
    if found is not None:
        hint = "resume with the same data and options, or calibrate anew"
        raise DataError(Problem("RANGES-RESUME", found, file=place, hint=hint))
