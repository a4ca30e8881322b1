"""Values inside a kernel that FP16 must hold: the sum and the count of a mean, a variance, 1 + exp(x), a polynomial,
the scores of an attention.

Each function follows ``kernels.Write``.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnx_fp16fix.simulate.build import Builder, Known

__all__ = ["blind_gelu", "halved_mean", "halved_scores", "halved_softplus", "halved_variance"]


def halved_mean(build: Builder, node: onnx.NodeProto, known: Known) -> str:
    """``round(ReduceSum(x)) / round(N)``; N is taken from the sizes at run time, and is infinite beyond 65504.

    N = elements of x / elements of the sum holds for any axes, for ``noop_with_empty_axes`` (N = 1) and dynamic
    shapes, and an empty x gives 0 / 0 = NaN, as a mean of nothing does.
    """
    attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    axes = attributes.pop("axes", None)
    inputs = list(node.input)
    if axes is not None and build.opset >= 13:
        inputs.append(build.constant(axes, np.int64))
    elif axes is not None:
        attributes["axes"] = axes
    total = build.add("ReduceSum", *inputs, **attributes)
    size, parts = (
        build.add("Cast", build.add("Size", name), to=TensorProto.FLOAT) for name in (node.input[0], total)
    )
    count = build.rounded(build.add("Div", size, parts))
    return build.add("Div", build.rounded(total), count, name=node.name)


def halved_softplus(build: Builder, node: onnx.NodeProto, known: Known) -> str:
    """``max(x, 0) + log(round(1 + exp(-|x|)))``: what is below half a step beside 1 is gone."""
    (data,) = node.input
    small = build.add("Exp", build.add("Neg", build.add("Abs", data)))
    rest = build.add("Log", build.rounded(build.add("Add", build.constant(1.0), small)))
    return build.add("Add", build.add("Relu", data), rest, name=node.name)


def halved_variance(build: Builder, node: onnx.NodeProto, known: Known) -> str:
    """InstanceNormalization whose variance is rounded where the batch has more than one element.

    x: [N, C, ...] is taken as [N, C, D]. A variance beyond 65504 becomes infinite, and the result is the bias:
    our reading of a measurement that was finite and wrong.
    """
    data, scale, bias = node.input
    epsilon = next((item.f for item in node.attribute if item.name == "epsilon"), 1e-5)
    flat = build.add("Reshape", data, build.constant([0, 0, -1], np.int64))
    count = build.add("Gather", build.add("Shape", flat), build.constant(2, np.int64))
    divisor = build.add("Cast", count, to=TensorProto.FLOAT)
    centred = build.add("Sub", flat, build.add("Div", build.sum(flat, [2]), divisor))
    variance = build.add("Div", build.sum(build.add("Mul", centred, centred), [2]), divisor)
    batch = build.add("Gather", build.add("Shape", flat), build.constant(0, np.int64))
    several = build.add("Greater", batch, build.constant(1, np.int64))
    used = build.add("Where", several, build.rounded(variance), variance)
    spread = build.add("Sqrt", build.add("Add", used, build.constant(epsilon)))
    row = build.constant([1, -1, 1], np.int64)
    normal = build.add("Mul", build.add("Div", centred, spread), build.add("Reshape", scale, row))
    moved = build.add("Add", normal, build.add("Reshape", bias, row))
    return build.add("Reshape", moved, build.add("Shape", data), name=node.name)


def blind_gelu(build: Builder, node: onnx.NodeProto, known: Known) -> str | None:
    """Gelu in its tanh form, NaN where x**3 leaves FP16: what the kernel gives there follows no rule worth copying."""
    if not any(item.name == "approximate" and item.s == b"tanh" for item in node.attribute):
        return None
    (data,) = node.input
    result = build.add("Gelu", data, approximate="tanh", name=node.name)
    cube = build.rounded(build.add("Mul", build.rounded(build.add("Mul", data, data)), data))
    return build.add("Where", build.add("IsInf", cube), build.constant(np.nan), result)


def halved_scores(build: Builder, node: onnx.NodeProto, known: Known) -> str | None:
    """Attention (opset 23), NaN where the largest score of any query is no finite FP16 number: so is its softmax.

    The scores, [batch, heads, queries, keys], scaled and before the mask, are the op's own fourth output.
    """
    if len(node.output) > 3:
        return None  # the model reads scores of its own choice
    whole = onnx.NodeProto()
    whole.CopyFrom(node)
    names = [name and build.fresh(f"{name}.wide") for name in (*node.output, "", "")[:3]]
    scores = build.fresh("fp16fix.scores")
    whole.output[:] = [*names, scores]
    build.graph.node.append(whole)
    for wide, name in zip(names[1:], node.output[1:], strict=False):
        if name:
            build.rounded(wide, name)
    largest = build.rounded(build.add("ReduceMax", scores, build.constant([-1], np.int64)))
    infinite = build.add("Cast", build.add("IsInf", largest), to=TensorProto.FLOAT)
    lost = build.add("Greater", build.sum(infinite, None, keepdims=False), build.constant(0.0))
    return build.add("Where", lost, build.constant(np.nan), names[0])
