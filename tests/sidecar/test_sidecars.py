"""What engines are told beside an FP32 model: the right layers, in a form that they read."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

import onnx_fp16fix
from onnx_fp16fix import cli
from onnx_fp16fix.calibrate import open_data
from onnx_fp16fix.model import wrap_model
from onnx_fp16fix.sidecar import named_layers, sidecar_texts
from onnx_fp16fix.simulate import compare_simulated
from onnx_text import model

X = np.linspace(-3, 3, 32, dtype=np.float32).reshape(4, 8)
BURSTING = """(float[4,8] x) => (float[4,8] y) {
    [grow] h = Mul(x, ten) [burst] e = Exp(h) d = Add(e, seven) [back] l = Log(d) [end] y = Sigmoid(l)
}"""


def bursting() -> onnx.ModelProto:
    """Exp(30) is beyond FP16: it, the unnamed Add and Log stay in FP32; no rule knows Log(e^h + 7)."""
    return model(BURSTING, {"ten": np.float32(10), "seven": np.float32(7)})


def fixed() -> onnx_fp16fix.Outcome:
    return onnx_fp16fix.fix(bursting(), {"x": X}, tensorrt="off", precision="fp32")


def test_unnamed_and_unreadable_nodes_get_names() -> None:
    proto = bursting()
    proto.graph.node[1].name = "burst, at: last*"
    proto.graph.node[3].name = "grow"  # a second one of that name
    named, layers = named_layers(wrap_model(proto), {0, 1, 2, 3})
    names = [node.name for node in named.proto.graph.node]
    assert [layer.name for layer in layers] == names[:4]
    assert len(set(names)) == len(names)
    assert not any(set(",:* ") & set(name) for name in names[:4])
    assert proto.graph.node[1].name == "burst, at: last*"
    assert [layer.floats for layer in layers] == [(0,)] * 4


def test_readable_names_are_kept() -> None:
    given = wrap_model(bursting())
    named, (layer,) = named_layers(given, {1})
    assert (named, layer.name, layer.op) == (given, "burst", "Exp")


def test_trtexec_is_told_what_to_keep() -> None:
    outcome = fixed()
    assert outcome.plan is not None
    assert outcome.model is not None
    arguments = dict(
        part.partition("=")[::2] for part in shlex.split(outcome.sidecars[".trtexec.txt"].strip())
    )
    assert set(arguments) == {"--fp16", "--precisionConstraints", "--layerPrecisions", "--layerOutputTypes"}
    assert arguments["--precisionConstraints"] == "obey"
    pairs = [entry.rsplit(":", 1) for entry in arguments["--layerPrecisions"].split(",")]
    assert {kind for _, kind in pairs} == {"fp32"}
    by_name = {node.name: node.op_type for node in outcome.model.graph.node}
    assert {by_name[name] for name, _ in pairs} >= {"Exp", "Add", "Log"}
    assert len(pairs) >= len(outcome.plan.fp32_nodes)
    assert arguments["--layerOutputTypes"] == arguments["--layerPrecisions"]


def test_the_model_is_judged_as_what_the_sidecars_make_of_it() -> None:
    outcome = fixed()
    assert outcome.run.exit_code == 0
    assert outcome.verification is not None
    assert outcome.verification.fp16_sim is not None
    (error,) = outcome.verification.fp16_sim.outputs
    assert error.rel_l2 is not None
    assert error.rel_l2 < 1e-2


VARIANCE = """(float[4,8] x) => (float[4,1] y) {
    [move] b = Add(x, far) [square] q = Mul(b, b) [m2] m = ReduceMean<axes = [1]>(q)
    [m1] n = ReduceMean<axes = [1]>(b) [other] o = Mul(n, n) [cancel] y = Sub(m, o)
}"""


def test_what_loses_accuracy_is_named_too(tmp_path: Path) -> None:
    """No range tells of it: simulation does."""
    proto = model(VARIANCE, {"far": np.float32(200)})
    typed = onnx_fp16fix.fix(proto, {"x": X}, tensorrt="off")
    outcome = onnx_fp16fix.fix(proto, {"x": X}, tensorrt="off", precision="fp32")
    assert typed.plan is not None
    assert outcome.plan is not None
    assert "cancel" in typed.plan.fp32_nodes
    assert outcome.plan.fp32_nodes == typed.plan.fp32_nodes
    assert set(json.loads(outcome.sidecars[".float16.json"])["node_block_list"]) >= {"cancel"}
    lock = tmp_path / "lock.yaml"
    lock.write_text(outcome.lock(), encoding="utf-8")
    again = onnx_fp16fix.apply(proto, lock, {"x": X}, tensorrt="off")
    assert again.run.status == outcome.run.status == "ok"
    assert again.sidecars == outcome.sidecars


def test_outputs_of_several_types() -> None:
    text = "(float[4,8] x) => (float[4,2] v, int64[4,2] i, float[4,4] a, float[4,4] b) {"
    proto = model(text + " [top] v, i = TopK(x, two) [split] a, b = Split<axis = 1>(x) }")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2]), "two"))
    _, layers = named_layers(wrap_model(proto), {0, 1})
    assert [layer.floats for layer in layers] == [(0,), (0, 1)]
    assert "split:fp32+fp32" in sidecar_texts(layers)[".trtexec.txt"]


class Layer:
    """A layer of TensorRT 10 with the names and types that a real parser gave."""

    def __init__(self, real: object, float32: object) -> None:
        self._real, self.set, self.precision, self.float32 = real, [], None, float32

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)

    def set_output_type(self, index: int, dtype: object) -> None:
        assert dtype == self.float32
        self.set.append(index)


def test_the_polygraphy_script_finds_the_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    outcome = fixed()
    assert outcome.model is not None
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    real = builder.create_network(0)
    parser = trt.OnnxParser(real, logger)
    assert parser.parse(outcome.model.SerializeToString())
    layers = [Layer(real.get_layer(i), trt.float32) for i in range(real.num_layers)]
    network = SimpleNamespace(num_layers=len(layers), get_layer=layers.__getitem__)
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    script: dict[str, object] = {}
    exec(outcome.sidecars[".polygraphy.py"], script)
    script["postprocess"](network)  # type: ignore[operator]
    kept = {layer.name for layer in layers if layer.precision == trt.float32}
    assert kept == {layer.name for layer in layers if layer.set == [0]}
    wanted = set(json.loads(outcome.sidecars[".float16.json"])["node_block_list"])
    assert kept >= wanted
    assert {"grow", "end"}.isdisjoint(kept) or {"grow", "end"} & wanted


def test_the_script_says_what_it_did_not_find(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(float32=1, float16=2))
    script: dict[str, object] = {}
    exec(fixed().sidecars[".polygraphy.py"], script)
    script["postprocess"](SimpleNamespace(num_layers=0))  # type: ignore[operator]
    assert "burst" in capsys.readouterr().out


def test_a_converter_with_the_block_list_gives_a_right_model() -> None:
    converter = pytest.importorskip("onnxruntime.transformers.onnx_model")
    outcome = fixed()
    assert outcome.model is not None
    arguments = json.loads(outcome.sidecars[".float16.json"])
    held = converter.OnnxModel(onnx.ModelProto.FromString(outcome.model.SerializeToString()))
    held.convert_float_to_float16(**arguments)
    report = compare_simulated(bursting(), held.model, open_data({"x": X}, bursting()))
    assert report.output_rel_l2 < 1e-2
    held = converter.OnnxModel(bursting())
    held.convert_float_to_float16(keep_io_types=True)
    naive = compare_simulated(bursting(), held.model, open_data({"x": X}, bursting()))
    assert naive.first_nonfinite is not None


def test_a_model_without_fp32_nodes() -> None:
    proto = model("(float[4,8] x) => (float[4,8] y) { y = Relu(x) }")
    outcome = onnx_fp16fix.fix(proto, {"x": X}, tensorrt="off", precision="fp32")
    assert outcome.sidecars[".trtexec.txt"] == "--fp16\n"
    assert outcome.model == proto
    assert not onnx_fp16fix.fix(proto, {"x": X}, tensorrt="off").sidecars


@pytest.mark.parametrize("folder", [None, "cars"])
def test_the_command_writes_them(
    folder: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(bursting(), tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=X)
    arguments = ["fix", str(tmp_path / "m.onnx"), "--data", str(tmp_path / "d.npz"), "--precision", "fp32"]
    where = [] if folder is None else ["--sidecar", str(tmp_path / folder)]
    out = tmp_path / "out.onnx"
    assert cli.main([*arguments, *where, "-o", str(out), "--json", "--quiet", "--tensorrt", "off"]) == 0
    written = [Path(name) for name in json.loads(capsys.readouterr().out)["output"]["sidecars"]]
    assert [path.name for path in written] == [
        "out.onnx.trtexec.txt", "out.onnx.polygraphy.py", "out.onnx.float16.json",
    ]  # fmt: skip
    assert {path.parent for path in written} == {tmp_path / (folder or "")}
    names = {node.name for node in onnx.load(out).graph.node}
    assert set(json.loads(written[2].read_text())["node_block_list"]) <= names
