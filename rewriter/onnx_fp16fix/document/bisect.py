"""What ``bisect`` measured."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from onnx_fp16fix.document.section import Section

__all__ = ["BisectEntry", "BlamedNode"]


class BlamedNode(Section):
    """A node with the error of the outputs, null if not finite, when it alone is in FP16 (``alone``) and when it alone
    is in FP32 (``others``, null too where ``others_measured`` is false). ``kept``: it belongs to the minimal set."""

    node: str
    op: str
    alone: float | None = None
    others: float | None = None
    others_measured: bool = False
    kept: bool = False


class BisectEntry(Section):
    """What a search for the culprits found. Errors are the worst of all outputs, null if not finite.

    ``judge`` is "simulator" or the check command; ``nodes`` counts those that can be FP16; ``ranking`` has the nodes
    that matter, worst first, and ``cleared`` counts the others, which stay below ``negligible`` together with their
    neighbours. ``fp32_nodes`` bring ``error_fp16`` down to ``error``; ``rules`` keeps them, as the text of a rule file.
    """

    judge: str = "simulator"
    tolerance: float
    nodes: int = 0
    error_fp16: float | None = None
    error: float | None = None
    fp32_nodes: list[str] = Field(default_factory=list)
    minimal: bool = False
    ranking: list[BlamedNode] = Field(default_factory=list)
    cleared: int = 0
    negligible: float = 0.0
    trials: int = 0
    recalled: int = 0
    rules: str | None = None
    as_type: Literal["fp16", "bf16"] = "fp16"
