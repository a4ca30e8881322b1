"""The graph outputs that calibration sees, kept so that two calibrated models can be compared without another run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy.typing as npt

__all__ = ["KeptOutputs"]

Array = npt.NDArray[Any]

_LIMIT = 32 << 20
"""Bytes that the outputs of all samples may take."""


class KeptOutputs:
    """Copies of the outputs of each sample, in order; none at all once they take more than ``limit`` bytes."""

    def __init__(self, names: Iterable[str], limit: int = _LIMIT) -> None:
        self._names, self._left = frozenset(names), limit
        self._samples: list[dict[str, Array]] = []

    def begin(self) -> None:
        """What follows is of the next sample."""
        self._samples.append({})

    def saw(self, keys: Sequence[str], values: Array) -> None:
        """Keep a tensor that is an output."""
        for name in self._names.intersection(keys) if self._left >= 0 else ():
            self._left -= values.nbytes
            if self._left < 0:
                self._samples.clear()
                return
            self._samples[-1][name] = values.copy()

    def samples(self) -> Sequence[Mapping[str, Array]] | None:
        """The outputs of all samples; None where any is missing: they were too large, or not of a float type."""
        whole = self._left >= 0 and all(len(found) == len(self._names) for found in self._samples)
        return self._samples if whole else None
