"""What simulated FP16 costs against plain ONNX Runtime inference of the same model: CPU time and peak memory.

python -m benchmarks.simulation [MODEL ...]        conv, transformer, chain; on request ``wide`` and ``large``

Every number is taken in a process of its own, since peak memory is a high-water mark. Plain inference runs with
ONNX Runtime's own optimizations; both sides include loading the model.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.__main__ import residual_chain
from onnx_fp16fix.calibrate import open_data
from onnx_fp16fix.runtime import open_session
from onnx_fp16fix.simulate import compare_simulated

SAMPLES = 8
REPEATS = 3
"""The fastest counts: what other programs add to CPU time is no property of ours."""
_RNG = np.random.default_rng(0)


def conv(picture: int = 128) -> onnx.ModelProto:
    """3x3 convolutions with residuals: 69 MB of weights and, on 128x128 pictures, 110 MB of activations."""
    nodes: list[onnx.NodeProto] = []
    weights: list[TensorProto] = []
    stream, channels = "x", 3
    for stage, width in enumerate((64, 128, 256, 512)):
        for block in range(3):
            name, stride = f"{stage}.{block}", 2 if block == 0 and stage else 1
            for half, inner in (("a", channels), ("b", width)):
                values = _RNG.standard_normal((width, inner, 3, 3)) * (2 / (9 * inner)) ** 0.5
                weights.append(_constant(f"{name}.{half}.w", values))
                weights.append(_constant(f"{name}.{half}.bias", _RNG.standard_normal(width) * 0.01))
            nodes += [
                _conv(stream, f"{name}.a", stride),
                helper.make_node("Relu", [f"{name}.a"], [f"{name}.r"]),
                _conv(f"{name}.r", f"{name}.b", 1),
            ]
            joined = f"{name}.b"
            if channels == width:
                nodes.append(helper.make_node("Add", [stream, joined], [f"{name}.s"]))
                joined = f"{name}.s"
            nodes.append(helper.make_node("Relu", [joined], [f"{name}.out"]))
            stream, channels = f"{name}.out", width
    nodes.append(helper.make_node("GlobalAveragePool", [stream], ["y"]))
    return _model(nodes, weights, [1, 3, picture, picture])


def _conv(source: str, name: str, stride: int) -> onnx.NodeProto:
    return helper.make_node(
        "Conv", [source, f"{name}.w", f"{name}.bias"], [name], pads=[1, 1, 1, 1], strides=[stride, stride]
    )


def transformer() -> onnx.ModelProto:
    """Twelve pre-norm layers of width 384 on 256 tokens: 85 MB of weights, 180 MB of activations."""
    width, heads, tokens = 384, 6, 256
    nodes: list[onnx.NodeProto] = []
    weights = [
        numpy_helper.from_array(np.array([1, tokens, heads, width // heads]), "split"),
        numpy_helper.from_array(np.array([1, tokens, width]), "merge"),
        _constant("scale", np.array((width // heads) ** -0.5)),
        _constant("ones", np.ones(width)),
        _constant("zeros", np.zeros(width)),
    ]

    def linear(source: str, name: str, inner: int, outer: int) -> str:
        weights.append(_constant(f"{name}.w", _RNG.standard_normal((inner, outer)) * inner**-0.5))
        nodes.append(helper.make_node("MatMul", [source, f"{name}.w"], [name]))
        return name

    def add(op: str, inputs: list[str], name: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    stream = "x"
    for layer in range(12):
        name = f"l{layer}"
        normed = add("LayerNormalization", [stream, "ones", "zeros"], f"{name}.n1")
        parts = {}
        for part, perm in (("q", (0, 2, 1, 3)), ("k", (0, 2, 3, 1)), ("v", (0, 2, 1, 3))):
            flat = linear(normed, f"{name}.{part}", width, width)
            split = add("Reshape", [flat, "split"], f"{flat}.split")
            parts[part] = add("Transpose", [split], f"{flat}.heads", perm=perm)
        scores = add("MatMul", [parts["q"], parts["k"]], f"{name}.scores")
        scaled = add("Mul", [scores, "scale"], f"{name}.scaled")
        shares = add("Softmax", [scaled], f"{name}.shares", axis=-1)
        mixed = add("MatMul", [shares, parts["v"]], f"{name}.mixed")
        merged = add(
            "Reshape", [add("Transpose", [mixed], f"{name}.t", perm=(0, 2, 1, 3)), "merge"], f"{name}.m"
        )
        stream = add("Add", [stream, linear(merged, f"{name}.proj", width, width)], f"{name}.s1")
        normed = add("LayerNormalization", [stream, "ones", "zeros"], f"{name}.n2")
        up = add("Relu", [linear(normed, f"{name}.up", width, 4 * width)], f"{name}.act")
        stream = add("Add", [stream, linear(up, f"{name}.down", 4 * width, width)], f"{name}.s2")
    add("LayerNormalization", [stream, "ones", "zeros"], "y")
    return _model(nodes, weights, [1, tokens, width])


def large() -> onnx.ModelProto:
    """Twenty layers of 5200x5200: 2.2 GB of weights held in memory, more than a protobuf can carry."""
    width = 5200
    weights, nodes, stream = [], [], "x"
    for index in range(20):
        values = _RNG.standard_normal((width, width), np.float32)
        values *= width**-0.5
        weights.append(numpy_helper.from_array(values, f"w{index}"))
        target = "y" if index == 19 else f"h{index}"
        nodes.append(helper.make_node("MatMul", [stream, f"w{index}"], [target]))
        stream = target
    return _model(nodes, weights, [1, width])


def wide() -> onnx.ModelProto:
    """The convolutions on 256x256 pictures: 440 MB of activations, which are never held together."""
    return conv(256)


def chain() -> onnx.ModelProto:
    """Ten thousand small nodes: what is left is the cost of a node."""
    return residual_chain(10_000)


def _constant(name: str, values: np.ndarray) -> TensorProto:
    return numpy_helper.from_array(values.astype(np.float32), name)


def _model(nodes: list[onnx.NodeProto], weights: list[TensorProto], shape: list[int]) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "benchmark", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "conv": conv,
    "transformer": transformer,
    "chain": chain,
    "wide": wide,
    "large": large,
}


def memory_mib(entry: str) -> float:
    """MiB of this process: ``VmRSS`` now, ``VmHWM`` at its peak.

    ``ru_maxrss``, the peak where there is no /proc, starts at what the parent held when it forked.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return next(int(line.split()[1]) for line in lines if line.startswith(entry)) / 1024


