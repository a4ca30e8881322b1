"""Channels of each group padded to a multiple: zero weights in, real channels out."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict

from onnx_fp16fix.actions.deconv.draft import Draft
from onnx_fp16fix.actions.deconv.form import Write
from onnx_fp16fix.actions.deconv.operation import Array, Deconv
from onnx_fp16fix.language.registry import NotPossible

__all__ = ["PadChannels", "PadParameters", "padded_weights"]


class PadParameters(BaseModel):
    """``multiple``: what the channels of a group, in and out, are padded to a multiple of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    multiple: Annotated[Literal[4, 8, 16, 32], BeforeValidator(int)] = 8


def padded_weights(weights: Array, group: int, inputs: int, outputs: int) -> Array:
    """[g * i, o, ...] as [g * inputs, outputs, ...], the new entries zero."""
    grouped = weights.reshape(group, -1, *weights.shape[1:])
    more = [(0, 0), (0, inputs - grouped.shape[1]), (0, outputs - grouped.shape[2])]
    return np.pad(grouped, more + [(0, 0)] * (weights.ndim - 2)).reshape(
        group * inputs, outputs, *weights.shape[2:]
    )


class PadChannels:
    """``deconv-pad-channels``: Pad (and Gather where there are groups), ConvTranspose, Slice or Gather."""

    name = "deconv-pad-channels"
    parameters: type[BaseModel] = PadParameters

    def write(self, draft: Draft, x: str, deconv: Deconv, rest: Write, parameters: Any) -> str:
        group = deconv.group
        old = deconv.weights.shape[0] // group, deconv.weights.shape[1]
        new = tuple(-(-size // parameters.multiple) * parameters.multiple for size in old)
        if old == new:
            raise NotPossible(f"the channels of its groups are multiples of {parameters.multiple}")
        bias = deconv.bias
        if bias is not None:
            bias = np.pad(bias.reshape(group, -1), [(0, 0), (0, new[1] - old[1])]).reshape(-1)
        weights = padded_weights(deconv.weights, group, *new)
        wide = rest(
            draft, self._widen(draft, x, deconv, old[0], new[0]), replace(deconv, weights=weights, bias=bias)
        )
        if old[1] == new[1]:
            return wide
        return draft.take(wide, [i * new[1] + j for i in range(group) for j in range(old[1])])

    def _widen(self, draft: Draft, x: str, deconv: Deconv, old: int, new: int) -> str:
        """x with zero channels at the end of each group: one zero channel is appended and taken again and again."""
        if old == new:
            return x
        none = (0,) * deconv.rank
        if deconv.group == 1:
            return draft.pad(x, (0, *none), (new - old, *none))
        zero = deconv.channels[0]
        one_more = draft.pad(x, (0, *none), (1, *none))
        return draft.take(
            one_more, [i * old + j if j < old else zero for i in range(deconv.group) for j in range(new)]
        )
