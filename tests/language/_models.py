"""Small models and rules for the tests of the language."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from onnx_fp16fix.calibrate.ranges import RangeTable, TensorRange
from onnx_fp16fix.graph import GraphView, build_view
from onnx_fp16fix.language import Rule, RuleRun, apply_rules, load_rules
from onnx_fp16fix.language.cases import build_model
from onnx_fp16fix.language.given import parse_given
from onnx_fp16fix.language.parse import parse_suite
from onnx_fp16fix.language.yaml_source import Place, Scalar
from onnx_fp16fix.model import Model, apply_patches

__all__ = [
    "RMS",
    "absmax",
    "case",
    "load_text",
    "parse",
    "patched",
    "record",
    "rewrite",
    "rule_text",
    "run",
    "view",
]

RMS = "x / Sqrt(ReduceMean(x ** 2, axes=ax, keepdims=1) + eps)"


def parse(text: str) -> Any:
    """The suite of a text; the test fails when it is not one."""
    problems: list[Any] = []
    place = Place("test", 1, 1)
    suite = parse_suite(Scalar(text, place, place, block=True), problems)
    assert suite is not None, problems
    return suite


def case(text: str, opset: int = 17, **given: str) -> onnx.ModelProto:
    """A model whose nodes are the text as written."""
    return build_model(
        parse(textwrap.dedent(text).strip()), {k: parse_given(v) for k, v in given.items()}, opset
    )


def load_text(text: str, folder: Path, name: str = "rules.yaml") -> tuple[Rule, ...]:
    """Rules of a text, dedented, through a file."""
    file = folder / name
    file.write_text(textwrap.dedent(text))
    return load_rules([file])


def rule_text(match: str, action: str, **keys: str) -> str:
    """A rule file with one rule."""
    lines = ["schema: fp16fix/1", "rules:", "  - id: TEST001", "    name: test-rule", "    summary: A test"]
    lines += [f"    {key}: {value}" for key, value in {"equal": "exact", **keys}.items()]
    lines += ["    match: |", *(f"      {line}" for line in match.strip().split("\n"))]
    return "\n".join([*lines, f"    {action}", ""])


def absmax(**values: float) -> RangeTable:
    """A table of symmetric ranges."""
    return RangeTable({name: TensorRange(-value, value, count=1) for name, value in values.items()}, 1)


def view(model: onnx.ModelProto) -> GraphView:
    """The view of a proto."""
    return build_view(Model(model))


def patched(model: onnx.ModelProto, run: RuleRun) -> onnx.ModelProto:
    """The model after one pass, checked."""
    proto = apply_patches(Model(model), run.patches).proto
    onnx.checker.check_model(proto, full_check=True)
    return proto


def rewrite(
    model: onnx.ModelProto, rules: tuple[Rule, ...], ranges: RangeTable | None = None, **options: Any
) -> tuple[onnx.ModelProto, RuleRun]:
    """One pass and its result."""
    found = apply_rules(view(model), rules, ranges, **options)
    return patched(model, found), found


def record(run: RuleRun) -> Any:
    """The only record of a run."""
    assert len(run.records) == 1, [(r.status, r.reason) for r in run.records]
    return run.records[0]


def run(model: onnx.ModelProto, **feeds: np.ndarray) -> np.ndarray:
    """First output in ONNX Runtime, node by node."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {entry.name: feeds[entry.name] for entry in session.get_inputs()})[0]


def graph_model(
    nodes: list[Any], inputs: dict[str, Any], outputs: dict[str, Any], **weights: Any
) -> onnx.ModelProto:
    """A model from nodes; inputs and outputs map a name to a shape of float."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, 1, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, 1, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
