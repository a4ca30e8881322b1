"""What a match has fixed: names and what they stand for, nodes inside, terms left over."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import onnx_graphsurgeon as gs

from onnx_fp16fix.graph import ScopeView, ViewNode
from onnx_fp16fix.language.terms import Term, Use

__all__ = ["Binding", "Match", "State"]


@dataclass(slots=True, eq=False)  # never changed; frozen would cost time
class Binding:
    """What a name stands for.

    ``tensor`` is None for a value that no tensor holds. For a constant, the name's value is
    ``sign * tensor ** power``: ``c`` in ``x * c`` binds the inverse of ``d`` in Div(x, d). ``attributes``: the places
    (node index, attribute) where a value is written.
    """

    tensor: gs.Tensor | None = None
    uses: tuple[Use, ...] = ()
    value: Any = None
    power: float = 1.0
    sign: float = 1.0
    inner: bool = False
    attributes: tuple[tuple[int, str], ...] = ()

    def used_at(self, uses: tuple[Use, ...]) -> Binding:
        """With further uses."""
        return Binding(self.tensor, (*self.uses, *uses), self.value, self.power, self.sign, self.inner)


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """One place where a pattern fits.

    ``nodes`` are the ops inside, roots included. ``rest`` are the factors of a root product (with exponents) or the
    terms of a root sum (with signs) that the pattern does not name; ``rest_kind`` is ``*`` or ``+``. ``others`` are
    the further roots of a pattern with several, in the pattern's order; ``slots`` tell which output of each root it is.
    """

    scope: ScopeView
    root: ViewNode
    nodes: frozenset[int]
    bindings: Mapping[str, Binding]
    rest: tuple[tuple[Term, int], ...] = ()
    rest_kind: str = "*"
    others: tuple[ViewNode, ...] = ()
    slots: tuple[int, ...] = (0,)

    @property
    def roots(self) -> tuple[ViewNode, ...]:
        """All roots, in the pattern's order."""
        return (self.root, *self.others)

    @property
    def results(self) -> tuple[gs.Tensor, ...]:
        """The values of the formula, one for each root."""
        return tuple(root.outputs[slot] for root, slot in zip(self.roots, self.slots, strict=True))


class State(NamedTuple):
    """A partial match; never changed in place. ``depth`` counts the operations of the pattern that fitted so far."""

    bindings: dict[str, Binding]
    nodes: frozenset[int] = frozenset()
    rest: tuple[tuple[Term, int], ...] = ()
    rest_kind: str = "*"
    others: tuple[ViewNode, ...] = ()
    depth: int = 0

    def bind(self, name: str, binding: Binding) -> State:
        """With one name more, or with another binding of it."""
        bindings = {**self.bindings, name: binding}
        return State(bindings, self.nodes, self.rest, self.rest_kind, self.others, self.depth)

    def inside(self, nodes: Collection[int]) -> State:
        """With these nodes inside."""
        if not nodes:
            return self
        inside = self.nodes.union(nodes)
        return State(self.bindings, inside, self.rest, self.rest_kind, self.others, self.depth)

    def deeper(self) -> State:
        """With one operation more that fitted."""
        return State(self.bindings, self.nodes, self.rest, self.rest_kind, self.others, self.depth + 1)
