"""Trouble inside loops, branches, scans and local functions, as exporters write them: right afterwards, and FP16."""

from __future__ import annotations

import contextlib
import io
import warnings

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import onnx_fp16fix
from onnx_fp16fix.calibrate import open_data
from onnx_fp16fix.model import infer_types, wrap_model
from onnx_fp16fix.model.model import Model
from onnx_fp16fix.simulate import compare_simulated

torch = pytest.importorskip("torch")

from zoo.control import CASES, ControlCase  # noqa: E402  needs torch

TOLERANCE = 1e-2


def export(case: ControlCase) -> tuple[onnx.ModelProto, list[dict[str, np.ndarray]]]:
    torch.manual_seed(0)
    module, samples = case.make()
    module.eval()
    names = [f"x{index}" for index in range(len(samples[0]))]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        if case.dynamo:
            proto = torch.onnx.export(
                module, samples[0], input_names=names, opset_version=18, dynamo=True, verbose=False
            ).model_proto
        else:
            stream = io.BytesIO()
            torch.onnx.export(module, samples[0], stream, input_names=names, opset_version=17, dynamo=False)
            proto = onnx.load_model_from_string(stream.getvalue())
    return proto, [
        {name: value.numpy() for name, value in zip(names, sample, strict=True)} for sample in samples
    ]


def types_inside(proto: onnx.ModelProto) -> set[int]:
    """Float types that nodes of bodies make."""
    types = infer_types(wrap_model(proto))
    made = {
        types.get(scope.path, name).elem_type
        for scope in Model(proto).scopes()
        if scope.path
        for node in scope.graph.node
        for name in node.output
    }
    return made & {TensorProto.FLOAT, TensorProto.FLOAT16}


def check(outcome: onnx_fp16fix.Outcome) -> None:
    assert outcome.run.status == "ok", [f.message for f in outcome.findings if f.status == "left"]
    found = outcome.verification
    assert found is not None
    assert found.fp16_sim is not None
    assert found.fp32 is not None
    assert all(output.rel_l2 is not None and output.rel_l2 < TOLERANCE for output in found.fp16_sim.outputs)
    assert found.fp32.identical or any(rule.applied for rule in outcome.run.rules)
    assert outcome.plan is not None
    assert outcome.plan.fp32_flops_share == 0


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_is_right_in_fp16_inside_and_outside(case: ControlCase) -> None:
    proto, feeds = export(case)
    naive = compare_simulated(proto, proto, open_data(feeds, proto), assume_fp16=True, tensors="outputs")
    assert not naive.output_rel_l2 <= TOLERANCE
    outcome = onnx_fp16fix.fix(proto, feeds, tensorrt="off", tolerance=TOLERANCE)
    check(outcome)
    assert outcome.model is not None
    assert outcome.plan is not None
    assert outcome.plan.fp32_nodes == []
    assert types_inside(outcome.model) == {TensorProto.FLOAT16}
