"""Which nodes cost the accuracy that is missing, by measurement: where many nodes lose a little each, no ratio between
a result and its operands shows it.

The rescaled model gets a switch at every node (``blame``), so that a trial is one run. Blocks of nodes are measured
alone in the 16-bit type with all others in FP32, and the worst block is halved until the trials are spent. Errors of
different nodes are taken as independent: FP32 goes first to what takes most of the squared error away for its price,
as far as measured sets of nodes show that it is needed. Matrix products come last.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from onnx_fp16fix.blame import OutOfTrials, Places, Simulated, TrialCache, Trials, minimise
from onnx_fp16fix.graph import build_view
from onnx_fp16fix.operators import flops
from onnx_fp16fix.pipeline.prepare import Run
from onnx_fp16fix.pipeline.state import Emitted, State
from onnx_fp16fix.plan import Place, Prices
from onnx_fp16fix.plan.known.bodies import executions
from onnx_fp16fix.plan.pieces.variables import price_of_fp32

__all__ = ["elements_of_a_run", "measured_islands"]

_HELD = 2
"""Samples, the worst ones, that all trials run."""
_ALONE, _LEAST_ALONE = 192, 32
"""Blocks measured alone: at most, and where that would take too long."""
_SETS = 2 / 3
"""Sets of nodes tried, for each block measured alone."""
_FLOPS = 16.0
"""Multiply-adds times two that take about as long as rounding one element."""
_ROOM = 0.25
"""Where the aim is out of reach: how far from the least error towards the limit the result may lie."""
_BETTER = 0.75
"""FP32 nodes that take less than a quarter of the error away are not worth it."""
_LIGHT = 1e3
"""FLOPs of a product that counts as elementwise: starting its kernel takes longer."""
_NEGLIGIBLE = 0.02
"""Share of the limit: a block that makes less error is not halved."""
Nodes = frozenset[int]


@dataclass(frozen=True, slots=True)
class _Block:
    """Nodes by number, what they cost in FP32, and the error that they make alone."""

    nodes: Sequence[int]
    price: float
    error: float


def measured_islands(
    run: Run,
    state: State,
    emitted: Emitted,
    aim: float,
    tolerance: float,
    limit: float,
    *,
    effort: float = 2e10,
    products: bool = True,
) -> dict[Place, str] | None:
    """FP32 nodes, with reasons, that bring the error of the outputs to ``aim`` at best, within ``tolerance`` where
    elementwise ones can, and to ``limit`` at least.

    ``effort``: elements to round in blocks measured alone; fewer than 32 blocks of a large model tell nothing, so that
    these are measured in any case. None where no nodes do that, or matrix products would have to be among them and
    ``products`` forbids it.
    """
    blocks = max(_LEAST_ALONE, min(_ALONE, int(effort / (_HELD * elements_of_a_run(state)))))
    return _Search(run, state, emitted, blocks).islands(aim, tolerance, limit, products)


def elements_of_a_run(state: State) -> float:
    """What simulating one sample takes, in elements rounded: those of all tensors, and products at what they cost."""
    facts = state.facts
    samples = max(1, facts.ranges.samples)
    elements = sum(entry.count + entry.nonfinite for entry in facts.ranges.tensors.values()) / samples
    return max(1.0, elements + sum(flops(facts.node_view(node)) for node in facts.scope.nodes) / _FLOPS)


class _Search:
    def __init__(self, run: Run, state: State, emitted: Emitted, blocks: int) -> None:
        self._run, self._state, self._blocks = run, state, blocks
        self._facts = {path: replace(state.facts, scope=scope) for path, scope in state.view.scopes.items()}
        self._places = Places(build_view(emitted.fp32).main)
        rescaled = emitted.rescaled
        self._simulated = Simulated(
            self._places,
            run.dataset,
            TrialCache(None),
            run.kernels,
            state.half_type,
            frozenset(rescaled.raised),
        )
        half = {path: frozenset(nodes) for path, nodes in rescaled.bodies.items()} | {(): rescaled.fp32_nodes}
        origins = rescaled.origins(state.model)
        self._origin: dict[int, Place] = {}
        kept = set[int]()
        for number in self._simulated.nodes:
            scope, node = self._places.nodes[number]
            origin = origins.get((scope.path, node.index))
            if scope.path not in half or node.index in half[scope.path]:
                kept.add(number)
            elif origin is not None and origin not in state.half:
                self._origin[number] = origin
        self._kept = frozenset(kept)
        self._prices = {number: self._price(place) for number, place in self._origin.items()}

    def islands(self, aim: float, tolerance: float, limit: float, products: bool) -> dict[Place, str] | None:
        """See ``measured_islands``."""
        error = self._simulated.worst(self._kept, self._run.progress, "measure", _HELD)
        cheap = sorted(n for n in self._origin if not self._multiplies(n))
        heavy = sorted(self._origin.keys() - set(cheap))
        least = self._simulated.error(self._kept.union(cheap))
        if least <= limit:
            reached = tolerance if least <= tolerance else limit
            heavy, threshold = [], max(aim, least + _ROOM * (min(reached, error) - least))
        elif products:
            threshold = limit
        else:
            return None
        if threshold > _BETTER * error:
            return None
        with self._run.progress.step("measure nodes", 2 * self._blocks) as step:
            blocks = [
                block
                for numbers in (cheap, heavy)
                for block in sorted(
                    self._alone(numbers, _NEGLIGIBLE * limit, step.advance), key=_worth, reverse=True
                )
            ]
        chosen = self._smallest(blocks, threshold)
        if chosen is None:
            return None
        return {self._origin[number]: self._why(number, block) for block in chosen for number in block.nodes}

    def _alone(self, numbers: Sequence[int], negligible: float, advance: Callable[[], None]) -> list[_Block]:
        """Blocks with the errors that they make alone, the worst halved first."""
        if not numbers:
            return []
        every = self._kept | self._origin.keys()

        def measured(nodes: Sequence[int]) -> _Block:
            advance()
            error = self._simulated.error(every - frozenset(nodes))
            return _Block(nodes, sum(self._prices[number] for number in nodes), error)

        done: list[_Block] = []
        first = measured(numbers)
        waiting = [(-first.error, first.nodes[0], first)]
        for _ in range(self._blocks // 2):
            if not waiting or -waiting[0][0] <= negligible:
                break
            block = heapq.heappop(waiting)[2]
            if len(block.nodes) == 1:
                done.append(block)
                continue
            middle = len(block.nodes) // 2
            for part in (measured(block.nodes[:middle]), measured(block.nodes[middle:])):
                heapq.heappush(waiting, (-part.error, part.nodes[0], part))
        return done + [block for *_, block in waiting]

    def _smallest(self, blocks: Sequence[_Block], threshold: float) -> list[_Block] | None:
        """Blocks that are enough, as few as the trials allow; None where all together are not."""
        with self._run.progress.step("smallest set of FP32 nodes") as step:

            def passes(chosen: Nodes) -> bool:
                fp32 = self._kept.union(*(blocks[position].nodes for position in chosen))
                return self._simulated.passes(fp32, threshold)

            if not passes(frozenset(range(len(blocks)))):
                return None
            trials = Trials(passes, int(_SETS * self._blocks), step.advance)
            best = list(range(len(blocks)))
            try:
                for smaller in minimise(best, trials.passes):
                    best = smaller
            except OutOfTrials:
                pass
        return [blocks[position] for position in best]

    def _why(self, number: int, block: _Block) -> str:
        node = self._places.nodes[number][1]
        alone = "alone" if len(block.nodes) == 1 else f"with {len(block.nodes) - 1} more nodes"
        label = self._state.half_type.label
        return (
            f"'{node.outputs[0].name}' in {label} {alone} puts an error of {block.error:.3g} into the outputs"
        )

    def _multiplies(self, number: int) -> bool:
        place = self._origin[number]
        return flops(self._facts[place[0]].node_view(self._state.node(place))) > _LIGHT

    def _price(self, place: Place) -> float:
        facts = self._facts[place[0]]
        runs = executions(facts) / max(1, facts.ranges.samples) if place[0] else 1.0
        return price_of_fp32(facts.node_view(self._state.node(place)), Prices()) * max(1.0, runs)


def _worth(block: _Block) -> float:
    """Squared error for a price."""
    return block.error**2 / max(block.price, 1.0)