def measure(name: str, side: str) -> tuple[float, float]:
    """CPU seconds and peak MiB of ``side`` (made, plain, all, outputs) of a model over the samples."""
    model = MODELS[name]()
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    feeds = [{"x": _RNG.standard_normal(shape).astype(np.float32)} for _ in range(SAMPLES)]
    data = open_data(feeds, model)
    started = time.process_time()
    if side == "plain":
        session = open_session(model, optimize=True)
        for feed in data:
            session.run(feed)
    elif side != "made":
        compare_simulated(model, model, data, assume_fp16=True, tensors=side)
    return time.process_time() - started, memory_mib("VmHWM")


def row(name: str) -> str:
    """CPU seconds and peak MiB above the model itself of plain inference, and of simulation as multiples of it."""
    seconds: dict[str, float] = {}
    peaks: dict[str, float] = {}
    for side in ("made", "plain", "outputs", "all") * REPEATS:
        command = [sys.executable, "-m", "benchmarks.simulation", "--one", name, side]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        seconds[side] = min(float(out[0]), seconds.get(side, np.inf))
        peaks[side] = max(float(out[1]), peaks.get(side, 0.0))
    cells = [f"{name:12} plain {seconds['plain']:6.2f} s {peaks['plain'] - peaks['made']:6.0f} MiB"]
    cells += [
        f"{side} {seconds[side] / seconds['plain']:5.2f}x {peaks[side] - peaks['made']:6.0f} MiB"
        for side in ("outputs", "all")
    ]
    return "   ".join(cells)


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--one"]:
        print(*measure(*arguments[1:]))
        return
    for name in arguments or ["conv", "transformer", "chain"]:
        print(row(name), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
