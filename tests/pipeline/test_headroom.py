"""Where analysis knows how far new samples can go, plans hold it if that costs nothing."""

import numpy as np
import pytest

import onnx_fp16fix
from calibrate.small_models import model
from onnx_fp16fix.calibrate import open_data
from onnx_fp16fix.simulate import compare_simulated
from onnx_text import model as with_weights

WEIGHT = "float[4, 2] w = {0.01, -0.02, 0.005, 0.01, 0.02, -0.01, 0.002, 0.03}"
AREA = "s = Sigmoid(x) side = Mul(s, most) area = Mul(side, side)"


def boxes(body, most, output="area", shape="4"):
    text = (
        f"g (float[3, 4] x) => (float[3, {shape}] {output}) <float most = {{{most}}}, {WEIGHT}> {{ {body} }}"
    )
    return model(text)


def samples(top):
    return [{"x": np.linspace(-2, top, 12, dtype=np.float32).reshape(3, 4)}]


def error(before, after, feeds):
    report = compare_simulated(before, after, open_data(feeds, before), tensors="outputs")
    return report.output_rel_l2


def test_what_a_sigmoid_makes_is_held_up_to_its_end():
    proto = boxes(
        AREA, 575
    )  # 99,900 on the data, 330,600 at the end; squares have even exponents, and 2**2 ends at 262,016
    outcome = onnx_fp16fix.fix(proto, samples(0.2), rules=(), tensorrt="off")
    assert error(proto, outcome.model, samples(12)) < 5e-3
    assert outcome.plan.fp32_nodes == []


def test_what_nothing_showed_says_that_analysis_did():
    proto = boxes(f"{AREA} y = MatMul(area, w)", 270, "y", "2")  # 22,000 on the data, 72,900 at the end
    outcome = onnx_fp16fix.fix(proto, samples(0.2), rules=(), tensorrt="off")
    assert error(proto, outcome.model, samples(12)) < 5e-3
    (finding,) = [entry for entry in outcome.findings if entry.tensor == "area"]
    assert "may, by analysis, reach 7.29e+04" in finding.message
    assert finding.facts["bound"] == pytest.approx(72900)


def test_headroom_that_costs_a_mul_is_left():
    proto = boxes(AREA, 270)
    outcome = onnx_fp16fix.fix(proto, samples(0.2), rules=(), tensorrt="off")
    assert outcome.plan.inserted_muls == 0
    assert outcome.findings == []


def test_headroom_is_asked_for_once_where_rules_make_the_plan_cheaper(monkeypatch):
    from onnx_fp16fix.pipeline import planning

    proto = model(
        """g (float[3, 4] x) => (float[3, 4] y) <float most = {14.0}, float one = {1.0}> {
            t = Tanh(x) m = Mul(t, most) e = Exp(m) a = Add(e, one) y = Log(a)
        }"""
    )
    asked, roomy = [], planning.roomy
    monkeypatch.setattr(planning, "roomy", lambda plan, *rest: asked.append(plan) or roomy(plan, *rest))
    outcome = onnx_fp16fix.fix(proto, samples(3), tensorrt="off", verify=False)
    assert any(rule.applied for rule in outcome.run.rules)
    assert outcome.plan.fp32_nodes == []
    assert len(asked) == 1
    (finding,) = [entry for entry in outcome.findings if entry.tensor == "e"]  # of the model as it was
    assert "reaches" in finding.message


def test_what_is_scaled_anyway_has_room_for_much_more():
    text = "(float[4,8] x) => (float[4,2] y) { h = MatMul(x, big) r = Relu(h) y = MatMul(r, small) }"
    rng = np.random.default_rng(0)
    weights = {"big": rng.standard_normal((8, 8)) * 3e4, "small": rng.standard_normal((8, 2)) * 1e-5}
    proto = with_weights(text, weights)
    x = rng.standard_normal((4, 8)).astype(np.float32)
    outcome = onnx_fp16fix.fix(proto, {"x": x}, rules=(), tensorrt="off")
    assert error(proto, outcome.model, [{"x": 20 * x}]) < 5e-3
    assert outcome.plan.inserted_muls == 0
    (finding,) = {entry.facts["absmax"] for entry in outcome.findings if entry.tensor == "h"}
    assert finding == pytest.approx(np.abs(x @ weights["big"]).max(), rel=1e-5)


def latent(tops):
    """Samples of a log variance that reach ``tops``, and of noise."""
    rng = np.random.default_rng(1)
    tilt = np.linspace(-1, 1, 32, dtype=np.float32).reshape(4, 8)
    return [
        {"v": tilt * np.float32(top), "e": rng.standard_normal((4, 8)).astype(np.float32)} for top in tops
    ]


def test_samples_that_differ_much_leave_room_for_more():
    text = """(float[4,8] v, float[4,8] e) => (float[4,2] y, float[4,8] k) {
        s = Mul(v, half) d = Exp(s) z = Mul(e, d) y = MatMul(z, w)
        q = Exp(v) k = Sub(v, q)
    }"""
    weights = {"half": np.float32(0.5), "w": np.random.default_rng(0).standard_normal((8, 2))}
    proto = with_weights(text, weights)
    outcome = onnx_fp16fix.fix(proto, latent([20, 15, 12]), rules=(), tensorrt="off")
    assert error(proto, outcome.model, latent([27, 5])) < 1e-2  # e**27 is 1,100 times e**20
    assert outcome.plan.fp32_flops_share == 0


def test_samples_that_differ_by_chance_are_left_alone():
    text = "(float[1] x) => (float[1] y) { a = Mul(x, large) y = Mul(a, small) }"
    proto = with_weights(text, {"large": np.float32([200.0]), "small": np.float32([1e-3])})
    feeds = [{"x": np.float32([value])} for value in (100.0, 30.0, 8.0)]
    outcome = onnx_fp16fix.fix(proto, feeds, rules=(), tensorrt="off")
    assert outcome.plan.inserted_muls == 0
    assert outcome.plan.fp32_nodes == []
