"""Writes paddle2onnx.onnx: every formula as PaddlePaddle users write it, through paddle2onnx.

Run by hand in an environment of its own: ``pip install paddlepaddle paddle2onnx packaging polygraphy``, then
``python by_paddle2onnx.py``.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import paddle
import paddle.nn.functional as F  # noqa: N812
from cases import INPUTS
from join import join
from paddle import nn

paddle.seed(0)


def constant(values: np.ndarray) -> paddle.Tensor:
    return paddle.to_tensor(values.astype(np.float32))


def frequencies():
    return constant(10000 ** (-np.arange(8) / 8))


def grid():
    return constant(np.arange(0, 4000, 32)[:, None])


def codes():
    return constant(np.random.default_rng(1).normal(size=(16, 16)) * 300)


def heavy():
    return constant(np.random.default_rng(2).normal(size=(16, 16)) * 1e6)


def causal():
    return constant(np.triu(np.full((64, 64), -1e9), 1))


def mean(x, axis=-1):
    return paddle.mean(x, axis, keepdim=True)


def layer_norm(x):
    d = x - mean(x)
    return d / paddle.sqrt(mean(paddle.pow(d, 2)) + 1e-6) * 1.5 + 0.3


def layer_norm_2d(x):
    m = mean(x, 1)
    s = mean((x - m).pow(2), 1)
    return (x - m) / paddle.sqrt(s + 1e-6)


def moments(x):
    m = mean(x)
    return (x - m) * paddle.rsqrt(mean(x * x) - m * m + 1e-5)


def snake(x):
    a = constant(np.arange(1.0, 5.0))
    return x + paddle.sin(a * x) ** 2 / a


def logit(x):
    p = paddle.clip(x, 1e-8, 1 - 1e-7)
    return paddle.log(p / (1 - p))


def timestep(t):
    angles = t.unsqueeze(1) * frequencies().unsqueeze(0)
    return paddle.concat([paddle.sin(angles), paddle.cos(angles)], -1)


def iou(a, b):
    far = constant(np.array([0, 0, 400, 300]))
    a, b = a + far, b + far
    size = F.relu(paddle.minimum(a[:, 2:], b[:, 2:]) - paddle.maximum(a[:, :2], b[:, :2]))
    inter = size[:, 0] * size[:, 1]
    left, right = a[:, 2:] - a[:, :2], b[:, 2:] - b[:, :2]
    return inter / (left[:, 0] * left[:, 1] + right[:, 0] * right[:, 1] - inter)


def inverse_sigmoid(x):
    x = x.clip(0.0, 1.0)
    return paddle.log(x.clip(min=1e-5) / (1 - x).clip(min=1e-5))


def deviation(x):
    d = x - mean(x, (1, 2))
    return paddle.sqrt(mean(d * d, (1, 2)) + 0.5)


def masked(x, low):
    return paddle.where(x > 0.5, paddle.zeros_like(x), paddle.full_like(x, low))


def chosen(x):
    return (x > 0.5).astype("float32")


def linear_attention(v, k, q):
    out = paddle.matmul(paddle.matmul(paddle.concat([v, paddle.ones([1, 1, 256])], 1), k), q)
    return out[:, :8] / (out[:, 8:] + 1e-15)


def kernel_attention(k, v, q):
    kv = paddle.matmul(k, v, transpose_x=True)
    return paddle.matmul(q, kv) / ((q * k.sum(1, keepdim=True)).sum(-1, keepdim=True) + 1e-6)


# left out, because the exporter fails on them: softplus, 1 / sqrt, norms over two axes, NHWC pooling;
# gelu comes out with Erf whatever is asked for, and an unbiased variance asks for sizes of its inner values
FORMULAS = {
    "NORM001": lambda x: x * paddle.rsqrt(mean(paddle.square(x)) + 1e-6),
    "NORM001b": lambda x: x / paddle.sqrt(mean(x.pow(2)) + 1e-6),
    "NORM002": layer_norm,
    "NORM002b": layer_norm_2d,
    "NORM003": lambda x: F.normalize(x, axis=-1),
    "NORM003b": lambda x: x / (paddle.norm(x, axis=-1, keepdim=True) + 1e-6),
    "NORM005": nn.InstanceNorm2D(8),
    "NORM006": nn.LayerNorm(64),
    "NORM011": lambda x: (x - mean(x)) / (paddle.std(x, -1, unbiased=False, keepdim=True) + 0.1),
    "NORM012": lambda w: w * paddle.rsqrt(paddle.square(w).sum([0, 1, 2], keepdim=True) + 1e-8),
    "NORM013": deviation,
    "NORM014": lambda a, b: paddle.sqrt(a**2 + b**2),
    "NORM017": moments,
    "NORM018": lambda x: paddle.std(x, -1),
    "ATTN001": lambda q, k: F.softmax(paddle.matmul(q, k, transpose_y=True) * 0.125),
    "ATTN003": linear_attention,
    "ATTN004": kernel_attention,
    "ATTN005": lambda x: paddle.exp(x) / paddle.exp(x).sum(-1, keepdim=True),
    "ATTN006": lambda x: paddle.log(paddle.exp(x).sum(-1)),
    "ACT001": lambda x: paddle.log(1 + paddle.exp(x)),
    "ACT003": F.mish,
    "ACT006": lambda x: paddle.exp(x).clip(max=100.0),
    "ACT007": snake,
    "ACT008": lambda x: paddle.sqrt(paddle.exp(x)),
    "MASK001": lambda x, m: F.softmax(x + (1 - (m > 0.5).astype("float32")) * -1e9),
    "MASK002": lambda x, m: F.softmax(paddle.where(m > 0.5, x, paddle.full_like(x, -1e9))),
    "MASK003": lambda x, m: F.softmax(
        x + paddle.where(m > 0.5, paddle.zeros_like(m), paddle.full_like(m, -1e9))
    ),
    "MASK004": lambda x: F.softmax(x + causal()),
    "MASK005": lambda x, m, n: F.softmax(x + masked(m, -1e30) + (1 - (n > 0.2).astype("float32")) * -1e30),
    "MASK006": lambda x, m: F.softmax(x + (m < 0.5).astype("float32") * -1e9),
    "MASK007": lambda x, m: F.softmax(x - (1 - chosen(m)) * 1e10),
    "MASK008": lambda x, m: F.softmax(x + masked(m, -3.4028234663852886e38)),
    "MASK009": lambda x, m: F.softmax((x + masked(m, -3.4e38)).clip(min=-3.4e38)),
    "EPS001": lambda x: paddle.tanh(x / (paddle.abs(x) + 2e-8)),
    "EPS002": lambda x: x / paddle.abs(x).clip(min=1e-10),
    "EPS003": lambda x: paddle.log(x + 2e-8),
    "EPS004": lambda x: paddle.log(x.clip(min=1e-10)),
    "EPS006": logit,
    "EPS007": lambda y, x: paddle.atan(y / x),
    "POS001": lambda p: paddle.cos(p.unsqueeze(-1) * frequencies()),
    "POS002": timestep,
    "POS004": lambda x: paddle.sin(paddle.cumsum(x, 1) * 0.001),
    "POS005": lambda f: paddle.sin(paddle.cumsum(f, 1) * 6.2831853),
    "POS006": lambda x: paddle.floor(paddle.topk(x, 300)[1].astype("float32") / 80.0),
    "POS009": lambda x: (F.sigmoid(x) * 2 - 0.5 + grid()) * 32.0,
    "POS010": lambda x: (paddle.exp(x) * constant(np.array([25.0, 12.5]))).clip(max=640.0),
    "POS011": iou,
    "POS014": inverse_sigmoid,
    "SUM001": lambda x: x.sum([1, 2]) * (1 / 1024),
    "SUM002": lambda x: paddle.mean(x, (1, 2)),
    "SUM004": lambda x: paddle.sqrt(((x.unsqueeze(1) - codes().unsqueeze(0)) ** 2).sum(-1)),
    "SUM005": lambda x: ((x.unsqueeze(1) - codes().unsqueeze(0)) ** 2).sum(-1).argmin(-1),
    "SUM006": lambda x: paddle.norm(x, axis=-1),
    "SUM008": lambda a, b: paddle.mean(a * b, -1),
    "WEIGHT001": lambda x: F.relu(paddle.matmul(x, heavy())),
    "WEIGHT003": lambda x: x.clip(-1e6, 1e6),
    "WEIGHT004": lambda x: x * 1e6,
    "RES002": lambda x: F.relu(paddle.matmul(x, heavy())),
}
FIXED_SHAPE = {"MASK001", "MASK002", "MASK003", "NORM012", "MASK004", "POS009", "NORM005"}
FIXED_SHAPE |= {f"MASK{number:03}" for number in range(5, 10)} | {"ATTN003", "ATTN004"}


class Formula(nn.Layer):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x0):
        return self.function(x0)


class OfTwo(Formula):
    def forward(self, x0, x1):
        return self.function(x0, x1)


class OfThree(Formula):
    def forward(self, x0, x1, x2):
        return self.function(x0, x1, x2)


def exported(case: str) -> onnx.ModelProto:
    first = (lambda shape: shape) if case in FIXED_SHAPE else (lambda shape: (None, *shape[1:]))
    spec = [
        paddle.static.InputSpec(list(first(shape)), "float32", f"x{index}")
        for index, (_, _, shape) in enumerate(INPUTS[case])
    ]
    module = (Formula, OfTwo, OfThree)[len(spec) - 1](FORMULAS[case])
    module.eval()
    with tempfile.TemporaryDirectory() as folder:
        paddle.onnx.export(module, f"{folder}/model", input_spec=spec, opset_version=17)
        (path,) = Path(folder).glob("*.onnx")
        return onnx.load(path)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        case, path = sys.argv[1:]
        onnx.save(exported(case), path)
        raise SystemExit
    models = {}
    with tempfile.TemporaryDirectory() as folder:
        for case in FORMULAS:
            path = Path(folder, f"{case}.onnx")
            # a process each: some failures of the exporter end it
            subprocess.run([sys.executable, __file__, case, path], stdout=subprocess.DEVNULL, check=False)
            if path.exists():
                models[case] = onnx.load(path)
            else:
                print("not exported:", case)
    join(models, "paddle2onnx")
