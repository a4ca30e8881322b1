"""Convolutions and Einsum whose accumulator is rounded after every block of products, as a matrix product's is.

A block is sixteen products of one element of the result, or fewer where the sizes do not divide: whole channels for
kernels of up to sixteen places, parts of one channel for larger ones. Each function follows ``kernels.Write``.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnx_fp16fix.simulate.accumulate import BLOCK, adding_loop
from onnx_fp16fix.simulate.build import Builder, Known

__all__ = ["halved_conv", "halved_deconv", "halved_einsum"]

_FIRST_OPSET = 11
"""Range and Where; before it only results are rounded."""


def halved_conv(build: Builder, node: onnx.NodeProto, known: Known) -> str | None:
    """Conv; the bias comes last, in FP32. x: [N, groups * c, ...], w: [M, c, ...]."""
    return _convolved(build, node, known, transposed=False)


def halved_deconv(build: Builder, node: onnx.NodeProto, known: Known) -> str | None:
    """ConvTranspose. x: [N, groups * c, ...], w: [groups * c, M, ...].

    An element of the result gets one product in ``stride`` places of the kernel; sixteen neighbours have no more.
    """
    return _convolved(build, node, known, transposed=True)


def _convolved(build: Builder, node: onnx.NodeProto, known: Known, *, transposed: bool) -> str | None:
    rank = known.rank(node.input[1])
    if rank is None or build.opset < _FIRST_OPSET:
        return None
    attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    groups = attributes.get("group", 1)
    data, weight = node.input[:2]
    whole = build.add(node.op_type, data, weight, **attributes)
    shape = build.add("Shape", weight)
    channels = _at(build, build.add("Shape", data), 1)
    if groups > 1:
        channels = build.add("Div", channels, _ints(build, groups))
    places = build.add(
        "Div", build.add("Size", weight), build.add("Mul", _at(build, shape, 0), _at(build, shape, 1))
    )
    block, one = _ints(build, BLOCK), _ints(build, 1)
    large = build.add("Greater", places, block)
    together = build.add("Where", large, one, build.add("Div", block, places))
    parts = _rounded_up(build, places, block)
    rounds = build.add("Squeeze", build.add("Mul", _rounded_up(build, channels, together), parts))
    kernel = build.add(
        "Concat", _ints(build, 1, 1), _slice(build, shape, _ints(build, 2), _ints(build, rank), 0), axis=0
    )
    numbers = build.add("Range", *(_scalar(build, 0), build.add("Squeeze", places), _scalar(build, 1)))

    def summand(inner: Builder, index: str) -> str:
        at = inner.add("Reshape", index, one)
        first = inner.add("Mul", inner.add("Div", at, parts), together)
        last = inner.add("Add", first, together)
        x = _grouped_slice(inner, data, 1, groups, first, last)
        w = (
            _grouped_slice(inner, weight, 0, groups, first, last)
            if transposed
            else _slice(inner, weight, first, last, 1)
        )
        start = inner.add("Mul", inner.add("Mod", at, parts), block)
        before = inner.add("Less", numbers, start)
        behind = inner.add("Less", numbers, inner.add("Add", start, block))
        here = inner.add("And", inner.add("Not", before), behind)
        mask = inner.add("Reshape", inner.add("Cast", here, to=TensorProto.FLOAT), kernel)
        return inner.add(node.op_type, x, inner.add("Mul", w, mask), **attributes)

    total = adding_loop(build, rounds, build.add("ConstantOfShape", build.add("Shape", whole)), summand)
    if len(node.input) > 2 and node.input[2]:
        row = build.constant([1, -1, *[1] * (rank - 2)], np.int64)
        total = build.add("Add", total, build.add("Reshape", node.input[2], row))
    return total


def halved_einsum(build: Builder, node: onnx.NodeProto, known: Known) -> str | None:
    """Einsum: sixteen places of the last index that is summed over, one of each other."""
    equation = next(item.s.decode() for item in node.attribute if item.name == "equation").replace(" ", "")
    terms, summed = _indices(equation)
    if (
        not summed
        or build.opset < _FIRST_OPSET
        or any(count > 1 for term in terms for count in Counter(term).values())
    ):
        return None
    whole = build.add("Einsum", *node.input, equation=equation)
    blocks = [1] * (len(summed) - 1) + [BLOCK]
    counts = []
    for letter, block in zip(summed, blocks, strict=True):
        number = next(number for number, term in enumerate(terms) if letter in term)
        size = _at(build, build.add("Shape", node.input[number]), _axis(terms[number], letter))
        counts.append(_rounded_up(build, size, _ints(build, block)))
    rounds = counts[0]
    for count in counts[1:]:
        rounds = build.add("Mul", rounds, count)

    def summand(inner: Builder, index: str) -> str:
        rest = inner.add("Reshape", index, _ints(inner, 1))
        operands = list(node.input)
        for letter, block, count in zip(summed, blocks, counts, strict=True):
            first = inner.add("Mul", inner.add("Mod", rest, count), _ints(inner, block))
            last = inner.add("Add", first, _ints(inner, block))
            rest = inner.add("Div", rest, count)
            for number, term in enumerate(terms):
                if letter in term:
                    operands[number] = _slice(inner, operands[number], first, last, _axis(term, letter))
        return inner.add("Einsum", *operands, equation=equation)

    start = build.add("ConstantOfShape", build.add("Shape", whole))
    return adding_loop(build, build.add("Squeeze", rounds), start, summand)


def _indices(equation: str) -> tuple[list[str], list[str]]:
    """The operands' indices ("." for an ellipsis), and the indices that are summed over."""
    left, arrow, right = equation.replace("...", ".").partition("->")
    terms = left.split(",")
    letters = Counter(letter for term in terms for letter in term if letter != ".")
    kept = set(right) if arrow else {letter for letter, count in letters.items() if count == 1}
    return terms, [letter for letter in letters if letter not in kept]


def _axis(term: str, letter: str) -> int:
    """Counted from the end behind an ellipsis."""
    place = term.index(letter)
    return place - len(term) if "." in term[:place] else place


def _grouped_slice(build: Builder, data: str, axis: int, groups: int, first: str, last: str) -> str:
    """Channels from ``first`` to ``last`` of each group, on the axis that holds all groups one after the other."""
    if groups == 1:
        return _slice(build, data, first, last, axis)
    shape = build.add("Shape", data)
    before, behind = (
        _slice(build, shape, _ints(build, 0), _ints(build, axis), 0),
        _tail(build, shape, axis + 1),
    )
    split = build.add("Concat", before, _ints(build, groups, -1), behind, axis=0)
    part = _slice(build, build.add("Reshape", data, split), first, last, axis + 1)
    return build.add("Reshape", part, build.add("Concat", before, _ints(build, -1), behind, axis=0))


def _tail(build: Builder, shape: str, start: int) -> str:
    return _slice(build, shape, _ints(build, start), _ints(build, np.iinfo(np.int64).max), 0)


def _slice(build: Builder, data: str, first: str, last: str, axis: int) -> str:
    return build.add("Slice", data, first, last, _ints(build, axis))


def _at(build: Builder, shape: str, axis: int) -> str:
    """One size of a shape, as a tensor of one element like all sizes here."""
    return build.add("Gather", shape, _ints(build, axis))


def _rounded_up(build: Builder, size: str, block: str) -> str:
    one = _ints(build, 1)
    return build.add("Div", build.add("Sub", build.add("Add", size, block), one), block)


def _ints(build: Builder, *values: int) -> str:
    return build.constant(list(values), np.int64)


def _scalar(build: Builder, value: int) -> str:
    return build.constant(value, np.int64)
