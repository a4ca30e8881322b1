"""Rules find what PyTorch exports, and the typed model is right where plain FP16 is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import onnx_fp16fix
from onnx_fp16fix.calibrate import open_data
from onnx_fp16fix.simulate import compare_simulated

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402  needs torch

from torch_export import export  # noqa: E402  needs torch

FREQUENCIES = 10000 ** (-torch.arange(8).float() / 8)
GRID = torch.arange(0, 4000, 32).float()[:, None]
CODES = torch.randn(16, 16, generator=torch.Generator().manual_seed(1)) * 300
CLUSTER = CODES / 100 + 100


def rotary(positions: Tensor) -> Tensor:
    frequencies = FREQUENCIES[None, :, None].expand(positions.shape[0], -1, 1)
    angles = (frequencies @ positions[:, None, :].float()).transpose(1, 2)
    return torch.cat((angles, angles), -1).cos()


def timestep(t: Tensor) -> Tensor:
    angles = t[:, None] * FREQUENCIES[None]
    return torch.cat([torch.sin(angles), torch.cos(angles)], -1)


def oscillator(f: Tensor) -> Tensor:
    return torch.sin(torch.cumsum(f, 1) * 6.2831853)


def boxes(x: Tensor) -> Tensor:
    return (torch.sigmoid(x) * 2 - 0.5 + GRID) * 32.0


def logit(x: Tensor) -> Tensor:
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=1e-5) / (1 - x).clamp(min=1e-5))


def iou(a: Tensor, b: Tensor) -> Tensor:
    size = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0)
    inter = size[:, 0] * size[:, 1]
    left, right = a[:, 2:] - a[:, :2], b[:, 2:] - b[:, :2]
    return inter / (left[:, 0] * left[:, 1] + right[:, 0] * right[:, 1] - inter)


def nearest(x: Tensor) -> Tensor:
    return ((x[:, None] - CODES[None]) ** 2).sum(-1).argmin(-1)


def distance(x: Tensor) -> Tensor:
    return torch.sqrt(((x[:, None] - CODES[None]) ** 2).sum(-1))


def expanded(x: Tensor) -> Tensor:
    square = (x * x).sum(-1, keepdim=True) + (CLUSTER * CLUSTER).sum(-1) - 2 * (x @ CLUSTER.T)
    return torch.sqrt(torch.relu(square))


def batch_norm() -> nn.Module:
    module = nn.BatchNorm1d(8)
    module.running_var += 1e6
    return nn.Sequential(nn.ReLU(), module)


def heavy() -> nn.Module:
    module = nn.Linear(16, 16)
    module.weight.data *= 1e6
    return nn.Sequential(module, nn.ReLU())


def noise(*shape: int, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * scale


PACKS = [f"pack:{name}" for name in ("position", "sum", "weight", "residual")]
CORNERS = torch.tensor([[0.0, 0, 500, 400], [10, 20, 700, 900]])
CASES: list[tuple[str, Any, tuple[Tensor, ...], bool]] = [
    ("POS001", rotary, (torch.arange(0, 8000, 7)[None],), True),
    ("POS002", timestep, (torch.linspace(0.3, 999.3, 16),), True),
    ("POS005", oscillator, (torch.full((1, 5000), 0.0137),), True),
    ("POS009", boxes, (noise(1, 125, 2),), False),
    ("POS011", iou, (CORNERS, CORNERS + 30), True),
    ("POS014", logit, (torch.linspace(0.9, 0.9999, 64)[None],), False),
    ("SUM002", lambda x: x.mean((2, 3)), (noise(1, 4, 32, 32) + 200,), True),
    ("SUM002 SUM003", nn.AdaptiveAvgPool2d(1), (noise(1, 4, 32, 32) + 200,), False),
    ("SUM004", distance, (noise(4, 16, scale=300),), True),
    ("SUM005", nearest, (noise(4, 16, scale=300),), True),
    ("SUM007", expanded, (CLUSTER[:4] + 3,), True),
    ("SUM008", lambda a, b: (a * b).mean(-1), (noise(4, 64, scale=300), noise(4, 64, scale=300) / 2), True),
    ("WEIGHT001", heavy(), (noise(4, 16, scale=1e-3),), True),
    ("WEIGHT003", lambda x: x.clamp(-1e6, 1e6), (noise(4, 16),), False),
    ("WEIGHT004", lambda x: x * 1e6, (noise(4, 16, scale=1e-3),), True),
    ("WEIGHT005", batch_norm(), (noise(4, 8),), False),
    ("RES002", heavy(), (noise(4, 16),), False),
]


DYNAMO = ("POS001", "POS002", "POS011", "SUM002 SUM003", "SUM004", "SUM007", "WEIGHT001", "WEIGHT005")
"""What the newer exporter spells in another way; the others come out alike."""


@pytest.mark.parametrize(
    ("rule", "function", "args", "breaks", "dynamo"),
    [
        pytest.param(*case, dynamo, id=f"{case[0]}-{'dynamo' if dynamo else 'legacy'}")
        for case in CASES
        for dynamo in (False, True)
        if not dynamo or case[0] in DYNAMO
    ],
)
def test_the_typed_model_is_right_where_plain_fp16_is_not(rule, function, args, breaks, dynamo):
    proto = export(function, args, dynamo)
    feed = {f"x{index}": np.array(value.numpy()) for index, value in enumerate(args)}
    outcome = onnx_fp16fix.apply(proto, PACKS, feed, margin=1.0, precision="fp16", tensorrt="off")
    applied = {entry.id: entry.applied for entry in outcome.run.rules}
    ops = [node.op_type for node in proto.graph.node]
    assert any(applied[name] for name in rule.split()), (
        ops,
        [finding.message for finding in outcome.run.findings],
    )
    if breaks:
        naive = compare_simulated(proto, proto, open_data(feed, proto), assume_fp16=True)
        assert naive.output_rel_l2 > 1e-2
        assert outcome.run.status == "ok", [finding.message for finding in outcome.run.findings]
