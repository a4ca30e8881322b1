"""A program taken apart into blocks that share no variable: alike ones are solved once.

A graph of repeated layers asks the same question over and over. Where nothing ties the copies together, the answer of
one holds for all of them; what the solver takes grows with what is different, not with the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from onnx_fp16fix.plan.solver.arrays import EQUAL, Arrays, Floats, Ints, stacked
from onnx_fp16fix.plan.solver.branching import solve_alike
from onnx_fp16fix.plan.solver.tableau import ranges

__all__ = ["solve_apart"]

_TOGETHER = 400
"""Variables of small blocks solved in one go: each call of the solver costs a millisecond or two."""
_SMALL = 2000
"""Variables of a program that is not worth taking apart."""
_ROUNDS = 20
"""Rounds in which equations with one unknown fix it; what is left is up to the solver."""
_FEW, _TINY = 4, 50
"""Fewer blocks of one structure are not worth taking together, unless all of these have so few variables: HiGHS takes
10 ms for each call."""


def solve_apart(
    program: Arrays, solve: Callable[[Arrays, float], Floats | None], small: int | None = None
) -> Floats | None:
    """Values of all variables; None where a block has none.

    ``solve``: of a smaller program, with the share of all unknowns that it and those after it have. Programs of up to
    ``small`` variables stay whole.
    """
    if len(program.cost) <= (_SMALL if small is None else small):
        return solve(program, 1.0) if len(program.cost) else np.zeros(0)
    known = _fixed(program)
    if known is None:
        return None
    free = np.flatnonzero(np.isnan(known))
    if not free.size:
        return known
    blocks, order = _blocks(program, known, free)
    kinds = blocks.kinds()
    unlike = [blocks.block(number) for number in np.unique(kinds, return_index=True)[1].tolist()]
    answers = _solved_together(unlike)
    hard = [place for place, answer in enumerate(answers) if answer is None]
    left = sum(len(unlike[place].cost) for place in hard)
    for some in _groups(unlike, hard):
        together = stacked([unlike[place] for place in some])
        values = solve(together, len(together.cost) / left)
        if values is None:
            return None
        left -= len(together.cost)
        ends = np.cumsum([len(unlike[place].cost) for place in some])
        for place, own in zip(some, np.split(values, ends[:-1]), strict=True):
            answers[place] = own
    known[order] = blocks.values(kinds, [answer for answer in answers if answer is not None])
    return known


def _solved_together(blocks: Sequence[Arrays]) -> list[Floats | None]:
    """Answers of small blocks that have their structure in common; None for others, and where it takes too long."""
    answers: list[Floats | None] = [None] * len(blocks)
    structures: dict[tuple[bytes, ...], list[int]] = {}
    for place, block in enumerate(blocks):
        structures.setdefault(block.structure(), []).append(place)
    rare = [places for places in structures.values() if len(places) < _FEW]
    tiny = sum(len(blocks[place].cost) for places in rare for place in places) <= _TINY
    for places in structures.values():
        if (len(places) < _FEW and not tiny) or len(blocks[places[0]].cost) > _TOGETHER:
            continue
        found = solve_alike([blocks[place] for place in places])
        if found is None:
            continue
        for place, own in zip(places, found, strict=True):
            if not np.isnan(own).any():
                answers[place] = own
    return answers


def _fixed(program: Arrays) -> Floats | None:
    """Values that bounds and equations with one unknown leave no choice for, or no row asks about; NaN for all others.
    None where these contradict each other."""
    p = program
    known = np.where(p.lower == p.upper, p.lower, np.nan)
    alone = np.bincount(p.columns, minlength=len(known)) == 0
    known[alone] = np.where(p.cost < 0, p.upper, p.lower)[alone]
    entries = np.flatnonzero((p.row_lower == p.row_upper)[p.rows])
    rows, columns, values = p.rows[entries], p.columns[entries], p.values[entries]
    for _ in range(_ROUNDS):
        unknown = np.isnan(known)[columns]
        count = np.bincount(rows[unknown], minlength=len(p.row_lower))
        last = np.flatnonzero(unknown & (count == 1)[rows])
        if not last.size:
            break
        sums = np.bincount(rows, values * np.nan_to_num(known)[columns], minlength=len(p.row_lower))
        found = (p.row_lower - sums)[rows[last]] / values[last]
        places = columns[last]
        whole = np.where(p.integer[places], np.rint(found), found)
        outside = (whole < p.lower[places] - EQUAL) | (whole > p.upper[places] + EQUAL)
        if outside.any() or (np.abs(whole - found) > EQUAL).any():
            return None
        known[places] = whole
    done = np.bincount(p.rows[np.isnan(known)[p.columns]], minlength=len(p.row_lower)) == 0
    sums = _sums(p, np.nan_to_num(known))[done]
    held = (sums >= p.row_lower[done] - EQUAL) & (sums <= p.row_upper[done] + EQUAL)
    return known if held.all() else None


def _sums(program: Arrays, values: Floats) -> Floats:
    sums: Floats = np.bincount(
        program.rows, program.values * values[program.columns], minlength=len(program.row_lower)
    ).astype(np.float64)  # of no entries they are whole
    return sums


def _blocks(program: Arrays, known: Floats, free: Ints) -> tuple[_Blocks, Ints]:
    """Programs over the ``free`` variables that hang together, and all these variables in their order."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    p = program
    entries = np.flatnonzero(np.isnan(known[p.columns]))
    rows, columns = p.rows[entries], p.columns[entries]
    heads = np.flatnonzero(np.diff(rows, prepend=-1))  # the first entry of each row that is left
    row = np.repeat(np.arange(len(heads)), np.diff(heads, append=len(rows)))
    links = coo_array((np.ones(len(rows)), (columns[heads][row], columns)), shape=(len(known), len(known)))
    label = connected_components(links, directed=False)[1]
    block = np.empty(len(known), np.int64)
    block[free] = np.unique(label[free], return_inverse=True)[1]
    count = int(block[free].max()) + 1
    variable_order, variable_place, variable_ends = _by_block(block[free], count)
    row_order, row_place, row_ends = _by_block(block[columns[heads]], count)
    entry_order, _, entry_ends = _by_block(block[columns], count)
    place = np.empty(len(known), np.int64)
    place[free] = variable_place
    variables, kept = free[variable_order], rows[heads][row_order]
    shift = _sums(p, np.nan_to_num(known))[kept]
    return _Blocks(
        Arrays(
            p.lower[variables], p.upper[variables], p.integer[variables], p.cost[variables],
            row_place[row][entry_order], place[columns][entry_order], p.values[entries][entry_order],
            p.row_lower[kept] - shift, p.row_upper[kept] - shift,
        ),
        (variable_ends, entry_ends, row_ends),
    ), variables  # fmt: skip


