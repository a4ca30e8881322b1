"""Writes tf2onnx.onnx: every formula as TensorFlow users write it, through tf2onnx.

Run by hand in an environment of its own: ``pip install tensorflow-cpu tf2onnx``, then ``python by_tf2onnx.py``.
"""

from __future__ import annotations

import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
import tensorflow as tf
import tf2onnx
from cases import INPUTS
from join import join

# numpy, not TensorFlow: what a function captures as an eager tensor would become an input
FREQUENCIES = (10000 ** (-np.arange(8) / 8)).astype(np.float32)
GRID = np.arange(0, 4000, 32, np.float32)[:, None]
CODES = np.random.default_rng(1).normal(size=(16, 16)).astype(np.float32) * 300
CLUSTER = CODES / 100 + 100
HEAVY = np.random.default_rng(2).normal(size=(16, 16)).astype(np.float32) * 1e6
CAUSAL = np.triu(np.full((64, 64), -1e9, np.float32), 1)


def layer_norm(x):
    mean, variance = tf.nn.moments(x, [-1], keepdims=True)
    return tf.nn.batch_normalization(x, mean, variance, tf.ones(64) * 0.3, tf.ones(64) * 1.5, 1e-6)


def by_std(x):
    return (x - tf.reduce_mean(x, -1, keepdims=True)) / (tf.math.reduce_std(x, -1, keepdims=True) + 0.1)


def grn(x):
    g = tf.norm(x, axis=(1, 2), keepdims=True)
    return x * (g / (tf.reduce_mean(g, -1, keepdims=True) + 0.1))


def moments(x):
    mean = tf.reduce_mean(x, -1, keepdims=True)
    return (x - mean) * tf.math.rsqrt(tf.reduce_mean(x * x, -1, keepdims=True) - mean * mean + 1e-5)


def snake(x):
    a = tf.constant([1.0, 2.0, 3.0, 4.0])
    return x + tf.square(tf.sin(a * x)) / a


def logit(x):
    p = tf.clip_by_value(x, 1e-8, 1 - 1e-7)
    return tf.math.log(p / (1 - p))


def timestep(t):
    angles = t[:, None] * FREQUENCIES[None]
    return tf.concat([tf.sin(angles), tf.cos(angles)], -1)


def iou(a, b):
    far = np.float32([0, 0, 400, 300])
    a, b = a + far, b + far
    size = tf.nn.relu(tf.minimum(a[:, 2:], b[:, 2:]) - tf.maximum(a[:, :2], b[:, :2]))
    inter = size[:, 0] * size[:, 1]
    left, right = a[:, 2:] - a[:, :2], b[:, 2:] - b[:, :2]
    return inter / (left[:, 0] * left[:, 1] + right[:, 0] * right[:, 1] - inter)


def inverse_sigmoid(x):
    x = tf.clip_by_value(x, 0.0, 1.0)
    return tf.math.log(tf.maximum(x, 1e-5) / tf.maximum(1 - x, 1e-5))


def expanded(x):
    square = tf.reduce_sum(x * x, -1, keepdims=True) + tf.reduce_sum(CLUSTER * CLUSTER, -1)
    return tf.sqrt(tf.nn.relu(square - 2 * tf.matmul(x, CLUSTER, transpose_b=True)))


def deviation(x):
    _, variance = tf.nn.moments(x, [1, 2], keepdims=True)
    return tf.sqrt(variance + 0.5)


def masked(x, low):
    return tf.where(x > 0.5, 0.0, low)


def linear_attention(v, k, q):
    kv = tf.matmul(tf.concat([v, tf.ones([1, 1, 256])], 1), k)
    out = tf.matmul(kv, q)
    return out[:, :8] / (out[:, 8:] + 1e-15)


def kernel_attention(k, v, q):
    kv = tf.matmul(k, v, transpose_a=True)
    norm = tf.reduce_sum(k, 1, keepdims=True)
    return tf.matmul(q, kv) / (tf.reduce_sum(q * norm, -1, keepdims=True) + 1e-6)


def unbiased(x):
    d = x - tf.reduce_mean(x, -1, keepdims=True)
    return d * tf.math.rsqrt(tf.reduce_sum(tf.square(d), -1, keepdims=True) / 63.0 + 0.5)


