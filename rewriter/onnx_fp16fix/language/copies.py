"""A match carried over to nodes that have the same around them."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from onnx_fp16fix.graph import ScopeView
from onnx_fp16fix.language.bindings import Binding, Match
from onnx_fp16fix.language.footprint import Footprint
from onnx_fp16fix.language.terms import Term, Use

__all__ = ["Copies"]


class Copies:
    """The match of a footprint's root at other nodes; ``tensors``: [nodes, positions of the footprint]."""

    def __init__(
        self, scope: ScopeView, match: Match, seen: Footprint, tensors: npt.NDArray[np.int64]
    ) -> None:
        self.scope, self.match = scope, match
        table, places = seen.table, seen.places
        self._tensors: dict[int, int] = {}
        self._nodes: dict[int, int] = {}
        """Columns below, by identity of a tensor and by index of a node."""
        self._root = self._node(match.root.index)
        self._inside = [self._node(index) for index in match.nodes]
        self._bindings = [(name, binding, *self._places(binding)) for name, binding in match.bindings.items()]
        self._rest = [
            (self._tensor(term.tensor), self._uses(term.uses), weight) for term, weight in match.rest
        ]
        positions = [seen.at[table.numbers[tensor]] for tensor in self._tensors]
        makers = table.maker[tensors[:, [places[index] for index in self._nodes]]]
        self._named, self._numbers_there = table.tensors, tensors[:, positions].tolist()
        self._nodes_there: list[list[int]] = makers.tolist()

    def _node(self, index: int) -> int:
        return self._nodes.setdefault(index, len(self._nodes))

    def _tensor(self, tensor: gs.Tensor | None) -> int:
        return -1 if tensor is None else self._tensors.setdefault(id(tensor), len(self._tensors))

    def _uses(self, uses: tuple[Use, ...]) -> list[Use]:
        return [(self._node(index), slot) for index, slot in uses]

    def _places(self, binding: Binding) -> tuple[int, list[Use], list[tuple[int, str]], list[Any] | None]:
        """Columns of the tensor, of the uses, of the attributes, and of further inputs of an op."""
        written = [(self._node(index), key) for index, key in binding.attributes]
        further = None
        if isinstance(binding.value, tuple) and any(isinstance(item, gs.Tensor) for item in binding.value):
            further = [self._tensor(item) for item in binding.value]
        return self._tensor(binding.tensor), self._uses(binding.uses), written, further

    def touches(self, row: int, wanted: Set[int]) -> bool:
        """Whether one of these nodes is inside the match there."""
        nodes = self._nodes_there[row]
        return any(nodes[column] in wanted for column in self._inside)

    def at(self, row: int) -> Match:
        """The match at one of the nodes."""
        match, nodes, named = self.match, self._nodes_there[row], self._named
        tensors = [named[number] for number in self._numbers_there[row]]
        tensors.append(None)  # what no tensor holds has column -1
        bindings = {
            name: Binding(
                tensors[column],
                tuple([(nodes[place], slot) for place, slot in uses]),
                one.value if further is None else tuple([tensors[item] for item in further]),
                one.power,
                one.sign,
                one.inner,
                tuple([(nodes[place], key) for place, key in written]) if written else (),
            )
            for name, one, column, uses, written, further in self._bindings
        }
        rest = tuple(
            [
                (Term(tensors[column], tuple([(nodes[place], slot) for place, slot in uses])), weight)
                for column, uses, weight in self._rest
            ]
        )
        inside = frozenset([nodes[column] for column in self._inside])
        root = self.scope.nodes[nodes[self._root]]
        return Match(self.scope, root, inside, bindings, rest, match.rest_kind)
