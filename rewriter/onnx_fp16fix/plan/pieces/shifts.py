"""Operands on which a Mul can do what no Mul behind their node does as well."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from onnx_fp16fix.plan.known.table import Bools, Table

__all__ = ["may_shift"]


def may_shift(table: Table, nodes: Collection[int]) -> Bools:
    """Whether a computed operand of a region of these nodes may get a Mul, by operand.

    Not where the node passes the scale on to its result, or absorbs it: a constant weight or a Mul further up or down
    then serves. Except behind a node whose result has a fixed scale, where there is no other place; and where a tensor
    that others read too is joined with another, as at each Add of a residual stream: one Mul there changes the scale
    of the stream from that point on, where every reader behind it would need a Mul of its own.
    """
    inside = np.zeros(len(table.starts), bool)  # the last is for what no node makes
    inside[list(nodes)] = True
    moving = np.zeros(len(table.values), bool)
    moving[table.value[~table.reads]] = table.movable[~table.reads]
    moving &= inside[table.maker]
    shared = np.bincount(table.value[table.reads], minlength=len(table.values)) > 1
    wanted = ~moving[table.value] | table.turns | (table.joins & shared[table.value])
    found: Bools = wanted & table.reads & ~table.constant
    return found
