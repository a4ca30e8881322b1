"""What verification found: one section per check."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from onnx_fp16fix.document.section import Section

__all__ = [
    "Fp32Check",
    "OrtCheck",
    "OutputError",
    "SimulationCheck",
    "TensorRTCheck",
    "VerificationEntry",
    "WorstTensor",
]


class Fp32Check(Section):
    """The rewritten FP32 model against the original, worst over outputs and samples; ``rel_l2`` is what is judged."""

    max_abs: float | None
    max_rel: float | None
    rel_l2: float | None = None
    identical: bool


class OutputError(Section):
    """One graph output in simulated FP16 against FP32, worst over samples; ``rel_l2`` is ||a - b|| / ||b||."""

    name: str
    rel_l2: float | None
    max_abs: float | None
    nonfinite: int = 0


class WorstTensor(Section):
    name: str
    rel_l2: float | None
    nonfinite: int = 0


class SimulationCheck(Section):
    """The result in simulation of its 16-bit type, ``type``, whichever that is."""

    type: Literal["fp16", "bf16"] = "fp16"
    outputs: list[OutputError] = Field(default_factory=list)
    worst_tensor: WorstTensor | None = None
    first_nonfinite: str | None = None


class OrtCheck(Section):
    """Whether ONNX Runtime loads and runs the file; ``message`` is its own when it does not."""

    provider: str
    loads: bool
    runs: bool | None = None
    message: str | None = None


class TensorRTCheck(Section):
    """TensorRT's verdict; ``half_layer_share`` counts layers with float outputs (null: there is none)."""

    package: str
    version: str
    parsed: bool
    built: bool
    half_layer_share: float | None = None
    layers: int = 0
    warnings: list[str] = Field(default_factory=list)
    errors: list[str] = Field(default_factory=list)


class VerificationEntry(Section):
    """The checks that ran; a null check did not, and ``not_checked`` says why. Null never means passed."""

    fp32: Fp32Check | None = None
    fp16_sim: SimulationCheck | None = None
    onnxruntime: OrtCheck | None = None
    tensorrt: TensorRTCheck | None = None
    not_checked: list[str] = Field(default_factory=list)
    failures: list[str] = Field(default_factory=list)
    passed: bool
