"""What calibration costs against plain ONNX Runtime inference of the same model file: CPU time and peak memory.

python -m benchmarks.calibration [conv transformer marked ...]

CPU time is that of all threads of one process, in which the sides take turns: what else the machine does slows all of
them alike. Each turn loads the model from its file and runs the same seeded samples; the median of the turns' ratios
counts. Plain inference has ONNX Runtime's own optimizations (fused and blocked convolutions included) and as many
threads as ours; they do not spin, as ours do not, so that CPU time is work on both sides.

Memory is a high-water mark, so each number comes from a process of its own. What a side takes with its modules
imported, before it opens the model, is taken off.

``marked``: a model with 310 MB of activations beside the same session with every float tensor as an output, as tools do
that take ranges from fetched arrays. ``tensors`` is the memory without the weights, which both sides must hold.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks import simulation

PICTURE = 216
MODELS: Mapping[str, tuple[Callable[[], onnx.ModelProto], tuple[int, ...]]] = {
    "conv": (simulation.conv, (1, 3, 128, 128)),
    "transformer": (simulation.transformer, (1, 256, 384)),
    "marked": (lambda: simulation.conv(PICTURE), (1, 3, PICTURE, PICTURE)),
}
"""How each is made, and the shape of its one input."""
SIDES = ("plain", "calibrate", "histogram")
TURNS = 5
COUNTS = (1, 8, 64)
"""Numbers of samples: memory must not grow with them."""


def samples(shape: tuple[int, ...], count: int) -> Iterator[dict[str, np.ndarray]]:
    """Seeded normal numbers for the one input."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield {"x": rng.standard_normal(shape, dtype=np.float32)}


def infer(path: Path, feeds: Iterator[dict[str, np.ndarray]], *, marked: bool) -> None:
    """Plain inference; ``marked`` fetches every tensor and takes its extremes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    source: Any = str(path)
    if marked:
        model = onnx.load(str(path))
        made = [name for node in model.graph.node for name in node.output if name != "y"]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
        source = model.SerializeToString()
        del model
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    del source
    for feed in feeds:
        for values in session.run(None, feed):
            if marked:
                values.min(), values.max()


def run(path: Path, side: str, count: int) -> None:
    """One turn: load the model and run ``count`` samples."""
    feeds = samples(MODELS[path.stem][1], count)
    if side in ("plain", "marked"):
        infer(path, feeds, marked=side == "marked")
        return
    from onnx_fp16fix import pipeline

    pipeline.calibrate(path, lambda: samples(MODELS[path.stem][1], count), histogram=side == "histogram")


def turns(path: Path, count: int) -> str:
    """CPU seconds of plain inference, and of the other sides as multiples of it."""
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for turn in range(TURNS + 1):
        for side in SIDES:
            started = time.process_time()
            run(path, side, count)
            if turn:  # the first one warms up: imports, arenas, the file's pages
                seconds[side].append(time.process_time() - started)
    cells = [f"plain {statistics.median(seconds['plain']):6.2f} s CPU"]
    for side in SIDES[1:]:
        ratios = [own / plain for own, plain in zip(seconds[side], seconds["plain"], strict=True)]
        cells.append(f"{side} {statistics.median(ratios):4.2f}x ({min(ratios):4.2f} to {max(ratios):4.2f})")
    return "   ".join(cells)


def peak(path: Path, side: str, count: int) -> float:
    """Peak MiB of this process above what it takes with all modules imported."""
    import onnxruntime  # noqa: F401

    if side not in ("plain", "marked"):
        from onnx_fp16fix import pipeline

        pipeline.calibrate  # noqa: B018  # found on first use
    before = simulation.memory_mib("VmRSS")
    run(path, side, count)
    return simulation.memory_mib("VmHWM") - before


def _apart(*arguments: object) -> str:
    """What this module prints for the arguments, run in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.calibration", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _measure(path: Path) -> Iterator[str]:
    for count in COUNTS[:2]:
        yield f"{count:>3} samples  {_apart('--turns', path, count)}"
    for count in COUNTS:
        plain, own = (float(_apart("--peak", path, side, count)) for side in ("plain", "calibrate"))
        yield f"{count:>3} samples  plain {plain:4.0f} MiB   calibrate {own:4.0f} MiB ({own / plain:4.2f}x)"


def _measure_marked(path: Path) -> Iterator[str]:
    weights = path.stat().st_size / 2**20
    marked, own = (float(_apart("--peak", path, side, 1)) for side in ("marked", "calibrate"))
    yield f"marked {marked:4.0f} MiB   calibrate {own:4.0f} MiB ({marked / own:4.2f}x less)"
    marked, own = marked - weights, own - weights
    yield f"tensors: marked {marked:4.0f} MiB   calibrate {own:4.0f} MiB ({marked / own:4.2f}x less)"


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--turns"]:
        print(turns(Path(arguments[1]), int(arguments[2])))
    elif arguments[:1] == ["--peak"]:
        print(peak(Path(arguments[1]), arguments[2], int(arguments[3])))
    else:
        with tempfile.TemporaryDirectory() as folder:
            for name in arguments or MODELS:
                path = Path(folder, f"{name}.onnx")
                onnx.save(MODELS[name][0](), path)
                print(f"{name}: {path.stat().st_size / 1e6:.0f} MB")
                for line in _measure_marked(path) if name == "marked" else _measure(path):
                    print(f"  {line}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
