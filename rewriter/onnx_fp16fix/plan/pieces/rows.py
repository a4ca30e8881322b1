"""The rows: relations between exponents, what FP16 can hold, where small values matter, and casts; each kind of row is
written for all nodes, operands or tensors at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf

import numpy as np

from onnx_fp16fix.operators import out
from onnx_fp16fix.plan.known.edges import Edge, NodeView, TensorView
from onnx_fp16fix.plan.known.facts import SUMS
from onnx_fp16fix.plan.known.tolerate import passes_overflow
from onnx_fp16fix.plan.pieces.problem import ALWAYS, LIMIT, NEVER, Problem
from onnx_fp16fix.plan.pieces.sheet import ABSENT, Exponents, Mask, Sheet
from onnx_fp16fix.plan.pieces.sites import Operands, Tensors
from onnx_fp16fix.plan.prices import Prices
from onnx_fp16fix.plan.solver.arrays import Floats, Ints
from onnx_fp16fix.plan.solver.tableau import ranges

__all__ = ["add_rows", "typical_bits"]

_BIASED = frozenset(
    """Conv ConvTranspose Gemm LayerNormalization GroupNormalization InstanceNormalization
    BatchNormalization""".split()
)
"""Ops whose third input is added to the result."""

# where rows stand: those of a node, then those of each of its operands; those of a tensor
_EQUATION, _PINNED, _INNER, _OPERANDS = range(4)
_ROOM, _FITS, _NEEDS, _GUARDS, _KEEPS, _EACH_OPERAND = range(6)
_MADE_FITS, _MADE_KEEPS, _MADE_NEEDS, _MADE_GUARDS, _RESULT, _CAST, _EACH_TENSOR = range(7)


def typical_bits(prices: Prices, numel: int) -> list[tuple[int, float]]:
    """Bits that so many elements of typical magnitudes may lose, with the price of each, rising."""
    return [
        (prices.bits_cheap, prices.bit(numel)),
        (prices.bits_most - prices.bits_cheap, prices.bit_more(numel)),
        (2 * LIMIT, 4 * prices.bit_more(numel)),
    ]


def add_rows(pieces: Sequence[tuple[Problem, Sequence[int], Sequence[TensorView]]], starts: Ints) -> None:
    """Rows for the nodes of each problem and the computed tensors that they make and read, and variables for casts.

    The problems are pieces of one region; all their other variables are in one program, from ``starts`` on.
    """
    _Writer(pieces).write(starts)


class _Writer:
    def __init__(self, pieces: Sequence[tuple[Problem, Sequence[int], Sequence[TensorView]]]) -> None:
        self.problem, self.sheet = pieces[0][0], Sheet()
        """What is asked here of the first piece is the same for all."""
        self.indices = np.array([index for _, nodes, _ in pieces for index in nodes], np.int64)
        self.operands = Operands([(problem, index) for problem, nodes, _ in pieces for index in nodes])
        self.tensors = Tensors([(problem, value) for problem, _, tensors in pieces for value in tensors])
        # keys of rows: piece by piece those of nodes, and of operands within them, then those of tensors
        operands, each = self.operands, _OPERANDS + _EACH_OPERAND * int(self.operands.counts.max(initial=0))
        nodes = np.array([len(own) for _, own, _ in pieces], np.int64)
        tensors = np.array([len(own) for _, _, own in pieces], np.int64)
        self.ends = np.cumsum(nodes * each + tensors * _EACH_TENSOR)
        """Of the keys of each piece."""
        starts = self.ends - nodes * each - tensors * _EACH_TENSOR
        self.keys = np.repeat(starts, nodes) + each * ranges(np.zeros_like(nodes), nodes)
        own = np.repeat(starts + nodes * each, tensors) + _EACH_TENSOR * ranges(
            np.zeros_like(tensors), tensors
        )
        within = np.arange(len(operands.edges)) - operands.starts[operands.node]
        self.seen = operands.exponents(self.keys[operands.node] + _OPERANDS + within * _EACH_OPERAND)
        self.stored = self.tensors.exponents(own)

    def write(self, starts: Ints) -> None:
        """Add variables for casts, and all rows."""
        self._equations()
        self._pinned()
        self._inner()
        self._operand_rows()
        self._tensor_rows()
        program = self.problem.program
        start = len(program.cost)
        casts = self._casts(start)
        pieces = np.searchsorted(starts, np.arange(start), side="right") - 1
        late = np.repeat(np.searchsorted(self.ends, casts, side="right"), 2)
        program.add(self.sheet.rows(casts, start, self.ends), np.concatenate([pieces, late]), len(starts))

    def _typical(
        self, of: Exponents, place: int, values: Sequence[TensorView], chosen: Mask, highest: Floats
    ) -> None:
        """exponent <= highest, where it is known, or bits lost, of so many elements."""
        chosen = chosen & ~np.isnan(highest) & (of.escape != ALWAYS)
        numel = np.array([values[each].numel for each in np.flatnonzero(chosen).tolist()], np.int64)
        sizes, which = np.unique(numel, return_inverse=True)
        if len(sizes):
            lost = np.array([typical_bits(self.problem.prices, size) for size in sizes.tolist()])
            self.sheet.at_most(of.at(chosen), place, highest[chosen], lost[which])

    def _needs(self, of: Exponents, first: int, values: Iterable[tuple[int, TensorView]]) -> None:
        """Small values that matter, and next to these (at ``first``) guards that must not vanish."""
        need, prices = self.problem.need, self.problem.prices
        limits = [(place, *need.limits(value.key)) for place, value in values if of.escape[place] != ALWAYS]
        highest = {place: most for place, most, _ in limits if most is not None}
        guards = {place: most for place, _, most in limits if most is not None}
        bits = np.array([[[prices.need_most, prices.need_bit]]] * len(highest), np.float64)
        self.sheet.at_most(of.at(list(highest)), first, _floats(highest.values()), bits)
        self.sheet.at_most(of.at(list(guards)), first + 1, _floats(guards.values()))

    # -- nodes

    def _equations(self) -> None:
        table = self.problem.facts.table()
        nodes, of, at, weights = list[int](), list[int](), list[int](), list[int]()
        forms, starts = table.form[self.indices].tolist(), self.operands.starts.tolist()
        for node, (form, start) in enumerate(zip(forms, starts, strict=True)):
            for equation in table.forms[form].equations:
                of += (len(nodes),) * len(equation)
                for place, weight in equation:
                    at.append(start + place)
                    weights.append(weight)
                nodes.append(node)
        exponents = self.seen.at(at)
        columns = np.stack([exponents.variable, exponents.shift], axis=1).reshape(-1)
        row, weighted, there = np.array(of, np.int64), np.array(weights, np.float64), columns != ABSENT
        sums: Floats = 0.0 - np.bincount(row, weighted * exponents.fixed, len(nodes)).astype(np.float64)
        self.sheet.add_sums(
            self.keys[nodes] + _EQUATION,
            np.repeat(row, 2)[there],
            columns[there],
            np.repeat(weighted, 2)[there],
            sums,
        )

    def _pinned(self) -> None:
        of = self.seen
        moving = (of.variable >= 0) | (of.shift >= 0) | (of.fixed != 0)
        pinned = ~self.operands.movable & moving
        rows = of.at(pinned)
        rows.keys = self.keys[self.operands.node[pinned]]
        self.sheet.between(rows, _PINNED, 0, 0)

    def _inner(self) -> None:
        """The values inside kernels."""
        facts, operands = self.problem.facts, self.operands
        found = list[tuple[int, int, int, int]]()
        for node, view in enumerate(operands.views):
            for inner in view.relation.inner:
                if inner.magnitude > 0 and operands.precision[node] != ALWAYS:
                    edges = list(view.edges)
                    at = edges.index(inner.operand) + operands.starts[node] if inner.operand in edges else -1
                    lowest = facts.lowest_for(inner.magnitude * facts.margin)
                    found.append((node, int(at), inner.coefficient, lowest))
        if not found:
            return
        node_, at_, weight, lowest_ = np.array(found, np.int64).T
        rows, none = self.seen.at(at_.tolist()), at_ < 0
        rows.variable[none] = rows.shift[none] = ABSENT
        rows.fixed[none] = 0
        rows.keys, rows.escape = self.keys[node_], operands.precision[node_]
        self.sheet.at_least(rows, _INNER, lowest_.astype(np.float64), weight.astype(np.float64))

    def _operand_rows(self) -> None:
        """What FP16 operands must satisfy as their nodes see them."""
        problem, need, of, operands = self.problem, self.problem.need, self.seen, self.operands
        values, slots = operands.values, operands.slots
        if problem.rooms:
            rooms = [
                (place, *room)
                for place in np.flatnonzero(operands.reads).tolist()
                if (room := problem.rooms.operand(slots[place], values[place].key)) is not None
            ]
            places, least, most = np.array(rooms, np.int64).reshape(-1, 3).T
            self.sheet.between(of.at(places.tolist()), _ROOM, least, most)
        lowest = _floats(value.lowest for value in values)
        asked = operands.reads & ~np.isnan(lowest) & (of.escape != ALWAYS)
        for place in np.flatnonzero(asked).tolist():
            if self._overflows_harmlessly(operands.views[operands.node[place]], operands.edges[place]):
                asked[place] = False
        self.sheet.at_least(of.at(asked), _FITS, lowest[asked])
        computed = operands.reads & ~operands.constant
        if need.readers:
            places = [place for place in np.flatnonzero(computed).tolist() if slots[place] in need.readers]
            mattering = [(place, values[place]) for place in places if need.matters(values[place].key)]
            self._needs(of, _NEEDS, mattering)
        # of computed ones where the tensor's own rows do not see this exponent: behind a Mul, or made in FP32
        apart = computed & ((of.shift >= 0) | (operands.made != NEVER))
        self._keep_bits(apart)

    def _keep_bits(self, computed: Mask) -> None:
        """Of constants, and of some of the computed operands."""
        need, of, operands = self.problem.need, self.seen, self.operands
        chosen, typical = operands.constant | computed, _floats(value.typical for value in operands.values)
        guarded = dict[int, int]()
        for place in np.flatnonzero(operands.constant).tolist():
            slot = operands.slots[place]
            if slot in need.raised:
                chosen[place] = False  # it vanishes at no exponent: emission raises it
            elif (guard := need.guards.get(slot)) is not None:
                chosen[place] = False
                if of.escape[place] != ALWAYS:
                    guarded[place] = guard
            elif (
                most := _typical_constant(operands.views[operands.node[place]], operands.edges[place])
            ) is not None:
                typical[place] = most
        self.sheet.at_most(of.at(list(guarded)), _GUARDS, _floats(guarded.values()))
        self._typical(of, _KEEPS, operands.values, chosen, typical)

    def _overflows_harmlessly(self, view: NodeView, edge: Edge) -> bool:
        """Whether the node may read an infinity here."""
        if edge.slot in view.relation.saturating:
            return True
        tolerant = self.problem.tolerant
        return edge.value.key in tolerant and passes_overflow(
            self.problem.facts, view.node, edge.slot, tolerant
        )

    # -- tensors

    def _tensor_rows(self) -> None:
        """What tensors made in FP16 must satisfy, and true values outside."""
        tolerant, need, of, values = (
            self.problem.tolerant,
            self.problem.need,
            self.stored,
            self.tensors.values,
        )
        lowest = _floats(None if value.key in tolerant else value.lowest for value in values)
        asked = ~np.isnan(lowest) & (of.escape != ALWAYS)
        self.sheet.at_least(of.at(asked), _MADE_FITS, lowest[asked])
        typical = _floats(value.typical for value in values)
        self._typical(of, _MADE_KEEPS, values, ~np.isnan(typical), typical)
        mattering = [(place, value) for place, value in enumerate(values) if need.matters(value.key)]
        self._needs(of, _MADE_NEEDS, mattering)
        results = [
            problem.result.get(value.key, ABSENT)
            for problem, value in zip(self.tensors.problems, values, strict=True)
        ]
        result = np.array(results, np.int64)
        rows = of.at(result != ABSENT)
        rows.shift = result[result != ABSENT]
        self.sheet.between(rows, _RESULT, 0, 0)

    def _casts(self, start: int) -> Ints:
        """Casts inside the graph; those at its border are there whatever the plan, and must not make FP32 attractive.

        Their variables are numbered from ``start``; the keys at which they are made.
        """
        problem, values = self.problem, self.tensors.values
        cast = np.array(
            [value.maker is not None and value.key not in problem.seams for value in values], bool
        )
        tensor, read = self.tensors.readers(self.operands)
        counts = cast[tensor] & (read != self.stored.escape[tensor])
        tensor, read = tensor[counts], read[counts]
        # a precision is one variable, 1 or 0
        first = np.sort(np.unique(tensor * (start + 2) + read - NEVER, return_index=True)[1])
        tensor, read, made = tensor[first], read[first], self.stored.escape[tensor[first]]
        made_at, number = np.unique(tensor, return_inverse=True)
        prices = [
            problem.prices.cast(value.numel) * problem.facts.repeats(value.tensor)
            for value in map(values.__getitem__, made_at.tolist())
        ]
        down, count = start + 2 * number, 2 * len(prices)
        problem.program.variables(
            np.zeros(count), np.ones(count), np.repeat(np.array(prices), 2), np.zeros(count, bool)
        )
        # down - made + read >= 0, up + made - read >= 0
        sign = np.tile([-1.0, 1.0], len(first))
        made, read = np.repeat(made, 2), np.repeat(read, 2)
        terms: list[tuple[Ints, float | Floats]] = [
            (np.stack([down, down + 1], axis=1).reshape(-1), 1.0),
            (np.maximum(made, ABSENT), sign),
            (np.maximum(read, ABSENT), -sign),
        ]
        lower = sign * (read == ALWAYS) - sign * (made == ALWAYS)
        self.sheet.add(self.stored.keys[np.repeat(tensor, 2)] + _CAST, terms, lower, inf)
        keys: Ints = self.stored.keys[made_at] + _CAST
        return keys


def _typical_constant(view: NodeView, edge: Edge) -> int | None:
    """Largest exponent at which a constant loses no bits that show: of a summand those that the sum keeps."""
    typical, result = edge.value.typical, view.edges.get(out())
    if typical is None or result is None or not (view.op in SUMS or (view.op in _BIASED and edge.slot == 2)):
        return typical
    return max(typical, result.value.typical or typical)


def _floats(numbers: Iterable[float | None]) -> Floats:
    """Numbers, NaN for None."""
    return np.array(list(numbers), np.float64)
