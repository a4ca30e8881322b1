"""Sums that a kernel may keep in FP16 while it adds: one element, or one block of a product, after the other.

Each public function follows ``kernels.Write``. The order is that of the elements; a GPU adds in another one, with
errors of the same size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnx_fp16fix.simulate.build import Builder, Known

__all__ = ["BLOCK", "adding_loop", "halved_gemm", "halved_matmul", "halved_sum", "running_sum"]

BLOCK = 16
"""Products that a tensor core adds exactly before it rounds to its accumulator."""


def running_sum(build: Builder, node: onnx.NodeProto, known: Known) -> str | None:
    """CumSum that rounds after every element: adding ones, it stops at 2048."""
    axis = known.value(node.input[1])
    if axis is None:
        return None
    flags = {item.name: item.i for item in node.attribute}
    place = int(axis.reshape(-1)[0])
    return _unless_empty(build, node, lambda inner: _scan(inner, node.input[0], place, **flags))


def halved_sum(build: Builder, node: onnx.NodeProto, known: Known) -> str | None:
    """ReduceSum that rounds after every element, one axis after the other."""
    attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    axes = attributes.get("axes")
    if axes is None and len(node.input) > 1 and node.input[1]:
        axes = known.value(node.input[1])
        if axes is None:
            return None
    if axes is not None and not len(axes):
        axes = None
    if axes is None and attributes.get("noop_with_empty_axes"):
        return None
    order = None if axes is None else [int(axis) for axis in axes]
    if order and min(order) < 0 <= max(order):
        return None  # taking one out would renumber those counted from the other end
    return _unless_empty(build, node, lambda inner: _sum(inner, node, order))


def _sum(build: Builder, node: onnx.NodeProto, axes: list[int] | None) -> str:
    total = node.input[0]
    if axes is None:
        axes, total = [0], build.add("Reshape", total, build.constant([-1], np.int64))
    # The one farthest from where they are counted comes first and does not renumber those still to come.
    for axis in sorted(set(axes), key=abs, reverse=True):
        total = _total(build, total, axis)
    shaped = build.fresh(f"{node.output[0]}.shaped")
    build.graph.node.add().CopyFrom(node)
    build.graph.node[-1].output[0] = shaped
    return build.add("Reshape", total, build.add("Shape", shaped))


def halved_matmul(build: Builder, node: onnx.NodeProto, known: Known) -> str | None:
    """MatMul whose accumulator is rounded after every block of the inner dimension."""
    rank = known.rank(node.input[1])
    return None if rank is None else _blocks(build, node.input[0], node.input[1], -2 if rank > 1 else -1)


def halved_gemm(build: Builder, node: onnx.NodeProto, known: Known) -> str:
    """Gemm whose accumulator is rounded after every block; alpha, beta and C come after that, in FP32."""
    flags = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    a, b = (
        build.add("Transpose", name, perm=[1, 0]) if flags.get(flag) else name
        for name, flag in zip(node.input, ("transA", "transB"), strict=False)
    )
    result = build.add("Mul", _blocks(build, a, b, -2), build.constant(flags.get("alpha", 1.0)))
    if len(node.input) > 2 and node.input[2]:
        offset = build.add("Mul", node.input[2], build.constant(flags.get("beta", 1.0)))
        result = build.add("Add", result, offset)
    return result


def _total(build: Builder, data: str, axis: int) -> str:
    """The rounded sum along ``axis``, which it loses. A Loop, because ONNX Runtime runs a Scan only where it can tell
    the rank of ``data``."""
    size = build.add("Gather", build.add("Shape", data), build.constant(axis, np.int64))
    start = build.add("ConstantOfShape", build.add("Shape", build.sum(data, [axis], keepdims=False)))
    return adding_loop(build, size, start, lambda inner, index: inner.add("Gather", data, index, axis=axis))


def _scan(build: Builder, data: str, axis: int, *, reverse: int = 0, exclusive: int = 0) -> str:
    """All rounded sums along ``axis``, in the shape of ``data``."""
    body, inner = _body(build)
    state, element = build.fresh("fp16fix.state"), build.fresh("fp16fix.element")
    following = inner.rounded(inner.add("Add", state, element))
    seen = inner.add("Identity", state if exclusive else following)
    body.input.extend(_values(state, element))
    body.output.extend(_values(following, seen))
    outputs = [build.fresh("fp16fix.total"), build.fresh("fp16fix.sums")]
    start = build.add("ConstantOfShape", build.add("Shape", build.sum(data, [axis], keepdims=False)))
    scan = helper.make_node(
        "Scan", [start, data], outputs, body=body, num_scan_inputs=1,
        scan_input_axes=[axis], scan_output_axes=[axis],
        scan_input_directions=[reverse], scan_output_directions=[reverse],
    )  # fmt: skip
    build.graph.node.append(scan)
    return outputs[1]


def _unless_empty(build: Builder, node: onnx.NodeProto, write: Callable[[Builder], str]) -> str:
    """What ``write`` makes, or the plain node where its input has no elements: ONNX Runtime cannot scan nothing."""
    empty = build.add("Equal", build.add("Size", node.input[0]), build.constant(0, np.int64))
    (then_branch, then), (else_branch, otherwise) = _body(build), _body(build)
    plain = then.fresh(f"{node.output[0]}.plain")
    then_branch.node.add().CopyFrom(node)
    then_branch.node[0].output[0] = plain
    then_branch.output.extend(_values(plain))
    else_branch.output.extend(_values(write(otherwise)))
    return build.add("If", empty, then_branch=then_branch, else_branch=else_branch)


def _blocks(build: Builder, a: str, b: str, axis: int) -> str:
    """``a @ b``, summed block by block along the last axis of ``a`` and ``axis`` of ``b``."""
    one, block = build.constant([1], np.int64), build.constant([BLOCK], np.int64)
    inner_size = build.add("Gather", build.add("Shape", a), build.constant([-1], np.int64))
    rounded_up = build.add("Sub", build.add("Add", inner_size, block), one)
    rounds = build.add("Squeeze", build.add("Div", rounded_up, block))
    start = build.add("ConstantOfShape", build.add("Shape", build.add("MatMul", a, b)))

    def summand(inner: Builder, index: str) -> str:
        first = inner.add("Mul", inner.add("Reshape", index, one), block)
        last = inner.add("Add", first, block)
        left = inner.add("Slice", a, first, last, build.constant([-1], np.int64))
        right = inner.add("Slice", b, first, last, build.constant([axis], np.int64))
        return inner.add("MatMul", left, right)

    return adding_loop(build, rounds, start, summand)


def adding_loop(build: Builder, rounds: str, start: str, summand: Callable[[Builder, str], str]) -> str:
    """``start`` and what ``summand`` gives for the number of each round, rounded after each addition.

    ``rounds`` is a scalar; ``summand`` writes into the body and gets the name of the number there.
    """
    body, inner = _body(build)
    index, going, state = (build.fresh(f"fp16fix.{name}") for name in ("index", "going", "state"))
    following = inner.rounded(inner.add("Add", state, summand(inner, index)))
    again = inner.add("Identity", going)
    body.input.append(helper.make_tensor_value_info(index, TensorProto.INT64, []))
    body.input.append(helper.make_tensor_value_info(going, TensorProto.BOOL, []))
    body.output.append(helper.make_tensor_value_info(again, TensorProto.BOOL, []))
    body.input.extend(_values(state))
    body.output.extend(_values(following))
    return build.add("Loop", rounds, "", start, body=body)


def _body(build: Builder) -> tuple[onnx.GraphProto, Builder]:
    body = onnx.GraphProto(name=build.fresh("fp16fix.body"))
    return body, Builder(body, build.fresh, build.opset)


def _values(*names: str) -> list[Any]:
    return [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
