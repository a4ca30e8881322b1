"""The four checks and their verdict.

A check that could not run is null with a reason in ``not_checked``; it never counts as passed or failed.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from onnx_fp16fix.calibrate import Dataset
from onnx_fp16fix.document import (
    Fp32Check,
    OutputError,
    SimulationCheck,
    TensorRTCheck,
    VerificationEntry,
    WorstTensor,
)
from onnx_fp16fix.errors import Problem, UsageError
from onnx_fp16fix.half import BF16, FP16, HALF_TYPES, FloatType, Half
from onnx_fp16fix.model import Model, save_model
from onnx_fp16fix.progress import Progress, Silent
from onnx_fp16fix.simulate import (
    Fp32Report,
    Mode,
    SimulationReport,
    compare_fp32,
    compare_simulated,
)
from onnx_fp16fix.verify.backends import onnxruntime, tensorrt
from onnx_fp16fix.verify.backends.tensorrt_apart import build_apart
from onnx_fp16fix.wording import counted, spelled

__all__ = ["Tolerances", "Verified", "simulation_check", "usual_tolerance", "verify_models"]

TensorRTMode = Literal["auto", "off", "require"]
_SILENT = Silent()


@dataclass(frozen=True, slots=True)
class Tolerances:
    """Largest relative L2 error of an output: ``fp16`` of the simulated result, of whichever 16-bit type (None: see
    ``usual_tolerance``), ``fp32`` of the rewritten FP32 model.

    The FP32 default admits what other summation orders do; exact plans come out identical.
    """

    fp16: float | None = None
    fp32: float = 1e-5


def usual_tolerance(half: FloatType) -> float:
    """What an output may be off by where the user says nothing: 1e-2 in FP16, in BF16 as many steps of its own."""
    return 1e-2 * half.eps / FP16.eps


@dataclass(frozen=True, slots=True)
class Verified:
    """The document's entry, and the simulation with every intermediate tensor.

    ``judged``: the error in simulation decided too; that of an FP32 model that nothing takes as FP16 does not.
    """

    entry: VerificationEntry
    simulation: SimulationReport
    judged: bool


@dataclass
class _Verdict:
    not_checked: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def verify_models(
    before: Model,
    after: Model,
    data: Dataset,
    *,
    fp32_after: Model | None = None,
    exponents: Mapping[str, int] | None = None,
    tolerances: Tolerances | None = None,
    tensorrt_mode: TensorRTMode = "auto",
    simulation: SimulationReport | None = None,
    kernels: Mode = "default",
    as_type: Half | None = None,
    half: FloatType | None = None,
    progress: Progress = _SILENT,
) -> Verified:
    """Compare ``after`` with ``before``.

    ``fp32_after`` is the FP32 model that ``after`` was typed from (``after`` itself if it is FP32); ``exponents``
    are the scales of its tensors; ``simulation`` is given where it was run already. An untyped FP32 ``after`` is
    simulated as if all of it ran in FP16, and that error decides nothing: its types are the engine's business.
    ``half``: what ``after`` is typed in, where the caller knows.
    ``as_type`` takes it as that type and judges it. ``kernels``: see ``simulate.kernels``. Raises UsageError when
    TensorRT is required and missing, or when a typed ``after`` is to be taken as another type.
    """
    limits, verdict = tolerances or Tolerances(), _Verdict()
    found = half or _half_of(after)
    typed, half = found is not None, found or HALF_TYPES[as_type or "fp16"]
    if typed and as_type is not None:
        hint = f"its types say what it is; {spelled('as_type')} is for FP32 models"
        raise UsageError(Problem("USAGE-AS", "the second model is FP16 or BF16 already", hint=hint))
    if fp32_after is None and not typed:
        fp32_after = after
    fp32 = _fp32(before, fp32_after, data, limits, verdict, progress) if fp32_after is not None else None
    if fp32 is None:
        verdict.not_checked.append("fp32: the model is typed and its FP32 form is not at hand")
    report = simulation or _simulate(before, after, data, exponents, typed, kernels, half.name, progress)
    judged = typed or as_type is not None
    if judged:
        _judge(report, usual_tolerance(half) if limits.fp16 is None else limits.fp16, verdict)
    ort = onnxruntime.run_once(after, data)
    verdict.failures += ort.failures
    verdict.not_checked += ort.not_checked
    if ort.nonfinite and (lost := _lost_in_kernels(before, data, report, ort.nonfinite)):
        verdict.not_checked.append(
            f"onnxruntime: its FP16 kernels for CPUs make {lost} infinite or NaN; FP32 and the simulation are finite"
        )
    trt = _tensorrt(before, after, data, typed, tensorrt_mode, verdict, progress)
    entry = VerificationEntry(
        fp32=fp32,
        fp16_sim=simulation_check(report, half.name),
        onnxruntime=ort.check,
        tensorrt=trt,
        not_checked=verdict.not_checked,
        failures=verdict.failures,
        passed=not verdict.failures,
    )
    return Verified(entry, report, judged)


def _lost_in_kernels(before: Model, data: Dataset, report: SimulationReport, names: Sequence[str]) -> str:
    """Those of the outputs that are finite in FP32 and in simulation, in words."""
    known = {error.name for error in report.outputs if error.nonfinite}
    known.update(onnxruntime.nonfinite_in_fp32(before, data))
    return ", ".join(f"'{name}'" for name in names if name not in known)


def _half_of(model: Model) -> FloatType | None:
    """The 16-bit type that the model is typed in, the coarser one where it has both; None for an FP32 model."""
    graph = model.proto.graph
    found = {tensor.data_type for tensor in graph.initializer}
    found.update(a.i for n in graph.node if n.op_type == "Cast" for a in n.attribute if a.name == "to")
    found.update(info.type.tensor_type.elem_type for info in graph.input)
    return next((half for half in (BF16, FP16) if half.elem_type in found), None)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _fp32(
    before: Model, after: Model, data: Dataset, limits: Tolerances, verdict: _Verdict, progress: Progress
) -> Fp32Check:
    if after is before:
        return Fp32Check(max_abs=0.0, max_rel=0.0, rel_l2=0.0, identical=True)
    report: Fp32Report = compare_fp32(
        before.proto,
        after.proto,
        data,
        before_dir=before.base_dir,
        after_dir=after.base_dir,
        progress=progress,
    )
    if not report.identical and not report.rel_l2 <= limits.fp32:
        verdict.failures.append(
            f"FP32 outputs differ: relative L2 error {report.rel_l2:.3g} (limit {limits.fp32:.3g})"
        )
    return Fp32Check(
        max_abs=_finite(report.max_abs),
        max_rel=_finite(report.max_rel),
        rel_l2=_finite(report.rel_l2),
        identical=report.identical,
    )


def _simulate(
    before: Model,
    after: Model,
    data: Dataset,
    exponents: Mapping[str, int] | None,
    typed: bool,
    kernels: Mode,
    half: Half,
    progress: Progress,
) -> SimulationReport:
    """Without the exponents of a typed model its intermediate tensors cannot be compared: they may be scaled."""
    return compare_simulated(
        before.proto,
        after.proto,
        data,
        before_dir=before.base_dir,
        after_dir=after.base_dir,
        exponents=exponents,
        assume_fp16=not typed,
        mode=kernels,
        half=half,
        tensors="outputs" if typed and exponents is None else "all",
        progress=progress,
    )


def _judge(report: SimulationReport, limit: float, verdict: _Verdict) -> None:
    some = any(error.name not in report.incomparable for error in report.outputs)
    for error in report.outputs:
        if error.name in report.incomparable and some and not error.nonfinite:
            verdict.not_checked.append(
                f"fp16: output '{error.name}' has no finite value in FP32 already, and the same ones in simulation"
            )
            continue
        if error.name in report.incomparable:
            found = "has no finite value in FP32 already: nothing could be compared"
        elif error.nonfinite:
            found = f"has {counted(error.nonfinite, 'non-finite value')} in simulation"
        elif not error.rel_l2 <= limit:
            found = f"has a relative L2 error of {error.rel_l2:.3g} in simulation (limit {limit:.3g})"
        else:
            continue
        verdict.failures.append(f"output '{error.name}' {found}")


def simulation_check(report: SimulationReport, half: Half = "fp16") -> SimulationCheck:
    """The document's section about a simulation; numbers that are not finite become null."""
    worst = report.worst
    return SimulationCheck(
        type=half,
        outputs=[
            OutputError(
                name=e.name, rel_l2=_finite(e.rel_l2), max_abs=_finite(e.max_abs), nonfinite=e.nonfinite
            )
            for e in report.outputs
        ],
        worst_tensor=None
        if worst is None
        else WorstTensor(name=worst.name, rel_l2=_finite(worst.rel_l2), nonfinite=worst.nonfinite),
        first_nonfinite=report.first_nonfinite,
    )


