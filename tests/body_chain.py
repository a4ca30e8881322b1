"""All stages on models with bodies, checked, for several test modules."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from onnx_fp16fix.calibrate import RangeTable, calibrate, open_data
from onnx_fp16fix.emit import Converted, Rescaled, convert, rescale
from onnx_fp16fix.graph import ScopeView, build_view
from onnx_fp16fix.model import infer_types, wrap_model
from onnx_fp16fix.model.model import Model
from onnx_fp16fix.plan import Plan, make_plan
from onnx_fp16fix.plan.known.facts import Facts
from onnx_fp16fix.runtime import open_session
from onnx_fp16fix.simulate import compare_simulated

__all__ = ["FALSE", "RNG", "TRUE", "W", "X", "broken", "chain", "computed", "emitted"]

RNG = np.random.default_rng(5)
X = (RNG.standard_normal((4, 8)) * 3).astype(np.float32)
W = (RNG.standard_normal((8, 8)) / 3).astype(np.float32)
TRUE, FALSE = np.array(True), np.array(False)


def emitted(scope: ScopeView, ranges: RangeTable, plan: Plan) -> tuple[Rescaled, Converted]:
    """Both models of a plan."""
    rescaled = rescale(scope, Facts(scope, ranges), plan)
    return rescaled, convert(
        build_view(rescaled.model).main,
        rescaled.fp32_nodes,
        guards=rescaled.raised,
        bodies=rescaled.bodies,
        half_borders=rescaled.half_borders,
    )


def chain(
    proto: onnx.ModelProto, *feeds: Mapping[str, np.ndarray], error: float = 4e-3
) -> tuple[Plan, Rescaled, Converted]:
    """All stages, checked: FP32 bits kept, valid types, right in simulated FP16."""
    data = open_data(list(feeds), proto)
    scope = build_view(wrap_model(proto)).main
    ranges = calibrate(proto, data)
    plan = make_plan(scope, ranges)
    rescaled, made = emitted(scope, ranges, plan)
    for result in (rescaled.model.proto, made.model.proto):
        onnx.checker.check_model(result, full_check=True)
        onnx.shape_inference.infer_shapes(result, strict_mode=True)
        open_session(result, optimize=True)
        assert (result.graph.input, result.graph.output) == (proto.graph.input, proto.graph.output)
    for feed in feeds:
        expected, actual = (open_session(m).run(dict(feed)) for m in (proto, rescaled.model.proto))
        for name, value in expected.items():
            assert value.tobytes() == actual[name].tobytes(), name
    report = compare_simulated(proto, made.model.proto, data)
    assert report.output_rel_l2 < error
    return plan, rescaled, made


def broken(proto: onnx.ModelProto, *feeds: Mapping[str, np.ndarray]) -> bool:
    """Whether plain FP16 gets the outputs wrong."""
    report = compare_simulated(proto, proto, open_data(list(feeds), proto), assume_fp16=True)
    return not report.output_rel_l2 < 1e-2


def computed(proto: onnx.ModelProto, *ops: str) -> set[int]:
    """Element types that the nodes of these ops make inside bodies; Muls that scale at a border left out."""
    types = infer_types(wrap_model(proto))
    return {
        types.get(scope.path, node.output[0]).elem_type
        for scope in Model(proto).scopes()
        for node in scope.graph.node
        if scope.path and node.op_type in ops and "/fp16fix/" not in node.name
    }
