"""Reading a model whose weights stay in the file."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnx_fp16fix
from onnx_fp16fix.model import load_model
from onnx_fp16fix.model.lean import read_lean
from onnx_fp16fix.model.tensors import is_external, read_tensor
from onnx_fp16fix.runtime import open_session


@pytest.fixture
def path(tmp_path):
    """A heavy weight at an odd offset, a heavy index table, a light weight, a metadata entry after the graph."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Gather", ["h", "order"], ["g"], axis=1),
        helper.make_node("Add", ["g", "bias"], ["y"]),
    ]
    weights = [
        numpy_helper.from_array(rng.standard_normal((8, 600)).astype(np.float32), "w"),
        numpy_helper.from_array(np.arange(600)[::-1].copy(), "order"),
        numpy_helper.from_array(np.full(600, 3.0, np.float32), "bias"),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, s]) for n, s in (("x", 8), ("y", 600)))
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], weights),
        ir_version=8,
        opset_imports=[helper.make_opsetid("", 17)],
    )
    model.metadata_props.add(key="who", value="test")
    file = tmp_path / "model.onnx"
    onnx.save(model, file)
    return file


def test_nothing_but_the_place_of_heavy_weights_differs(path):
    full, lean = onnx.load(path), read_lean(path)
    assert [is_external(tensor) for tensor in lean.graph.initializer] == [True, True, False]
    for tensor, stored in zip(full.graph.initializer, lean.graph.initializer, strict=True):
        np.testing.assert_array_equal(read_tensor(stored, path.parent), numpy_helper.to_array(tensor))
        stored.CopyFrom(tensor)
    assert lean == full


def test_calibration_from_the_file_and_from_memory_agree(path):
    feed = {"x": np.random.default_rng(1).standard_normal((2, 8)).astype(np.float32)}
    from_file = onnx_fp16fix.calibrate(path, feed)
    from_memory = onnx_fp16fix.calibrate(onnx.load(path), feed)
    assert from_file.tensors == from_memory.tensors
    assert from_file.constants == from_memory.constants


def test_a_link_is_read_lean_too_and_runs(path, tmp_path):
    link = tmp_path / "other" / "link.onnx"
    link.parent.mkdir()
    link.symlink_to(path)
    model = load_model(link, lean=True)
    assert any(map(is_external, model.proto.graph.initializer))
    feed = {"x": np.ones((2, 8), np.float32)}
    linked, itself = (open_session(m.proto, m.base_dir).run(feed) for m in (model, load_model(path)))
    assert all(np.array_equal(linked[name], itself[name]) for name in itself)


@pytest.mark.parametrize("cut", [1, 100, 5000])
def test_what_is_cut_off_gets_the_usual_message(path, cut):
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(onnx_fp16fix.ModelError) as whole:
        load_model(path)
    with pytest.raises(onnx_fp16fix.ModelError) as lean:
        load_model(path, lean=True)
    assert [p.code for p in lean.value.problems] == [p.code for p in whole.value.problems]
