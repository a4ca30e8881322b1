"""How a graph is cut into parts that run one after the other, so that only one part's tensors are held at a time.

A part's tensors all leave ONNX Runtime, without a copy, are measured and dropped; what later parts read is kept.
Memory is then what plain inference needs, and one part; each node runs once, whatever the number of parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx

from onnx_fp16fix.errors import Problem, UsageError
from onnx_fp16fix.runtime import node_reads
from onnx_fp16fix.wording import counted

__all__ = ["PART_BYTES", "Budget", "Step", "make_steps"]

PART_BYTES = 16 << 20
"""Measured tensors of one part. Smaller parts save little memory: a convolution's own buffers are as large."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes of a part's measured tensors, and of these together with what is kept for later parts (None: any)."""

    part: int = PART_BYTES
    memory: int | None = None

    def allows(self, part: int, kept: int) -> bool:
        """Whether a part may grow to ``part`` bytes while ``kept`` bytes are kept."""
        return part <= self.part if self.memory is None else part + kept <= self.memory


@dataclass(frozen=True, slots=True)
class Step:
    """Nodes run together, by index. ``alone``: one node with bodies, run by ``control_flow``.

    ``fetched`` leave the step; ``last`` are not read after it.
    """

    nodes: tuple[int, ...]
    alone: bool
    fetched: tuple[str, ...]
    last: tuple[str, ...]


def make_steps(
    nodes: Sequence[onnx.NodeProto],
    sizes: Mapping[str, int],
    results: Collection[str],
    *,
    alone: Callable[[int], bool],
    unsplittable: Collection[str],
    budget: Budget,
) -> list[Step]:
    """Cut ``nodes`` (in their order) into steps.

    ``sizes``: bytes of the tensors to fetch; ``results``: names kept to the end; ``unsplittable``: names that no
    later part may read (they are no tensors). Raises UsageError (MEMORY) when one node needs more than the budget.
    """
    last_read = {name: index for index, node in enumerate(nodes) for name in node_reads(node)}
    last_read.update(dict.fromkeys(results, len(nodes)))
    groups = _groups(nodes, sizes, last_read, alone, unsplittable, budget)
    produced: set[str] = set()
    steps = []
    for group in groups:
        names = [name for index in group for name in nodes[index].output if name]
        end = group[-1]
        fetched = tuple(name for name in names if name in sizes or last_read.get(name, -1) > end)
        produced.update(fetched)
        last = tuple(name for name in produced if last_read.get(name, -1) <= end)
        produced.difference_update(last)
        steps.append(Step(tuple(group), len(group) == 1 and alone(group[0]), fetched, last))
    return steps


def _groups(
    nodes: Sequence[onnx.NodeProto],
    sizes: Mapping[str, int],
    last_read: Mapping[str, int],
    alone: Callable[[int], bool],
    unsplittable: Collection[str],
    budget: Budget,
) -> list[list[int]]:
    groups: list[list[int]] = []
    part, bound = 0, 0
    kept: dict[str, int] = {}
    current: list[int] = []
    for index, node in enumerate(nodes):
        size = sum(sizes.get(name, 0) for name in node.output)
        full = not budget.allows(part + size, sum(kept.values())) if current else False
        if current and index > bound and (full or alone(index) or alone(current[-1])):
            groups.append(current)
            made = [name for at in current for name in nodes[at].output]
            kept.update((name, sizes[name]) for name in made if name in sizes)
            kept = {name: held for name, held in kept.items() if last_read.get(name, -1) >= index}
            current, part = [], 0
        current.append(index)
        part += size
        if len(current) == 1 and not budget.allows(part, sum(kept.values())) and budget.memory is not None:
            raise _too_small(node, part + sum(kept.values()), budget.memory)
        bound = max([bound, *(last_read.get(name, 0) for name in node.output if name in unsplittable)])
    return [*groups, current] if current else groups


def _too_small(node: onnx.NodeProto, needed: int, memory: int) -> UsageError:
    name = node.name or node.output[0]
    return UsageError(
        Problem(
            "MEMORY",
            f"its result and what is still needed take {_size(needed)}, more than the budget of {_size(memory)}",
            node=name,
            hint=f"allow at least {_size(needed)}, or give smaller samples",
        )
    )


def _size(size: int) -> str:
    unit, name = next(
        ((at, text) for at, text in ((1 << 20, "MiB"), (1 << 10, "KiB")) if size >= at), (1, "bytes")
    )
    # rounded up, so that what is advised is enough
    return f"{math.ceil(10 * size / unit) / 10:.1f} {name}" if unit > 1 else counted(size, "byte")


def needed_nodes(graph: onnx.GraphProto, wanted: Collection[str], results: Collection[str]) -> Iterator[int]:
    """Indices of the nodes that the named tensors depend on, in order."""
    pending = {*wanted, *results}
    kept = []
    for index in range(len(graph.node) - 1, -1, -1):
        node = graph.node[index]
        if any(name in pending for name in node.output if name):
            kept.append(index)
            pending.update(node_reads(node))
    return reversed(kept)
