"""Exponents that are multiples of one another: classes by union and find, with a ratio per member.

Most equations between exponents have two terms (what Relu, Add or Reshape say). Merged into classes, a program of
thousands of exponents becomes one of a few unknowns.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from fractions import Fraction

__all__ = ["Classes", "Ties"]

_Ratio = int | Fraction
_Equation = dict[int, _Ratio]


class Ties:
    """Variables are numbers from 0 on; ``equate`` says that a weighted sum of them is zero, ``pin`` that one is."""

    def __init__(self, variables: int) -> None:
        """So many, tied to none."""
        self._parent = list(range(variables))
        self._ratio: list[_Ratio] = [1] * variables
        """variable = ratio * parent."""
        self._pinned: set[int] = set()
        """Roots."""
        self._open: list[Mapping[int, int]] = []

    def pin(self, variable: int) -> None:
        """It is zero."""
        self._pinned.add(self._find(variable)[0])

    def equate(self, terms: Collection[tuple[int, int]]) -> None:
        """The sum of weight * variable is zero."""
        if len(terms) == 2:  # most are
            (one, weight), (other, counterweight) = terms
            (one, ratio), (other, share) = self._find(one), self._find(other)
            free = one not in self._pinned and other not in self._pinned
            if weight and counterweight and one != other and free:
                self._join(one, weight * ratio, other, counterweight * share)
                return
        equation: dict[int, int] = {}
        for variable, weight in terms:
            equation[variable] = equation.get(variable, 0) + weight
        if not self._merge(equation):
            self._open.append(equation)

    def classes(self) -> Classes:
        """What the equations leave free."""
        while True:  # a merge may leave two terms of what were three
            rest = [equation for equation in self._open if not self._merge(equation)]
            done = len(rest) == len(self._open)
            self._open = rest
            if done:
                return self._classes()

    def _find(self, variable: int) -> tuple[int, _Ratio]:
        """Root, and the ratio of the variable to it."""
        above = self._parent[variable]
        if above == variable:
            return variable, 1
        if self._parent[above] == above:
            return above, self._ratio[variable]
        path = []
        while self._parent[variable] != variable:
            path.append(variable)
            variable = self._parent[variable]
        ratio: _Ratio = 1
        for member in reversed(path):
            ratio = self._ratio[member] * ratio
            self._parent[member], self._ratio[member] = variable, ratio
        return variable, ratio

    def _reduced(self, equation: Mapping[int, int]) -> _Equation:
        """In roots, pinned ones left out."""
        terms: _Equation = {}
        for variable, weight in equation.items():
            root, ratio = self._find(variable)
            if root not in self._pinned:
                terms[root] = terms[root] + weight * ratio if root in terms else weight * ratio
        return terms if all(terms.values()) else {root: weight for root, weight in terms.items() if weight}

    def _merge(self, equation: Mapping[int, int]) -> bool:
        """Use the equation up, if it has two free terms at most."""
        terms = self._reduced(equation)
        if len(terms) > 2:
            return False
        if len(terms) == 1:
            self._pinned.update(terms)
        elif terms:
            (one, weight), (other, counterweight) = terms.items()
            self._join(one, weight, other, counterweight)
        return True

    def _join(self, one: int, weight: _Ratio, other: int, counterweight: _Ratio) -> None:
        """Between two free roots, weight * one + counterweight * other is zero."""
        if counterweight in (1, -1) and weight not in (1, -1):
            one, weight, other, counterweight = other, counterweight, one, weight
        self._parent[one] = other
        if weight in (1, -1):  # nearly always, and whole numbers are faster
            self._ratio[one] = -counterweight * weight
        else:
            ratio = Fraction(-counterweight) / weight
            self._ratio[one] = ratio.numerator if ratio.denominator == 1 else ratio

    def _classes(self) -> Classes:
        found = [self._find(variable) for variable in range(len(self._parent))]
        # an unknown in which all members are whole
        common = {root: 1 for root, _ in found}
        for root, ratio in found:
            if type(ratio) is not int:
                common[root] = math.lcm(common[root], ratio.denominator)
        number = {root: place for place, root in enumerate(common)}
        equations = []
        for equation in self._open:
            terms = {number[root]: weight * common[root] for root, weight in self._reduced(equation).items()}
            scale = math.lcm(*(weight.denominator for weight in terms.values()))
            equations.append({place: int(weight * scale) for place, weight in terms.items()})
        return Classes(
            of=[number[root] for root, _ in found],
            factor=[int(ratio * common[root]) for root, ratio in found],
            pinned=[root in self._pinned for root in common],
            equations=equations,
        )


class Classes:
    """Variable v is ``factor[v]`` times unknown ``of[v]``. ``pinned``: unknowns that are zero; ``equations`` between
    three unknowns or more: integer weights by unknown, their sum zero."""

    def __init__(
        self, of: list[int], factor: list[int], pinned: list[bool], equations: list[dict[int, int]]
    ) -> None:
        self.of, self.factor, self.pinned, self.equations = of, factor, pinned, equations
