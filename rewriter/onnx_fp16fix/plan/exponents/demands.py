"""What the tensors of a region ask of exponents when every node keeps the precision it has anyway."""

from __future__ import annotations

from collections.abc import Collection, Sequence, Set
from dataclasses import dataclass, field

import numpy as np

from onnx_fp16fix.operators import Operand
from onnx_fp16fix.plan.exponents.numbering import Numbering
from onnx_fp16fix.plan.exponents.ties import Ties
from onnx_fp16fix.plan.known.table import UNKNOWN, Bools, Ints
from onnx_fp16fix.plan.pieces.problem import Problem
from onnx_fp16fix.plan.pieces.rows import typical_bits
from onnx_fp16fix.plan.plan import Slot

__all__ = ["Bits", "Demands", "find_apart", "find_demands", "find_linked"]

Bits = tuple[tuple[float, float], ...]
"""Bits that may be lost at such a price each, rising; beyond them none may."""


@dataclass
class Demands:
    """Variables are numbers of ``ties``; number 0 is what cannot move.

    ``bounds`` (least, most) and ``steps`` (whether each step has a price): by variable. ``least``: rows (v, weight,
    bound): weight * v >= bound; ``most``: rows (v, bound, number in ``bits``): v <= bound, or bits lost. ``charges``:
    (v, price) by tensor: a Mul unless v is 0; ``casts``: prices of those that precisions ask for, by tensor.
    """

    ties: Ties
    bounds: Ints
    steps: Bools
    exponent: dict[int, int]
    """By tensor identity."""
    constant: dict[Slot, int]
    least: Ints
    most: Ints
    bits: list[Bits]
    stuck: frozenset[int]
    """Nodes with operands that cannot move but would have to."""
    charges: dict[int, tuple[int, float]] = field(default_factory=dict)
    results: dict[int, int] = field(default_factory=dict)
    """Tensors whose true value is needed outside, by identity."""
    casts: dict[int, float] = field(default_factory=dict)
    links: list[tuple[int, int, float]] = field(default_factory=list)
    """Of a tensor and an operand that reads it, equal but for a Mul at such a price."""
    operands: dict[int, dict[Operand, int]] = field(default_factory=dict)
    """Variables of the operands of each node, where such links are asked for."""


def find_demands(problem: Problem) -> Demands:
    """Demands of the region of ``problem``, which needs no variables yet."""
    return _Collector(problem, sorted(problem.nodes)).demands()


def find_linked(problem: Problem, nodes: Set[int]) -> Demands:
    """Demands of some nodes of the region, where operands that may get a Mul have a variable of their own, linked to
    that of the tensor."""
    return _Collector(problem, sorted(nodes), linked=True).demands()


def find_apart(problem: Problem, places: Sequence[Collection[int]]) -> tuple[Demands, Ints]:
    """Demands of places that share no node, as if nothing were known of what is around each, and of each variable the
    number of its place."""
    home = {index: number for number, nodes in enumerate(places) for index in nodes}
    nodes = [index for inside in places for index in sorted(inside)]
    collector = _Collector(problem, nodes, home=home)
    return collector.demands(), collector.owner


