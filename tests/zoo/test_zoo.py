"""Every cause of FP16 trouble in the zoo, through both PyTorch exporters: right afterwards, and still FP16."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnx_fp16fix
from onnx_fp16fix.calibrate import open_data
from onnx_fp16fix.simulate import compare_simulated

torch = pytest.importorskip("torch")

from torch_export import export as exported  # noqa: E402  needs torch
from zoo.judge import TOLERANCE, fixed  # noqa: E402
from zoo.modules import CASES, Case  # noqa: E402  needs torch


def export(case: Case, dynamo: bool) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    torch.manual_seed(0)
    module, args = case.make()
    proto = exported(module, args, dynamo)
    return proto, {f"x{index}": value.numpy() for index, value in enumerate(args)}


def cases() -> list[object]:
    return [
        pytest.param(case, dynamo, id=f"{case.name}-{'dynamo' if dynamo else 'legacy'}")
        for case in CASES
        for dynamo in (False, True)
        if not (dynamo and case.name == "branch")  # a scripted module is for the legacy exporter
    ]


@pytest.mark.parametrize(("case", "dynamo"), cases())
def test_is_right_in_fp16_and_fp32_is_the_last_resort(case: Case, dynamo: bool) -> None:
    proto, feed = export(case, dynamo)
    naive = compare_simulated(proto, proto, open_data(feed, proto), assume_fp16=True)
    assert case.breaks in (None, naive.output_rel_l2 > TOLERANCE)
    outcome = fixed(proto, feed)
    assert outcome.plan is not None
    by_name = {node.name or node.output[0]: node.op_type for node in proto.graph.node}
    assert {by_name.get(name, name) for name in outcome.plan.fp32_nodes} <= case.fp32


def test_a_safe_model_gets_types_and_border_casts_only() -> None:
    case = next(case for case in CASES if case.name == "transformer-safe")
    proto, feed = export(case, dynamo=False)
    outcome = onnx_fp16fix.fix(proto, feed, tensorrt="off")
    assert outcome.model is not None
    before = [node.op_type for node in proto.graph.node]
    after = [node.op_type for node in outcome.model.graph.node]
    assert after == ["Cast", *before, "Cast"]
    assert not outcome.findings


def test_one_mul_changes_the_scale_of_a_stream_for_all_that_follows() -> None:
    proto, feed = export(next(case for case in CASES if case.name == "growing-stream"), dynamo=False)
    outcome = fixed(proto, feed)
    assert outcome.run.plan is not None
    assert outcome.run.plan.inserted_muls == 1
    assert not outcome.run.plan.fp32_nodes


@pytest.mark.parametrize(
    ("name", "fp32"),
    [
        ("mask-multiplied", set()),
        ("rotary", {"CumSum", "Sub", "Mul", "Cos", "Sin"}),
        ("unet", {"ConvTranspose"}),
        ("transformer-rms-norm", set()),
        ("transformer-safe", set()),
    ],
)
def test_is_right_in_bf16_with_what_needs_more_bits_in_fp32(name: str, fp32: set[str]) -> None:
    proto, feed = export(next(case for case in CASES if case.name == name), dynamo=False)
    proto = onnx.version_converter.convert_version(proto, 22)
    outcome = onnx_fp16fix.fix(proto, feed, precision="bf16", tensorrt="off")
    assert outcome.run.status == "ok"
    assert outcome.plan is not None
    assert outcome.model is not None
    onnx.checker.check_model(outcome.model, full_check=True)
    assert outcome.verification.fp16_sim.type == "bf16"  # type: ignore[union-attr]
    assert all(output.rel_l2 < 2e-2 for output in outcome.verification.fp16_sim.outputs)  # type: ignore[union-attr,operator]
    by_name = {node.name or node.output[0]: node.op_type for node in proto.graph.node}
    assert {by_name[name] for name in outcome.plan.fp32_nodes} == fp32
