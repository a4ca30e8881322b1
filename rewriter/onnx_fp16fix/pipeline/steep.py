"""Softmax of values so large that a 16-bit type cannot tell which of the largest ones is on top."""

from __future__ import annotations

from onnx_fp16fix.calibrate import RangeTable
from onnx_fp16fix.calibrate.ranges import tensor_key
from onnx_fp16fix.document import Finding
from onnx_fp16fix.fp16 import floor_log2
from onnx_fp16fix.graph import ScopeView, in_order
from onnx_fp16fix.half import FloatType
from onnx_fp16fix.pipeline.places import place_of

__all__ = ["steep_findings"]

_STEEP = frozenset({"Softmax", "LogSoftmax"})
_STEP = 16.0
"""Distance of neighbours at the largest value: the upper one takes all, and rounding decides which that is."""


def steep_findings(main: ScopeView, ranges: RangeTable, half: FloatType) -> list[Finding]:
    """One finding per Softmax that chooses among values which the type has wide apart.

    Most samples do not show it: rows whose two largest values are that close are rare, and then come out quite
    different. FP32 for the Softmax does not help, for its values come rounded, and those they are made of. Large
    negative values are masks and do not count.
    """
    findings = []
    for scope, node in in_order(main):
        if node.op not in _STEEP or node.domain:
            continue
        tensor = node.inputs[0]
        owner = scope.owner(tensor.name)
        entry = None if owner is None else ranges.get(tensor_key(owner.path, tensor.name))
        if entry is None or not entry.maximum > 0:
            continue
        step = half.eps * 2.0 ** floor_log2(entry.maximum)
        if step < _STEP:
            continue
        message = (
            f"{node.op} reads values of up to {entry.maximum:.4g}, where {half.label}'s are {step:g} apart: "
            "in rows whose largest values are closer than that, another one may win than in FP32"
        )
        findings.append(
            Finding(
                name=f"{half.name}-steep-softmax",
                kind="precision",
                severity="info",
                status="skipped",
                message=message,
                scope=place_of(scope),
                node=node.label,
                tensor=tensor.name,
                facts={"maximum": entry.maximum, "step": step},
            )
        )
    return findings
