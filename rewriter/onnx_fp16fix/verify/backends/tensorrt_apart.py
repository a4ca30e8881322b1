"""A TensorRT build in a process of its own, so that a model which crashes the builder does not end the run.

Seen: TensorRT-RTX 1.7.1 ends with a segmentation fault at an Attention of opset 23 whose shape no fused kernel has.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from onnx_fp16fix.verify.backends.tensorrt import TensorRTReport, build
from onnx_fp16fix.verify.backends.tensorrt_log import shorten

__all__ = ["build_apart", "main"]

_CHILD = f"import sys; sys.path = sys.argv[2:]; from {__name__} import main; main(sys.argv[1])"


def build_apart(
    model: Path, *, typed: bool, shapes: Mapping[str, Sequence[int]] | None = None
) -> TensorRTReport | None:
    """``tensorrt.build`` of a file; a crash is an error of the report, after whatever was known by then."""
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder, "job.json")
        shapes = {name: [int(size) for size in shape] for name, shape in (shapes or {}).items()}
        job.write_text(
            json.dumps({"model": str(model.absolute()), "typed": typed, "shapes": shapes}), encoding="utf-8"
        )
        command = [sys.executable, "-c", _CHILD, str(job), *sys.path]
        done = subprocess.run(
            command, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        report = _read(_report_of(job))
    if not done.returncode:
        return report
    known = report or TensorRTReport("tensorrt", "unknown", False, False, None, 0, (), ())
    return replace(known, built=False, errors=(_crash(done.returncode, done.stderr),))


def main(path: str) -> None:
    """What the other process does: build what the job file says, write the report beside it as it becomes known."""
    job = Path(path)
    asked = json.loads(job.read_text(encoding="utf-8"))
    report = build(
        asked["model"],
        typed=asked["typed"],
        shapes=asked["shapes"],
        note=lambda known: _write(_report_of(job), known),
    )
    if report is not None:
        _write(_report_of(job), report)


def _report_of(job: Path) -> Path:
    return job.with_name("report.json")


def _write(path: Path, report: TensorRTReport) -> None:
    path.write_text(json.dumps(asdict(report)), encoding="utf-8")


def _read(path: Path) -> TensorRTReport | None:
    if not path.exists():
        return None
    entries: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    entries |= {name: tuple(entries[name]) for name in ("warnings", "errors")}
    return TensorRTReport(**entries)


def _crash(code: int, stderr: bytes) -> str:
    """How the process ended, and the last that it said."""
    try:
        how = f"crashed ({signal.Signals(-code).name})" if code < 0 else f"ended with status {code}"
    except ValueError:  # a signal without a name here
        how = f"crashed (signal {-code})"
    said = [line for line in stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    return shorten(f"TensorRT {how}: {said[-1]}" if said else f"TensorRT {how}")
