"""Small PyTorch models, each with one cause of FP16 trouble (or none), and inputs that bring it out.

Weights are random; what makes them fail is planted: a gain, a large input, an epsilon, a mask constant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

__all__ = ["CASES", "Case"]

FLOAT_MIN = torch.finfo(torch.float32).min


@dataclass(frozen=True)
class Case:
    """``make()`` gives the module and its example inputs. ``fp32``: op types that may stay in FP32, because no
    scale can help them."""

    name: str
    make: Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]
    fp32: frozenset[str] = frozenset()
    breaks: bool | None = True
    """Whether naive FP16 gives wrong outputs; None: it depends on how the exporter spells it."""


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class LayerNorm(nn.Module):
    """Spelled out, as exporters below opset 17 write it."""

    def __init__(self, size: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        d = x - x.mean(-1, keepdim=True)
        return d / torch.sqrt((d * d).mean(-1, keepdim=True) + self.eps) * self.weight + self.bias


class L2Norm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1)


class MeanAsSum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.sum(-1, keepdim=True) * (1.0 / x.shape[-1])


class MaskedAttention(nn.Module):
    """``spelling``: how padding is masked before the Softmax."""

    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.spelling = spelling

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        scores = x @ x.transpose(-1, -2) / 4.0
        keep = mask[:, None, :]
        if self.spelling == "additive":
            scores = scores + (1.0 - keep) * -1e9
        elif self.spelling == "multiplied":
            scores = scores + (1.0 - keep) * FLOAT_MIN
        else:
            scores = scores.masked_fill(keep == 0, FLOAT_MIN)
        return torch.softmax(scores, -1) @ x


class CausalAttention(nn.Module):
    """The mask is made inside, as long as the sequence is."""

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        scores = x @ x.transpose(-1, -2) / 4.0 + torch.full((length, length), -1e9).triu(1)
        return torch.softmax(scores, -1) @ x


class GrowingStream(nn.Module):
    """A residual stream whose first blocks see values of 0.1 and the others 1e5: no scale serves them all."""

    def __init__(self, blocks: int = 6, size: int = 256) -> None:
        super().__init__()
        self.norms = nn.ModuleList(RMSNorm(size) for _ in range(blocks + 1))
        self.linears = nn.ModuleList(nn.Linear(size, size, bias=False) for _ in range(blocks))
        self.linears[1].weight.data *= 2e5

    def forward(self, x: Tensor) -> Tensor:
        for norm, linear in zip(self.norms, self.linears, strict=False):
            x = x + linear(norm(x))
        return self.norms[-1](x)


class Attention(nn.Module):
    """Raw products leave the range, scaled ones do not."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.softmax(q @ k.transpose(-1, -2) / 64.0, -1) @ v


