"""The sketches of all patterns, made once, and what they said of the values of one scope."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping

import onnx_graphsurgeon as gs

from onnx_fp16fix.language.canonical import Canonical
from onnx_fp16fix.language.combine import Tree
from onnx_fp16fix.language.pattern import (
    Absent,
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
from onnx_fp16fix.language.roots import start_ops
from onnx_fp16fix.language.rule import Variable
from onnx_fp16fix.language.sketch import (
    AnySketch,
    CombinationSketch,
    ConstantSketch,
    NeverSketch,
    NumberSketch,
    OperationSketch,
    Sketch,
    part_key,
)
from onnx_fp16fix.language.terms import Term, Weight

__all__ = ["SketchBook", "Sketches"]


class SketchBook:
    """The sketches of patterns: the same for all scopes."""

    def __init__(self) -> None:
        self._of: dict[int, tuple[Pattern, Sketch]] = {}
        self._table: dict[Hashable, Sketch] = {(): Sketch()}

    def of(self, pattern: Pattern, variables: Mapping[str, Variable]) -> Sketch:
        """The sketch of a rule's pattern, or of a part of it."""
        known = self._of.get(id(pattern))
        if known is None:  # the pattern is kept, so that its id stays its own
            known = self._of[id(pattern)] = (pattern, self._make(pattern, variables))
        return known[1]

    def _make(self, pattern: Pattern, variables: Mapping[str, Variable]) -> Sketch:
        if isinstance(pattern, Inner):
            return self.of(pattern.pattern, variables)
        if isinstance(pattern, Roots):
            return self.of(pattern.patterns[0], variables)
        key: Hashable = ()
        sketch = self._table[()]
        if isinstance(pattern, Capture):
            variable = variables.get(pattern.name)
            if variable is not None and variable.kind == "const":
                key, sketch = ("const", variable.scalar), ConstantSketch(variable.scalar)
        elif isinstance(pattern, Moved | Either):
            moved = isinstance(pattern, Moved)
            inner = (pattern.pattern,) if isinstance(pattern, Moved) else pattern.options
            options = tuple(self.of(option, variables) for option in inner)
            key, sketch = ("any", moved, *(o.number for o in options)), AnySketch(options, moved)
        elif isinstance(pattern, Combination) and not pattern.parts:
            key, sketch = ("number", pattern.number), NumberSketch(pattern.number or 0.0)
        elif isinstance(pattern, Combination):
            parts = tuple((self.of(part, variables), weight) for part, weight in pattern.parts)
            key = (pattern.kind, pattern.number, *((part.number, weight) for part, weight in parts))
            sketch = CombinationSketch(pattern.kind, parts, pattern.number)
        elif isinstance(pattern, Operation):
            args = tuple(self.of(argument, variables) for argument in pattern.args)
            about = (pattern.domain, pattern.op, pattern.output, pattern.literal, pattern.star is None)
            key, sketch = (*about, *(argument.number for argument in args)), OperationSketch(pattern, args)
        elif isinstance(pattern, Absent):
            key, sketch = ("absent",), NeverSketch()
        elif not isinstance(pattern, Wild):
            raise TypeError(pattern)
        if key not in self._table:
            sketch.number, sketch.ops = len(self._table), start_ops(pattern)
            self._table[key] = sketch
        return self._table[key]


class Sketches:
    """What sketches said of the values of one scope."""

    def __init__(self, canonical: Canonical, book: SketchBook | None = None) -> None:
        self.canonical, self.book = canonical, SketchBook() if book is None else book
        self.of = self.book.of
        self.said: defaultdict[int, dict[int, bool]] = defaultdict(dict)
        """For each sketch: what it said of a tensor, by identity."""
        self._ops: dict[int, str] = {}

    def fits(self, sketch: Sketch, term: Term) -> bool:
        """Whether the value may fit, from the table where it is known."""
        tensor = term.tensor
        if tensor is None:
            return sketch.test(self, term)
        said = self.said[sketch.number]
        answer = said.get(id(tensor))
        if answer is None:
            may_start = sketch.ops is None or self._op(tensor) in sketch.ops
            answer = said[id(tensor)] = may_start and sketch.test(self, term)
        return answer

    def _op(self, tensor: gs.Tensor) -> str:
        """Op of the node that makes the value, "" for an input or a stored constant."""
        op = self._ops.get(id(tensor))
        if op is None:
            node = self.canonical.scope.producer(self.canonical.strip(tensor)[0])
            op = self._ops[id(tensor)] = "" if node is None else node.op
        return op

    def operands(self, part: Sketch, weight: Weight, tree: Tree) -> int:
        """The operands that a part with this weight may be, as bits; a constant takes up any weight."""
        key = part_key(part, weight)
        mask = tree.fitting.get(key)
        if mask is None:
            of_weight = tree.all if part.constant else tree.weighing.get(key[1], 0)
            mask = tree.fitting[key] = part.among(self, tree, of_weight) if of_weight else 0
        return mask

    def made_by(self, ops: frozenset[str], tree: Tree) -> int:
        """The operands that nodes of these ops make, and those that no tensor holds."""
        made = tree.made
        if made is None:
            made = tree.made = {}
            for index, node in enumerate(tree.nodes):
                tensor = node.term.tensor
                op = None if tensor is None else self._op(tensor)
                made[op] = made.get(op, 0) | 1 << index
        mask = made.get(None, 0)
        for op, bits in made.items():
            if op in ops:
                mask |= bits
        return mask
