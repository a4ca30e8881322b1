"""What a try looked at, and which other nodes have exactly the same around them.

The tensors that were asked about, and the inputs of the nodes that make them, are the *positions* of a footprint,
each reached from one before it. Another node has the same footprint when the same steps lead from it to tensors and
nodes of the same keys, equal wherever they are equal here and different wherever they differ here. Whatever was
answered at the first node is then true at the other one, position by position.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnx_fp16fix.graph import ViewNode
from onnx_fp16fix.language.scope_table import ScopeTable
from onnx_fp16fix.language.watched import WatchedScope

__all__ = ["Footprint", "footprint"]

_MOST = 600
"""Positions of the largest footprint that is compared."""
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Step:
    """A node is looked into: ``position`` is an output of it, ``links`` are input slot, position, whether that is new.

    ``again``: the position whose maker it was before, -1 for a new node.
    """

    position: int
    maker: int
    again: int
    links: tuple[tuple[int, int, bool], ...]


class Footprint:
    """``positions``: the tensor at each, by number; ``places``: the position that a node makes, by node index."""

    def __init__(self, table: ScopeTable, positions: list[int], steps: list[_Step], read: list[int]) -> None:
        self.table, self.positions, self._steps, self._read = table, positions, steps, read
        self.at = {number: position for position, number in enumerate(positions)}
        self.places = {step.maker: step.position for step in steps if step.again < 0}

    def of(self, nodes: Integers) -> tuple[Integers, Integers]:
        """Which of the nodes have it (a mask), and for those the tensor at each position: [nodes, positions]."""
        table, same = self.table, np.ones(len(nodes), bool)
        found = np.empty((len(self.positions), len(nodes)), np.int64)
        found[0] = table.result[nodes]
        makers: dict[int, Integers] = {}
        for step in self._steps:
            tensors = found[step.position]
            made = table.maker[tensors]
            right = (made >= 0) & (table.node_key[made] == table.node_key[step.maker])
            right &= table.slot[tensors] == table.slot[self.positions[step.position]]
            if step.again >= 0:
                right &= made == makers[step.again]
            same &= right
            made = makers[step.position] = np.where(right, made, step.maker)
            start = table.first[made]
            for slot, position, is_new in step.links:
                tensors = table.sources[start + slot]
                if is_new:
                    found[position] = tensors
                else:
                    same &= found[position] == tensors
        found = found[:, same]
        nodes_there = np.array([makers[position][same] for position in self.places.values()])
        alike = (table.tensor_key[found] == table.tensor_key[self.positions][:, None]).all(axis=0)
        alike &= _all_differ(found) & _all_differ(nodes_there)
        for position in self._read:
            wanted = table.content(self.positions[position])
            told = {
                int(number): table.content(int(number)) == wanted for number in np.unique(found[position])
            }
            alike &= np.array([told[number] for number in found[position].tolist()], bool)
        same[same] = alike
        return same, found[:, alike].T


def _all_differ(columns: Integers) -> npt.NDArray[np.bool_]:
    """Columns without equal entries."""
    ordered = np.sort(columns, axis=0)
    return np.asarray((ordered[1:] != ordered[:-1]).all(axis=0))


def footprint(table: ScopeTable, watched: WatchedScope, root: ViewNode) -> Footprint | None:
    """What has been asked since the scope is watched, seen from the root; None if it is too much or cannot be told."""
    asked = _numbers(table, watched.asked.values())
    if asked is None or len(asked) > _MOST:
        return None
    positions = [int(table.result[root.index])]
    at = {positions[0]: 0}
    steps, opened = list[_Step](), dict[int, int]()
    for position, number in enumerate(positions):  # grows meanwhile
        maker = int(table.maker[number])
        if maker < 0 or (position and number not in asked):
            continue
        links = []
        start, end = int(table.first[maker]), int(table.first[maker + 1])
        for slot, source in enumerate(table.sources[start:end].tolist()):
            if source < 0:
                continue
            is_new = source not in at
            if is_new:
                at[source] = len(positions)
                positions.append(source)
            links.append((slot, at[source], is_new))
        steps.append(_Step(position, maker, opened.get(maker, -1), tuple(links)))
        opened.setdefault(maker, position)
        if len(positions) > _MOST:
            return None
    further = {number for number in asked if number not in at}
    if any(int(table.maker[number]) not in opened for number in further):
        return None
    read = _numbers(table, watched.read.values())
    if read is None or not read <= at.keys():
        return None
    return Footprint(table, positions, steps, sorted(at[number] for number in read))


def _numbers(table: ScopeTable, tensors: Iterable[object]) -> set[int] | None:
    """Numbers of tensors; None where one is of another scope and read by no node of this one."""
    numbers = {table.numbers.get(id(tensor), -1) for tensor in tensors}
    return None if -1 in numbers else numbers
