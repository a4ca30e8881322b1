"""All float operands of a scope as arrays: what is asked of every one of them takes a few numpy operations."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from onnx_fp16fix.operators import Operand

if TYPE_CHECKING:
    from onnx_fp16fix.plan.known.edges import NodeView, TensorView

__all__ = ["UNKNOWN", "Bools", "Ints", "Sizes", "Table", "spans", "tied_operands"]

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

UNKNOWN = 1 << 20
"""No exponent."""
_SLOTS = 1 << 32
"""More than any node has."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What ``TensorView`` says of float tensors, by number; ``lowest`` and ``typical`` are ``UNKNOWN`` instead of
    None."""

    lowest: Ints
    typical: Ints
    floor: Floats
    ceil: Floats


class Table:
    """Float operands in the order of nodes and of their ``operands``. ``starts``: where those of each node begin, and
    the end of the last.

    By operand: ``node``; ``slot``; ``value``: number of its tensor; ``reads``, ``half``, ``either``, ``movable`` as
    ``Edge`` has them; ``constant``: whether its tensor is; ``saturating``: whether it may overflow without harm;
    ``tied``: whether its exponent depends on others that no constant absorbs; ``turns``: whether no constant and no
    result alone makes up for another exponent of it; ``joins``: whether it needs the exponent of another computed one.
    By tensor, in the order of ``values``:
    ``sizes``; ``maker``: the node that makes it, -1 for none; ``made_half``: whether as FP16 where that runs in FP16.
    By node: ``fp16``, whether it can run in FP16; ``form``: number of what it says in ``forms``. ``inner``: nodes with
    values inside the kernel that must fit.
    """

    def __init__(self, views: Sequence[NodeView], values: Sequence[TensorView], sizes: Sizes) -> None:
        self.values, self.sizes = values, sizes
        self.number = {value.key: number for number, value in enumerate(values)}
        rows = _Rows()
        rows.collect(views)
        self.inner, self.forms = rows.inner, rows.forms
        self.form = np.array(rows.of, np.int64)
        self.fp16 = np.array([form.fp16 for form in rows.forms], bool)[self.form]
        flags = np.array(rows.flags, bool).reshape(-1, 8)
        count, at = spans(np.array(rows.begins, np.int64), self.form)
        self.starts = np.concatenate([[0], np.cumsum(count)])
        self.node = np.repeat(np.arange(len(views)), count)
        self.slot = np.array(rows.slots, np.int64)[at]
        self.reads, self.half, self.either, self.movable, self.saturating, self.tied = flags[at, :6].T
        self.turns, self.joins = flags[at, 6:].T
        number = self.number
        self.value: Ints = np.array([number[value.key] for view in views for value in view.floats], np.int64)
        self.constant = np.array([value.constant for value in values], bool)[self.value]
        self.maker: Ints = np.array([-1 if v.maker is None else v.maker for v in values], np.int64)
        self.made_half = np.array([value.half for value in values], bool)
        self._reads = np.flatnonzero(self.reads)
        self._codes = self.node[self._reads] * _SLOTS + self.slot[self._reads]

    def among(self, keys: Iterable[int]) -> Bools:
        """Whether each tensor is one of those with these identities."""
        found = np.zeros(len(self.values), bool)
        found[[self.number[key] for key in keys if key in self.number]] = True
        return found

    def read_in(self, slots: Iterable[tuple[int, int]]) -> Ints:
        """The operand that each slot (node, slot) reads; the number of operands where that is no float."""
        codes = np.array([node * _SLOTS + slot for node, slot in slots], np.int64)
        found = np.searchsorted(self._codes, codes)
        known = np.append(self._codes, -1)[found] == codes
        places: Ints = np.where(known, np.append(self._reads, 0)[found], len(self.node))
        return places

    def at(self, nodes: Iterable[int]) -> Bools:
        """Whether each operand is one of these nodes."""
        found = np.zeros(len(self.starts) - 1, bool)
        found[list(nodes)] = True
        return found[self.node]


class Form(NamedTuple):
    """What nodes alike in all that exponents ask of their operands say, with the operands as places: ``pinned`` ones;
    ``equations``: (place, weight)."""

    fp16: bool
    pinned: tuple[int, ...]
    equations: tuple[tuple[tuple[int, int], ...], ...]


class _Rows:
    """Flags of operands, once for all nodes that agree in them."""

    def __init__(self) -> None:
        self.of: list[int] = []
        """By node: the number of its form."""
        self.forms: list[Form] = []
        self.begins, self.slots = [0], list[int]()
        self.flags: list[tuple[bool, ...]] = []
        self.inner: list[int] = []
        self._known: dict[Hashable, int] = {}

    def collect(self, views: Sequence[NodeView]) -> None:
        known, of = self._known, self.of
        for index, view in enumerate(views):
            relation = view.relation
            if relation.inner:
                self.inner.append(index)
            constant = tuple([value.constant for value in view.floats])
            key = view.kind, relation.equations, relation.free, relation.saturating, constant
            if (found := known.get(key)) is None:
                found = known[key] = len(known)
                self._add(view)
            of.append(found)

    def _add(self, view: NodeView) -> None:
        relation, tied = view.relation, tied_operands(view)
        places = {operand: place for place, operand in enumerate(view.operands)}
        pinned = tuple(place for operand, place in places.items() if operand not in relation.movable)
        equations = tuple(
            tuple((places[operand], weight) for operand, weight in equation if operand in places)
            for equation in relation.equations
        )
        self.forms.append(Form(view.slots.fp16, pinned, equations))
        for operand, reads, half, either in view.kind.parts:
            slot = operand[1]
            self.slots.append(slot)
            saturating = reads and slot in relation.saturating
            movable = operand in relation.movable
            shifts = _turns(view, operand), _joins(view, operand)
            self.flags.append((reads, half, either, movable, saturating, operand in tied, *shifts))
        self.begins.append(len(self.slots))


def tied_operands(view: NodeView) -> dict[Operand, TensorView]:
    """Operands whose exponents depend on each other: those in equations without a constant operand."""
    tied: dict[Operand, TensorView] = {}
    values = dict(zip(view.operands, view.floats, strict=True))
    for equation in view.relation.equations:
        found = [(operand, values.get(operand)) for operand, _ in equation]
        if len(found) > 1 and all(value is not None and not value.constant for _, value in found):
            tied |= {operand: value for operand, value in found if value is not None}
    return tied


def _turns(view: NodeView, operand: Operand) -> bool:
    """See ``Table.turns``."""
    relation, computed = view.relation, _computed(view)
    equations = [equation for equation in relation.equations if any(o == operand for o, _ in equation)]
    return operand not in relation.free and (
        not equations  # pinned
        or any(
            any(o != operand and o in computed for o, _ in equation) or any(abs(w) != 1 for _, w in equation)
            for equation in equations
        )
    )


def _joins(view: NodeView, operand: Operand) -> bool:
    """See ``Table.joins``."""
    free = view.relation.free
    return operand not in free and len(_computed(view) - free) > 1


def _computed(view: NodeView) -> set[Operand]:
    """What the node reads that is no constant."""
    return {
        operand
        for operand, value in zip(view.operands, view.floats, strict=True)
        if operand[0] == "in" and not value.constant
    }


def spans(begins: Ints, of: Ints) -> tuple[Ints, Ints]:
    """Of spans of a list, which begin (and the last ends) at ``begins``, one after the other in the order ``of``: their
    lengths, and the places of all that is in them."""
    count = np.diff(begins)[of]
    ends = np.cumsum(count)
    return count, np.arange(int(count.sum())) + np.repeat(begins[of] - ends + count, count)
