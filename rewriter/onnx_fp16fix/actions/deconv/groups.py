"""Grouped ConvTranspose without groups: one operation for each, or one with block-diagonal weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import BaseModel

from onnx_fp16fix.actions.deconv.draft import Draft
from onnx_fp16fix.actions.deconv.form import NoParameters, Write
from onnx_fp16fix.actions.deconv.operation import Array, Deconv
from onnx_fp16fix.language.registry import NotPossible

__all__ = ["DenseGroups", "SplitGroups", "block_diagonal"]

_MOST_BYTES = 1 << 30
"""Largest dense weights; beyond it splitting is the only sensible way."""


def block_diagonal(weights: Array, group: int) -> Array:
    """[Cin, Cout/g, ...] with g groups as [Cin, Cout, ...] with one: zeros where a group does not read."""
    each, out = weights.shape[0] // group, weights.shape[1]
    dense = np.zeros((weights.shape[0], out * group, *weights.shape[2:]), weights.dtype)
    for index in range(group):
        rows = slice(index * each, (index + 1) * each)
        dense[rows, index * out : (index + 1) * out] = weights[rows]
    return dense


class SplitGroups:
    """``deconv-split-groups``: Split, one ConvTranspose for each group, Concat. The same sums in the same order."""

    name = "deconv-split-groups"
    parameters: type[BaseModel] = NoParameters

    def write(self, draft: Draft, x: str, deconv: Deconv, rest: Write, parameters: Any) -> str:
        if deconv.group == 1:
            raise NotPossible("it has one group")
        weights = np.split(deconv.weights, deconv.group)
        biases = [None] * deconv.group if deconv.bias is None else np.split(deconv.bias, deconv.group)
        parts = [
            rest(draft, part, replace(deconv, weights=weights[i], bias=biases[i], group=1))
            for i, part in enumerate(draft.split(x, deconv.group))
        ]
        return draft.concat(parts)


class DenseGroups:
    """``deconv-dense-groups``: one group, weights g times as large; adds terms 0 * x, so an infinite x gives NaN."""

    name = "deconv-dense-groups"
    parameters: type[BaseModel] = NoParameters

    def write(self, draft: Draft, x: str, deconv: Deconv, rest: Write, parameters: Any) -> str:
        if deconv.group == 1:
            raise NotPossible("it has one group")
        if deconv.weights.nbytes * deconv.group > _MOST_BYTES:
            raise NotPossible("its dense weights would have more than 1 GiB")
        return rest(draft, x, replace(deconv, weights=block_diagonal(deconv.weights, deconv.group), group=1))
