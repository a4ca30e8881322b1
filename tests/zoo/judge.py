"""What each model of the zoo must come to: right in FP16, and FP32 only for what costs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

import onnx_fp16fix
from onnx_fp16fix.calibrate import open_data
from onnx_fp16fix.simulate import compare_simulated

__all__ = ["TOLERANCE", "fixed", "fixed_where_plain_fp16_fails"]

TOLERANCE = 1e-2


def fixed(proto: onnx.ModelProto, data: Any) -> onnx_fp16fix.Outcome:
    """``fix``, checked: verified within the tolerance, FP32 bits kept unless a rule was used, no FLOPs in FP32."""
    outcome = onnx_fp16fix.fix(proto, data, tensorrt="off", tolerance=TOLERANCE)
    assert outcome.run.status == "ok", [f.message for f in outcome.findings if f.status == "left"]
    found = outcome.verification
    assert found is not None
    assert found.fp16_sim is not None
    assert found.fp32 is not None
    assert all(output.rel_l2 is not None and output.rel_l2 < TOLERANCE for output in found.fp16_sim.outputs)
    assert found.fp32.identical or any(rule.applied for rule in outcome.run.rules)
    assert outcome.plan is not None
    assert outcome.plan.fp32_flops_share == 0
    return outcome


def fixed_where_plain_fp16_fails(
    proto: onnx.ModelProto, feeds: Sequence[dict[str, np.ndarray]]
) -> onnx_fp16fix.Outcome:
    naive = compare_simulated(proto, proto, open_data(feeds, proto), assume_fp16=True, tensors="outputs")
    assert not naive.output_rel_l2 <= TOLERANCE
    return fixed(proto, feeds)
