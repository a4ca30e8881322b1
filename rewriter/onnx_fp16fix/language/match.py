"""Finding a pattern at a node: backtracking over readings and operand orders, with a budget.

Linear in nodes: each pattern is tried only at nodes of an op it can start with, trees are cut at ``_TREE_NODES``, and
a try that takes more than ``BUDGET`` steps is given up (and said so).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_fp16fix.graph import ScopeView, ViewNode
from onnx_fp16fix.language.bindings import Binding, Match, State
from onnx_fp16fix.language.canonical import Canonical
from onnx_fp16fix.language.compare import equal_constants
from onnx_fp16fix.language.match_joined import Joined
from onnx_fp16fix.language.match_operation import Operations
from onnx_fp16fix.language.match_roots import other_roots
from onnx_fp16fix.language.pattern import (
    Capture,
    Combination,
    Either,
    Inner,
    Moved,
    Operation,
    Pattern,
    Roots,
    Wild,
)
from onnx_fp16fix.language.roots import root_slot
from onnx_fp16fix.language.rule import Variable
from onnx_fp16fix.language.same import same_value
from onnx_fp16fix.language.sketches import SketchBook, Sketches
from onnx_fp16fix.language.terms import Term, Weight
from onnx_fp16fix.language.trace import Trace

__all__ = ["BUDGET", "Binding", "Match", "Matcher"]

BUDGET = 4000
"""Steps of one try. The largest shipped rule needs some hundred."""


class _Exhausted(Exception):
    """The budget of a try is spent."""


class Matcher:
    """Matches in one scope. ``exhausted`` counts the tries that were given up; ``trace`` notes how far tries got."""

    def __init__(
        self, scope: ScopeView, canonical: Canonical | None = None, book: SketchBook | None = None
    ) -> None:
        self.scope = scope
        self.canonical = canonical if canonical is not None else Canonical(scope)
        self.exhausted = 0
        self.trace: Trace | None = None
        self.variables: Mapping[str, Variable] = {}
        self.sketches = Sketches(self.canonical, book)
        self._steps = 0
        self._joined, self._operations = Joined(self), Operations(self)

    @property
    def steps(self) -> int:
        """Steps of the last try."""
        return self._steps

    def at(
        self, pattern: Pattern, root: ViewNode, variables: Mapping[str, Variable], shared: bool
    ) -> Match | None:
        """The match with its (first) root at this node, or None. ``shared`` allows other users of inner values."""
        slots = _slots(pattern)
        if len(root.outputs) <= slots[0] or root.outputs[slots[0]].is_empty():
            return None
        self._steps, self.variables = 0, variables
        try:
            for state in self._rooted(pattern, root, slots[0]):
                bindings, rest, kind = state.bindings, state.rest, state.rest_kind
                match = Match(self.scope, root, state.nodes, bindings, rest, kind, state.others, slots)
                problem = self._unsound(match) or ("" if shared else self._read_outside(match))
                if not problem:
                    return match
                if self.trace is not None:
                    self.trace.note(state.deeper(), lambda text=problem: text)  # type: ignore[misc]
        except _Exhausted:
            self.exhausted += 1
        return None

    def _rooted(self, pattern: Pattern, root: ViewNode, slot: int) -> Iterator[State]:
        first, *others = pattern.patterns if isinstance(pattern, Roots) else (pattern,)
        for state in self.match(first, Term(root.outputs[slot]), State({}), at_root=not others):
            if root.index not in state.nodes:
                continue  # a reading that looks through the root only
            if others:
                yield from other_roots(self, others, state, {(root.index, slot)})
            else:
                yield state

    def _unsound(self, match: Match) -> str:
        """What is wrong: a captured or remaining value that the match itself makes."""
        scope, strip = self.scope, self.canonical.strip
        captured = [b.tensor for b in match.bindings.values() if b.tensor is not None and not b.inner]
        rest = [term for term, _ in match.rest]
        if rest and (problem := self._read_as_rest_too(match, rest)):
            return problem
        # what a name is bound to is stripped already
        for tensor in (*captured, *(strip(term.tensor)[0] for term in rest if term.tensor is not None)):
            maker = scope.producer(tensor)
            if maker is not None and maker.index in match.nodes:
                return f"match: '{tensor.name}' would be an input of the match and made inside it"
        return ""

    def _read_as_rest_too(self, match: Match, rest: Sequence[Term]) -> str:
        """``x * x`` may be x, with another x left over, and a square elsewhere in the pattern: x cannot be changed."""
        left = {use for term in rest for use in term.uses}
        for name, binding in match.bindings.items():
            if not left.isdisjoint(binding.uses):
                return f"match: '{name}' is read in one place as itself and as a further operand"
        return ""

    def _read_outside(self, match: Match) -> str:
        results = [id(tensor) for tensor in match.results]
        for index in match.nodes:
            for tensor in self.scope.nodes[index].outputs:
                if tensor.is_empty() or id(tensor) in results:
                    continue
                if self.scope.outside_uses(tensor):
                    return f"inner: '{tensor.name}' leaves the graph or is read in a body"
                for node, _ in self.scope.consumers(tensor):
                    if node.index not in match.nodes:
                        return f"inner: '{tensor.name}' is read outside the match too, by '{node.label}'"
        return ""

    def match(self, pattern: Pattern, term: Term, state: State, at_root: bool = False) -> Iterable[State]:
        """Every way the pattern fits the value."""
        self._steps += 1
        if self._steps > BUDGET:
            raise _Exhausted
        if isinstance(pattern, Capture):
            return self.capture(pattern.name, term, state, 1, "+")
        if isinstance(pattern, Inner):
            return self._inner(pattern, term, state)
        if isinstance(pattern, Combination):
            return self._joined.match(pattern, term, state, at_root)
        if isinstance(pattern, Operation):
            return self._operations.match(pattern, term, state)
        if isinstance(pattern, Either):
            options = pattern.options
            return (found for option in options for found in self.match(option, term, state, at_root))
        if isinstance(pattern, Moved):
            return self._moved(pattern.pattern, term, state)
        return (state,) if isinstance(pattern, Wild) else ()

    def label(self, term: Term) -> str:
        """How reports call a value: the op and name of the node that makes it, else the tensor."""
        if term.tensor is None:
            return "a value inside an op" if term.value is None else "a constant"
        node = self.scope.producer(self.canonical.strip(term.tensor)[0])
        if node is not None:
            return f"{node.op} '{node.label}'"
        return f"{'the constant' if self.canonical.is_constant(term) else 'the input'} '{term.tensor.name}'"

    def _inner(self, pattern: Inner, term: Term, state: State) -> Iterable[State]:
        bound = state.bindings.get(pattern.name)
        tensor, passed = (None, ()) if term.tensor is None else self.canonical.strip(term.tensor)
        if bound is None:
            binding, name = Binding(tensor, inner=True), pattern.name
            return (found.bind(name, binding) for found in self.match(pattern.pattern, term, state))
        if bound.tensor is not None and tensor is bound.tensor:
            return (state.inside(passed),)
        # a second use that is another tensor may be the same value computed twice
        return self.match(pattern.pattern, term, state)

    def _moved(self, pattern: Pattern, term: Term, state: State) -> Iterator[State]:
        yield from self.match(pattern, term, state)
        for source, passed in self.canonical.moved_from(term):
            yield from self.match(pattern, source, state.inside(passed))

    def capture(self, name: str, term: Term, state: State, weight: Weight, kind: str) -> Iterable[State]:
        """The name bound to the value; ``weight`` is what a constant would have to absorb in a ``kind``."""
        variable = self.variables.get(name)
        if variable is not None and variable.kind == "const":
            return self._capture_constant(variable, term, state, weight, kind)
        if term.tensor is None or weight != 1:
            return ()
        tensor = self.canonical.strip(term.tensor)[0]
        bound = state.bindings.get(name)
        if bound is None:
            return (state.bind(name, Binding(tensor, term.uses)),)
        if bound.tensor is not None and same_value(self.canonical, bound.tensor, tensor):
            return (state.bind(name, bound.used_at(term.uses)),)
        if self.trace is not None:
            before = bound.tensor.name if bound.tensor is not None else "another value"
            self.trace.note(
                state, lambda: f"match: '{name}' is '{tensor.name}' here and '{before}' elsewhere"
            )
        return ()

    def _capture_constant(
        self, variable: Variable, term: Term, state: State, weight: Weight, kind: str
    ) -> Iterable[State]:
        scalar = not variable.scalar or self.canonical.scalar(term) is not None
        if not scalar or not self.canonical.is_constant(term):
            if self.trace is not None:
                wanted = "a constant with one element" if variable.scalar else "a constant"
                name = variable.name
                self.trace.note(state, lambda: f"vars.{name}: expected {wanted}, found {self.label(term)}")
            return ()
        tensor = None if term.tensor is None else self.canonical.strip(term.tensor)[0]
        power, sign = (float(weight), 1.0) if kind == "*" else (1.0, float(weight))
        value = term.value if tensor is None else None
        binding = Binding(tensor, term.uses, value, power, sign)
        bound = state.bindings.get(variable.name)
        if bound is None:
            return (state.bind(variable.name, binding),)
        if equal_constants(self.values(bound), self.values(binding)):
            return (state.bind(variable.name, bound.used_at(term.uses)),)
        return ()

    def values(self, binding: Binding) -> npt.NDArray[Any] | None:
        """Values a constant binding stands for, in float64; None for anything else."""
        term = Term(binding.tensor) if binding.tensor is not None else Term(value=binding.value)
        values = self.canonical.constant(term)
        if values is None or (values.dtype.kind not in "fiub" and values.dtype.name != "bfloat16"):
            return None
        values = np.asarray(values, np.float64)
        if binding.power == 1 and binding.sign == 1:
            return values
        with np.errstate(all="ignore"):
            return np.asarray(binding.sign * values**binding.power)


def _slots(pattern: Pattern) -> tuple[int, ...]:
    """Which output of its node each root is."""
    return tuple(map(root_slot, pattern.patterns)) if isinstance(pattern, Roots) else (root_slot(pattern),)
