"""What bounds the exponents of tensors and operands, of all of them as arrays."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np

from onnx_fp16fix.plan.known.room import Interval
from onnx_fp16fix.plan.known.table import UNKNOWN, Bools, Ints, Table
from onnx_fp16fix.plan.pieces.problem import Problem
from onnx_fp16fix.plan.pieces.variables import ROOM

__all__ = ["Intervals"]


class Intervals:
    """Of ``problem``, by the tensors and operands of ``Table``; limits are ``UNKNOWN`` where there is none.

    ``tensors``: ``variables.exponent_range``; ``operands``: ``variables.constant_range``; ``slots``: rooms of operands
    alone. ``lowest`` and ``typical`` as in ``Table``; ``tolerant``: whether overflow does no harm. ``highest`` and
    ``held``: ``Need.limits``; by operand, ``reader``: whether its small values matter; ``guard``: above which it
    vanishes as a guard; ``raised``: whether it is one that may grow.
    """

    def __init__(self, problem: Problem) -> None:
        table, rooms, need, bound = problem.facts.table(), problem.rooms, problem.need, problem.bound
        self.lowest, self.typical = table.sizes.lowest, table.sizes.typical
        size, count = len(table.node), len(table.values)
        of_tensors = _filled(count, _numbers(table, rooms.tensors), rooms.tensors.values())
        self.slots = _filled(size, table.read_in(rooms.slots), rooms.slots.values())
        known = self.lowest != UNKNOWN
        first = np.where(self.typical == UNKNOWN, self.lowest, self.typical)
        least = np.minimum(np.minimum(self.lowest, first), 0) - ROOM
        most = np.maximum(np.maximum(self.lowest, first), 0) + ROOM
        self.tensors = _meet(
            np.stack([np.where(known, least, -bound), np.where(known, most, bound)], axis=1),
            of_tensors,
            np.array([-bound, bound]),
        )
        self.operands = _meet(self.slots, of_tensors[table.value], np.array([-bound, bound]))
        self.tolerant = table.among(problem.tolerant)
        limits = list(zip(*need.limited.values(), strict=True)) or [(), ()]
        self.highest, self.held = (_limits(count, _numbers(table, need.limited), found) for found in limits)
        self.guard = _limits(size, table.read_in(need.guards), need.guards.values())
        self.reader, self.raised = _among(size, table, need.readers), _among(size, table, need.raised)


def _numbers(table: Table, keys: Iterable[int]) -> Ints:
    """Of the tensors with these identities; the number of tensors for what is no float."""
    return np.array([table.number.get(key, len(table.values)) for key in keys], np.int64)


def _filled(size: int, at: Ints, intervals: Collection[Interval]) -> Ints:
    found = np.empty((size + 1, 2), np.int64)
    found[:] = -UNKNOWN, UNKNOWN
    if intervals:
        found[at] = list(intervals)
    return found[:-1]


def _limits(size: int, at: Ints, limits: Iterable[int | None]) -> Ints:
    found = np.full(size + 1, UNKNOWN)
    found[at] = [UNKNOWN if limit is None else limit for limit in limits]
    return found[:-1]


def _among(size: int, table: Table, slots: Collection[tuple[int, int]]) -> Bools:
    found = np.zeros(size + 1, bool)
    found[table.read_in(slots)] = True
    return found[:-1]


def _meet(*intervals: Ints) -> Ints:
    """Where all of them hold."""
    least, most = ([interval[..., side] for interval in intervals] for side in (0, 1))
    return np.stack(
        [np.maximum.reduce(np.broadcast_arrays(*least)), np.minimum.reduce(np.broadcast_arrays(*most))], 1
    )
