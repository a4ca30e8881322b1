"""What users may switch: how much FP16 kernels keep inside, and which half type an FP32 model is taken for."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnx_fp16fix


def _model(nodes, weights, shape):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(
        nodes, "g", [x], [y], [numpy_helper.from_array(v, k) for k, v in weights.items()]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def cancelling():
    """Partial sums of 64 * 40000 that cancel: right with FP32 accumulation, infinite without."""
    signs = np.concatenate([np.ones(64), -np.ones(64)]).astype(np.float32)[:, None]
    model = _model([helper.make_node("MatMul", ["x", "w"], ["y"], name="mm")], {"w": signs}, [1, 128])
    return model, {"x": np.full((1, 128), 40000.0, np.float32)}


def test_kernels_decide_whether_partial_sums_count(cancelling):
    model, feed = cancelling
    assert onnx_fp16fix.check(model, feed).run.check.naive.first_nonfinite is None
    assert onnx_fp16fix.check(model, feed, kernels="pessimistic").run.check.naive.first_nonfinite == "y"


def test_verify_takes_kernels(cancelling):
    model, feed = cancelling
    right = onnx_fp16fix.verify(model, model, feed, as_type="fp16", tensorrt="off")
    wrong = onnx_fp16fix.verify(model, model, feed, as_type="fp16", kernels="pessimistic", tensorrt="off")
    assert (right.run.status, wrong.run.status) == ("ok", "rejected")


def test_bisect_and_apply_take_kernels(cancelling, tmp_path):
    model, feed = cancelling
    assert onnx_fp16fix.bisect(model, feed).run.bisect.fp32_nodes == []
    found = onnx_fp16fix.bisect(model, feed, kernels="pessimistic").run.bisect
    assert (found.fp32_nodes, found.error_fp16, found.error) == (["mm"], np.inf, 0.0)
    rules = tmp_path / "keep.yaml"
    rules.write_text(found.rules.replace('"mm"', '"plus"'))
    model.graph.node[0].output[0] = "product"
    model.graph.node.append(helper.make_node("Relu", ["product"], ["y"], name="plus"))
    options = {"precision": "fp16", "tensorrt": "off"}
    right = onnx_fp16fix.apply(model, rules, feed, **options)
    wrong = onnx_fp16fix.apply(model, rules, feed, kernels="pessimistic", **options)
    assert (right.run.status, wrong.run.status) == ("ok", "rejected")


def test_bf16_keeps_range_and_loses_bits():
    weights = {"big": np.full(4, 1e6, np.float32), "small": np.full(4, 1e-6, np.float32)}
    nodes = [helper.make_node("Mul", ["x", "big"], ["h"]), helper.make_node("Mul", ["h", "small"], ["y"])]
    model, feed = _model(nodes, weights, [4]), {"x": np.array([1.003, 1.2, 1.7, 1.9], np.float32)}
    as_fp16 = onnx_fp16fix.verify(model, model, feed, as_type="fp16", tensorrt="off")
    as_bf16 = onnx_fp16fix.verify(model, model, feed, as_type="bf16", tensorrt="off")
    assert as_fp16.run.verification.fp16_sim.outputs[0].nonfinite == 4
    assert 1e-4 < as_bf16.run.verification.fp16_sim.outputs[0].rel_l2 < 1e-2
    assert (as_fp16.run.status, as_bf16.run.status) == ("rejected", "ok")


def test_bf16_constants_are_rounded_to_bf16():
    model = _model([helper.make_node("Add", ["x", "c"], ["y"])], {"c": np.array([1.003], np.float32)}, [1])
    run = onnx_fp16fix.verify(
        model, model, {"x": np.zeros(1, np.float32)}, as_type="bf16", tensorrt="off"
    ).run
    assert run.verification.fp16_sim.outputs[0].max_abs == pytest.approx(0.003, rel=1e-3)


def test_check_takes_a_model_as_bf16():
    weights = {"c": np.array([1e6], np.float32)}
    nodes = [
        helper.make_node("Add", ["x", "c"], ["h"]),
        helper.make_node("Sub", ["h", "c"], ["s"]),
        helper.make_node("Tanh", ["s"], ["y"]),
    ]
    model, feed = _model(nodes, weights, [1]), {"x": np.array([1.0], np.float32)}
    kinds = {}
    for as_type in ("fp16", "bf16"):
        run = onnx_fp16fix.check(model, feed, as_type=as_type).run
        assert run.check.as_type == as_type
        kinds[as_type] = {(finding.name, finding.tensor) for finding in run.findings}
    # 1e6 is a number in BF16, 1e6 + 1 is not
    assert ("fp16-overflow", "h") in kinds["fp16"]
    assert kinds["bf16"] == {("bf16-output", "y"), ("bf16-precision", "s")}
    assert onnx_fp16fix.check(model, feed, as_type="bf16").run.check.tolerance == pytest.approx(0.08)


def test_a_typed_model_is_what_it_is(cancelling):
    model, feed = cancelling
    typed = onnx_fp16fix.fix(model, feed, tensorrt="off").model
    with pytest.raises(onnx_fp16fix.UsageError, match="USAGE-AS"):
        onnx_fp16fix.verify(model, typed, feed, as_type="bf16", tensorrt="off")


def test_an_unknown_mode_is_refused(cancelling):
    model, feed = cancelling
    with pytest.raises(onnx_fp16fix.UsageError, match="kernels"):
        onnx_fp16fix.check(model, feed, kernels="worst")
