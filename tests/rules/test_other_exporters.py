"""Rules find what tf2onnx and paddle2onnx really export, and the rewritten model computes the same.

The models were exported by the scripts in ``exporters``; no test needs TensorFlow or PaddlePaddle.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnx_fp16fix

FOLDER = Path(__file__).with_name("exporters")
sys.path.insert(0, str(FOLDER))

from cases import INPUTS, values  # noqa: E402  lies in the folder of the scripts

ANOTHER = {
    "tf2onnx": {
        # the mean is multiplied by the scale and subtracted from the bias: only the statistic is one formula
        "NORM002": "NORM013",
        "NORM002b": "NORM013",
        "NORM002c": "NORM013",
        "NORM003": "NORM004",  # Max(eps) under the root
        "NORM012": "NORM004",
        "ATTN002": "RES002",  # an Einsum becomes Reshape and MatMul
        "SUM003": "SUM002",  # a GlobalAveragePool becomes ReduceMean
    },
    "paddle2onnx": {
        "NORM011": "NORM018",  # the count of the variance is computed from the shape
        "NORM012": "NORM004",
        "MASK008": "MASK003",  # the constants have the shape of the mask
    },
    "both": {
        "ACT003": "ACT002",  # Mish is Tanh of Softplus
        "SUM006": "SUM004",  # a norm becomes the root of a sum of squares
        "EPS006": "POS014",  # log(p / (1 - p)) under both headings
    },
}
"""Which rule finds a formula that an exporter turns into that of another rule."""


def outputs(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feed)


@pytest.fixture(scope="module", params=["tf2onnx", "paddle2onnx"])
def applied(request):
    """The exporter, its cases, and the rules that applied in each case."""
    proto = onnx.load(FOLDER / f"{request.param}.onnx")
    names = defaultdict(list)
    for value in proto.graph.input:
        names[value.name.split("/")[0]].append(value.name)
    feed = {name: array for case in names for name, array in zip(names[case], values(case), strict=True)}
    outcome = onnx_fp16fix.apply(proto, "pack:all", feed, margin=1.0, tensorrt="off", verify=False)
    assert outcome.model is not None
    onnx.checker.check_model(outcome.model, full_check=True)
    before, after = outputs(proto, feed), outputs(outcome.model, feed)
    for value, one, other in zip(proto.graph.output, before, after, strict=True):
        assert np.isfinite(one).all(), value.name
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-5 * np.abs(one).max(), err_msg=value.name)
    rules = defaultdict(set)
    for finding in outcome.run.findings:
        if finding.rule is not None and finding.node is not None and finding.status == "fixed":
            rules[finding.node.split("/")[0]].add(finding.rule)
    return request.param, set(names), rules


@pytest.mark.parametrize("case", sorted(INPUTS))
def test_the_rule_finds_the_formula(case, applied):
    exporter, exported, rules = applied
    if case not in exported:
        pytest.skip(f"{exporter} has no such operation")
    expected = ANOTHER[exporter].get(case) or ANOTHER["both"].get(case) or case.rstrip("abc")
    assert expected in rules[case]
