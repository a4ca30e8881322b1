"""What ``check`` found in plain FP16."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from onnx_fp16fix.document.section import Section
from onnx_fp16fix.document.verification import SimulationCheck

__all__ = ["CheckEntry", "WeightEntry", "WeightsEntry"]


class WeightEntry(Section):
    """A constant and its first reader (``scope`` is that node's): elements beyond FP16, below 2**-14 (bits are lost),
    below 2**-24 (vanishing); in BF16 below 2**-126 and 2**-133."""

    name: str
    node: str
    scope: str = ""
    elements: int
    absmax: float
    beyond: int = 0
    below_normal: int = 0
    vanishing: int = 0


class WeightsEntry(Section):
    """All float constants of the main graph and the bodies inside; ``worst`` has those that FP16 changes most."""

    constants: int = 0
    elements: int = 0
    beyond: int = 0
    below_normal: int = 0
    vanishing: int = 0
    worst: list[WeightEntry] = Field(default_factory=list)


class CheckEntry(Section):
    """What plain FP16 (every tensor and weight rounded, nothing repaired) does; null ``naive`` was not simulated.

    ``as_type``: what the model was taken as, also for ``weights``. Tensors inside bodies have the keys of
    range tables (``4:body:0::h``).

    ``first_inaccurate`` is the first tensor, in the order of computation, that is further off than ``tolerance``.
    """

    tolerance: float
    as_type: Literal["fp16", "bf16"] = "fp16"
    naive: SimulationCheck | None = None
    first_inaccurate: str | None = None
    nonfinite_tensors: int = 0
    harmless_overflows: int = 0
    weights: WeightsEntry = Field(default_factory=WeightsEntry)
