"""A region cut along its seams: what hangs together becomes small, and what repeats is built and solved once.

A seam is a tensor that keeps its exponent whatever is chosen around it, and loses nothing at it: only casts of it could
tie its sides together. Without these the program falls into pieces, whose cheapest answers together cost no more
than any answer for the whole. Where no seam needs a cast in them, they are the cheapest answer for the whole; pieces
at seams that do are joined and solved again.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence, Set
from dataclasses import dataclass, field
from itertools import count

from onnx_fp16fix.operators import inp
from onnx_fp16fix.plan.known.edges import TensorView
from onnx_fp16fix.plan.known.region import is_hub
from onnx_fp16fix.plan.pieces.build import build_pieces
from onnx_fp16fix.plan.pieces.kinds import Kinds, Piece
from onnx_fp16fix.plan.pieces.problem import Problem
from onnx_fp16fix.plan.pieces.solution import Solution
from onnx_fp16fix.plan.pieces.variables import moved_by

__all__ = ["Answer", "solve_in_pieces"]

_ROUNDS = 3
"""Rounds of joining pieces; then all are joined."""
_SAMPLE = 64
"""Pieces looked at before all are compared: where these are all different, few of the others can be alike."""


@dataclass
class Answer:
    """A solution, with the identities of the tensors whose exponents, and whose true value outside, were free."""

    solution: Solution = field(default_factory=Solution)
    exponents: set[int] = field(default_factory=set)
    results: set[int] = field(default_factory=set)

    def add(self, one: Answer, like: Piece, piece: Piece) -> None:
        """``one``, which is for the piece ``like``, said of another of its kind."""
        if like is piece:
            self.solution.add(one.solution)
            self.exponents |= one.exponents
            self.results |= one.results
            return
        node = dict(zip(like.nodes, piece.nodes, strict=True))
        key = {a.key: b.key for a, b in zip(like.tensors, piece.tensors, strict=True)}
        own, new = self.solution, one.solution
        own.exponent.update((key[tensor], value) for tensor, value in new.exponent.items())
        own.result.update((key[tensor], value) for tensor, value in new.result.items())
        own.constant.update(((node[index], slot), value) for (index, slot), value in new.constant.items())
        own.shift.update(((node[index], slot), value) for (index, slot), value in new.shift.items())
        own.fp32.update(node[index] for index in new.fp32)
        own.cost += new.cost
        self.exponents.update(key[tensor] for tensor in one.exponents)
        self.results.update(key[tensor] for tensor in one.results)


def solve_in_pieces(region: Problem, time_limit: float | None) -> Answer | None:
    """The cheapest answer for the nodes of ``region``, which has no variables yet; None if none was found."""
    region = region.blank()  # its seams are set here
    cut, kinds = _Cut(region), Kinds(region)
    pieces: dict[tuple[int, ...], Piece] = {}
    known: dict[Hashable, tuple[Piece, Answer]] = {}
    compared = True
    for turn in count(1):
        groups = cut.groups()
        if len(groups) == 1:
            answers = _solved([region], time_limit)
            return None if answers is None else answers[0]
        if turn == 1:
            compared = _may_repeat(kinds, groups)
        for nodes in groups:
            if nodes not in pieces:
                pieces[nodes] = kinds.piece(nodes) if compared else Piece(nodes, (), nodes)
        unlike = {pieces[nodes].kind: pieces[nodes] for nodes in reversed(groups)}
        repeats = 2 * sum(len(piece.nodes) for piece in unlike.values()) <= len(region.nodes)
        if not repeats and not region.held:
            cut.join(cut.seams)  # little repeats, and one program is made sooner than many
            continue
        new = [piece for kind, piece in unlike.items() if kind not in known]
        answers = _solved([region.blank(frozenset(piece.nodes)) for piece in new], time_limit)
        if answers is None:
            return None
        known |= {piece.kind: (piece, answer) for piece, answer in zip(new, answers, strict=True)}
        whole = Answer()
        for nodes in groups:
            like, answer = known[pieces[nodes].kind]
            whole.add(answer, like, pieces[nodes])
        torn = cut.torn(whole.solution.fp32)
        if not torn:
            whole.solution.cost += cut.casts()
            return whole
        cut.join(torn if turn < _ROUNDS else cut.seams)
    return None


def _may_repeat(kinds: Kinds, groups: Sequence[tuple[int, ...]]) -> bool:
    """Whether some of these pieces are alike, as far as a sample tells."""
    if len(groups) < 2 * _SAMPLE:
        return True
    sample = groups[:: len(groups) // _SAMPLE]
    return len({kinds.piece(nodes).kind for nodes in sample}) < len(sample)


def _solved(problems: Sequence[Problem], time_limit: float | None) -> list[Answer] | None:
    """The answer of each; None where one has none."""
    built = build_pieces(problems)
    found = built[0].program.solve_pieces(time_limit)
    if found is None:
        return None
    values, costs = found
    return [
        Answer(Solution.of(problem, values, cost), set(problem.exponent), set(problem.result))
        for problem, cost in zip(built, costs, strict=True)
    ]


class _Cut:
    """Groups of nodes of ``region`` that hang together, and the ``seams`` between them."""

    def __init__(self, region: Problem) -> None:
        self.region = region
        self.nodes = sorted(region.nodes)
        self.seams: list[TensorView] = []
        self._sure = frozenset(index for index in self.nodes if self._needs_fp32(index))
        self._candidates: list[TensorView] = []
        self._above = {index: index for index in self.nodes}
        for value in self._link_all():
            if self._keeps(value):
                self._candidates.append(value)
            else:
                self.join([value])

    def _link_all(self) -> list[TensorView]:
        """Link nodes whose types go together; all computed tensors of the region."""
        values: dict[int, TensorView] = {}
        for index in self.nodes:
            view = self.region.views[index]
            if (maker := moved_by(self.region, view)) is not None:
                self._link((index, maker))
            for edge in view.edges.values():
                value = edge.value
                if not value.constant:
                    values[value.key] = value
                elif edge.either and value.maker is not None and value.maker in self.region.nodes:
                    self._link((index, value.maker))
        return list(values.values())

    def groups(self) -> list[tuple[int, ...]]:
        """Nodes of each piece, rising, pieces by their first node; sets the region's seams."""
        groups: dict[int, list[int]] = {}
        for index in self.nodes:
            groups.setdefault(self._root(index), []).append(index)
        inside = self.region.nodes
        self.seams = [
            value
            for value in self._candidates
            if len({self._root(index) for index in value.nodes if index in inside}) > 1
        ]
        self.region.seams = frozenset(value.key for value in self.seams)
        return [tuple(nodes) for nodes in groups.values()]

    def torn(self, fp32: Set[int]) -> list[TensorView]:
        """Seams that need a cast where these nodes are FP32."""
        return [
            value
            for value in self.seams
            if not fp32.isdisjoint(value.nodes)
            and self._is_cast(value, fp32)
            and not self._cast_anyway(value)
        ]

    def casts(self) -> float:
        """The price of those casts at seams that are there anyway."""
        prices, repeats = self.region.prices, self.region.facts.repeats
        return sum(
            prices.cast(value.numel) * repeats(value.tensor)
            for value in self.seams
            if value.maker is not None and self._cast_anyway(value)
        )

    def join(self, seams: Iterable[TensorView]) -> None:
        """What is on both sides of these hangs together from now on."""
        for value in seams:
            self._link(value.nodes & self.region.nodes)

    def _link(self, nodes: Iterable[int]) -> None:
        roots = sorted({self._root(index) for index in nodes})
        for root in roots[1:]:
            self._above[root] = roots[0]

    def _root(self, index: int) -> int:
        above = self._above
        while above[index] != index:
            above[index] = index = above[above[index]]
        return index

    def _keeps(self, value: TensorView) -> bool:
        """Whether the exponent of the tensor is given and loses nothing, and no cast of it is sure."""
        region, need, exponent = self.region, self.region.need, self.region.fixed.get(value.key, 0)
        if region.encloses(value) and (value.maker is None or region.made_at(value).movable):
            return False
        highest = [value.typical]
        if need.matters(value.key):
            highest += need.highest(value.tensor), need.highest_guard(value.tensor)
        if (value.lowest is not None and value.lowest > exponent) or any(
            bound is not None and bound < exponent for bound in highest
        ):
            return False
        return value.maker is None or self._cast_anyway(value) or not self._is_cast(value, self._sure)

    def _cast_anyway(self, value: TensorView) -> bool:
        """Whether one cast serves so many readers of a tensor made in FP32 that some of them will want it."""
        made = value.maker is None or not value.half or self.region.is_fp32(value.maker)
        return made and is_hub(value)

    def _needs_fp32(self, index: int) -> bool:
        """Whether the node has an operand out of range at 0, which it cannot have elsewhere."""
        region = self.region
        view = region.views[index]
        return index in region.prone and any(
            edge.half
            and not edge.movable
            and edge.value.lowest is not None
            and edge.value.lowest > 0
            and not (edge.reads and edge.slot in view.relation.saturating)
            and edge.value.key not in region.tolerant
            for edge in view.edges.values()
        )

    def _is_cast(self, value: TensorView, fp32: Set[int]) -> bool:
        """Whether the tensor is cast where these nodes are FP32 by choice, or what reads it depends on that choice."""
        views, region = self.region.views, self.region
        assert value.maker is not None
        made = not value.half or value.maker in fp32 or region.is_fp32(value.maker)
        for index, slot in value.readers:
            edge = views[index].edges[inp(slot)]
            if edge.either or made != (not edge.half or index in fp32 or region.is_fp32(index)):
                return True
        return False
