"""When the plan is finite but not accurate enough: measure, and move what loses the accuracy into FP32.

Ranges alone do not show every loss (cancellation depends on the data). So where simulation misses the tolerance,
suspects go to FP32 one after the other, the most suspicious first, until it holds; then those that turn out not to be
needed go back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from onnx_fp16fix.graph import ScopeView, ViewNode
from onnx_fp16fix.plan.cancel import find_cancellations
from onnx_fp16fix.plan.facts import Facts
from onnx_fp16fix.simulate import SimulationReport

__all__ = ["Suspect", "refine", "suspects"]

_AMPLIFIED = 4.0
"""A node whose result is this many times less accurate than its operands loses accuracy itself."""
_WORTHWHILE = 0.5
"""Islands that neither reach the tolerance nor halve the error are not worth their price."""
_MOST = 12
"""Suspects tried: each costs a simulation."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """Nodes that go to FP32 together, with the reason."""

    nodes: frozenset[int]
    why: str


def suspects(scope: ScopeView, facts: Facts, report: SimulationReport) -> Iterator[Suspect]:
    """Nodes that make the first non-finite values, cancelling differences with their islands, nodes that amplify
    error; each worst first."""
    half = facts.half
    ratios = {node.index: _amplification(scope, node, report, half.eps) for node in scope.nodes}
    by_ratio = sorted(
        (index for index, ratio in ratios.items() if ratio > _AMPLIFIED), key=lambda i: (-ratios[i], i)
    )
    yield from (
        _amplifier(scope, index, ratios[index], half.label) for index in by_ratio if math.isinf(ratios[index])
    )
    for entry in find_cancellations(facts):
        node = scope.nodes[entry.node]
        why = f"'{node.outputs[0].name}' is a difference {entry.ratio:.3g} times smaller than its operands"
        yield Suspect(entry.island, why)
    yield from (
        _amplifier(scope, index, ratios[index], half.label)
        for index in by_ratio
        if math.isfinite(ratios[index])
    )


def _amplification(scope: ScopeView, node: ViewNode, report: SimulationReport, floor: float) -> float:
    """How many times less accurate a node's result is than its operands; inf where it makes the first infinity.

    ``floor``: error of a tensor that has been rounded a few times; ratios are taken to no less than this.
    """
    errors = [report.tensors[t.name].rel_l2 for t in node.outputs if t.name in report.tensors]
    inputs = [report.tensors[t.name].rel_l2 for t in node.inputs if t.name in report.tensors]
    if not errors or any(map(math.isinf, inputs)):
        return 0.0
    return max(errors) / max([floor, *inputs])


def _amplifier(scope: ScopeView, index: int, ratio: float, label: str) -> Suspect:
    node = scope.nodes[index]
    makers = {p.index for t in node.inputs if (p := scope.producer(t)) is not None}
    what = "is not finite" if math.isinf(ratio) else f"is {ratio:.3g} times less accurate than its operands"
    return Suspect(frozenset({index, *makers}), f"'{node.outputs[0].name}' {what} in simulated {label}")


def refine(
    candidates: Iterator[Suspect],
    error: float,
    tolerance: float,
    measure: Callable[[Mapping[int, str]], float],
) -> dict[int, str]:
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


def _together(chosen: list[Suspect]) -> dict[int, str]:
    return {index: suspect.why for suspect in chosen for index in sorted(suspect.nodes)}
