"""What calibration costs against plain ONNX Runtime inference of the same model file: CPU time and peak memory.

python -m benchmarks.calibration [conv transformer ...]

Every number is taken in a process of its own, since peak memory is a high-water mark. Each process reads the model
from its file and runs the same seeded samples; imports are not counted. Plain inference has ONNX Runtime's own
optimizations (fused and blocked convolutions included); its threads do not spin, as ours do not, so that CPU time is
work on both sides. ``marked``: the same session with every float tensor as an output, as tools do that take ranges from
fetched arrays.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks import simulation

MODELS: dict[str, tuple[Callable[[], onnx.ModelProto], tuple[int, ...]]] = {
    "conv": (simulation.conv, (1, 3, 128, 128)),
    "transformer": (simulation.transformer, (1, 256, 384)),
}
"""How each is made, and the shape of its one input."""
SIDES = ("plain", "calibrate", "histogram", "marked")
REPEATS = 3
"""The fastest counts: what other programs add to CPU time is no property of ours."""


def samples(shape: tuple[int, ...], count: int) -> Iterator[dict[str, np.ndarray]]:
    """Seeded normal numbers for the one input."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield {"x": rng.standard_normal(shape, dtype=np.float32)}


def infer(path: Path, feeds: Iterator[dict[str, np.ndarray]], *, marked: bool) -> None:
    """Plain inference; ``marked`` fetches every tensor and takes its extremes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
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


def measure(path: Path, side: str, count: int) -> tuple[float, float]:
    """CPU seconds and peak MiB of this process."""
    import onnxruntime  # noqa: F401  # loading it is not what is measured

    from onnx_fp16fix import pipeline

    shape = MODELS[path.stem][1]
    before = time.process_time()
    if side in ("plain", "marked"):
        infer(path, samples(shape, count), marked=side == "marked")
    else:
        pipeline.calibrate(path, lambda: samples(shape, count), histogram=side == "histogram")
    return time.process_time() - before, simulation.peak_mib()


def fastest(path: Path, side: str, count: int, repeats: int) -> tuple[float, float]:
    """Least CPU seconds and least peak MiB over the repeats, each in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.calibration", "--one", str(path), side, str(count)]
    rows = []
    for _ in range(repeats):
        shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        rows.append((float(shown[0]), float(shown[1])))
    return min(row[0] for row in rows), min(row[1] for row in rows)


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--one"]:
        print(*measure(Path(arguments[1]), arguments[2], int(arguments[3])))
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments or MODELS:
            path = Path(folder, f"{name}.onnx")
            onnx.save(MODELS[name][0](), path)
            print(f"{name}: {path.stat().st_size / 1e6:.0f} MB")
            for count in (1, 8, 64):
                rows = {
                    side: fastest(path, side, count, REPEATS if count < 64 else 1)
                    for side in SIDES
                    if side != "marked" or count == 1
                }
                cpu, memory = rows["plain"]
                for side, row in rows.items():
                    print(
                        f"  {count:>3} samples  {side:<10} {row[0]:7.2f} s CPU ({row[0] / cpu:4.2f}x)  "
                        f"{row[1]:6.0f} MiB ({row[1] / memory:4.2f}x)"
                    )


if __name__ == "__main__":
    main(sys.argv[1:])
