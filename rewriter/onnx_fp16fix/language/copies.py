"""A match carried over to nodes that have the same around them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
        uses = [use for binding in match.bindings.values() for use in binding.uses]
        uses += [use for term, _ in match.rest for use in term.uses]
        written = [place for binding in match.bindings.values() for place in binding.attributes]
        named_nodes = [match.root.index, *match.nodes, *(index for index, _ in (*uses, *written))]
        self._nodes = list(dict.fromkeys(named_nodes))
        named = {id(tensor): seen.at[table.numbers[id(tensor)]] for tensor in _tensors(match)}
        self._tensors, self._table = list(named), table
        self._numbers_there = tensors[:, list(named.values())].tolist()
        self._nodes_there = table.maker[tensors[:, [places[index] for index in self._nodes]]].tolist()

    def at(self, row: int) -> Match:
        """The match at one of the nodes."""
        match, all_tensors = self.match, self._table.tensors
        tensors = {
            tensor: all_tensors[number]
            for tensor, number in zip(self._tensors, self._numbers_there[row], strict=True)
        }
        nodes = dict(zip(self._nodes, self._nodes_there[row], strict=True))
        bindings = {
            name: Binding(
                tensors.get(id(one.tensor)),
                _uses(one.uses, nodes),
                _value(one.value, tensors),
                one.power,
                one.sign,
                one.inner,
                tuple([(nodes[index], key) for index, key in one.attributes]),
            )
            for name, one in match.bindings.items()
        }
        rest = tuple(
            (Term(tensors[id(term.tensor)], _uses(term.uses, nodes)), weight) for term, weight in match.rest
        )
        root = self.scope.nodes[nodes[match.root.index]]
        inside = frozenset([nodes[index] for index in match.nodes])
        return Match(self.scope, root, inside, bindings, rest, match.rest_kind)


def _tensors(match: Match) -> Iterator[gs.Tensor]:
    """All that a match holds."""
    for binding in match.bindings.values():
        if binding.tensor is not None:
            yield binding.tensor
        if isinstance(binding.value, tuple):
            yield from (value for value in binding.value if isinstance(value, gs.Tensor))
    yield from (term.tensor for term, _ in match.rest if term.tensor is not None)


def _uses(uses: tuple[Use, ...], nodes: Mapping[int, int]) -> tuple[Use, ...]:
    return tuple([(nodes[index], slot) for index, slot in uses])


def _value(value: Any, tensors: Mapping[int, gs.Tensor]) -> Any:
    """Attributes are equal; further inputs of an op are tensors."""
    if not isinstance(value, tuple):
        return value
    return tuple(tensors[id(item)] if isinstance(item, gs.Tensor) else item for item in value)
