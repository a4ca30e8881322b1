"""Where a pattern can start: what keeps matching linear, because most nodes are never looked at."""

from __future__ import annotations

from collections.abc import Iterator

from onnx_fp16fix.language.pattern import (
    Absent,
    Capture,
    Combination,
    Either,
    Inner,
    Moved,
    Operation,
    Pattern,
    Roots,
    Wild,
)
from onnx_fp16fix.language.spellings import DERIVED_FROM, SPLITS

__all__ = ["needed_ops", "root_ops", "root_slot", "start_ops"]


def start_ops(pattern: Pattern) -> frozenset[str] | None:
    """Ops of nodes whose value the pattern may be, or None where any value may be it."""
    if isinstance(pattern, Wild | Absent | Capture | Moved) or (
        isinstance(pattern, Combination) and not pattern.parts
    ):
        return None
    if isinstance(pattern, Inner):
        return start_ops(pattern.pattern)
    if isinstance(pattern, Either):
        options = [start_ops(option) for option in pattern.options]
        return None if None in options else frozenset().union(*(ops for ops in options if ops is not None))
    return root_ops(pattern)


def root_ops(pattern: Pattern) -> frozenset[str]:
    """Ops of nodes a match can be rooted at (its first root), domains left aside."""
    if isinstance(pattern, Roots):
        return root_ops(pattern.patterns[0])
    if isinstance(pattern, Either):
        return frozenset().union(*(root_ops(option) for option in pattern.options))
    if isinstance(pattern, Inner | Moved):
        return root_ops(pattern.pattern)
    if isinstance(pattern, Combination):
        return frozenset(SPLITS[pattern.kind])
    if isinstance(pattern, Operation):
        extra = () if pattern.literal else DERIVED_FROM.get(pattern.op, ())
        return frozenset((pattern.op, *extra))
    return frozenset()


def root_slot(pattern: Pattern) -> int:
    """Which output of the node at the root the (first) result is."""
    if isinstance(pattern, Inner | Moved):
        return root_slot(pattern.pattern)
    if isinstance(pattern, Roots):
        return root_slot(pattern.patterns[0])
    return pattern.output if isinstance(pattern, Operation) else 0


def needed_ops(pattern: Pattern) -> Iterator[frozenset[str]]:
    """For each operation that every match has: the ops of which a scope must hold at least one."""
    if isinstance(pattern, Inner | Moved):
        yield from needed_ops(pattern.pattern)
    elif isinstance(pattern, Combination):
        for part, _ in pattern.parts:
            yield from needed_ops(part)
    elif isinstance(pattern, Roots):
        for root in pattern.patterns:
            yield from needed_ops(root)
    elif isinstance(pattern, Operation):
        extra = {"ReduceL2", "ReduceSumSquare", "ReduceSum", "GlobalAveragePool"}
        derived = extra if pattern.op in ("ReduceMean", "ReduceSum") and not pattern.literal else set()
        derived |= {"Add"} if pattern.op == "Where" and not pattern.literal else set()
        yield frozenset({pattern.op, *derived})
        for argument in pattern.args:
            yield from needed_ops(argument)
