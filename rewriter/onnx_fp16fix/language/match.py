"""Finding a pattern at a node: backtracking over readings and operand orders, with a budget.

Linear in nodes: each pattern is tried only at nodes of an op it can start with, trees are cut at ``_TREE_NODES``, and
a try that takes more than ``BUDGET`` steps is given up (and said so).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from onnx_fp16fix.graph import ScopeView, ViewNode
from onnx_fp16fix.language.canonical import Canonical
from onnx_fp16fix.language.combine import Tree
from onnx_fp16fix.language.compare import close, equal_constants, literal, weighed
from onnx_fp16fix.language.expression import Expr, Name
from onnx_fp16fix.language.operations import default_attributes
from onnx_fp16fix.language.pattern import Capture, Combination, Either, Inner, Moved, Operation, Pattern, Wild
from onnx_fp16fix.language.roots import start_ops
from onnx_fp16fix.language.rule import Variable
from onnx_fp16fix.language.spellings import MOVERS
from onnx_fp16fix.language.terms import Reading, Term, Use

__all__ = ["BUDGET", "Binding", "Match", "Matcher"]

BUDGET = 4000
"""Steps of one try. The largest shipped rule needs some hundred."""
_MOVES = 10
"""Longest chain of moving ops that ``moved()`` looks through."""


@dataclass(frozen=True, slots=True, eq=False)
class Binding:
    """What a name stands for.

    ``tensor`` is None for a value that no tensor holds. For a constant, the name's value is
    ``sign * tensor ** power``: ``c`` in ``x * c`` binds the inverse of ``d`` in Div(x, d).
    """

    tensor: gs.Tensor | None = None
    uses: tuple[Use, ...] = ()
    value: Any = None
    power: float = 1.0
    sign: float = 1.0
    inner: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """One place where a pattern fits; ``nodes`` are the ops inside, root included, ``rest`` the other factors."""

    scope: ScopeView
    root: ViewNode
    nodes: frozenset[int]
    bindings: Mapping[str, Binding]
    rest: tuple[tuple[gs.Tensor, int], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    """What a partial match has fixed; never changed in place."""

    bindings: Mapping[str, Binding] = field(default_factory=dict)
    nodes: frozenset[int] = frozenset()
    rest: tuple[tuple[gs.Tensor, int], ...] = ()

    def bind(self, name: str, binding: Binding) -> _State:
        return replace(self, bindings={**self.bindings, name: binding})

    def inside(self, nodes: tuple[int, ...] | frozenset[int]) -> _State:
        return replace(self, nodes=self.nodes | frozenset(nodes)) if nodes else self


class _Exhausted(Exception):
    """The budget of a try is spent."""


class Matcher:
    """Matches in one scope. ``exhausted`` counts the tries that were given up."""

    def __init__(self, scope: ScopeView, canonical: Canonical | None = None) -> None:
        self.scope = scope
        self.canonical = canonical if canonical is not None else Canonical(scope)
        self.exhausted = 0
        self._steps = 0
        self._variables: Mapping[str, Variable] = {}
        self._starts: dict[int, tuple[Pattern, frozenset[str] | None]] = {}

    def at(
        self, pattern: Pattern, root: ViewNode, variables: Mapping[str, Variable], shared: bool
    ) -> Match | None:
        """The match with its root at this node, or None. ``shared`` allows other users of inner values."""
        if not root.outputs or root.outputs[0].is_empty():
            return None
        self._steps, self._variables = 0, variables
        try:
            for state in self._match(pattern, Term(root.outputs[0]), _State(), at_root=True):
                if root.index not in state.nodes:
                    continue  # a reading that looks through the root only
                match = Match(self.scope, root, state.nodes, state.bindings, state.rest)
                if self._is_sound(match) and (shared or self._is_exclusive(match)):
                    return match
        except _Exhausted:
            self.exhausted += 1
        return None

    def _is_sound(self, match: Match) -> bool:
        """No second output in use, and no captured or remaining value that the match itself makes."""
        made: set[int] = set()
        for index in match.nodes:
            node = self.scope.nodes[index]
            made.update(id(tensor) for tensor in node.outputs)
            for tensor in node.outputs[1:]:
                if not tensor.is_empty() and (
                    self.scope.consumers(tensor) or self.scope.outside_uses(tensor)
                ):
                    return False
        captured = [b.tensor for b in match.bindings.values() if b.tensor is not None and not b.inner]
        captured += [tensor for tensor, _ in match.rest]
        return not any(id(self.canonical.strip(tensor)[0]) in made for tensor in captured)

    def _is_exclusive(self, match: Match) -> bool:
        for index in match.nodes - {match.root.index}:
            for tensor in self.scope.nodes[index].outputs:
                if tensor.is_empty():
                    continue
                if self.scope.outside_uses(tensor):
                    return False
                if any(node.index not in match.nodes for node, _ in self.scope.consumers(tensor)):
                    return False
        return True

    def _match(self, pattern: Pattern, term: Term, state: _State, at_root: bool = False) -> Iterator[_State]:
        self._steps += 1
        if self._steps > BUDGET:
            raise _Exhausted
        if isinstance(pattern, Wild):
            yield state
        elif isinstance(pattern, Capture):
            yield from self._capture(pattern.name, term, state, Fraction(1), "+")
        elif isinstance(pattern, Inner):
            yield from self._inner(pattern, term, state)
        elif isinstance(pattern, Either):
            for option in pattern.options:
                yield from self._match(option, term, state, at_root)
        elif isinstance(pattern, Moved):
            yield from self._moved(pattern.pattern, term, state)
        elif isinstance(pattern, Combination):
            yield from self._combination(pattern, term, state, at_root)
        else:
            yield from self._operation(pattern, term, state)

    def _inner(self, pattern: Inner, term: Term, state: _State) -> Iterator[_State]:
        bound = state.bindings.get(pattern.name)
        tensor = None if term.tensor is None else self.canonical.strip(term.tensor)[0]
        if (
            bound is not None
            and bound.tensor is not None
            and tensor is bound.tensor
            and term.tensor is not None
        ):
            yield state.inside(self.canonical.strip(term.tensor)[1])
            return
        # a second use that is another tensor may be the same value computed twice
        for found in self._match(pattern.pattern, term, state):
            yield found if bound is not None else found.bind(pattern.name, Binding(tensor, inner=True))

    def _moved(self, pattern: Pattern, term: Term, state: _State) -> Iterator[_State]:
        yield from self._match(pattern, term, state)
        current, passed = term, frozenset[int]()
        for _ in range(_MOVES):
            if current.tensor is None:
                return
            tensor, nodes = self.canonical.strip(current.tensor)
            node = self.scope.producer(tensor)
            if node is None or node.domain or not (node.op in MOVERS or self._is_float_cast(node)):
                return
            passed |= {node.index, *nodes}
            source = self.canonical.term(node, 0)
            if source is None:
                return
            current = source
            yield from self._match(pattern, current, state.inside(passed))

    def _is_float_cast(self, node: ViewNode) -> bool:
        if node.op != "Cast":
            return False
        source = self.scope.dtype(node.inputs[0].name)
        return source in (1, 11) and node.attrs.get("to") in (
            1,
            11,
        )  # FLOAT, DOUBLE: nothing is rounded to FP16

    def _capture(self, name: str, term: Term, state: _State, weight: Fraction, kind: str) -> Iterator[_State]:
        variable = self._variables.get(name)
        if variable is not None and variable.kind == "const":
            yield from self._capture_constant(variable, term, state, weight, kind)
            return
        if term.tensor is None or weight != 1:
            return
        tensor, _ = self.canonical.strip(term.tensor)
        bound = state.bindings.get(name)
        if bound is None:
            yield state.bind(name, Binding(tensor, term.uses))
        elif bound.tensor is not None and self.canonical.same(bound.tensor, tensor):
            yield state.bind(name, replace(bound, uses=(*bound.uses, *term.uses)))

    def _capture_constant(
        self, variable: Variable, term: Term, state: _State, weight: Fraction, kind: str
    ) -> Iterator[_State]:
        if variable.scalar and self.canonical.scalar(term) is None:
            return
        if not self.canonical.is_constant(term):
            return
        tensor = None if term.tensor is None else self.canonical.strip(term.tensor)[0]
        power, sign = (float(weight), 1.0) if kind == "*" else (1.0, float(weight))
        value = term.value if tensor is None else None
        binding = Binding(tensor, term.uses, value, power, sign)
        bound = state.bindings.get(variable.name)
        if bound is None:
            yield state.bind(variable.name, binding)
        elif equal_constants(self.values(bound), self.values(binding)):
            yield state.bind(variable.name, replace(bound, uses=(*bound.uses, *term.uses)))

    def values(self, binding: Binding) -> npt.NDArray[Any] | None:
        """Values a constant binding stands for, in float64; None for anything else."""
        term = Term(binding.tensor) if binding.tensor is not None else Term(value=binding.value)
        values = self.canonical.constant(term)
        if values is None or (values.dtype.kind not in "fiub" and values.dtype.name != "bfloat16"):
            return None
        with np.errstate(all="ignore"):
            return np.asarray(binding.sign * np.asarray(values, np.float64) ** binding.power)

    def _operation(self, pattern: Operation, term: Term, state: _State) -> Iterator[_State]:
        for reading in self.canonical.readings(term):
            if reading.op != pattern.op or reading.domain != pattern.domain:
                continue
            if pattern.literal and not reading.direct:
                continue
            started = self._attributes(pattern, reading, state)
            if started is not None:
                yield from self._arguments(pattern, reading, 0, started.inside(reading.nodes))

    def _arguments(self, pattern: Operation, reading: Reading, slot: int, state: _State) -> Iterator[_State]:
        if slot == len(pattern.args):
            rest = reading.args[slot:]
            if pattern.star is not None:
                tensors = tuple(term.tensor if term is not None else None for term in rest)
                yield state.bind(pattern.star, Binding(value=tensors))
            elif not rest:
                yield state
            return
        term = reading.args[slot] if slot < len(reading.args) else None
        if term is None:
            if isinstance(pattern.args[slot], Wild):
                yield from self._arguments(pattern, reading, slot + 1, state)
            return
        for found in self._match(pattern.args[slot], term, state):
            yield from self._arguments(pattern, reading, slot + 1, found)

    def _attributes(self, pattern: Operation, reading: Reading, state: _State) -> _State | None:
        mentioned = set()
        for key, wanted in pattern.attributes:
            mentioned.add(key)
            found = reading.attributes.get(key)
            if isinstance(wanted, Name):
                if wanted.id == "_":
                    continue
                bound = state.bindings.get(wanted.id)
                if found is None or (bound is not None and bound.value != found):
                    return None
                state = state.bind(wanted.id, Binding(value=found))
            elif not self._equals(found, wanted, reading):
                return None
        others = {key: value for key, value in reading.attributes.items() if key not in mentioned}
        if pattern.stars is not None:
            return state.bind(pattern.stars, Binding(value=others))
        defaults = default_attributes(reading.op, self.canonical.opset) if not reading.domain else {}
        return None if any(defaults.get(key) != value for key, value in others.items()) else state

    def _equals(self, found: Any, wanted: Expr, reading: Reading) -> bool:
        value = literal(wanted)
        if isinstance(found, bytes) and isinstance(value, str):
            return found == value.encode()
        if isinstance(value, str) or found is None or isinstance(found, bytes):
            return False
        have = list(found) if isinstance(found, list | tuple) else [found]
        want = value if isinstance(value, list) else [value]
        shape = (
            self.canonical.shape(reading.args[0]) if reading.args and reading.args[0] is not None else None
        )
        counted = reading.op.startswith("Reduce") or reading.op in ("Softmax", "LogSoftmax")
        if shape is not None and counted and all(isinstance(item, int) for item in have):
            want = [item + len(shape) if item < 0 else item for item in want]
        return len(have) == len(want) and all(a == b for a, b in zip(sorted(have), sorted(want), strict=True))

    def _combination(
        self, pattern: Combination, term: Term, state: _State, at_root: bool
    ) -> Iterator[_State]:
        if not pattern.parts:
            yield from self._number(pattern, term, state)
            return
        tree = self.canonical.tree(pattern.kind, term)
        if tree is None:
            return
        order = sorted(pattern.parts, key=lambda part: self._hardness(part[0], state))
        for covered, found in self._assign(pattern, order, tree, frozenset(), state):
            done = self._finish(pattern, tree, covered, found, at_root)
            if done is not None:
                yield done

    def _number(self, pattern: Combination, term: Term, state: _State) -> Iterator[_State]:
        value = self.canonical.scalar(term)
        if value is not None and pattern.number is not None and close(value, pattern.number):
            yield state

    def _hardness(self, pattern: Pattern, state: _State) -> int:
        """Structure first, then names that are bound, then constants; a free name takes what is left."""
        if isinstance(pattern, Wild):
            return 4
        if not isinstance(pattern, Capture):
            return 0
        if pattern.name in state.bindings:
            return 1
        variable = self._variables.get(pattern.name)
        return 2 if variable is not None and variable.kind == "const" else 3

    def _assign(
        self,
        pattern: Combination,
        parts: list[tuple[Pattern, Fraction]],
        tree: Tree,
        covered: frozenset[int],
        state: _State,
    ) -> Iterator[tuple[frozenset[int], _State]]:
        if not parts:
            yield from self._assign_number(pattern, tree, covered, state)
            return
        # names may have been bound meanwhile, so the next part is chosen anew
        parts = sorted(parts, key=lambda part: self._hardness(part[0], state))
        (part, weight), rest = parts[0], parts[1:]
        free_name = isinstance(part, Capture) and part.name not in state.bindings
        open_nodes = tree.candidates(covered, outermost=free_name and not rest)
        for index in tree.behind(open_nodes) if free_name and not rest else open_nodes:
            for found in self._part(pattern.kind, part, weight, tree, index, state):
                yield from self._assign(pattern, rest, tree, covered | {index}, found)
        if weight.denominator == 1 and abs(weight) > 1 and pattern.kind == "*":
            one = Fraction(1 if weight > 0 else -1)
            if abs(weight) <= 3:
                yield from self._assign(
                    pattern, [*rest, *[(part, one)] * int(abs(weight))], tree, covered, state
                )

    def _part(
        self, kind: str, part: Pattern, weight: Fraction, tree: Tree, index: int, state: _State
    ) -> Iterator[_State]:
        node = tree.nodes[index]
        variable = self._variables.get(part.name) if isinstance(part, Capture) else None
        if isinstance(part, Capture) and variable is not None and variable.kind == "const":
            yield from self._capture(part.name, node.term, state, node.weight / weight, kind)
        elif node.weight == weight and self._may_start(part, node.term):
            yield from self._match(part, node.term, state)

    def _may_start(self, part: Pattern, term: Term) -> bool:
        """A quick look at the op before the pattern is tried in earnest."""
        if term.tensor is None:
            return True
        if id(part) not in self._starts:
            self._starts[id(part)] = (part, start_ops(part))
        ops = self._starts[id(part)][1]
        if ops is None:
            return True
        node = self.scope.producer(self.canonical.strip(term.tensor)[0])
        return node is not None and node.op in ops

    def _assign_number(
        self, pattern: Combination, tree: Tree, covered: frozenset[int], state: _State
    ) -> Iterator[tuple[frozenset[int], _State]]:
        if pattern.number is None:
            yield covered, state
            return
        for index in tree.candidates(covered, outermost=False):
            node = tree.nodes[index]
            value = self.canonical.scalar(node.term)
            if value is not None and close(weighed(pattern.kind, value, node.weight), pattern.number):
                yield covered | {index}, state

    def _finish(
        self, pattern: Combination, tree: Tree, covered: frozenset[int], state: _State, at_root: bool
    ) -> _State | None:
        """Account for what the parts did not take: identities vanish, other factors are the rest of a root product."""
        left = [
            index for index in tree.uncovered(covered) if not self._is_identity(pattern.kind, tree, index)
        ]
        if left and not (at_root and pattern.kind == "*" and tree.is_spread(covered)):
            return None
        rest: list[tuple[gs.Tensor, int]] = []
        for index in left:
            node = tree.nodes[index]
            if node.term.tensor is None or node.weight not in (1, -1):
                return None
            rest.append((node.term.tensor, int(node.weight)))
        state = state.inside(tree.inner_nodes(covered))
        return replace(state, rest=tuple(rest)) if rest else state

    def _is_identity(self, kind: str, tree: Tree, index: int) -> bool:
        node = tree.nodes[index]
        if kind not in ("*", "+") or not self.canonical.is_constant(node.term):
            return False
        return self.canonical.scalar(node.term) == (1 if kind == "*" else 0)
