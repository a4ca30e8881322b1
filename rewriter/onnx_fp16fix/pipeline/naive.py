"""Plain FP16 or BF16, as a converter without a plan would make it: simulated next to FP32, and what that shows."""

from __future__ import annotations

from onnx_fp16fix.document import CheckEntry
from onnx_fp16fix.errors import ModelError
from onnx_fp16fix.model import Model
from onnx_fp16fix.pipeline.prepare import Run
from onnx_fp16fix.simulate import SimulationReport, compare_simulated
from onnx_fp16fix.verify import simulation_check

__all__ = ["complete", "simulate_naive"]


def simulate_naive(run: Run, base: Model, entry: CheckEntry) -> SimulationReport | None:
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
            half=entry.as_type,
            threshold=entry.tolerance,
            progress=run.progress,
        )
    except ModelError as error:
        run.warn(f"plain {entry.as_type.upper()} was not simulated: {error.problems[0].message}")
        return None


def complete(entry: CheckEntry, report: SimulationReport, harmless: frozenset[str]) -> None:
    """Fill in what simulation shows; ``harmless``: tensors whose overflow changes nothing."""
    entry.naive = simulation_check(report, entry.as_type)
    entry.first_inaccurate = report.first_lossy
    nonfinite = {error.name for error in report.tensors.values() if error.nonfinite}
    entry.nonfinite_tensors = len(nonfinite)
    entry.harmless_overflows = len(nonfinite & harmless)