class _Blocks:
    """A program's variables, entries and rows in the order of its blocks, and where each block ends in these; the
    variables and rows of entries are numbered within their block."""

    def __init__(self, program: Arrays, ends: tuple[Ints, Ints, Ints]) -> None:
        self._program = program
        self._places = [np.concatenate([[0], own]) for own in ends]

    def block(self, number: int) -> Arrays:
        """One of them."""
        v, e, r = (slice(*places[number : number + 2].tolist()) for places in self._places)
        p = self._program
        return Arrays(
            p.lower[v], p.upper[v], p.integer[v], p.cost[v],
            p.rows[e], p.columns[e], p.values[e], p.row_lower[r], p.row_upper[r],
        )  # fmt: skip

    def kinds(self) -> Ints:
        """A number for each block: that of all equal ones, in the order of the first of each."""
        p = self._program
        parts = (
            (p.lower, p.upper, p.integer, p.cost),
            (p.rows, p.columns, p.values),
            (p.row_lower, p.row_upper),
        )
        spans = []
        for own, places in zip(parts, self._places, strict=True):
            content = np.stack(own, axis=1, dtype=np.float64).tobytes()
            bounds = (places * (8 * len(own))).tolist()
            spans.append([content[start:end] for start, end in pairwise(bounds)])
        kinds: dict[tuple[bytes, ...], int] = {}
        return np.array([kinds.setdefault(span, len(kinds)) for span in zip(*spans, strict=True)], np.int64)

    def values(self, kinds: Ints, answers: Sequence[Floats]) -> Floats:
        """Values of all variables from those of each kind of block."""
        lengths = np.array([len(answer) for answer in answers])
        starts = (np.cumsum(lengths) - lengths)[kinds]
        return np.concatenate(answers)[ranges(starts, lengths[kinds])]


def _by_block(block: Ints, count: int) -> tuple[Ints, Ints, Ints]:
    """Order in which items of a block follow each other, the place of each item in its block, ends of blocks."""
    order = np.argsort(block, kind="stable")
    sizes = np.bincount(block, minlength=count)
    ends = np.cumsum(sizes)
    place = np.empty(len(block), np.int64)
    place[order] = np.arange(len(block)) - np.repeat(ends - sizes, sizes)
    return order, place, ends


def _groups(blocks: Sequence[Arrays], places: Sequence[int]) -> list[list[int]]:
    """Small blocks together, large ones alone; of those at the given places."""
    groups: list[list[int]] = []
    size = _TOGETHER
    for place in places:
        count = len(blocks[place].cost)
        if size + count > _TOGETHER:
            groups.append([])
            size = 0
        groups[-1].append(place)
        size += count
    return groups