FORMULAS = {
    "NORM001": lambda x: x * tf.math.rsqrt(tf.reduce_mean(tf.square(x), -1, keepdims=True) + 1e-6),
    "NORM001b": lambda x: (
        x / tf.sqrt(tf.reduce_mean(x**2, -1, keepdims=True) + 1e-6) * tf.linspace(0.5, 1.5, 64)
    ),
    "NORM002": layer_norm,
    "NORM002b": keras.layers.GroupNormalization(2),
    "NORM002c": keras.layers.LayerNormalization(),
    "NORM003": lambda x: tf.math.l2_normalize(x, -1),
    "NORM003b": lambda x: x / (tf.norm(x, axis=-1, keepdims=True) + 1e-6),
    "NORM010": unbiased,
    "NORM011": by_std,
    "NORM012": lambda w: w * tf.math.rsqrt(tf.reduce_sum(tf.square(w), [0, 1, 2], keepdims=True) + 1e-8),
    "NORM013": deviation,
    "NORM014": lambda a, b: tf.sqrt(tf.square(a) + tf.square(b)),
    "NORM015": lambda x: tf.nn.local_response_normalization(x, 2, 1.0, 1e-4, 0.75),
    "NORM016": grn,
    "NORM017": moments,
    "NORM018": lambda x: tf.math.reduce_std(x, -1),
    "ATTN001": lambda q, k: tf.nn.softmax(tf.matmul(q, k, transpose_b=True) / 8.0),
    "ATTN002": lambda q, k: tf.nn.softmax(tf.einsum("bid,bjd->bij", q, k) * 0.125),
    "ATTN003": linear_attention,
    "ATTN004": kernel_attention,
    "ATTN005": lambda x: tf.exp(x) / tf.reduce_sum(tf.exp(x), -1, keepdims=True),
    "ATTN006": lambda x: tf.math.log(tf.reduce_sum(tf.exp(x), -1)),
    "ACT001": lambda x: tf.math.log(1 + tf.exp(x)),
    "ACT002": tf.nn.softplus,
    "ACT003": lambda x: x * tf.tanh(tf.math.softplus(x)),
    "ACT004": lambda x: tf.nn.gelu(x, approximate=True),
    "ACT006": lambda x: tf.minimum(tf.exp(x), 100.0),
    "ACT007": snake,
    "ACT008": lambda x: tf.sqrt(tf.exp(x)),
    "MASK001": lambda x, m: tf.nn.softmax(x + (1 - tf.cast(m > 0.5, tf.float32)) * -1e9),
    "MASK002": lambda x, m: tf.nn.softmax(tf.where(m > 0.5, x, -1e9)),
    "MASK003": lambda x, m: tf.nn.softmax(x + tf.where(m > 0.5, 0.0, -1e9)),
    "MASK004": lambda x: tf.nn.softmax(x + CAUSAL),
    "MASK005": lambda x, m, n: tf.nn.softmax(
        x + masked(m, -1e30) + (1 - tf.cast(n > 0.2, tf.float32)) * -1e30
    ),
    "MASK006": lambda x, m: tf.nn.softmax(x + tf.cast(m < 0.5, tf.float32) * -1e9),
    "MASK007": lambda x, m: tf.nn.softmax(x - (1 - tf.cast(m > 0.5, tf.float32)) * 1e10),
    "MASK008": lambda x, m: tf.nn.softmax(x + masked(m, tf.float32.min)),
    "MASK009": lambda x, m: tf.nn.softmax(tf.maximum(x + masked(m, tf.float32.min), tf.float32.min)),
    "EPS001": lambda x: tf.tanh(x / (tf.abs(x) + 2e-8)),
    "EPS002": lambda x: x / tf.maximum(tf.abs(x), 1e-10),
    "EPS003": lambda x: tf.math.log(x + 2e-8),
    "EPS004": lambda x: tf.math.log(tf.maximum(x, 1e-10)),
    "EPS005": lambda x: 1 / tf.sqrt(x + 2e-8),
    "EPS006": logit,
    "EPS007": lambda y, x: tf.atan(y / x),
    "POS001": lambda p: tf.cos(tf.einsum("bi,j->bij", p, FREQUENCIES)),
    "POS002": timestep,
    "POS004": lambda x: tf.sin(tf.cumsum(x, 1) * 0.001),
    "POS005": lambda f: tf.sin(tf.cumsum(f, 1) * 6.2831853),
    "POS006": lambda x: tf.floor(tf.cast(tf.math.top_k(x, 300).indices, tf.float32) / 80.0),
    "POS009": lambda x: (tf.sigmoid(x) * 2 - 0.5 + GRID) * 32.0,
    "POS010": lambda x: tf.minimum(tf.exp(x) * np.float32([25.0, 12.5]), 640.0),
    "POS011": iou,
    "POS014": inverse_sigmoid,
    "SUM001": lambda x: tf.reduce_sum(x, [1, 2]) * (1 / 1024),
    "SUM002": lambda x: tf.reduce_mean(x, [1, 2]),
    "SUM003": keras.layers.GlobalAveragePooling2D(),
    "SUM004": lambda x: tf.norm(x[:, None] - CODES[None], axis=-1),
    "SUM005": lambda x: tf.argmin(tf.reduce_sum(tf.math.squared_difference(x[:, None], CODES[None]), -1), -1),
    "SUM006": lambda x: tf.norm(x, axis=-1),
    "SUM007": expanded,
    "SUM008": lambda a, b: tf.reduce_mean(a * b, -1),
    "WEIGHT001": lambda x: tf.nn.relu(tf.matmul(x, HEAVY)),
    "WEIGHT003": lambda x: tf.clip_by_value(x, -1e6, 1e6),
    "WEIGHT004": lambda x: x * 1e6,
    "RES002": lambda x: tf.nn.relu(tf.matmul(x, HEAVY)),
}


def exported(case: str):
    signature = [tf.TensorSpec([None, *shape[1:]], tf.float32) for _, _, shape in INPUTS[case]]
    if case in ("POS009", "MASK004", "NORM012", "ATTN003", "ATTN004"):
        signature = [tf.TensorSpec(shape, tf.float32) for _, _, shape in INPUTS[case]]
    layer = FORMULAS[case]
    if isinstance(layer, keras.layers.Layer):
        layer.build(INPUTS[case][0][2])
    function = tf.function(lambda *xs: layer(*xs), input_signature=signature)
    return tf2onnx.convert.from_function(function, input_signature=signature, opset=17)[0]


if __name__ == "__main__":
    join({case: exported(case) for case in FORMULAS}, "tf2onnx")
