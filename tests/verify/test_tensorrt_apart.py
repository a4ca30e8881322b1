"""A TensorRT build in a process of its own: the same report, and a crash is one too."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_fp16fix.verify.backends import tensorrt
from onnx_fp16fix.verify.backends.tensorrt_apart import build_apart

CRASHES = '''
"""A package with the surface of TensorRT whose {step} crashes the process."""
import os, signal, sys
from types import SimpleNamespace

__version__ = "10.0"
BuilderFlag = SimpleNamespace()
NetworkDefinitionCreationFlag = SimpleNamespace(EXPLICIT_BATCH=0)
ILogger = type("ILogger", (), {{}})

def crash(*_):
    print("assertion failed: no kernel", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)

class OnnxParser:
    def __init__(self, network, logger): pass
    num_errors = 0
    def parse_from_file(self, path):
        return crash() if "{step}" == "parser" else True

class Builder:
    def __init__(self, logger): pass
    def create_network(self, flags):
        half = SimpleNamespace(dtype=SimpleNamespace(name="HALF"))
        layer = SimpleNamespace(type=SimpleNamespace(name="CAST"), num_outputs=1, get_output=lambda i: half)
        return SimpleNamespace(num_inputs=0, num_layers=1, get_input=None, get_layer=lambda i: layer)
    def create_builder_config(self): return SimpleNamespace()
    def create_optimization_profile(self): return None
    build_serialized_network = crash
'''


@pytest.fixture
def model(tmp_path: Path) -> Path:
    nodes = [helper.make_node("Mul", ["x", "w"], ["y"])]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 8]) for name in "xy"]
    graph = helper.make_graph(
        nodes, "g", info[:1], info[1:], [numpy_helper.from_array(np.ones(8, np.float32), "w")]
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="no TensorRT-RTX")
def test_the_report_is_that_of_a_build_in_this_process(model: Path) -> None:
    apart = build_apart(model, typed=True, shapes={"x": (3, 8)})
    assert apart is not None
    assert apart.built
    assert apart == tensorrt.build(model, typed=True, shapes={"x": (3, 8)})


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("step", ["parser", "builder"])
def test_a_crash_is_an_error_of_the_report(
    step: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "packages"
    folder.mkdir()
    (folder / "tensorrt.py").write_text(CRASHES.format(step=step))
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    report = build_apart(model, typed=True)
    assert report is not None
    assert (report.package, report.version) == ("tensorrt", "10.0")
    assert (report.parsed, report.built, report.layers) == (step == "builder", False, step == "builder")
    assert report.errors == (f"TensorRT crashed ({signal.SIGSEGV.name}): assertion failed: no kernel",)


def test_without_tensorrt_there_is_no_report(
    model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("tensorrt", "tensorrt_rtx"):
        (tmp_path / f"{name}.py").write_text("raise ModuleNotFoundError")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert build_apart(model, typed=True) is None