class _Collector(Numbering):
    """What these nodes ask for."""

    def demands(self) -> Demands:
        """All of them."""
        table, exponent, results = self.table, dict[int, int](), dict[int, int]()
        charges = dict[int, tuple[int, float]]()
        columns = (self.value[self.heads].tolist(), self.stored[self.heads].tolist(), self.free.tolist())
        for number, variable, free in zip(*columns, strict=True):
            value = table.values[number]
            exponent[value.key] = variable
            if free and (value.maker is None or self.facts.scope.outside_uses(value.tensor)):
                if value.maker is not None:
                    results[value.key] = variable
                price = self.prices.mul(value.numel) * self.facts.repeats(value.tensor)
                charges[value.key] = variable, price
        alone = np.flatnonzero(self.constant & self.reads & self.movable)
        slots = zip(self.node[alone].tolist(), table.slot[self.at[alone]].tolist(), strict=True)
        least, most, bits = self._rows()
        stuck = [
            rows[(rows[:, 1] == 0) & (sign * rows[:, 2] > 0), 0] for rows, sign in ((least, 1), (most, -1))
        ]
        return Demands(
            self._ties(), self.bounds, self.steps, exponent,
            dict(zip(slots, self.stored[alone].tolist(), strict=True)),
            np.stack([least[:, 1], least[:, 3], least[:, 2]], axis=1), most[:, 1:], bits,
            frozenset(np.concatenate(stuck).tolist()), charges, results, self._casts(), self._links(),
            self._operands(),
        )  # fmt: skip

    def _rows(self) -> tuple[Ints, Ints, list[Bits]]:
        """Rows (node, variable, bound, weight) and (node, variable, bound, number of bits), and those bits."""
        table, limits = self.table, self.intervals
        numels, kind = np.unique(np.array([v.numel for v in table.values], np.int64), return_inverse=True)
        bits: list[Bits] = [(), ((self.prices.need_most, self.prices.need_bit),)]
        bits += [tuple(typical_bits(self.prices, numel)) for numel in numels.tolist()]
        places = np.flatnonzero(self.reads & ~self.read)
        value, constant = self.value[places], self.constant[places]
        at = self.at[places]
        # what reads a tensor whose overflow is harmless hands the infinity on, or saturates
        harmless = table.saturating[at] | limits.tolerant[value]
        matter, guard = limits.reader[at] & ~constant, limits.guard[at]
        guard = np.where(matter, limits.held[value], np.where(constant, guard, UNKNOWN))
        plain = constant & (limits.guard[at] == UNKNOWN) & ~limits.raised[at] & (not self.apart)
        node, variable = self.node[places], self.seen[places]

        least = _chosen(2 * self.place[places], node, variable, limits.lowest[value], 1, ~harmless)
        highest = _chosen(3 * places, node, variable, limits.highest[value], 1, matter)
        guards = _chosen(3 * places + 1, node, variable, guard, 0, ~limits.raised[at])
        typical = _chosen(
            3 * places + 2, node, variable, limits.typical[value], kind[value] + 2,
            plain | (~constant & self.made[value]),
        )  # fmt: skip
        least, most = _ordered(least, self._inner()), _ordered(highest, guards, typical)
        # tensors as they are made
        number = self.value[self.heads]
        maker = table.maker[number]
        chosen = ~self.made[number] & ~self.constants[number]
        if self.apart:
            chosen &= self.homes[maker] == self.homes[self.node[self.heads]]
        number, maker, variable = number[chosen], maker[chosen], self.stored[self.heads][chosen]
        key = 3 * np.arange(len(number))
        least_made = _chosen(key, maker, variable, limits.lowest[number], 1, ~limits.tolerant[number])
        most_made = _ordered(
            _chosen(key, maker, variable, limits.typical[number], kind[number] + 2, True),
            _chosen(key + 1, maker, variable, limits.highest[number], 1, True),
            _chosen(key + 2, maker, variable, limits.held[number], 0, True),
        )
        return np.concatenate([least, least_made[:, 1:]]), np.concatenate([most, most_made]), bits

    def _inner(self) -> Ints:
        """What values inside kernels ask for."""
        found = list[tuple[int, int, int, int, int]]()
        places = {index: place for place, index in enumerate(self.nodes)}
        for index in self.table.inner:
            if (place := places.get(index)) is None or self.kept[index]:
                continue
            view, begin = self.problem.views[index], self.begins[place]
            for inner in view.relation.inner:
                if inner.magnitude > 0:
                    lowest = self.facts.lowest_for(inner.magnitude * self.facts.margin)
                    known = inner.operand in view.operands
                    variable = int(self.seen[begin + view.operands.index(inner.operand)]) if known else 0
                    found.append((2 * place + 1, index, variable, lowest, inner.coefficient))
        return np.array(found, np.int64).reshape(-1, 5)

    def _ties(self) -> Ties:
        table, problem, variables = self.table, self.problem, self.seen.tolist()
        ties = Ties(len(self.bounds))
        ties.pin(0)
        late = dict[int, list[int]]()  # its maker may be none of the nodes
        for place in self.heads[self.free].tolist() if self.linked else ():
            value = table.values[self.value[place]]
            if value.maker is not None and not problem.made_at(value).movable:
                late.setdefault(int(self.place[place]), []).append(int(self.stored[place]))
        forms = table.form[self.nodes].tolist()
        for place, (form, begin) in enumerate(zip(forms, self.begins.tolist(), strict=True)):
            _, pinned, equations = table.forms[form]
            for operand in pinned:
                if variable := variables[begin + operand]:
                    ties.pin(variable)
            for variable in late.get(place, ()):
                ties.pin(variable)
            for equation in equations:
                ties.equate([(variables[begin + operand], weight) for operand, weight in equation])
        return ties

    def _casts(self) -> dict[int, float]:
        if not self.kept.any():
            return {}
        table, number = self.table, self.value[self.heads]
        chosen = self.mismatched[number] & (table.maker[number] >= 0) & ~self.constants[number]
        values = [table.values[place] for place in number[chosen].tolist()]
        return {v.key: self.prices.cast(v.numel) * self.facts.repeats(v.tensor) for v in values}

    def _links(self) -> list[tuple[int, int, float]]:
        found = []
        for place in sorted(self.ahead.tolist()):
            view, value = self.problem.views[self.node[place]], self.table.values[self.value[place]]
            operand = view.operands[place - self.begins[self.place[place]]]
            price = self.prices.mul(view.numel(operand)) * self.facts.repeats(value.tensor)
            found.append((int(self.stored[place]), int(self.seen[place]), price))
        return found

    def _operands(self) -> dict[int, dict[Operand, int]]:
        if not self.linked:
            return {}
        views, seen = self.problem.views, iter(self.seen.tolist())
        return {index: dict(zip(views[index].operands, seen, strict=False)) for index in self.nodes}


def _chosen(
    key: Ints, node: Ints, variable: Ints, bound: Ints, last: Ints | int, chosen: Bools | bool
) -> Ints:
    """Rows of those with a bound, with a key to sort by in front."""
    rows = np.stack(np.broadcast_arrays(key, node, variable, bound, last), axis=1)
    asked: Ints = rows[(bound != UNKNOWN) & chosen]
    return asked


def _ordered(*rows: Ints) -> Ints:
    """The rows in the order of their keys, without these."""
    found = np.concatenate(rows)
    ordered: Ints = found[np.argsort(found[:, 0], kind="stable"), 1:]
    return ordered
