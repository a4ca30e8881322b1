"""PyTorch models with loops, conditions and scans, each with one cause of FP16 trouble inside a body.

The legacy exporter takes scripted modules, the dynamo exporter the higher-order ops of ``torch.cond`` and its kind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop

__all__ = ["CASES", "ControlCase"]


@dataclass(frozen=True)
class ControlCase:
    """``make()`` gives the module and one tuple of inputs for each sample. ``fp32``: op types that may stay in FP32."""

    name: str
    make: Callable[[], tuple[nn.Module, list[tuple[Tensor, ...]]]]
    dynamo: bool
    fp32: frozenset[str] = frozenset()


class RefineLoop(nn.Module):
    """A residual stream in the thousands, normalised in each turn: its squares overflow."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 16)

    def forward(self, x: Tensor, turns: Tensor) -> Tensor:
        for _ in range(int(turns)):
            norm = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6)
            x = x + torch.tanh(self.inner(norm)) * 100.0
        return x * 1e-3


class GrowingLoop(nn.Module):
    """A linear recurrence that leaves FP16's range after some turns; the result comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(16, 16, bias=False)

    def forward(self, x: Tensor, turns: Tensor) -> Tensor:
        for _ in range(int(turns)):
            x = self.mix(x) * 12.0
        return x * 1e-6


class UntilSmall(nn.Module):
    """A while loop over data: halve what is too large, in units that FP16 does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.mix(x) * 1e5
        turn = 0
        while turn < 20 and bool(y.abs().max() > 1000.0):  # an infinity never gets small
            y = y * 0.25
            turn += 1
        return y


class BranchInLoop(nn.Module):
    """Every other turn takes the root of a sum of squares."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 16)

    def forward(self, x: Tensor, turns: Tensor) -> Tensor:
        for turn in range(int(turns)):
            h = self.inner(x)
            if turn % 2 == 0:
                h = h / torch.sqrt((h * h).sum(-1, keepdim=True)) * 500.0
            x = h + x
        return x


class Choice(nn.Module):
    """Two branches that meet at one scale: only one of them overflows."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.last = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor, flag: Tensor) -> Tensor:
        def large(x: Tensor) -> Tensor:
            return self.a(x) * 3e5

        def small(x: Tensor) -> Tensor:
            return torch.relu(self.b(x))

        return self.last(torch.cond(flag, large, small, (x,)) * 1e-5)


class WhileTurns(nn.Module):
    """The residual stream of ``RefineLoop``, as a while loop."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        def more(turn: Tensor, x: Tensor) -> Tensor:
            return turn < 5

        def body(turn: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            norm = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6)
            return turn + 1, x + torch.tanh(self.inner(norm)) * 100.0

        return while_loop(more, body, (torch.tensor(0), x))[1] * 1e-3


class ScanCell(nn.Module):
    """A recurrent cell over frames whose energy overflows."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.enter = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, state: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        def step(state: Tensor, frame: Tensor) -> tuple[Tensor, Tensor]:
            level = torch.sqrt((frame * frame).mean(-1, keepdim=True))
            return torch.tanh(self.inner(state) + self.enter(frame / level)), level

        return scan(step, state, frames)


def _turns(module: nn.Module, count: int, size: float) -> tuple[nn.Module, list[tuple[Tensor, ...]]]:
    return torch.jit.script(module), [(torch.randn(4, 16) * size, torch.tensor(count))]


CASES = (
    ControlCase("loop-norm", lambda: _turns(RefineLoop(), 4, 2000.0), dynamo=False),
    ControlCase("loop-growing", lambda: _turns(GrowingLoop(), 6, 3.0), dynamo=False),
    ControlCase("loop-branch", lambda: _turns(BranchInLoop(), 4, 300.0), dynamo=False),
    ControlCase(
        "while-data",
        lambda: (torch.jit.script(UntilSmall()), [(torch.randn(4, 16),)]),
        dynamo=False,
        fp32=frozenset({"Abs", "Greater", "Mul", "ReduceMax"}),
    ),
    ControlCase(
        "cond",
        lambda: (Choice(), [(torch.randn(4, 16), torch.tensor(flag)) for flag in (True, False)]),
        dynamo=True,
    ),
    ControlCase("while", lambda: (WhileTurns(), [(torch.randn(4, 16) * 2000.0,)]), dynamo=True),
    ControlCase(
        "scan", lambda: (ScanCell(), [(torch.randn(4, 16), torch.randn(6, 4, 16) * 3000.0)]), dynamo=True
    ),
)
