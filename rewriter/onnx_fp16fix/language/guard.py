"""Guards, ``let`` and numbers of templates: expressions over facts, with a third truth value.

A missing fact is ``Unknown``. Arithmetic and comparisons pass it on, ``and``, ``or`` and ``not`` follow Kleene: false
and anything is false, true or anything is true. Everything is float64, so ``9 ** 9 ** 9`` is a number too large and
not a hang.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from onnx_fp16fix import fp16

__all__ = ["CONSTANTS", "FACTS", "MATH", "NOTHING", "Fact", "FactSource", "Unknown", "is_true"]


@dataclass(frozen=True, slots=True)
class Unknown:
    """A value that is not known; ``missing`` says which facts would be needed."""

    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fact:
    """What each argument is (``tensor``, ``const``, ``axes``, ``number``), and how many may be left out."""

    arguments: tuple[str, ...]
    optional: int = 0


FACTS: Final[dict[str, Fact]] = {
    "rank": Fact(("tensor",)),
    "shape": Fact(("tensor",)),
    "dim": Fact(("tensor", "number")),
    "numel": Fact(("tensor", "axes"), optional=1),
    "dtype": Fact(("tensor",)),
    "uses": Fact(("tensor",)),
    "absmax": Fact(("tensor",)),
    "vmin": Fact(("tensor",)),
    "vmax": Fact(("tensor",)),
    "smallest": Fact(("tensor",)),
    "rms_min": Fact(("tensor", "axes"), optional=1),
    "size": Fact(("const",)),
    "value": Fact(("const",)),
    "values": Fact(("const",)),
    "is_finite": Fact(("const",)),
    "is_pow2": Fact(("const",)),
    "is_trailing": Fact(("axes", "number")),
    "is_mask": Fact(("tensor",)),
}
"""Functions that ask for a fact of the match; documented in docs/rule-language.md."""


def _round(value: float) -> float:
    return float(round(value))


def _pow2_floor(value: float) -> float:
    return math.ldexp(1.0, fp16.floor_log2(value)) if value > 0 else math.nan


MATH: Final[dict[str, tuple[int, int, Callable[..., Any]]]] = {
    "min": (2, 8, min),
    "max": (2, 8, max),
    "round": (1, 1, _round),
    "abs": (1, 1, abs),
    "log": (1, 1, math.log),
    "log2": (1, 1, math.log2),
    "exp": (1, 1, math.exp),
    "sqrt": (1, 1, math.sqrt),
    "floor": (1, 1, lambda value: float(math.floor(value))),
    "ceil": (1, 1, lambda value: float(math.ceil(value))),
    "pow2_floor": (1, 1, _pow2_floor),
    "minimum": (2, 2, np.minimum),
    "maximum": (2, 2, np.maximum),
}
"""Functions of numbers: fewest and most arguments, and what they do. minimum and maximum also take ``values(c)``."""

CONSTANTS: Final = {
    "FP16.max": fp16.MAX,
    "FP16.min_normal": fp16.MIN_NORMAL,
    "FP16.tiny": fp16.TINY,
    "FP16.eps": fp16.EPS,
}


class FactSource(Protocol):
    """Where names and facts come from: a match, or something made up by a test."""

    def name(self, name: str) -> Any:
        """Value of ``opset``, ``target`` or its version, a let name, an attribute, axes or a size; else Unknown."""

    def fact(self, function: str, subject: str | tuple[int, ...], arguments: Sequence[Any]) -> Any:
        """A fact of FACTS about a captured name (or about axes); Unknown if it is not known."""


def is_true(value: Any) -> bool:
    """Whether a guard holds: unknown is not true."""
    return not isinstance(value, Unknown) and bool(value)


class _Nothing:
    """Facts of no match at all, for numbers written in a rule."""

    def name(self, name: str) -> Any:
        return Unknown((name,))

    def fact(self, function: str, subject: str | tuple[int, ...], arguments: Sequence[Any]) -> Any:
        return Unknown((function,))


NOTHING: Final[FactSource] = _Nothing()