def _tensorrt(
    before: Model,
    after: Model,
    data: Dataset,
    typed: bool,
    mode: TensorRTMode,
    verdict: _Verdict,
    progress: Progress,
) -> TensorRTCheck | None:
    if mode == "off":
        verdict.not_checked.append("tensorrt: switched off")
        return None
    shapes = {name: value.shape for name, value in next(iter(data)).items()}
    with progress.step("TensorRT build"):
        missing = tensorrt.why_not_available()  # asked first: building begins by writing the model
        report = None if missing else _build(after, typed, shapes)
        if report is None:
            reason = missing or "not available"
            if mode == "require":
                hint = "pip install wheel setuptools && pip install tensorrt-rtx"
                raise UsageError(Problem("TENSORRT-MISSING", f"TensorRT is required: {reason}", hint=hint))
            verdict.not_checked.append(f"tensorrt: {reason}")
            return None
        if not report.built:
            # what TensorRT refuses of the original model as well is no fault of the repair
            original = _build(before, False, shapes)
            message = f"TensorRT cannot build the result: {'; '.join(report.errors[:2])}"
            if mode == "require" or (original is not None and original.built):
                verdict.failures.append(message)
            else:
                verdict.not_checked.append(f"{message} (nor the original model)")
    return TensorRTCheck(
        package=report.package,
        version=report.version,
        parsed=report.parsed,
        built=report.built,
        half_layer_share=report.half_layer_share,
        layers=report.layers,
        warnings=list(report.warnings),
        errors=list(report.errors),
    )


def _build(
    model: Model, typed: bool, shapes: Mapping[str, tuple[int, ...]]
) -> tensorrt.TensorRTReport | None:
    # through a file: TensorRT finds external weights beside it, and 2 GiB are no limit
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        save_model(model, path)
        return build_apart(path, typed=typed, shapes=shapes)
