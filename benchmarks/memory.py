"""Memory of ``fix`` on a chain of large products: weights beside the model and inside it.

    python -m benchmarks.memory [--layers 24] [--size 4096] [--verify]

Anonymous memory is what the process holds itself; mapped weights are the operating system's and do not count.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import onnx_fp16fix


def chain(path: Path, layers: int, size: int, *, external: bool) -> None:
    """``layers`` products with [size, size] weights, of which two need a scale."""
    block = (
        np.random.default_rng(0).standard_normal((size, size), dtype=np.float32) * np.float32(2 / size) ** 0.5
    )
    gains = {2: np.float32(2000), 4: np.float32(1 / 2000)}
    names = ["x", *(f"h{index}" for index in range(layers - 1)), "y"]
    nodes = [
        helper.make_node("MatMul", [a, f"w{index}"], [b]) for index, (a, b) in enumerate(pairwise(names))
    ]
    weights = [
        numpy_helper.from_array(np.roll(block, index, 0) * gains.get(index, np.float32(1)), f"w{index}")
        for index in range(layers)
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size]) for name in "xy")
    graph = helper.make_graph(nodes, "chain", [x], [y], weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(proto, path, save_as_external_data=external, location=f"{path.name}.data")


def measure(path: Path, size: int, verify: bool) -> None:
    """Run ``fix`` in this process and print the largest anonymous memory, looked at every 10 ms."""
    peak, done = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.01):
            status = Path("/proc/self/status").read_text(encoding="ascii")
            found = re.search(r"RssAnon:\s+(\d+)", status)
            peak = max(peak, int(found[1]) >> 10 if found else 0)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    x = np.random.default_rng(1).standard_normal((1, size)).astype(np.float32) * 30
    onnx_fp16fix.fix(path, {"x": x}, verify=verify, tensorrt="off").save(path.with_name("out.onnx"))
    done.set()
    thread.join()
    print(f"{peak} MiB")


def main() -> None:
    """Each model in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--verify", action="store_true")
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.model is not None:
        measure(options.model, options.size, options.verify)
        return
    print(f"weights: {options.layers * options.size**2 * 4 >> 20} MiB in FP32")
    for kind in ("external", "inside"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "chain.onnx"
            chain(path, options.layers, options.size, external=kind == "external")
            command = [sys.executable, "-m", "benchmarks.memory", "--model", str(path), *sys.argv[1:]]
            found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
            print(f"{kind}: at most {found} of anonymous memory")


if __name__ == "__main__":
    main()
