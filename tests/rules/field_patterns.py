"""A small graph for each pattern of docs/failure-patterns.md, with numbers that break it in FP16; all in one model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import compose, helper, numpy_helper

from language._models import case

__all__ = ["PATTERNS", "Array", "merged"]

Array = np.ndarray
_OPSET = 21
_rng = np.random.default_rng(0)


def normal(*shape: int, scale: float = 1.0) -> Array:
    return (_rng.standard_normal(shape) * scale).astype(np.float32)


def positive(*shape: int, scale: float = 1.0) -> Array:
    return np.abs(normal(*shape, scale=scale))


def numbers(*values: int) -> Array:
    return np.array(values, np.int64)


ROWS = normal(4, 64, scale=300) * np.where(np.arange(64) == 3, 10, 1).astype(np.float32)
IMAGE = normal(1, 32, 8, 8, scale=300) * np.where(np.arange(32) == 3, 4, 1).reshape(32, 1, 1).astype(
    np.float32
)
WIDE = normal(1, 8, 64, 64, scale=5) + 50
ONES, ZEROS = np.ones(32, np.float32), np.zeros(32, np.float32)
VARIANCES = np.where(_rng.random((4, 64)) < 0.3, 0, positive(4, 64)).astype(np.float32)
LOGITS = np.linspace(-18, 18, 256, dtype=np.float32).reshape(4, 64)
SCORES = normal(1, 2, 16, 16, scale=5)
CAUSAL = np.tril(np.ones((16, 16), bool))
NOBODY = CAUSAL & (np.arange(16)[:, None] < 12)
"""Rows 12 to 15 see nothing."""
PADDING = (np.arange(16) < 12).astype(np.float32).reshape(1, 1, 1, 16)
QUERIES = normal(1, 2, 16, 64, scale=30) * np.where(np.arange(64) == 0, 20, 1).astype(np.float32)
FREQUENCIES = (10000 ** (-np.arange(32) / 32)).astype(np.float32).reshape(1, 32)
BOXES = _rng.random((32, 2)).astype(np.float32) * 2000
CORNERS = BOXES + 100 + _rng.random((32, 2)).astype(np.float32) * 900
POINTS = normal(1, 32, 64, scale=40)
SIDES = {"zero": np.array(0, np.int64), "one": np.array(1, np.int64)}
AREAS = """
wx = Clip(Min(Gather(b2, zero, axis=1), Gather(c2, zero, axis=1)) - Max(Gather(b1, zero, axis=1), Gather(c1, zero, axis=1)), min=0.0)
wy = Clip(Min(Gather(b2, one, axis=1), Gather(c2, one, axis=1)) - Max(Gather(b1, one, axis=1), Gather(c1, one, axis=1)), min=0.0)
i = wx * wy
ab = (Gather(b2, zero, axis=1) - Gather(b1, zero, axis=1)) * (Gather(b2, one, axis=1) - Gather(b1, one, axis=1))
ac = (Gather(c2, zero, axis=1) - Gather(c1, zero, axis=1)) * (Gather(c2, one, axis=1) - Gather(c1, one, axis=1))
i / (ab + ac - i + 1e-7)
"""  # noqa: E501
DISTANCES = """
r = ReduceSum(a ** 2.0, axes=[2], keepdims=1) + Transpose(ReduceSum(b ** 2.0, axes=[2], keepdims=1), perm=[0, 2, 1])
d = r - 2.0 * MatMul(a, Transpose(b, perm=[0, 2, 1]))
"""
Feeds = Mapping[str, Array]

PATTERNS: dict[str, tuple[str, Feeds, Feeds]] = {  # text, data, weights
    "layer-norm": (
        """
        d = x - ReduceMean(x, axes=[-1], keepdims=1)
        d / Sqrt(ReduceMean(d ** 2.0, axes=[-1], keepdims=1) + 1e-5)
        """,
        {"x": ROWS},
        {},
    ),
    "channel-layer-norm": (
        """
        d = x - ReduceMean(x, axes=[1], keepdims=1)
        d / Sqrt(ReduceMean(d ** 2.0, axes=[1], keepdims=1) + 1e-6)
        """,
        {"x": IMAGE},
        {},
    ),
    "layer-norm-op": (
        "LayerNormalization(x, g, axis=-1, epsilon=1e-5)",
        {"x": ROWS * 20},
        {"g": np.ones(64, np.float32)},
    ),
    "rms-norm": (
        "x * Reciprocal(Sqrt(ReduceMean(x ** 2.0, axes=[-1], keepdims=1) + 1e-6))",
        {"x": ROWS},
        {},
    ),
    "instance-norm": (
        "InstanceNormalization(x, g, b, epsilon=1e-5)",
        {"x": IMAGE},
        {"g": ONES, "b": ZEROS},
    ),
    "group-norm-by-instance-norm": (
        """
        r = Reshape(x, a)
        i = InstanceNormalization(r, g, b, epsilon=1e-5)
        Reshape(i, Shape(x)) * w
        """,
        {"x": IMAGE},
        {"a": numbers(0, 8, -1), "g": ONES[:8], "b": ZEROS[:8], "w": normal(32, 1, 1)},
    ),
    "group-norm": (
        "GroupNormalization(x, g, b, num_groups=8, epsilon=1e-5)",
        {"x": IMAGE},
        {"g": ONES, "b": ZEROS},
    ),
    "l2-normalize": (
        "x / Expand(Clip(ReduceL2(x, axes=[-1], keepdims=1), min=1e-12), Shape(x))",
        {"x": ROWS},
        {},
    ),
    "l2-normalize-tf": (
        "x * Reciprocal(Sqrt(Max(ReduceSum(x * x, axes=[-1], keepdims=1), 1e-12)))",
        {"x": ROWS},
        {},
    ),
    "lp-norm-op": (
        "LpNormalization(x, axis=-1, p=2)",
        {"x": ROWS},
        {},
    ),
    "unbiased-std": (
        """
        d = x - ReduceMean(x, axes=[2, 3], keepdims=1)
        Sqrt(ReduceMean(d * d, axes=[2, 3], keepdims=1) * 64.0 / 63.0)
        """,
        {"x": IMAGE},
        {},
    ),
    "adain": (
        """
        d = x - ReduceMean(x, axes=[2, 3], keepdims=1)
        d / Sqrt(ReduceSum(d ** 2.0, axes=[2, 3], keepdims=1) / 64.0 + 1e-8) * s + t
        """,
        {"x": IMAGE, "s": normal(1, 32, 1, 1), "t": normal(1, 32, 1, 1)},
        {},
    ),
    "demodulation": (
        """
        m = w * s
        c = Reciprocal(Sqrt(ReduceSum(m ** 2.0, axes=[2, 3, 4], keepdims=1) + 1e-8))
        Conv(x, Reshape(m * c, k), pads=[1, 1, 1, 1])
        """,
        {"x": normal(1, 32, 8, 8), "s": normal(1, 1, 32, 1, 1, scale=20)},
        {"w": normal(1, 16, 32, 3, 3, scale=3), "k": numbers(16, 32, 3, 3)},
    ),
    "lrn": (
        "LRN(x, size=5, alpha=1e-4, beta=0.75, bias=1.0)",
        {"x": IMAGE * 3},
        {},
    ),
    "residual-stream": (
        """
        h = x + MatMul(x, u)
        j = h + MatMul(Tanh(h), v)
        MatMul(j * Reciprocal(Sqrt(ReduceMean(j * j, axes=[-1], keepdims=1) + 1e-5)), o)
        """,
        {"x": normal(4, 64, scale=3000)},
        {"u": normal(64, 64, scale=4), "v": normal(64, 64, scale=2000), "o": normal(64, 8, scale=0.1)},
    ),
    "linear-output": (
        """
        r = Conv(x, w, pads=[1, 1, 1, 1])
        Conv(r * Sigmoid(r), v)
        """,
        {"x": normal(1, 16, 8, 8, scale=100)},
        {"w": normal(16, 16, 3, 3, scale=80), "v": normal(8, 16, 1, 1, scale=1e-4)},
    ),
    "qk-product": (
        "Softmax(MatMul(q, Transpose(k, perm=[0, 1, 3, 2])) * 0.0125, axis=-1)",
        {"q": QUERIES, "k": QUERIES[:, ::-1]},
        {},
    ),
    "qk-einsum": (
        'Softmax(Einsum(q, k, equation="bhid,bhjd->bhij") * 0.0125, axis=-1)',
        {"q": QUERIES, "k": QUERIES[:, ::-1]},
        {},
    ),
    "mask-one-minus": (
        "Softmax(s + (1.0 - m) * -1e9, axis=-1)",
        {"s": SCORES, "m": PADDING},
        {},
    ),
    "mask-where": (
        "Softmax(Where(m, s, -3.4e38), axis=-1)",
        {"s": SCORES, "m": NOBODY},
        {},
    ),
    "mask-added": (
        "Softmax(s + Where(m, 0.0, -3.4e38), axis=-1)",
        {"s": SCORES, "m": NOBODY},
        {},
    ),
    "mask-moved": (
        "Softmax(s + Unsqueeze(Where(m, 0.0, -3.4e38), axes=[0, 1]), axis=-1)",
        {"s": SCORES, "m": CAUSAL},
        {},
    ),
    "mask-stored": (
        "Softmax(s + c, axis=-1)",
        {"s": SCORES},
        {"c": np.where(CAUSAL, 0, np.finfo(np.float32).min).astype(np.float32)},
    ),
    "mask-clipped": (
        "Softmax(Max(s + Where(m, 0.0, -3.4e38), -3.4e38), axis=-1)",
        {"s": SCORES, "m": CAUSAL},
        {},
    ),
    "mask-computed": (
        "Softmax(s + Where(m, q, -1e9), axis=-1)",
        {"s": SCORES, "m": CAUSAL, "q": np.linspace(0, 2, CAUSAL.shape[-1], dtype=np.float32)},
        {},
    ),
    "linear-attention": (
        """
        kv = MatMul(Concat(v, ones, axis=1), k)
        n = MatMul(kv, q)
        Slice(n, starts=[0], ends=[8], axes=[1]) / (Slice(n, starts=[8], ends=[9], axes=[1]) + 1e-15)
        """,
        {"v": normal(1, 8, 512), "k": positive(1, 512, 8, scale=20), "q": positive(1, 8, 512, scale=20)},
        {"ones": np.ones((1, 1, 512), np.float32)},
    ),
    "kernel-attention": (
        """
        kv = MatMul(Transpose(k, perm=[0, 2, 1]), v)
        z = ReduceSum(k, axes=[1], keepdims=0)
        MatMul(q, kv) / (MatMul(q, Unsqueeze(z, axes=[2])) + 1e-6)
        """,
        {"k": positive(1, 512, 8, scale=20), "v": normal(1, 512, 8), "q": positive(1, 512, 8, scale=20)},
        {},
    ),
    "unshifted-softmax": (
        """
        e = Exp(x)
        e / ReduceSum(e, axes=[-1], keepdims=1)
        """,
        {"x": LOGITS},
        {},
    ),
    "log-sum-exp": (
        "Log(ReduceSum(Exp(x), axes=[-1], keepdims=0))",
        {"x": LOGITS},
        {},
    ),
    "log-cumsum-exp": (
        "Log(CumSum(Exp(x), a))",
        {"x": LOGITS},
        {"a": np.array(1, np.int64)},
    ),
    "softplus": (
        "Log(1.0 + Exp(x))",
        {"x": LOGITS},
        {},
    ),
    "mish": (
        "x * Tanh(Log(1.0 + Exp(x)))",
        {"x": LOGITS},
        {},
    ),
    "gelu-cube": (
        "0.5 * x * (1.0 + Tanh(0.7978845608 * (x + 0.044715 * x ** 3.0)))",
        {"x": ROWS},
        {},
    ),
    "exp-then-clip": (
        "Clip(Exp(x), max=100.0)",
        {"x": LOGITS},
        {},
    ),
    "exp-then-scale": (
        "Exp(x) * 1e-3",
        {"x": LOGITS},
        {},
    ),
    "divisor-epsilon": (
        "Tanh(x / (n + 1e-8))",
        {"x": VARIANCES / 2, "n": VARIANCES},
        {},
    ),
    "log-epsilon": (
        "Log(x + 1e-9)",
        {"x": VARIANCES},
        {},
    ),
    "log-mel": (
        "Log(Clip(MatMul(mel, re * re + im * im), min=1e-10))",
        {
            "re": normal(1, 80, 40, scale=600) * np.logspace(-5, 0, 40, dtype=np.float32),
            "im": normal(1, 80, 40, scale=600) * np.logspace(-5, 0, 40, dtype=np.float32),
        },
        {"mel": positive(16, 80, scale=0.02)},
    ),
    "atan2": (
        "Atan(y / x)",
        {
            "x": positive(1, 64) * np.logspace(-9, 0, 64, dtype=np.float32),
            "y": normal(1, 64) * np.logspace(-9, 0, 64, dtype=np.float32),
        },
        {},
    ),
    "rotary-angle": (
        """
        a = Unsqueeze(Cast(p, to=1), axes=[1]) * f
        Sin(a) + Cos(a)
        """,
        {"p": np.arange(4000, 4064)},
        {"f": FREQUENCIES},
    ),
    "timestep": (
        """
        a = Unsqueeze(t, axes=[1]) * f
        Concat(Sin(a), Cos(a), axis=-1)
        """,
        {"t": _rng.random(4).astype(np.float32) * 999},
        {"f": FREQUENCIES},
    ),
    "phase-accumulator": (
        "Sin(CumSum(f, a) * 6.283185307)",
        {"f": _rng.random((1, 3000)).astype(np.float32) * 0.02 + 0.1},
        {"a": np.array(1, np.int64)},
    ),
    "grid-sample": (
        "GridSample(x, g * 2.0 - 1.0, align_corners=0)",
        {"x": normal(1, 3, 64, 1024), "g": _rng.random((1, 16, 16, 2)).astype(np.float32)},
        {},
    ),
    "iou": (
        AREAS,
        {"b1": BOXES, "b2": CORNERS, "c1": BOXES + 50, "c2": CORNERS + 30},
        SIDES,
    ),
    "nms-offset": (
        """
        apart = Unsqueeze(Cast(l, to=1), axes=[1]) * (ReduceMax(b, keepdims=0) + 1.0)
        NonMaxSuppression(Unsqueeze(b + apart, axes=[0]), Unsqueeze(s, axes=[0, 1]), n, t)
        """,
        {
            "b": np.tile(np.concatenate([BOXES, CORNERS], 1)[:16], (2, 1)),
            "l": np.tile(np.arange(79, 63, -1), 2),
            "s": _rng.random(32).astype(np.float32),
        },
        {"n": numbers(20), "t": np.array([0.5], np.float32)},
    ),
    "index-through-float": (
        "Cast(Floor(Cast(i, to=1) / 80.0), to=7)",
        {"i": _rng.integers(0, 24000, (1, 300))},
        {},
    ),
    "mean-as-sum": (
        "ReduceSum(x, axes=[2, 3], keepdims=1) / 4096.0",
        {"x": WIDE},
        {},
    ),
    "mean-inner-sum": (
        "ReduceMean(x, axes=[2, 3], keepdims=1)",
        {"x": WIDE},
        {},
    ),
    "cdist": (
        DISTANCES + "Sqrt(Max(d, 0.0))",
        {"a": POINTS, "b": POINTS[:, ::-1] + 20},
        {},
    ),
    "codebook": (
        DISTANCES + "ArgMin(d, axis=2)",
        {"a": POINTS, "b": POINTS[:, ::-1]},
        {},
    ),
    "pairwise-distance": (
        "Sqrt(ReduceSum((a - b) ** 2.0, axes=[-1], keepdims=0))",
        {"a": normal(8, 64, scale=100), "b": normal(8, 64, scale=100)},
        {},
    ),
    "variance-by-difference": (
        "ReduceMean(x ** 2.0, axes=[-1], keepdims=1) - ReduceMean(x, axes=[-1], keepdims=1) ** 2.0",
        {"x": ROWS / 2},
        {},
    ),
    "weight-overflow": (
        "MatMul(x, w)",
        {"x": normal(4, 64, scale=1e-3)},
        {"w": normal(64, 8, scale=1e5)},
    ),
    "weight-subnormal": (
        "MatMul(x, w)",
        {"x": normal(4, 64, scale=1e3)},
        {"w": normal(64, 8, scale=1e-7)},
    ),
    "batch-norm-statistics": (
        "BatchNormalization(x, g, b, m, v)",
        {"x": IMAGE},
        {"g": ONES, "b": ZEROS, "m": normal(32, scale=100), "v": positive(32, scale=1e6)},
    ),
}


def merged(keys: Iterable[str]) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """These patterns side by side, and their data; the names of each begin with ``KEY/``."""
    graph, data = onnx.GraphProto(name="patterns"), {}
    for key in keys:
        text, feeds, weights = PATTERNS[key]
        given = {name: _described(values) for name, values in {**feeds, **weights}.items()}
        model = compose.add_prefix(case(text, _OPSET, **given), f"{key}/")
        graph.node.extend(model.graph.node)
        graph.output.extend(model.graph.output)
        graph.input.extend(info for info in model.graph.input if info.name.removeprefix(f"{key}/") in feeds)
        graph.initializer.extend(model.graph.initializer)
        for name, values in weights.items():
            graph.initializer.append(numpy_helper.from_array(values, f"{key}/{name}"))
        data.update({f"{key}/{name}": np.ascontiguousarray(values) for name, values in feeds.items()})
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10), data


def _described(values: Array) -> str:
    kinds = {"float32": "float", "int64": "int64", "bool": "bool"}
    return f"{kinds[str(values.dtype)]} [{', '.join(map(str, values.shape))}]"
