"""Products, sums and extrema of a pattern against the operands of a value, in any order and nesting."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from onnx_fp16fix.language.bindings import State
from onnx_fp16fix.language.combine import Tree, members, ratio
from onnx_fp16fix.language.compare import close, weighed
from onnx_fp16fix.language.pattern import Capture, Combination, Operation, Pattern, Wild
from onnx_fp16fix.language.terms import Term, Weight

if TYPE_CHECKING:
    from onnx_fp16fix.language.match import Matcher

__all__ = ["Joined"]

_WORDS = {"*": "a product", "+": "a sum"}
Parts = list[tuple[Pattern, Weight]]


class Joined:
    """Matches ``Combination`` patterns for a matcher."""

    def __init__(self, matcher: Matcher) -> None:
        self.matcher, self.canonical = matcher, matcher.canonical

    def match(self, pattern: Combination, term: Term, state: State, at_root: bool) -> Iterable[State]:
        """Every way the parts are operands of the value; at the root of a pattern some may be left over."""
        if not pattern.parts:
            return self._number(pattern, term, state)
        tree = self.canonical.tree(pattern.kind, term)
        if tree is not None:
            return self._operands(pattern, tree, state, at_root)
        trace = self.matcher.trace
        if trace is not None:
            wanted = _WORDS.get(pattern.kind, pattern.kind)
            trace.note(state, lambda: f"match: expected {wanted}, found {self.matcher.label(term)}")
        return ()

    def _operands(self, pattern: Combination, tree: Tree, state: State, at_root: bool) -> Iterator[State]:
        for covered, found in self._assign(pattern, list(pattern.parts), tree, 0, state.deeper()):
            done = self._finish(pattern, tree, covered, found, at_root)
            if done is not None:
                yield done

    def _number(self, pattern: Combination, term: Term, state: State) -> Iterable[State]:
        value = self.canonical.scalar(term)
        if value is not None and pattern.number is not None and close(value, pattern.number):
            return (state,)
        if self.matcher.trace is not None:
            found = self.matcher.label(term) if value is None else f"{value:g}"
            self.matcher.trace.note(state, lambda: f"match: expected {pattern.number:g}, found {found}")
        return ()

    def _hardness(self, pattern: Pattern, state: State) -> int:
        """Structure first, then names that are bound, then constants; a free name takes what is left."""
        if isinstance(pattern, Wild):
            return 4
        if not isinstance(pattern, Capture):
            return 0
        if pattern.name in state.bindings:
            return 1
        variable = self.matcher.variables.get(pattern.name)
        return 2 if variable is not None and variable.kind == "const" else 3

    def _assign(
        self, pattern: Combination, parts: Parts, tree: Tree, covered: int, state: State
    ) -> Iterator[tuple[int, State]]:
        if not parts:
            yield from self._assign_number(pattern, tree, covered, state)
            return
        # names may have been bound meanwhile, so the next part is chosen anew
        if len(parts) > 1:
            parts = sorted(parts, key=lambda part: self._hardness(part[0], state))
        (part, weight), rest = parts[0], parts[1:]
        free_name = isinstance(part, Capture) and part.name not in state.bindings
        fitted = False
        for index in self._open_nodes(part, weight, tree, covered, free_name and not rest):
            for found in self._part(pattern.kind, part, weight, tree, index, state):
                fitted = True
                if rest or pattern.number is not None:
                    yield from self._assign(pattern, rest, tree, covered | 1 << index, found)
                else:
                    yield covered | 1 << index, found
        if not fitted and self.matcher.trace is not None:
            self.matcher.trace.note(state, lambda: self._missing(pattern.kind, part, weight, tree, covered))
        if pattern.kind == "*" and weight.denominator == 1 and 1 < abs(weight.numerator) <= 3:
            one = 1 if weight > 0 else -1  # x ** 3 is x * x ** 2 or x * x * x
            apart: Parts = [(part, one), (part, weight - one)]
            yield from self._assign(pattern, [*rest, *apart], tree, covered, state)

    def _open_nodes(
        self, part: Pattern, weight: Weight, tree: Tree, covered: int, last: bool
    ) -> Iterable[int]:
        """Operands the part may be, in order; the ``last`` name, if it is free, takes what is left as a whole."""
        if self.matcher.trace is None:
            sketch = self.matcher.sketches.of(part, self.matcher.variables)
            mask = self.matcher.sketches.operands(sketch, weight, tree) & ~tree.blocked(covered)
        else:
            mask = -1 ^ tree.blocked(covered)
        if not last:
            return members(mask & (1 << len(tree.nodes)) - 1)
        return [index for index in tree.behind(covered) if mask >> index & 1]

    def _missing(self, kind: str, part: Pattern, weight: Weight, tree: Tree, covered: int) -> str:
        """Which part is not among the operands, and what is there instead."""
        wanted = _describe(part)
        if weight != 1:
            wanted += f" ** {weight}" if kind == "*" else f" * {weight}"
        free = tree.candidates(covered, outermost=True) if covered else list(tree.nodes[0].children)
        found = []
        for index in free[:4]:
            label = self.matcher.label(tree.nodes[index].term)
            power = tree.nodes[index].weight
            found.append(label if power == 1 else f"{label} {'**' if kind == '*' else '*'} {power}")
        where = self.matcher.label(tree.nodes[0].term)
        return (
            f"match: expected {wanted} among the operands of {where}, found {', '.join(found) or 'no other'}"
        )

    def _part(
        self, kind: str, part: Pattern, weight: Weight, tree: Tree, index: int, state: State
    ) -> Iterable[State]:
        node = tree.nodes[index]
        if isinstance(part, Capture):
            variable = self.matcher.variables.get(part.name)
            if variable is not None and variable.kind == "const":
                return self.matcher.capture(part.name, node.term, state, ratio(node.weight, weight), kind)
        return self.matcher.match(part, node.term, state) if node.weight == weight else ()

    def _assign_number(
        self, pattern: Combination, tree: Tree, covered: int, state: State
    ) -> Iterator[tuple[int, State]]:
        if pattern.number is None:
            yield covered, state
            return
        for index in tree.candidates(covered, outermost=False):
            node = tree.nodes[index]
            value = self.canonical.scalar(node.term)
            if value is not None and close(weighed(pattern.kind, value, node.weight), pattern.number):
                yield covered | 1 << index, state

    def _finish(
        self, pattern: Combination, tree: Tree, covered: int, state: State, at_root: bool
    ) -> State | None:
        """Account for what the parts did not take: identities vanish, the rest of a root product or sum is kept."""
        left = tree.left(covered)
        allowed = at_root and pattern.kind in ("*", "+") and (not left or tree.is_spread(covered))
        rest: list[tuple[Term, int]] = []
        for index in left:
            node = tree.nodes[index]
            if not allowed or node.term.tensor is None or node.weight not in (1, -1):
                if self.matcher.trace is not None:
                    self.matcher.trace.note(state, lambda: self._too_many(tree, left))
                return None
            rest.append((node.term, int(node.weight)))
        state = state.inside(tree.inner_nodes(covered))
        if not rest:
            return state
        return State(state.bindings, state.nodes, tuple(rest), pattern.kind, state.others, state.depth)

    def _too_many(self, tree: Tree, left: list[int]) -> str:
        extra = ", ".join(self.matcher.label(tree.nodes[index].term) for index in left[:4])
        return f"match: {self.matcher.label(tree.nodes[0].term)} has further operands: {extra}"


def _describe(part: Pattern) -> str:
    if isinstance(part, Operation):
        return part.op
    if isinstance(part, Capture):
        return f"'{part.name}'"
    if isinstance(part, Combination):
        if not part.parts:
            return f"{part.number:g}"
        return _WORDS.get(part.kind, part.kind)
    name = getattr(part, "name", None)
    inner = getattr(part, "pattern", None)
    if name is not None and inner is not None:
        return f"'{name}' ({_describe(inner)})"
    options = getattr(part, "options", ())
    return " or ".join(_describe(option) for option in options) or "anything"
