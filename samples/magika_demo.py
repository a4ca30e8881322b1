"""The main job on a real trained model: magika tells file types from bytes, and is wrong in naive FP16.

Takes the model inside the package `magika`, feeds it real files of this repository and of Python's standard library,
and shows three columns: FP32, FP16 as a plain converter would make it, FP16 as onnx-fp16fix makes it. Ends with 1 if
anything is not right.

    python samples/magika_demo.py [OUTPUT [FOLDER ...]]        feeds the files of your folders instead
"""

from __future__ import annotations

import json
import os
import sys
import sysconfig
from collections.abc import Iterator
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import magika
import numpy as np
import onnx
from rich.console import Console
from rich.table import Table

import onnx_fp16fix
from onnx_fp16fix.runtime import open_session
from onnx_fp16fix.simulate import rounded_graph

FILES, BATCH = 64, 16
REPOSITORY = Path(__file__).resolve().parents[1]
MODEL = max(Path(magika.__file__).parent.glob("models/*/model.onnx"))
CONFIG = json.loads((MODEL.parent / "config.min.json").read_text())
console = Console(stderr=True, highlight=False)


def real_files(folders: list[Path], count: int) -> list[Path]:
    """The same number from each folder, as many kinds as there are, in an order that does not change between runs."""
    found: list[Path] = []
    for folder in folders:
        by_kind: dict[str, list[Path]] = {}
        for path in walk(folder):
            by_kind.setdefault(path.suffix.lower(), []).append(path)
        rounds = (path for row in zip_longest(*by_kind.values()) for path in row if path is not None)
        found += islice(rounds, count // len(folders))
    return found


def walk(folder: Path) -> Iterator[Path]:
    """Visible files that fill the model's window of 2048 bytes; in shorter ones it sees mostly padding."""
    paths: list[Path] = []
    for root, inside, names in os.walk(folder):
        # left out here, or the whole of site-packages would be listed
        inside[:] = [
            name
            for name in inside
            if name[0] != "." and name not in ("__pycache__", "demo-out", "site-packages")
        ]
        paths += [Path(root, name) for name in names if name[0] != "."]
    for path in sorted(paths):
        if path.is_file() and path.stat().st_size >= 2048:
            yield path


def tokens(path: Path) -> np.ndarray:
    """int32 [2048]: the first and the last 1024 bytes without outer white space, padded with 256."""
    block, pad = CONFIG["block_size"], CONFIG["padding_token"]
    content = path.read_bytes()
    begin = content[:block].lstrip()[: CONFIG["beg_size"]]
    end = content[-block:].rstrip()[-CONFIG["end_size"] :]
    row = np.full(CONFIG["beg_size"] + CONFIG["end_size"], pad, np.int32)
    row[: len(begin)] = np.frombuffer(begin, np.uint8)
    row[len(row) - len(end) :] = np.frombuffer(end, np.uint8)
    return row


def scores(model: onnx.ModelProto, samples: list[dict[str, np.ndarray]]) -> np.ndarray:
    """The model's output over all samples, float32 [files, labels]."""
    session = open_session(model)
    return np.concatenate([next(iter(session.run(sample).values())) for sample in samples])


def labels(values: np.ndarray) -> list[str]:
    """The winner of each row; a row with a NaN has none."""
    names = CONFIG["target_labels_space"]
    return [names[int(row.argmax())] if np.isfinite(row).all() else "NaN" for row in values]


def error(values: np.ndarray, reference: np.ndarray) -> float:
    return float(np.linalg.norm(values - reference) / np.linalg.norm(reference))


def show_labels(files: list[Path], columns: dict[str, list[str]]) -> None:
    table = Table(title="labels of some of the files", title_justify="left")
    for heading in ("file", *columns):
        table.add_column(heading)
    truth = next(iter(columns.values()))
    for index, path in list(enumerate(files))[:: max(1, len(files) // 10)]:
        cells = (f"[{'green' if c[index] == truth[index] else 'red'}]{c[index]}[/]" for c in columns.values())
        table.add_row(path.name[:32], *cells)
    console.print(table)


def show_result(rows: dict[str, Any]) -> None:
    table = Table(show_header=False)
    for name, value in rows.items():
        table.add_row(name, str(value))
    console.print(table)


def main(output: Path, folders: list[Path]) -> int:
    model = onnx.load(MODEL)
    input_name = model.graph.input[0].name
    files = real_files(folders, FILES)
    rows = np.stack([tokens(path) for path in files])
    samples = [{input_name: rows[start : start + BATCH]} for start in range(0, len(rows), BATCH)]
    fp32 = scores(model, samples)
    kinds = len(set(labels(fp32)))
    console.print(
        f"{MODEL.parent.name}: {len(model.graph.node)} nodes; {len(files)} real files of {kinds} kinds"
    )

    naive = scores(rounded_graph(model, assume_fp16=True), samples)
    outcome = onnx_fp16fix.fix(MODEL, data=samples)
    if outcome.model is None or outcome.verification is None:
        console.print("[red]fix made no model[/]")
        return 1
    repaired = scores(rounded_graph(outcome.model), samples)

    columns = {"FP32": labels(fp32), "naive FP16": labels(naive), "repaired FP16": labels(repaired)}
    show_labels(files, columns)
    wrong = {
        name: sum(a != b for a, b in zip(column, columns["FP32"], strict=True))
        for name, column in columns.items()
    }
    verification, plan = outcome.verification, outcome.plan
    identical = verification.fp32 is not None and verification.fp32.identical
    built = verification.tensorrt is None or verification.tensorrt.built
    show_result(
        {
            "wrong labels, naive FP16": f"{wrong['naive FP16']} of {len(files)} (error {error(naive, fp32):.3g})",
            "wrong labels, repaired": f"{wrong['repaired FP16']} of {len(files)} (error {error(repaired, fp32):.3g})",
            "FP32 form of the repaired model": "identical bits" if identical else "DIFFERS",
            "nodes": f"{len(model.graph.node)} before, {len(outcome.model.graph.node)} after",
            "kept in FP32": f"{len(plan.fp32_nodes)} nodes" if plan else "unknown",
            "TensorRT": tensorrt_line(verification),
        }
    )
    if not verification.passed:
        console.print("[red]verification failed:[/] " + "; ".join(verification.failures))
        return 1
    output.parent.mkdir(parents=True, exist_ok=True)
    outcome.save(output)
    console.print(f"wrote {output}")
    return 0 if wrong["naive FP16"] and not wrong["repaired FP16"] and identical and built else 1


def tensorrt_line(verification: Any) -> str:
    report = verification.tensorrt
    if report is None:
        return "; ".join(reason for reason in verification.not_checked if "tensorrt" in reason.lower())
    result = (
        f"builds, {report.half_layer_share:.0%} of layers FP16" if report.built else "; ".join(report.errors)
    )
    return f"{report.package} {report.version}: {result}"


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:]]
    target = given[0] if given else REPOSITORY / "demo-out" / "magika.fp16.onnx"
    sys.exit(main(target, given[1:] or [REPOSITORY, Path(sysconfig.get_path("stdlib"))]))
