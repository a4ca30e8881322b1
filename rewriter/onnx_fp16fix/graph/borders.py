"""Where values enter and leave the bodies of If, Loop and Scan: which tensors inside and outside are one value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from onnx_fp16fix.graph.nodes import ViewNode
from onnx_fp16fix.graph.view import ScopeView
from onnx_fp16fix.model import ScopePath

__all__ = ["Border", "body_values", "border_slots", "borders"]

_FIRST_SCAN = 9
"""Scan of opset 8 has a batch axis and lengths, and is left alone."""

_Inside = tuple[tuple[ScopeView, int], ...]


@dataclass(frozen=True, slots=True)
class Border:
    """One value (or the slices of one): input slots of the node that read it, output slots that make it, and the
    positions of bodies' inputs and outputs. What a loop carries has all four."""

    operands: tuple[int, ...] = ()
    results: tuple[int, ...] = ()
    entries: _Inside = ()
    exits: _Inside = ()

    def inside(self) -> list[gs.Tensor | None]:
        """Tensors of the bodies; None where an output is no tensor of its own body."""
        return [
            *(body.tensors[body.inputs[place]] for body, place in self.entries),
            *(body.tensors.get(body.outputs[place]) for body, place in self.exits),
        ]

    def joined(self, other: Border) -> Border:
        """Both as one."""
        return Border(
            self.operands + other.operands,
            self.results + other.results,
            self.entries + other.entries,
            self.exits + other.exits,
        )


def borders(scope: ScopeView, node: ViewNode) -> list[Border]:
    """The borders of a node with bodies; none for other ops than If, Loop and Scan.

    A tensor at several positions of a body (what is carried and stacked, what is swapped) makes one border of them.
    """
    bodies = tuple(scope.bodies.get(node.index, {}).values())
    if node.domain or not bodies:
        return []
    found: list[Border] = []
    body, results = bodies[0], len(node.outputs)
    if node.op == "If":
        found = [
            Border(results=(place,), exits=tuple((branch, place) for branch in bodies))
            for place in range(results)
        ]
    elif node.op == "Loop":
        states = len(body.inputs) - 2
        found = [
            Border((2 + place,), _slots(place, results), ((body, 2 + place),), ((body, 1 + place),))
            for place in range(states)
        ]
        stacked = range(states, len(body.outputs) - 1)
        found += [Border((), _slots(place, results), (), ((body, 1 + place),)) for place in stacked]
    elif node.op == "Scan" and scope.model.opset_of("") >= _FIRST_SCAN:
        states = len(body.inputs) - node.attrs["num_scan_inputs"]
        found = [
            Border((place,), _slots(place, results), ((body, place),), ((body, place),))
            for place in range(states)
        ]
        found += [Border((place,), (), ((body, place),)) for place in range(states, len(body.inputs))]
        stacked = range(states, len(body.outputs))
        found += [Border((), _slots(place, results), (), ((body, place),)) for place in stacked]
    return _merged(found)


def _slots(place: int, count: int) -> tuple[int, ...]:
    return (place,) if place < count else ()


def _merged(found: Iterable[Border]) -> list[Border]:
    merged: list[Border] = []
    for border in found:
        own = {id(tensor) for tensor in border.inside() if tensor is not None}
        apart = []
        for other in merged:
            if own.isdisjoint(id(tensor) for tensor in other.inside()):
                apart.append(other)
            else:
                border = other.joined(border)
                own |= {id(tensor) for tensor in other.inside()}
        merged = [*apart, border]
    return merged


def body_values(border: Border) -> list[tuple[ScopePath, str]]:
    """Names inside, with the body that each belongs to."""
    entries = [(body.path, body.inputs[place]) for body, place in border.entries]
    return entries + [(body.path, body.outputs[place]) for body, place in border.exits]


def border_slots(
    scope: ScopeView, node: ViewNode, half: Mapping[ScopePath, Iterable[str]]
) -> tuple[frozenset[int], frozenset[int]]:
    """Input and output slots of the node that are FP16, given the FP16 inputs and outputs of its bodies."""
    inputs: set[int] = set()
    outputs: set[int] = set()
    for border in borders(scope, node):
        path, name = body_values(border)[0]
        if name in half.get(path, ()):
            inputs.update(border.operands)
            outputs.update(border.results)
    return frozenset(inputs), frozenset(outputs)
