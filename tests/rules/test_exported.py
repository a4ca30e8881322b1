"""Rules find what PyTorch really exports: each cause of trouble through both exporters, applied and verified."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable

import numpy as np
import onnx
import pytest

import onnx_fp16fix

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402  needs torch
from torch.nn import functional as F  # noqa: E402, N812


class Formula(nn.Module):
    """A module of one function."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Tensor) -> Tensor:
        return self.function(*args)


def export(function: Callable[..., Tensor], args: tuple[Tensor, ...], dynamo: bool) -> onnx.ModelProto:
    module = function if isinstance(function, nn.Module) else Formula(function)
    module.eval()
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


def layer_norm_2d(x: Tensor) -> Tensor:
    d = x - x.mean(1, keepdim=True)
    return d / torch.sqrt(d.pow(2).mean(1, keepdim=True) + 0.5)


def unbiased(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True) + 0.5)


def std_plus_eps(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 0.1)


def demodulate(w: Tensor) -> Tensor:
    r = torch.rsqrt(w.pow(2).sum([2, 3, 4]) + 0.5)
    return w * r.view(2, 4, 1, 1, 1)


def style(x: Tensor) -> Tensor:
    d = x - x.mean((2, 3), keepdim=True)
    return torch.sqrt(d.pow(2).mean((2, 3), keepdim=True) + 0.5)


def grn(x: Tensor) -> Tensor:
    g = x.pow(2).sum((1, 2), keepdim=True).sqrt()
    return x * (g / (g.mean(-1, keepdim=True) + 0.1))


def moments(x: Tensor) -> Tensor:
    m = x.mean(-1, keepdim=True)
    return (x - m) * torch.rsqrt((x * x).mean(-1, keepdim=True) - m * m + 1e-5)


def wide(*shape: int) -> Tensor:
    return torch.linspace(-600, 600, int(np.prod(shape))).flip(0).reshape(shape)


CASES = [
    ("NORM002", layer_norm_2d, (wide(2, 8, 4, 4),)),
    ("NORM005", nn.InstanceNorm2d(4, affine=True), (wide(2, 4, 8, 8),)),
    ("NORM005", nn.GroupNorm(2, 4), (wide(2, 4, 8, 8),)),
    ("NORM006", nn.LayerNorm(64), (wide(4, 64),)),
    ("NORM010", unbiased, (wide(4, 64),)),
    ("NORM011", std_plus_eps, (wide(4, 64),)),
    ("NORM012", demodulate, (wide(2, 4, 8, 3, 3),)),
    ("NORM013", style, (wide(2, 4, 8, 8),)),
    ("NORM014", lambda a, b: torch.sqrt(a**2 + b**2), (wide(4, 64), wide(4, 64))),
    ("NORM015", nn.LocalResponseNorm(5), (wide(1, 8, 4, 4),)),
    ("NORM016", grn, (wide(2, 8, 8, 4),)),
    ("NORM017", moments, (wide(4, 64),)),
]


@pytest.mark.parametrize("dynamo", [False, True], ids=["legacy", "dynamo"])
@pytest.mark.parametrize(("rule", "function", "args"), CASES)
def test_rule_finds_the_export_and_the_result_is_verified(rule, function, args, dynamo):
    proto = export(function, args, dynamo)
    feed = {f"x{index}": value.numpy() for index, value in enumerate(args)}
    outcome = onnx_fp16fix.apply(proto, "pack:all", feed, margin=1.0, tensorrt="off")
    applied = {entry.id: entry.applied for entry in outcome.run.rules}
    ops = [node.op_type for node in proto.graph.node]
    assert applied[rule], (ops, [finding.message for finding in outcome.run.findings])
    assert outcome.run.status == "ok"
