"""When the plan is finite but not accurate enough: measure, and move what loses the accuracy into FP32.

Ranges alone do not show every loss (cancellation depends on the data). So where simulation misses the tolerance,
suspects go to FP32 one after the other, the most suspicious first, until it holds; then those that turn out not to be
needed go back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnx_fp16fix.graph import ScopeView, ViewNode
from onnx_fp16fix.plan import Place
from onnx_fp16fix.plan.known.bodies import state_updates
from onnx_fp16fix.plan.known.cancel import find_cancellations
from onnx_fp16fix.plan.known.facts import Facts

__all__ = ["Measured", "Suspect", "refine", "suspects"]

_AMPLIFIED = 4.0
"""A node whose result is this many times less accurate than its operands loses accuracy itself."""
_WORTHWHILE = 0.5
"""Islands that neither reach the tolerance nor halve the error are not worth their price."""
_DECISION = 64
"""Nodes looked at on the way back from a selection to what decides it."""
_MOST = 12
"""Suspects tried: each costs a simulation."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """Nodes that go to FP32 together, with the reason."""

    nodes: frozenset[Place]
    why: str


@dataclass(frozen=True, slots=True)
class Measured:
    """One scope with the relative L2 errors of its tensors, and of outer ones that it reads, by name; ``resized``:
    tensors of another size than in FP32, which have none."""

    facts: Facts
    errors: Mapping[str, float]
    resized: frozenset[str] = frozenset()

    def suspect(self, nodes: Collection[int], why: str) -> Suspect:
        """Nodes of this scope."""
        return Suspect(frozenset((self.facts.scope.path, index) for index in nodes), why)


def suspects(scopes: Sequence[Measured]) -> Iterator[Suspect]:
    """Nodes that make the first non-finite values, what selects other elements than in FP32, cancelling differences
    with their islands, what builds a state that drifts, nodes that amplify error; each worst first, and nodes around
    bodies after those inside."""
    found = [
        (ratio, measured, node)
        for measured in scopes
        for node in measured.facts.scope.nodes
        if (ratio := _amplification(node, measured)) > _AMPLIFIED
    ]
    found.sort(key=lambda entry: (entry[2].index in entry[1].facts.scope.bodies, -entry[0]))
    yield from (_amplifier(measured, node, ratio) for ratio, measured, node in found if math.isinf(ratio))
    for measured in scopes:
        yield from _deciding(measured)
    cancelling = [(entry, measured) for measured in scopes for entry in find_cancellations(measured.facts)]
    for entry, measured in sorted(cancelling, key=lambda pair: -pair[0].ratio):
        name = measured.facts.scope.nodes[entry.node].outputs[0].name
        why = f"'{name}' is a difference {entry.ratio:.3g} times smaller than its operands"
        yield measured.suspect(entry.island, why)
    for measured in scopes:
        yield from _drifting(measured)
    yield from (_amplifier(measured, node, ratio) for ratio, measured, node in found if math.isfinite(ratio))


def _amplification(node: ViewNode, measured: Measured) -> float:
    """How many times less accurate a node's result is than its operands; inf where it makes the first infinity.

    Ratios are taken to no less than the error of a tensor that has been rounded a few times.
    """
    known = measured.errors
    errors = [known[t.name] for t in node.outputs if t.name in known]
    inputs = [known[t.name] for t in node.inputs if t.name in known]
    if not errors or any(map(math.isinf, inputs)):
        return 0.0
    return max(errors) / max([measured.facts.half.eps, *inputs])


def _amplifier(measured: Measured, node: ViewNode, ratio: float) -> Suspect:
    scope, label = measured.facts.scope, measured.facts.half.label
    makers = _makers(scope, (node.index,))
    what = "is not finite" if math.isinf(ratio) else f"is {ratio:.3g} times less accurate than its operands"
    return measured.suspect({node.index, *makers}, f"'{node.outputs[0].name}' {what} in simulated {label}")


def _deciding(measured: Measured) -> Iterator[Suspect]:
    """Nodes that turn floats into what selects the elements of a tensor of another size, and what computes these."""
    facts, resized = measured.facts, measured.resized
    for node in facts.scope.nodes:
        made = [t.name for t in node.outputs if t.name in resized]
        if not made or any(t.name in resized for t in node.inputs):
            continue
        deciders = _deciders(facts, node)
        makers = _makers(facts.scope, deciders)
        label = facts.half.label
        why = f"what selects the elements of '{made[0]}' decides otherwise in simulated {label}"
        yield measured.suspect({*deciders, *makers, *_makers(facts.scope, makers)}, why)


def _deciders(facts: Facts, node: ViewNode) -> set[int]:
    """The nearest nodes before ``node``, along tensors that are no floats, that read floats."""
    found, seen, stack = set[int](), set[int](), list(node.inputs)
    while stack and len(seen) < _DECISION:
        tensor = stack.pop()
        producer = facts.scope.producer(tensor)
        if producer is None or facts.is_float(tensor) or producer.index in seen:
            continue
        seen.add(producer.index)
        if any(facts.is_float(source) for source in producer.inputs):
            found.add(producer.index)
        else:
            stack += producer.inputs
    return found


def _makers(scope: ScopeView, nodes: Collection[int]) -> set[int]:
    """Nodes that make what these read."""
    tensors = (tensor for index in nodes for tensor in scope.nodes[index].inputs)
    return {maker.index for tensor in tensors if (maker := scope.producer(tensor)) is not None}


def _drifting(measured: Measured) -> Iterator[Suspect]:
    """Arithmetic that builds a loop's state out of the last one, where the state gets less accurate on the way."""
    for entry, nodes in state_updates(measured.facts.scope):
        error = measured.errors.get(nodes[-1].outputs[0].name, 0.0)
        if error > _AMPLIFIED * measured.facts.half.eps:
            why = f"'{entry}' adds up the rounding of all iterations, {error:.3g} in {measured.facts.half.label}"
            yield measured.suspect({node.index for node in nodes}, why)


def refine(
    candidates: Iterator[Suspect],
    error: float,
    tolerance: float,
    measure: Callable[[Mapping[Place, str]], float],
) -> dict[Place, str]:
    """FP32 nodes, with reasons, that bring the error of the outputs to ``tolerance`` or as near as suspects allow.

    ``measure`` gives the worst relative L2 error of the outputs with the given nodes in FP32 (``inf`` if not finite).
    """
    chosen: list[Suspect] = []
    first = error
    for tried, candidate in enumerate(candidates):
        if tried >= _MOST or error <= tolerance:
            break
        improved = measure(_together([*chosen, candidate]))
        # together with what is still to come a suspect may matter although alone it does not
        chosen.append(candidate)
        error = min(error, improved)
    if error > tolerance and error > _WORTHWHILE * first:
        return {}
    for candidate in list(chosen):
        rest = [other for other in chosen if other is not candidate]
        if measure(_together(rest)) <= max(tolerance, error):
            chosen = rest
    return _together(chosen)


def _together(chosen: list[Suspect]) -> dict[Place, str]:
    return {place: suspect.why for suspect in chosen for place in sorted(suspect.nodes)}