class ConvChain(nn.Module):
    """Activations reach 1e7 halfway and come down again."""

    def __init__(self, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(8):
            conv = nn.Conv2d(8, 8, 3, padding=1)
            conv.weight.data *= 60.0 if index < 4 else 1 / 60.0
            layers += [conv, activation()]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Block(nn.Module):
    def __init__(self, size: int, norm: Callable[[int], nn.Module], gain: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(size), norm(size)
        self.qkv, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.up, self.down = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)
        self.out.weight.data *= gain
        self.down.weight.data *= gain

    def forward(self, x: Tensor) -> Tensor:
        batch, length, size = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(batch, length, 3, 4, size // 4).permute(2, 0, 3, 1, 4)
        a = torch.softmax(q @ k.transpose(-1, -2) / (size // 4) ** 0.5, -1) @ v
        x = x + self.out(a.transpose(1, 2).reshape(batch, length, size))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """Pre-norm, with a residual stream that ``gain`` drives out of range."""

    def __init__(self, norm: Callable[[int], nn.Module], gain: float, size: int = 64) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(size, norm, gain) for _ in range(3)))
        self.norm, self.head = norm(size), nn.Linear(size, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(x)))


class UNet(nn.Module):
    """A skip joins two scales by Concat."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, 2, 1)
        self.inner, self.up = nn.Conv2d(8, 8, 3, padding=1), nn.ConvTranspose2d(8, 8, 2, 2)
        self.join, self.last = nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(8, 1, 1)
        self.first.weight.data *= 3e5
        self.last.weight.data *= 1e-5

    def forward(self, x: Tensor) -> Tensor:
        skip = F.relu(self.first(x))
        low = F.leaky_relu(self.inner(F.relu(self.down(skip))))
        return self.last(F.relu(self.join(torch.cat([skip, self.up(low)], 1))))


class ResBlock(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(4, size), nn.GroupNorm(4, size)
        self.conv1, self.conv2 = nn.Conv2d(size, size, 3, padding=1), nn.Conv2d(size, size, 3, padding=1)
        self.conv2.weight.data *= 2e5

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


class Decoder(nn.Module):
    """As in the decoders of diffusion models: GroupNorm reads a stream beyond 1e5."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(4, 16, 3, padding=1), ResBlock(16), nn.Upsample(scale_factor=2), ResBlock(16)
        )
        self.head = nn.Sequential(nn.GroupNorm(4, 16), nn.SiLU(), nn.Conv2d(16, 3, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class Demodulated(nn.Module):
    """StyleGAN2: the kernel is scaled by a style and normalised by its own square sum."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.style = nn.Parameter(torch.randn(1, 16, 16, 3, 3) * 30), nn.Linear(8, 16)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        w = self.weight * self.style(z)[:, None, :, None, None] * 20
        w = w * torch.rsqrt(w.pow(2).sum([2, 3, 4]) + 1e-8)[:, :, None, None, None]
        return F.conv2d(x, w[0], padding=1)


class LinearAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(16, 48)
        self.qkv.weight.data *= 30

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        q, k = F.relu(q), F.relu(k)
        return (q @ (k.transpose(-1, -2) @ v)) / (q @ k.sum(1, keepdim=True).transpose(-1, -2) + 1e-15)


class Distances(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.randn(32, 16) * 300)

    def forward(self, x: Tensor) -> Tensor:
        square = (x * x).sum(-1, keepdim=True) + (self.codes * self.codes).sum(-1)
        return torch.sqrt(F.relu(square - 2 * x @ self.codes.T))


class SqueezeExcite(nn.Module):
    """The mean over 64 x 64 pixels fits, its sum does not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 16)
        self.conv.weight.data *= 200

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv(x))
        return y * torch.sigmoid(self.gate(y.mean((2, 3))))[:, :, None, None] * 1e-3


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project, self.lstm = nn.Linear(8, 16), nn.LSTM(16, 32, batch_first=True)
        self.project.weight.data *= 1e5

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(self.project(x))[0]


class Gated(nn.Module):
    """An activation that is not homogeneous between layers out of range: its inner function saturates."""

    def __init__(self, activation: Callable[[Tensor], Tensor], gain: float) -> None:
        super().__init__()
        self.first, self.second, self.activation = nn.Linear(32, 32), nn.Linear(32, 32), activation
        self.first.weight.data *= gain
        self.second.weight.data /= gain

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.activation(self.first(x)))


class Softplus(nn.Module):
    """exp leaves the range long before the logarithm brings it back."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.first.weight.data *= 40

    def forward(self, x: Tensor) -> Tensor:
        return torch.log(1 + torch.exp(self.first(x)))


class LogPower(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.log(x * x + 1e-10)


class Rotary(nn.Module):
    """Angles beyond 2048 and a table of frequencies."""

    def forward(self, x: Tensor) -> Tensor:
        positions = torch.cumsum(torch.ones_like(x[..., :1]), 1) - 1.0
        angles = positions * 10000 ** (-torch.arange(8).float() / 8)
        return x * torch.cos(angles) + x * torch.sin(angles)


class Boxes(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        grid = torch.arange(0, 4000, 32).float()[None, :, None]
        centre = (torch.sigmoid(x[..., :2]) * 2 - 0.5 + grid) * 32
        size = torch.exp(x[..., 2:] * 2) * 100
        return torch.cat([centre - size / 2, centre + size / 2], -1), size[..., 0] * size[..., 1]


class Branch(nn.Module):
    """A body reads a tensor out of range from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)
        self.first.weight.data *= 1e6

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        z = y * 2.0 if bool(y.sum() > 0) else y * 3.0
        return self.norm(z)


def batch_norm() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1))
    model[0].weight.data *= 1e5
    model[2].running_var += 1e11
    return model


def tiny_weights() -> nn.Module:
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    model[0].weight.data *= 1e-6
    model[0].bias.data *= 1e-6
    model[1].weight.data *= 1e6
    return model


def rows(scale: float, zero: bool = False) -> Tensor:
    x = torch.randn(4, 768) * scale
    if zero:
        x[-1] = 0
    return x


def padding() -> Tensor:
    return torch.tensor([[1.0] * 6 + [0.0] * 2] * 2)


