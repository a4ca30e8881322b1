"""Functions of torch tensors as ONNX models, through either exporter."""

from __future__ import annotations

import contextlib
import functools
import io
import warnings
from collections.abc import Callable
from typing import Any

import onnx
import torch
from torch import Tensor, nn

__all__ = ["Formula", "export"]


def share_registry() -> None:
    """PyTorch builds its table of ONNX forms anew for each export, in more than half of the time: one serves all."""
    with contextlib.suppress(ImportError, AttributeError):  # a private place of the PyTorch at hand
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        ONNXRegistry.from_torchlib = staticmethod(functools.cache(ONNXRegistry.from_torchlib))


share_registry()


class Formula(nn.Module):
    """A module of one function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Tensor) -> Any:
        return self.function(*args)


def export(function: Callable[..., Any], args: tuple[Tensor, ...], dynamo: bool) -> onnx.ModelProto:
    module = (function if isinstance(function, nn.Module) else Formula(function)).eval()
    names = [f"x{index}" for index in range(len(args))]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        if dynamo:
            program = torch.onnx.export(
                module, args, input_names=names, opset_version=18, dynamo=True, verbose=False
            )
            return program.model_proto
        stream = io.BytesIO()
        torch.onnx.export(module, args, stream, input_names=names, opset_version=17, dynamo=False)
        return onnx.load_model_from_string(stream.getvalue())
