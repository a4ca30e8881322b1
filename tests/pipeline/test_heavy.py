"""Heavy models: weights are made block by block and read from files, and the results are what memory would give."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnx_fp16fix
from onnx_fp16fix.calibrate import open_data
from onnx_fp16fix.emit import weights
from onnx_fp16fix.model import load_model, save_model, spool, wrap_model
from onnx_fp16fix.model.tensors import OWN_FILES
from onnx_fp16fix.pipeline import floor
from onnx_fp16fix.plan import channel_scales
from onnx_text import model
from pipeline.test_measured import chain

X = np.linspace(-3, 3, 256, dtype=np.float32).reshape(4, 64)
RNG = np.random.default_rng(5)
W = RNG.standard_normal((64, 64)).astype(np.float32)
TEXT = """(float[4,64] x) => (float[4,64] y) {
    h = MatMul(x, w) r = Relu(h) t = MatMul(r, v) s = Sigmoid(t) z = MatMul(s, u) y = MatMul(z, twin)
}"""
WEIGHTS = {"w": W * 1e6, "v": W * 1e-6, "u": W, "twin": W}


def heavy(patch: pytest.MonkeyPatch) -> None:
    """Take the models here as heavy, and work on blocks of few elements."""
    patch.setattr(spool, "_HEAVY_BYTES", 1)
    patch.setattr(weights, "_SPOOLED", 100)
    patch.setattr(weights, "_TOGETHER", 100)
    patch.setattr(weights, "_BLOCK", 1000)
    patch.setattr(channel_scales, "_SPOOLED", 100)
    patch.setattr(channel_scales, "_BLOCK", 1000)


def written(folder: Path, source: onnx.ModelProto | Path, **options: object) -> dict[str, bytes]:
    """Name and content of the files that ``fix`` makes."""
    folder.mkdir()
    outcome = onnx_fp16fix.fix(source, {"x": X}, tensorrt="off", **options)  # type: ignore[arg-type]
    outcome.save(folder / "out.onnx")
    (folder / "lock").write_text(outcome.lock(), encoding="utf-8")
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("memory", {}),
        ("file", {"precision": "bf16"}),
        ("file", {"precision": "fp32"}),
        ("external", {"keep_fp32_ops": "MatMul"}),
        ("external", {}),
    ],
)
def test_the_same_bytes_as_in_memory(
    kind: str, options: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proto, source = model(TEXT, WEIGHTS), tmp_path / "net.onnx"
    onnx.save(proto, source, save_as_external_data=kind == "external", location="net.data", size_threshold=0)
    given = model(TEXT, WEIGHTS) if kind == "memory" else source
    light = written(tmp_path / "light", given, **options)
    heavy(monkeypatch)
    assert written(tmp_path / "heavy", given, **options) == light


def test_scales_per_channel_are_made_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three chains that touch one weight twice, and biases; the lock makes the same again."""
    sizes = np.where(np.arange(64) % 2, 1, 2.0**-30)
    text = """(float[4,64] x) => (float[4,64] y) {
        h = Gemm(x, w, b) r = Relu(h) t = MatMul(r, v) a = Add(t, c) y = MatMul(a, u)
    }"""
    values = {
        "w": W * sizes,
        "b": sizes,
        "v": W / sizes[:, None] * sizes,
        "c": sizes,
        "u": W / sizes[:, None],
    }
    proto, source = model(text, values), tmp_path / "net.onnx"
    onnx.save(proto, source)
    light = written(tmp_path / "light", source)
    heavy(monkeypatch)
    assert written(tmp_path / "heavy", source) == light
    again = onnx_fp16fix.apply(source, tmp_path / "heavy" / "lock", tensorrt="off")
    assert again.model == onnx.load(tmp_path / "light" / "out.onnx")
    assert b"channels" in light["lock"]


def test_the_rounding_floor_holds_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    source = wrap_model(model(TEXT, WEIGHTS))
    data = open_data({"x": X}, source.proto)
    light = floor.rounding_floor(source, data)
    heavy(monkeypatch)
    assert floor.rounding_floor(source, data) == light > 0
    rounded = floor._rounded(source, 11)
    assert not any(tensor.raw_data for tensor in rounded.proto.graph.initializer)


def test_weights_are_in_files_until_someone_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "net.onnx"
    onnx.save(model(TEXT, WEIGHTS), source)
    expected = onnx_fp16fix.fix(source, {"x": X}, tensorrt="off").model
    heavy(monkeypatch)
    outcome = onnx_fp16fix.fix(source, {"x": X}, tensorrt="off")
    assert outcome.result is not None
    assert all(not tensor.raw_data for tensor in outcome.result.proto.graph.initializer)
    assert OWN_FILES
    assert outcome.model == expected
    del outcome
    gc.collect()
    assert not OWN_FILES


def test_in_place_the_outcome_speaks_of_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "net.onnx"
    onnx.save(model(TEXT, WEIGHTS), source)
    expected = onnx_fp16fix.fix(source, {"x": X}, tensorrt="off")
    lock = expected.lock()
    heavy(monkeypatch)
    outcome = onnx_fp16fix.fix(source, {"x": X}, tensorrt="off")
    outcome.save(source, in_place=True)
    assert outcome.lock() == lock
    assert outcome.model == expected.model
    assert onnx.load(source) == expected.model


def test_a_lean_model_is_saved_as_protobuf_would(tmp_path: Path) -> None:
    proto = model(TEXT, {**WEIGHTS, "big": RNG.standard_normal((64, 200))})
    proto.producer_name, proto.doc_string = "someone", "words" * 50
    proto.metadata_props.add(key="a", value="b")
    proto.graph.doc_string = "a graph"
    for tensor in proto.graph.initializer:
        tensor.doc_string = "a weight"
        tensor.metadata_props.add(key="k", value="v")
    # fields of a newer ONNX: number 99 of the model, 98 of the graph
    proto.MergeFromString(b"\x9a\x06\x02hi")
    proto.graph.MergeFromString(b"\x90\x06\x07")
    source = tmp_path / "net.onnx"
    source.write_bytes(proto.SerializeToString())
    lean = load_model(source, lean=True)
    assert any(tensor.external_data for tensor in lean.proto.graph.initializer)
    edited = lean.with_proto(lean.proto)
    save_model(edited, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == source.read_bytes()


def test_what_many_nodes_lose_is_measured_with_weights_in_files(monkeypatch: pytest.MonkeyPatch) -> None:

    heavy(monkeypatch)
    proto, feed = chain(100.0, 30.0, 10.0)
    outcome = onnx_fp16fix.fix(proto, feed, tensorrt="off")
    assert outcome.run.status == "ok"
    assert outcome.plan is not None
    assert outcome.plan.fp32_nodes == ["a", "b"]
