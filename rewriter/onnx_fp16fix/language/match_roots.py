"""Patterns with several roots: the others are looked for near what the first one has captured."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from onnx_fp16fix.graph import ViewNode
from onnx_fp16fix.language.bindings import State
from onnx_fp16fix.language.pattern import Pattern
from onnx_fp16fix.language.roots import root_ops, root_slot
from onnx_fp16fix.language.terms import Term

if TYPE_CHECKING:
    from onnx_fp16fix.language.match import Matcher

__all__ = ["other_roots"]

_NEAR = 64
"""Nodes looked at below the captured values: a second use of a value is a few steps away."""


def other_roots(
    matcher: Matcher, patterns: Sequence[Pattern], state: State, roots: set[tuple[int, int]]
) -> Iterator[State]:
    """Every way the further roots fit beside the first one; the state itself where there is none."""
    if not patterns:
        yield state
        return
    ops, slot, fitted = root_ops(patterns[0]), root_slot(patterns[0]), False
    taken = state.nodes.difference(index for index, _ in roots)
    for node in _near(matcher, state):
        if (node.index, slot) in roots or node.index in taken or node.op not in ops:
            continue
        if len(node.outputs) <= slot or node.outputs[slot].is_empty():
            continue
        for found in matcher.match(patterns[0], Term(node.outputs[slot]), state):
            if node.index not in found.nodes:
                continue
            fitted = True
            further = found._replace(others=(*state.others, node))
            yield from other_roots(matcher, patterns[1:], further, roots | {(node.index, slot)})
    if not fitted and matcher.trace is not None:
        wanted = " or ".join(sorted(ops))
        matcher.trace.note(
            state, lambda: f"match: no further root ({wanted}) that fits shares a value with it"
        )


def _near(matcher: Matcher, state: State) -> list[ViewNode]:
    """Nodes that compute from the captured values, nearest first."""
    queue: deque[gs.Tensor] = deque(b.tensor for b in state.bindings.values() if b.tensor is not None)
    found: dict[int, ViewNode] = {}
    while queue and len(found) < _NEAR:
        for node, _ in matcher.scope.consumers(queue.popleft()):
            if len(found) >= _NEAR:
                break
            if node.index not in found:
                found[node.index] = node
                queue.extend(tensor for tensor in node.outputs if not tensor.is_empty())
    return list(found.values())
