"""Sessions: weights in memory, beside the model, and errors in one line."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from calibrate.small_models import long_chain, model
from onnx_fp16fix.errors import ModelError
from onnx_fp16fix.runtime import open_session
from onnx_fp16fix.runtime.failure import failure

WEIGHTS = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)


def with_weights():
    proto = model("g (float[n,64] x) => (float[n,64] y) <float[1] w = {0}> { h = MatMul(x, w)  y = Relu(h) }")
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(WEIGHTS, "w"))
    return proto


@pytest.mark.parametrize("optimize", [False, True])
def test_weights_in_memory(optimize):
    session = open_session(with_weights(), optimize=optimize, outputs=["h", "y"])
    values = session.run({"x": np.eye(64, dtype=np.float32)})
    np.testing.assert_array_equal(values["h"], WEIGHTS)
    np.testing.assert_array_equal(values["y"], np.maximum(WEIGHTS, 0))


def test_external_weights_stay_beside_the_model(tmp_path):
    proto = with_weights()
    onnx.save_model(
        proto, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    light = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    values = open_session(light, tmp_path).run({"x": np.eye(64, dtype=np.float32)})
    np.testing.assert_array_equal(values["y"], np.maximum(WEIGHTS, 0))


def test_only_what_the_outputs_need_is_run():
    proto = model("g (float[2] x, float[3] z) => (float[n] y) { h = Neg(x)  y = Add(h, z) }")
    assert (
        open_session(proto, outputs=["h"]).run({"x": np.ones(2, np.float32), "z": np.ones(3, np.float32)})[
            "h"
        ]
        == -1
    ).all()


def test_inputs_that_initializers_fill_take_what_a_feed_has():
    proto = model("g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}> { y = Mul(x, w) }")
    session, x = open_session(proto), np.ones(2, np.float32)
    assert list(session.inputs) == ["x"]
    assert session.run({"x": x})["y"].tolist() == [1, 2]
    assert session.run({"x": x, "w": 5 * x})["y"].tolist() == [5, 5]


def test_names_that_bodies_take_from_outside_are_kept():
    proto = model("""g (bool c, float[1] x) => (float[1] y) { h = Neg(x)
        y = If (c) <then_branch = t () => (float[1] a) { a = Neg(h) },
                    else_branch = e () => (float[1] b) { b = Abs(h) }> }""")
    values = open_session(proto, outputs=["y"]).run({"c": np.array(True), "x": np.ones(1, np.float32)})
    assert values["y"] == [1.0]


def test_errors_are_one_line_with_the_node(capfd):
    with pytest.raises(ModelError) as caught:
        open_session(model("g (float[2] x) => (float[2] y) { y = Nonsense(x) }"))
    (problem,) = caught.value.problems
    assert problem.code == "MODEL-LOAD"
    assert "Nonsense" in problem.message
    proto = model("g (float[n] x, float[m] z) => (float[k] y) { [adder] y = Add(x, z) }")
    with pytest.raises(ModelError) as caught:
        open_session(proto).run({"x": np.ones(2, np.float32), "z": np.ones(3, np.float32)})
    (problem,) = caught.value.problems
    assert (problem.code, problem.node) == ("MODEL-RUN", "adder")
    assert "\n" not in problem.message
    assert capfd.readouterr() == ("", "")


def test_the_module_loads_without_onnx_runtime():
    modules = "onnx_fp16fix.runtime, onnx_fp16fix.calibrate, onnx_fp16fix.simulate"
    paths = [path for path in sys.path if path]
    code = f"import sys; sys.path[:0] = {paths!r}; import {modules}; print('onnxruntime' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"


def test_a_long_chain_runs():
    proto = long_chain(100)
    assert open_session(proto).run({"x": np.ones((2, 8), np.float32)})["t99"].shape == (2, 8)


@pytest.mark.parametrize("outputs", [["h"], None])
def test_weights_that_nothing_reads_do_no_harm(outputs):
    proto = with_weights()
    proto.graph.initializer.append(numpy_helper.from_array(WEIGHTS, "unused"))
    proto.graph.output[0].name = "h"
    values = open_session(proto, outputs=outputs).run({"x": np.eye(64, dtype=np.float32)})
    np.testing.assert_array_equal(values["h"], WEIGHTS)


def test_weights_that_are_graph_inputs_may_be_left_out():
    proto = with_weights()
    proto.graph.input.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [64, 64]))
    session = open_session(proto, outputs=["h"])
    np.testing.assert_array_equal(session.run({"x": np.eye(64, dtype=np.float32)})["h"], WEIGHTS)


def test_a_failure_of_onnx_runtime_is_told_without_its_cpp() -> None:
    said = (
        "[ONNXRuntimeError] : 1 : FAIL : Exception: /src/onnxruntime/core/state.cc:99 onnxruntime::common::Status "
        "onnxruntime::state::Save(const onnxruntime::Env&, const std::function<int(long)>&, int) const it (x) is bad"
    )
    (problem,) = failure("MODEL-LOAD", "no", RuntimeError(said)).problems
    assert problem.message == "no: Exception: state.cc: it (x) is bad"
