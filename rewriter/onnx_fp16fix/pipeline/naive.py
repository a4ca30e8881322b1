"""Plain FP16 or BF16, as a converter without a plan would make it: simulated next to FP32, and what that shows."""

from __future__ import annotations

from onnx_fp16fix.document import CheckEntry
from onnx_fp16fix.errors import ModelError
from onnx_fp16fix.model import Model
from onnx_fp16fix.pipeline.prepare import Run
from onnx_fp16fix.simulate import Half, SimulationReport, compare_simulated
from onnx_fp16fix.verify import simulation_check

__all__ = ["complete", "simulate_naive"]


def simulate_naive(run: Run, base: Model, half: Half = "fp16") -> SimulationReport | None:
    """Plain FP16 or BF16 against FP32; None, with a warning, where types that simulation needs are not known."""
    try:
        return compare_simulated(
            base.proto,
            base.proto,
            run.dataset,
            before_dir=base.base_dir,
            after_dir=base.base_dir,
            assume_fp16=True,
            mode=run.kernels,
            half=half,
            progress=run.progress,
        )
    except ModelError as error:
        run.warn(f"plain {half.upper()} was not simulated: {error.problems[0].message}")
        return None


def complete(entry: CheckEntry, report: SimulationReport, harmless: frozenset[str]) -> None:
    """Fill in what simulation shows; ``harmless``: tensors whose overflow changes nothing."""
    entry.naive = simulation_check(report)
    wrong = (error.name for error in report.tensors.values() if error.rel_l2 > entry.tolerance)
    entry.first_inaccurate = next(wrong, None)
    nonfinite = {error.name for error in report.tensors.values() if error.nonfinite}
    entry.nonfinite_tensors = len(nonfinite)
    entry.harmless_overflows = len(nonfinite & harmless)
