"""Whether a pattern can fit a value at all, names left aside: kept in a table, because rules ask the same again.

A sketch is a pattern without its names. Patterns of all rules that differ in names only have one sketch, so what one
rule found out about a value every other rule (and alternative, and try at another root) reads from the table. A sketch
may say yes too often, never no too often: the matcher then looks in earnest, and only where it says yes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping

import onnx_graphsurgeon as gs

from onnx_fp16fix.language.canonical import Canonical
from onnx_fp16fix.language.combine import Tree, weight_key
from onnx_fp16fix.language.compare import close, weighed
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
from onnx_fp16fix.language.terms import Term, Weight

__all__ = ["Sketch", "SketchBook", "Sketches"]


class Sketch:
    """Says yes to every value. ``ops``: those of nodes whose value may fit, None for any value."""

    ops: frozenset[str] | None = None
    constant = False
    number = 0
    """Its place in the table, also the key of larger sketches that hold it."""

    def test(self, asked: Sketches, term: Term) -> bool:
        """Whether the value may fit; ``ops`` has been looked at."""
        return True

    def among(self, asked: Sketches, tree: Tree, mask: int) -> int:
        """Those of the operands in the mask that may fit."""
        if not self.number:
            return mask
        ops, said, found = self.ops, asked.said[self.number], 0
        if ops is not None:
            mask &= asked.made_by(ops, tree)
        nodes = tree.nodes
        while mask:
            low = mask & -mask
            term = nodes[low.bit_length() - 1].term
            answer = said.get(id(term.tensor))  # that of no tensor is never kept
            if asked.fits(self, term) if answer is None else answer:
                found |= low
            mask ^= low
        return found


class _Never(Sketch):
    def test(self, asked: Sketches, term: Term) -> bool:
        return False


class _Constant(Sketch):
    constant = True

    def __init__(self, scalar: bool) -> None:
        self.scalar = scalar

    def test(self, asked: Sketches, term: Term) -> bool:
        if self.scalar and asked.canonical.scalar(term) is None:
            return False
        return asked.canonical.is_constant(term)

    def among(self, asked: Sketches, tree: Tree, mask: int) -> int:
        return mask & (tree.single if self.scalar else tree.constant)


class _Number(Sketch):
    def __init__(self, value: float) -> None:
        self.value = value

    def test(self, asked: Sketches, term: Term) -> bool:
        value = asked.canonical.scalar(term)
        return value is not None and close(value, self.value)

    def among(self, asked: Sketches, tree: Tree, mask: int) -> int:
        found = 0
        for bit, value, _ in tree.scalars:
            if mask & bit and close(value, self.value):
                found |= bit
        return found


class _Any(Sketch):
    """One of several, or the one after moving ops."""

    def __init__(self, options: tuple[Sketch, ...], moved: bool) -> None:
        self.options, self.moved = options, moved

    def test(self, asked: Sketches, term: Term) -> bool:
        if any(asked.fits(option, term) for option in self.options):
            return True
        if self.moved:
            for source, _ in asked.canonical.moved_from(term):
                if asked.fits(self.options[0], source):
                    return True
        return False


class _Combination(Sketch):
    def __init__(self, kind: str, parts: tuple[tuple[Sketch, Weight], ...], value: float | None) -> None:
        self.kind, self.value = kind, value
        # what few values are comes first: most tries end there
        self.parts = sorted(
            parts, key=lambda part: 0 if part[0].ops is not None else 1 if part[0].number else 2
        )
        self._wanted = [(*part, _key(*part), self._one(part[1])) for part in self.parts]

    def _one(self, weight: Weight) -> int:
        """The weight of one of several equal factors: x ** 3 may be x * x * x; else 0."""
        several = self.kind == "*" and weight.denominator == 1 and abs(weight.numerator) > 1
        return 0 if not several else 1 if weight > 0 else -1

    def test(self, asked: Sketches, term: Term) -> bool:
        tree = asked.canonical.tree(self.kind, term)
        if tree is None:
            return False
        together = 0
        for part, weight, key, one in self._wanted:
            mask = tree.fitting.get(key)
            if mask is None:
                mask = asked.operands(part, weight, tree)
            if one:
                mask |= asked.operands(part, one, tree)
            if not mask:
                return False
            together |= mask
        if together.bit_count() < len(self.parts):
            return False
        wanted = self.value
        if wanted is None:
            return True
        return any(close(weighed(self.kind, value, weight), wanted) for _, value, weight in tree.scalars)


class _Operation(Sketch):
    def __init__(self, pattern: Operation, args: tuple[Sketch, ...]) -> None:
        self.pattern, self.args = pattern, args

    def test(self, asked: Sketches, term: Term) -> bool:
        pattern = self.pattern
        for reading in asked.canonical.readings(term):
            if (
                reading.op != pattern.op
                or reading.domain != pattern.domain
                or reading.output != pattern.output
            ):
                continue
            if pattern.literal and not reading.direct:
                continue
            if len(reading.args) > len(self.args) and pattern.star is None:
                continue
            # a shorter reading lacks an input; whether the pattern may do without is for the matcher to say
            if all(
                found is None or asked.fits(part, found)
                for part, found in zip(self.args, reading.args, strict=False)
            ):
                return True
        return False


def _key(part: Sketch, weight: Weight) -> tuple[int, float]:
    """Where a tree keeps the operands that may be this part."""
    return part.number, 0 if part.constant else weight_key(weight)


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
                key, sketch = ("const", variable.scalar), _Constant(variable.scalar)
        elif isinstance(pattern, Moved | Either):
            moved = isinstance(pattern, Moved)
            inner = (pattern.pattern,) if isinstance(pattern, Moved) else pattern.options
            options = tuple(self.of(option, variables) for option in inner)
            key, sketch = ("any", moved, *(o.number for o in options)), _Any(options, moved)
        elif isinstance(pattern, Combination) and not pattern.parts:
            key, sketch = ("number", pattern.number), _Number(pattern.number or 0.0)
        elif isinstance(pattern, Combination):
            parts = tuple((self.of(part, variables), weight) for part, weight in pattern.parts)
            key = (pattern.kind, pattern.number, *((part.number, weight) for part, weight in parts))
            sketch = _Combination(pattern.kind, parts, pattern.number)
        elif isinstance(pattern, Operation):
            args = tuple(self.of(argument, variables) for argument in pattern.args)
            about = (pattern.domain, pattern.op, pattern.output, pattern.literal, pattern.star is None)
            key, sketch = (*about, *(argument.number for argument in args)), _Operation(pattern, args)
        elif isinstance(pattern, Absent):
            key, sketch = ("absent",), _Never()
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
        key = _key(part, weight)
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
