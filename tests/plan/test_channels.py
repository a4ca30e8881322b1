"""Channels that differ by more than FP16 holds: exponents per channel, for nothing, and every FP32 bit kept."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnx_fp16fix
from onnx_fp16fix.graph import build_view
from onnx_fp16fix.model import wrap_model
from onnx_fp16fix.plan.channel_scales import ChannelScale, scale_channels
from onnx_fp16fix.plan.channels import find_chains
from onnx_fp16fix.runtime import open_session
from onnx_text import model

RNG = np.random.default_rng(5)
SPREAD = np.float32(2.0) ** np.array([0, 22, -18, 3, 0, -14, 21, 1])
"""Sizes of eight channels, 40 binades apart."""


def weights(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def along(axis: int, rank: int) -> np.ndarray:
    return SPREAD.reshape([8 if at == axis else 1 for at in range(rank)])


CONV = model(
    """(float[2,3,9,9] x) => (float[2,4,7,7] y) {
        h = Conv<pads=[1,1,1,1]>(x, w, b)
        n = BatchNormalization(h, gamma, beta, mean, var)
        r = Relu(n)
        p = MaxPool<kernel_shape=[3,3], strides=[1,1]>(r)
        y = Conv(p, v)
    }""",
    {
        "w": weights(8, 3, 3, 3),
        "b": weights(8),
        "gamma": SPREAD,
        "beta": SPREAD * 0.1,
        "mean": weights(8),
        "var": weights(8) ** 2 + 1,
        "v": weights(4, 8, 1, 1) / along(1, 4),
    },
)
GEMM = model(
    """(float[5,6] x) => (float[5,3] y) {
        h = MatMul(x, w)
        a = Add(h, b)
        l = LeakyRelu(a)
        y = Gemm<transB=1>(l, v)
    }""",
    {"w": weights(6, 8) * along(1, 2), "b": SPREAD * 0.3, "v": weights(3, 8) / along(1, 2)},
)
GROUPED = model(
    """(float[1,4,6,6] x) => (float[1,4,6,6] y) {
        h = Conv(x, w)
        t = Relu(h)
        d = Conv<group=8, pads=[1,1,1,1]>(t, depthwise)
        g = ConvTranspose(d, u)
        y = Conv<group=2>(g, v)
    }""",
    {
        "w": weights(8, 4, 1, 1) * along(0, 4),
        "depthwise": weights(8, 1, 3, 3),
        "u": weights(8, 8, 1, 1) / along(0, 4) * along(1, 4),
        "v": weights(4, 4, 1, 1) / np.concatenate([along(1, 4)[:, :4], along(1, 4)[:, 4:]]).repeat(2, 0),
    },
)
TRANSPOSED = model(
    """(float[2,5,6] x) => (float[2,5,3] y) {
        n = LayerNormalization<axis=-1>(x, gamma, beta)
        h = MatMul(n, w)
        t = Transpose<perm=[0,2,1]>(h)
        r = Relu(t)
        u = Transpose<perm=[0,2,1]>(r)
        y = MatMul(u, v)
    }""",
    {
        "gamma": weights(6), "beta": weights(6),
        "w": weights(6, 8) * along(1, 2), "v": weights(8, 3) / along(0, 2),
    },
)  # fmt: skip
NORMED = model(
    """(float[1,3,6,6] x) => (float[1,2,6,6] y) {
        h = Conv(x, w)
        n = BatchNormalization(h, ones, b, zeros, ones)
        d = Conv<group=8, pads=[1,1,1,1]>(n, depthwise)
        y = Conv(d, v)
    }""",
    {
        "w": weights(8, 3, 1, 1) * along(0, 4),
        "ones": np.ones(8),
        "zeros": np.zeros(8),
        "b": SPREAD * 0.1,
        "depthwise": weights(8, 1, 3, 3),
        "v": weights(2, 8, 1, 1) / along(1, 4),
    },
)
MODELS = {"normed": NORMED, "conv": CONV, "gemm": GEMM, "grouped": GROUPED, "transposed": TRANSPOSED}


def feed(proto: onnx.ModelProto, seed: int = 1) -> dict[str, np.ndarray]:
    shape = [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim]
    return {"x": np.random.default_rng(seed).standard_normal(shape).astype(np.float32)}


@pytest.mark.parametrize("name", MODELS)
def test_any_exponents_on_any_chain_keep_every_bit(name: str) -> None:
    proto = MODELS[name]
    scope = build_view(wrap_model(proto)).main
    rng, chains = np.random.default_rng(7), list(find_chains(scope))
    assert chains
    scales = [
        ChannelScale(chain.tensors[0][0].name, tuple(rng.integers(-9, 9, chain.channels).tolist()))
        for chain in chains
    ]
    changed, done = scale_channels(scope, scales)
    assert done == scales
    onnx.checker.check_model(changed.proto, full_check=True)
    for seed in (1, 2):
        expected = open_session(proto).run(feed(proto, seed))["y"]
        np.testing.assert_array_equal(open_session(changed.proto).run(feed(proto, seed))["y"], expected)


@pytest.mark.parametrize("name", MODELS)
def test_fix_scales_channels_and_nothing_is_left_in_fp32(name: str) -> None:
    proto = MODELS[name]
    outcome = onnx_fp16fix.fix(proto, feed(proto), tensorrt="off")
    assert [f.tensor for f in outcome.findings if f.name == "fp16-channel-range"]
    assert outcome.run.status == "ok"
    assert outcome.verification.fp32.identical
    assert outcome.plan.fp32_nodes == []
    assert max(entry.rel_l2 for entry in outcome.verification.fp16_sim.outputs) < 3e-3


def test_without_per_channel_scales_the_same_model_is_wrong_or_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnx_fp16fix.pipeline.repair.equalize_channels", lambda *_: None)
    outcome = onnx_fp16fix.fix(GEMM, feed(GEMM), tensorrt="off")
    error = max(entry.rel_l2 for entry in outcome.verification.fp16_sim.outputs)
    assert outcome.plan.fp32_nodes or error > 3e-3


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("h = MatMul(x, w)\n s = Sigmoid(h)\n y = MatMul(s, v)", "Sigmoid wants the true value"),
        (
            "h = MatMul(x, w)\n r = Relu(h)\n o = MatMul(r, v)\n y = Concat<axis=1>(o, r)",
            "r is read elsewhere",
        ),
        ("h = MatMul(x, w)\n s = Softmax(h)\n y = MatMul(s, v)", "Softmax mixes channels"),
    ],
)
def test_no_chain_where_a_reader_cares(body: str, why: str) -> None:
    proto = model(
        f"(float[5,6] x) => (float[5,n] y) {{ {body} }}",
        {"w": weights(6, 8) * SPREAD, "v": weights(8, 3) / SPREAD[:, None]},
    )
    assert not [c for c in find_chains(build_view(wrap_model(proto)).main) if c.tensors[0][0].name == "h"], (
        why
    )


def test_a_scale_that_would_make_a_constant_subnormal_is_left_out() -> None:
    scope = build_view(wrap_model(GEMM)).main
    same, done = scale_channels(scope, [ChannelScale("h", (140,) * 8)])
    assert done == []
    assert same.proto == GEMM


def test_a_chain_ends_in_one_scale_per_tensor() -> None:
    """A depthwise Conv reads one chain and makes the next: no tensor may lie in both."""
    names = [t.name for c in find_chains(build_view(wrap_model(GROUPED)).main) for t, _ in c.tensors]
    assert sorted(names) == ["d", "g", "h", "t"]


def test_channels_of_one_size_are_left_alone() -> None:
    proto = model(
        "(float[5,6] x) => (float[5,3] y) { h = MatMul(x, w)\n r = Relu(h)\n y = MatMul(r, v) }",
        {"w": weights(6, 8) * 1e5, "v": weights(8, 3)},
    )
    outcome = onnx_fp16fix.fix(proto, feed(proto), tensorrt="off")
    assert not [f for f in outcome.findings if f.name == "fp16-channel-range"]
