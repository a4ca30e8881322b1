"""Rules find what PyTorch really exports: each cause of trouble through both exporters, applied and verified."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnx_fp16fix

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402  needs torch
from torch.nn import functional as F  # noqa: E402, N812

from torch_export import Formula, export  # noqa: E402  needs torch


def layer_norm_2d(x: Tensor) -> Tensor:
    d = x - x.mean(1, keepdim=True)
    return d / torch.sqrt(d.pow(2).mean(1, keepdim=True) + 0.5)


def unbiased_norm(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) * torch.rsqrt(x.var(-1, keepdim=True) + 0.5)


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


def softmax_by_hand(x: Tensor) -> Tensor:
    e = torch.exp(x)
    return e / e.sum(-1, keepdim=True)


def snake(x: Tensor) -> Tensor:
    a = torch.arange(1.0, 5.0)[:, None]
    return x + torch.sin(a * x) ** 2 / a


def logit(x: Tensor) -> Tensor:
    p = x.clamp(1e-8, 1 - 1e-7)
    return torch.log(p / (1 - p))


def steps(low: float, high: float, *shape: int) -> Tensor:
    return torch.linspace(low, high, int(np.prod(shape))).reshape(shape)


def linear_attention(v: Tensor, k: Tensor, q: Tensor) -> Tensor:
    n = (F.pad(v, (0, 0, 0, 1), value=1.0) @ k) @ q
    return n[:, :-1] / (n[:, -1:] + 1e-15)


def kernel_attention(k: Tensor, v: Tensor, q: Tensor) -> Tensor:
    return (q @ (k.transpose(1, 2) @ v)) / ((q * k.sum(1, keepdim=True)).sum(-1, keepdim=True) + 1e-6)


LOW = torch.finfo(torch.float32).min


def chosen(mask: Tensor, low: float = LOW) -> Tensor:
    return torch.where(mask > 0, 0.0, low)


def masked(scores: Callable[[Tensor, Tensor], Tensor], keep: Tensor | None = None) -> tuple[object, ...]:
    """Softmax of scores that a mask of ones and zeros goes into, causal unless given."""
    mask = torch.ones(8, 8).tril() if keep is None else keep
    return lambda s, m: torch.softmax(scores(s, m), -1), (steps(-20, 20, 2, 8, 8), mask)


def twice_subtracted(x: Tensor) -> Tensor:
    squares = (x - x.mean(-1, keepdim=True)) ** 2
    return (x - x.mean(-1, keepdim=True)) / torch.sqrt(squares.mean(-1, keepdim=True) + 0.5)


def iou_with_eps(a: Tensor, b: Tensor) -> Tensor:
    size = (torch.min(a[:, 2:], b[:, 2:]) - torch.max(a[:, :2], b[:, :2])).clamp(min=0)
    inter = size[:, 0] * size[:, 1]
    areas = [(c[:, 2] - c[:, 0]) * (c[:, 3] - c[:, 1]) for c in (a, b)]
    return inter / (areas[0] + areas[1] - inter + 1e-7)


CORNERS = torch.tensor([[0.0, 0, 500, 400], [10, 20, 700, 900]])
GRID = steps(0, 1, 1, 4, 4, 2)
TOKENS = steps(1, 40, 1, 256, 8)
CASES = [
    (
        "ATTN001",
        lambda q, k: torch.softmax(q @ k.transpose(-1, -2) / 8, -1),
        (wide(2, 8, 64) / 8, wide(2, 8, 64) / 8),
    ),
    ("ATTN003", linear_attention, (steps(-1, 1, 1, 8, 256), TOKENS, steps(1, 40, 1, 8, 256))),
    ("ATTN004", kernel_attention, (TOKENS, steps(-1, 1, 1, 256, 8), TOKENS)),
    ("ACT004", lambda x: F.gelu(x, approximate="tanh"), (wide(64),)),
    ("EPS001", lambda x: torch.tanh(x / (x.abs() + 2e-8)), (steps(-2, 2, 65),)),
    ("EPS002", lambda x: x / x.abs().clamp(min=1e-10), (steps(-2, 2, 65),)),
    ("EPS007", lambda y, x: torch.atan(y / x), (steps(1e-9, 1e-3, 64), steps(1e-9, 1, 64))),
    ("MASK001", *masked(lambda s, m: s + (1 - m) * -1e9)),
    ("MASK002", *masked(lambda s, m: s.masked_fill(m == 0, LOW))),
    ("MASK003", *masked(lambda s, m: s + chosen(m)[None])),
    ("MASK005", *masked(lambda s, m: s + chosen(m, -1e30)[None] + (1 - m[:1]) * -1e30, torch.ones(8, 8))),
    ("MASK006", *masked(lambda s, m: s + m * -1e9, 1 - torch.ones(8, 8).tril())),
    ("MASK007", *masked(lambda s, m: s - (1 - m) * 1e10)),
    ("MASK008", *masked(lambda s, m: s + chosen(m))),
    ("MASK011", *masked(lambda s, m: s + ((1 - m) * -1e9).triu(1))),
    ("MASK009", *masked(lambda s, m: torch.max(s + chosen(m), torch.tensor(LOW)))),
    ("NORM002", layer_norm_2d, (wide(2, 8, 4, 4),)),
    ("NORM005", nn.InstanceNorm2d(4, affine=True), (wide(2, 4, 8, 8),)),
    ("NORM005", nn.GroupNorm(2, 4), (wide(2, 4, 8, 8),)),
    ("NORM006", nn.LayerNorm(64), (wide(4, 64),)),
    ("NORM011", std_plus_eps, (wide(64, 4).T,)),
    ("NORM018", lambda x: x.std(-1), (wide(64, 4).T,)),
    ("NORM010", unbiased_norm, (wide(64, 4).T,)),
    ("NORM012", demodulate, (wide(2, 4, 8, 3, 3),)),
    ("NORM013", style, (wide(2, 4, 8, 8),)),
    ("NORM014", lambda a, b: torch.sqrt(a**2 + b**2), (wide(4, 64), wide(4, 64))),
    ("NORM016", grn, (wide(2, 8, 8, 4),)),
    ("NORM017", moments, (wide(4, 64),)),
    (
        "ATTN002",
        lambda q, k: torch.softmax(torch.einsum("bid,bjd->bij", q, k) * 0.125, -1),
        (wide(2, 8, 64) / 8, wide(2, 8, 64) / 8),
    ),
    ("ATTN005", softmax_by_hand, (steps(-30, 30, 4, 64),)),
    ("ATTN006", lambda x: x.exp().sum(-1).log(), (steps(-30, 30, 4, 64),)),
    ("ACT001", lambda x: torch.log(1 + torch.exp(x)), (steps(-30, 30, 64),)),
    ("ACT002", F.softplus, (steps(-30, 30, 64),)),
    ("ACT006", lambda x: torch.exp(x).clip(max=100.0), (steps(-30, 30, 64),)),
    ("ACT006", lambda x: torch.exp(x).clip(1e-3, 100.0), (steps(-30, 30, 64),)),
    ("ACT007", snake, (wide(1, 4, 64),)),
    ("ACT008", lambda x: torch.sqrt(torch.exp(x)), (steps(-3, 15, 64),)),
    ("EPS003", lambda x: torch.log(x + 2e-8), (steps(0, 2, 64),)),
    ("EPS004", lambda x: torch.log(x.clamp(min=1e-10)), (steps(0, 2, 64),)),
    ("EPS005", lambda x: 1 / torch.sqrt(x + 2e-8), (steps(0, 2, 64),)),
    ("EPS006", logit, (steps(0, 1, 64),)),
    ("NORM001", lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 0.5), (wide(4, 64),)),
    ("NORM002", twice_subtracted, (wide(64, 4).T,)),
    ("NORM004", lambda x: x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True).clamp(min=0.5)), (wide(4, 64),)),
    (
        "MASK004",
        lambda s: torch.softmax(s + torch.full((8, 8), -3e38).triu(1), -1),
        (steps(-20, 20, 2, 8, 8),),
    ),
    ("ACT009", F.hardswish, (wide(64) * 1000,)),
    ("POS004", lambda x: torch.sin(torch.cumsum(x, 1) * 0.001), (torch.ones(1, 5000),)),
    ("POS006", lambda x: torch.floor(x.topk(300, -1)[1].float() / 80), (steps(0, 1, 1, 24000),)),
    ("POS008", lambda x, g: F.grid_sample(x, g * 2 - 1, align_corners=False), (wide(1, 2, 8, 1024), GRID)),
    (
        "POS010",
        lambda x: (torch.exp(x) * torch.tensor([25.0, 12.5])).clamp(max=640),
        (steps(-4, 11.5, 1, 64, 2),),
    ),
    ("POS012", iou_with_eps, (CORNERS, CORNERS + 30)),
    ("SUM001", lambda x: x.sum((2, 3)) / 1024, (steps(200, 201, 1, 4, 32, 32),)),
    ("SUM006", lambda x: x.norm(dim=-1), (wide(4, 64),)),
    ("CONV002", lambda x: torch.sin(x.double().float()), (steps(-1, 1, 64),)),
]


class All(nn.Module):
    """Every formula on inputs of its own: one export serves all."""

    def __init__(self) -> None:
        super().__init__()
        functions = [entry[1] for entry in CASES]
        self.parts = nn.ModuleList(f if isinstance(f, nn.Module) else Formula(f) for f in functions)

    def forward(self, *args: Tensor) -> tuple[Tensor, ...]:
        results, rest = [], list(args)
        for part, (_, _, own) in zip(self.parts, CASES, strict=True):
            results.append(part(*rest[: len(own)]))
            rest = rest[len(own) :]
        return tuple(results)


@pytest.fixture(scope="module", params=[False, True], ids=["legacy", "dynamo"])
def applied(request) -> dict[str, int]:
    """How often each rule applied to the export."""
    args = tuple(value for _, _, own in CASES for value in own)
    proto = export(All(), args, request.param)
    feed = {f"x{index}": value.numpy() for index, value in enumerate(args)}
    outcome = onnx_fp16fix.apply(proto, "pack:all", feed, margin=1.0, tensorrt="off", verify=False)
    assert outcome.model is not None
    onnx.checker.check_model(outcome.model, full_check=True)
    before, after = outputs(proto, feed), outputs(outcome.model, feed)
    for (rule, _, _), one, other in zip(CASES, before, after, strict=True):
        assert np.isfinite(one).all()
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-5 * np.abs(one).max(), err_msg=rule)
    return {entry.id: entry.applied for entry in outcome.run.rules}


def outputs(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feed)


# dynamo's optimizer drops an added constant up to 1e-8, so the epsilons above are a little larger
EXPECTED = Counter(rule for rule, _, _ in CASES)


@pytest.mark.parametrize("rule", sorted(EXPECTED))
def test_rule_finds_what_torch_exports_and_the_values_stay(rule, applied):
    assert applied[rule] >= EXPECTED[rule]