CASES = (
    Case("rms-norm", lambda: (RMSNorm(768), (rows(2400),))),
    Case("rms-norm-zero-row", lambda: (RMSNorm(768), (rows(2400, zero=True),))),
    Case("rms-norm-tiny-eps", lambda: (RMSNorm(768, 1e-12), (rows(2400, zero=True),))),
    Case("layer-norm", lambda: (LayerNorm(768), (rows(2400),))),
    Case("layer-norm-zero-row", lambda: (LayerNorm(768), (rows(2400, zero=True),))),
    Case("l2-norm", lambda: (L2Norm(), (rows(2400, zero=True),))),
    Case("mean-as-sum", lambda: (MeanAsSum(), (rows(200) + 300,))),
    Case("mask-additive", lambda: (MaskedAttention("additive"), (torch.randn(2, 8, 16), padding()))),
    Case("mask-multiplied", lambda: (MaskedAttention("multiplied"), (torch.randn(2, 8, 16), padding()))),
    Case("mask-where", lambda: (MaskedAttention("where"), (torch.randn(2, 8, 16), padding())), breaks=False),
    Case("mask-causal", lambda: (CausalAttention(), (torch.randn(2, 8, 16),)), breaks=None),
    Case("growing-stream", lambda: (GrowingStream(), (torch.randn(2, 8, 256) * 0.1,))),
    Case("attention-product", lambda: (Attention(), tuple(torch.randn(1, 16, 64) * s for s in (60, 60, 1)))),
    Case("conv-relu", lambda: (ConvChain(nn.ReLU), (torch.randn(2, 8, 16, 16),))),
    Case("conv-leaky-relu", lambda: (ConvChain(lambda: nn.LeakyReLU(0.1)), (torch.randn(2, 8, 16, 16),))),
    Case("conv-prelu", lambda: (ConvChain(nn.PReLU), (torch.randn(2, 8, 16, 16),))),
    Case("conv-silu", lambda: (ConvChain(nn.SiLU), (torch.randn(2, 8, 16, 16),))),
    Case("transformer-layer-norm", lambda: (Transformer(nn.LayerNorm, 1e7), (torch.randn(2, 16, 64),))),
    Case("transformer-decomposed", lambda: (Transformer(LayerNorm, 3e4), (torch.randn(2, 16, 64),))),
    Case("transformer-rms-norm", lambda: (Transformer(RMSNorm, 3e4), (torch.randn(2, 16, 64),))),
    Case("transformer-safe", lambda: (Transformer(nn.LayerNorm, 1), (torch.randn(2, 16, 64),)), breaks=False),
    Case("unet", lambda: (UNet(), (torch.randn(1, 3, 32, 32),))),
    Case("decoder-group-norm", lambda: (Decoder(), (torch.randn(1, 4, 16, 16),))),
    Case("demodulation", lambda: (Demodulated(), (torch.randn(1, 16, 16, 16), torch.randn(1, 8)))),
    Case("linear-attention", lambda: (LinearAttention(), (torch.randn(1, 1024, 16) * 3,))),
    Case("distances", lambda: (Distances(), (torch.randn(5, 16) * 300,))),
    Case("squeeze-excite", lambda: (SqueezeExcite(), (torch.randn(1, 3, 64, 64),))),
    Case("lstm-input", lambda: (Recurrent(), (torch.randn(2, 10, 8),))),
    Case("silu", lambda: (Gated(F.silu, 1e6), (torch.randn(4, 32),))),
    Case("hard-swish", lambda: (Gated(F.hardswish, 1e6), (torch.randn(4, 32),))),
    Case("gelu-erf", lambda: (Gated(F.gelu, 1e6), (torch.randn(4, 32),))),
    Case(
        "gelu-tanh",
        lambda: (Gated(lambda x: F.gelu(x, approximate="tanh"), 1e4), (torch.randn(4, 32) * 3,)),
        breaks=None,  # the cube overflows, and mostly tanh makes nothing of it
    ),
    Case("batch-norm-statistics", lambda: (batch_norm(), (torch.randn(1, 3, 16, 16),))),
    Case("tiny-weights", lambda: (tiny_weights(), (torch.randn(8, 16),))),
    Case("softplus", lambda: (Softplus(), (torch.randn(4, 16),)), fp32=frozenset({"Exp", "Add", "Log"})),
    Case(
        "log-power",
        lambda: (LogPower(), (torch.randn(4, 1600) * 1e-3,)),
        fp32=frozenset({"Mul", "Add", "Log"}),
    ),
    Case(
        "rotary",
        lambda: (Rotary(), (torch.randn(1, 5000, 8),)),
        fp32=frozenset({"CumSum", "Sub", "Mul", "Cos", "Sin"}),
    ),
    Case("boxes", lambda: (Boxes(), (torch.randn(1, 125, 4) * 2,)), fp32=frozenset({"Exp"})),
    Case(
        "branch",
        lambda: (torch.jit.script(Branch()), (torch.randn(4, 8),)),
        fp32=frozenset({"If", "LayerNormalization"}),
    ),
)
