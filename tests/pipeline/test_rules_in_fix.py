"""Rules inside ``fix``: left out where the data contradict them, tried everywhere where the plan alone goes wrong."""

from __future__ import annotations

import numpy as np
import pytest

import onnx_fp16fix
from language._models import case
from onnx_fp16fix.calibrate import KeptOutputs
from onnx_fp16fix.pipeline import improve


def fixed(model, **data):
    outcome = onnx_fp16fix.fix(model, data=data, tensorrt="off")
    return outcome, [entry.id for entry in outcome.run.rules if entry.applied]


def masked(*, keeps_a_key):
    """Scores of which some rows keep no key at all, and what MASK003 assumes not to happen."""
    text = "Softmax(s + Unsqueeze(Where(mask, 0.0, -3.4e38), axes=[0]), axis=-1)"
    mask = np.tril(np.ones((8, 8), bool))
    mask[5] = keeps_a_key
    scores = np.random.default_rng(0).standard_normal((2, 8, 8)).astype(np.float32) * 5
    return case(text, s="float [2, 8, 8]", mask="bool [8, 8]"), {"s": scores, "mask": mask}


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("keeps_a_key", [True, False])
def test_a_rule_is_left_out_where_the_data_contradict_what_it_assumes(keeps_a_key, kept, monkeypatch):
    if not kept:  # outputs too large to be kept from calibration: both models are run again
        monkeypatch.setattr(KeptOutputs, "samples", lambda self: None)
    model, data = masked(keeps_a_key=keeps_a_key)
    outcome, applied = fixed(model, **data)
    assert outcome.run.status == "ok"
    assert applied == (["MASK003"] if keeps_a_key else [])
    assert any("not used" in text and "MASK003" in text for text in outcome.run.warnings) != keeps_a_key
    assert bool(outcome.plan.fp32_nodes) != keeps_a_key


def test_what_a_rule_assumes_is_judged_by_the_outputs_of_calibration(monkeypatch):
    def again(*args, **kwargs):
        raise AssertionError("the models were run once more")

    monkeypatch.setattr(improve, "compare_fp32", again)
    model, data = masked(keeps_a_key=True)
    outcome = onnx_fp16fix.fix(model, data=data, verify=False)
    assert [entry.id for entry in outcome.run.rules if entry.applied] == ["MASK003"]


def test_shipped_rules_are_not_read_where_nothing_is_paid_for(monkeypatch):
    def read():
        raise AssertionError("rules were read")

    monkeypatch.setattr("onnx_fp16fix.pipeline.rules.shipped_rules", read)
    values = np.linspace(-1e5, 1e5, 64, dtype=np.float32)
    outcome, applied = fixed(case("Relu(x * 8.0) * 1e-6", x="float [64]"), x=values)
    assert outcome.run.status == "ok"
    assert (outcome.plan.fp32_nodes, applied) == ([], [])


def test_an_epsilon_that_may_not_be_raised_gets_what_a_rule_knows():
    values = np.linspace(0, 2, 64, dtype=np.float32) * (np.arange(64) % 3 > 0)
    outcome, applied = fixed(case("1.0 / Sqrt(v + 1e-8)", v="float [64]"), v=values)
    assert outcome.run.status == "ok"
    assert applied == ["EPS005"]


def test_a_rule_says_what_must_stay_in_fp32_where_measuring_does_not_find_it():
    """1 - x is exact in FP16 but for what x lost before: nothing around it looks wrong on average."""
    text = "c = Clip(x, min=0.0, max=1.0)\nLog(Clip(c, min=1e-5) / Clip(1.0 - c, min=1e-5))"
    points = np.random.default_rng(0).random((1, 300)).astype(np.float32)
    points[0, :20] = 1 - 1e-4
    outcome, applied = fixed(case(text, x="float [1, 300]"), x=points)
    assert outcome.run.status == "ok"
    assert applied == ["POS014"]
    assert any(finding.rule == "POS014" for finding in outcome.findings)
