"""Padding written in another way: output_padding folded into the end pads, pads cut off by a Slice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import BaseModel

from onnx_fp16fix.actions.deconv.draft import Draft
from onnx_fp16fix.actions.deconv.form import NoParameters, Write
from onnx_fp16fix.actions.deconv.operation import Deconv
from onnx_fp16fix.language.registry import NotPossible

__all__ = ["FoldOutputPadding", "PadsToSlice", "folded"]


def folded(deconv: Deconv) -> Deconv:
    """The same without output_padding and negative pads: what they add lies under zeros put around the kernel."""
    end = [pad - extra for pad, extra in zip(deconv.end, deconv.extra, strict=True)]
    around = [(max(0, -a), max(0, -b)) for a, b in zip(deconv.begin, end, strict=True)]
    return replace(
        deconv,
        weights=np.pad(deconv.weights, [(0, 0), (0, 0), *around]),
        begin=tuple(max(0, pad) for pad in deconv.begin),
        end=tuple(max(0, pad) for pad in end),
        extra=(0,) * deconv.rank,
    )


class FoldOutputPadding:
    """``deconv-fold-output-padding``: no output_padding, no negative pads; a node more is never needed."""

    name = "deconv-fold-output-padding"
    parameters: type[BaseModel] = NoParameters

    def write(self, draft: Draft, x: str, deconv: Deconv, rest: Write, parameters: Any) -> str:
        if not any(deconv.extra) and min(*deconv.begin, *deconv.end) >= 0:
            raise NotPossible("it has no output_padding and no negative pads")
        return rest(draft, x, folded(deconv))


class PadsToSlice:
    """``deconv-pads-to-slice``: pads 0, and a Slice that cuts off what they did."""

    name = "deconv-pads-to-slice"
    parameters: type[BaseModel] = NoParameters

    def write(self, draft: Draft, x: str, deconv: Deconv, rest: Write, parameters: Any) -> str:
        if not deconv.is_padded:
            raise NotPossible("it has no pads")
        whole, none = folded(deconv), (0,) * deconv.rank
        full = rest(draft, x, replace(whole, begin=none, end=none))
        return draft.crop(full, whole.begin, whole.end)
