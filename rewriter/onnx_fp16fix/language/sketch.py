"""Whether a pattern can fit a value at all, names left aside: kept in a table, because rules ask the same again.

A sketch is a pattern without its names. Patterns of all rules that differ in names only have one sketch, so what one
rule found out about a value every other rule (and alternative, and try at another root) reads from the table. A sketch
may say yes too often, never no too often: the matcher then looks in earnest, and only where it says yes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_fp16fix.language.combine import Tree, weight_key
from onnx_fp16fix.language.compare import close, weighed
from onnx_fp16fix.language.pattern import Operation
from onnx_fp16fix.language.terms import Term, Weight

if TYPE_CHECKING:
    from onnx_fp16fix.language.sketches import Sketches

__all__ = [
    "AnySketch",
    "CombinationSketch",
    "ConstantSketch",
    "NeverSketch",
    "NumberSketch",
    "OperationSketch",
    "Sketch",
    "part_key",
]


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


class NeverSketch(Sketch):
    def test(self, asked: Sketches, term: Term) -> bool:
        return False


class ConstantSketch(Sketch):
    constant = True

    def __init__(self, scalar: bool) -> None:
        self.scalar = scalar

    def test(self, asked: Sketches, term: Term) -> bool:
        if self.scalar and asked.canonical.scalar(term) is None:
            return False
        return asked.canonical.is_constant(term)

    def among(self, asked: Sketches, tree: Tree, mask: int) -> int:
        return mask & (tree.single if self.scalar else tree.constant)


class NumberSketch(Sketch):
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


class AnySketch(Sketch):
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


class CombinationSketch(Sketch):
    def __init__(self, kind: str, parts: tuple[tuple[Sketch, Weight], ...], value: float | None) -> None:
        self.kind, self.value = kind, value
        # what few values are comes first: most tries end there
        self.parts = sorted(
            parts, key=lambda part: 0 if part[0].ops is not None else 1 if part[0].number else 2
        )
        self._wanted = [(*part, part_key(*part), self._one(part[1])) for part in self.parts]

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


class OperationSketch(Sketch):
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


def part_key(part: Sketch, weight: Weight) -> tuple[int, float]:
    """Where a tree keeps the operands that may be this part."""
    return part.number, 0 if part.constant else weight_key(weight)
