"""1D ConvTranspose as a 2D one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import BaseModel

from onnx_fp16fix.actions.deconv.draft import Draft
from onnx_fp16fix.actions.deconv.form import NoParameters, Write
from onnx_fp16fix.actions.deconv.operation import Deconv
from onnx_fp16fix.language.registry import NotPossible

__all__ = ["OneToTwoDimensions"]


class OneToTwoDimensions:
    """``deconv-1d-to-2d``: Unsqueeze, ConvTranspose with a kernel [k, 1], Squeeze."""

    name = "deconv-1d-to-2d"
    parameters: type[BaseModel] = NoParameters

    def write(self, draft: Draft, x: str, deconv: Deconv, rest: Write, parameters: Any) -> str:
        if deconv.rank != 1:
            raise NotPossible(f"it has {deconv.rank} spatial axes, not one")
        flat = replace(
            deconv,
            weights=deconv.weights[..., None],
            strides=(*deconv.strides, 1),
            begin=(*deconv.begin, 0),
            end=(*deconv.end, 0),
            extra=(*deconv.extra, 0),
            sizes=(*deconv.sizes, 1),
        )
        return draft.squeeze(rest(draft, draft.unsqueeze(x), flat))
