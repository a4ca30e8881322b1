"""How far a pattern got: the partial match that fitted most, and the part that did not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnx_fp16fix.language.bindings import State

__all__ = ["Attempt", "Trace"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One partial match: ``fitted`` operations of the pattern, the graph nodes inside, and why it ends."""

    fitted: int
    nodes: frozenset[int]
    reason: str


class Trace:
    """Keeps the attempt that got furthest: most operations, then most nodes, then most names."""

    def __init__(self) -> None:
        self.best: Attempt | None = None
        self._rank: tuple[int, int, int] = (-1, 0, 0)

    def note(self, state: State, reason: Callable[[], str]) -> None:
        """A part that does not fit what ``state`` has; the text is made only when it is the best so far."""
        rank = (state.depth, len(state.nodes), len(state.bindings))
        if rank > self._rank:
            self._rank = rank
            self.best = Attempt(state.depth, state.nodes, reason())
