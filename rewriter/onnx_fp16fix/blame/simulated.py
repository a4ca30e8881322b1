"""The error of the outputs for any set of FP32 nodes, by the switched graph; what most searches ask."""

from __future__ import annotations

import hashlib
import heapq
import itertools
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_fp16fix.blame.cache import TrialCache
from onnx_fp16fix.blame.places import Places
from onnx_fp16fix.blame.switches import build_switched, drawn
from onnx_fp16fix.calibrate.data import Dataset, Feed
from onnx_fp16fix.half import FP16, FloatType
from onnx_fp16fix.progress import Progress
from onnx_fp16fix.runtime import open_session
from onnx_fp16fix.simulate import Mode
from onnx_fp16fix.simulate.metrics import distance

__all__ = ["Simulated", "output_error"]

Nodes = frozenset[int]


@dataclass(frozen=True, slots=True)
class _Sample:
    feed: Feed
    expected: dict[str, Any]
    digest: str


class Simulated:
    """Errors of a model's outputs in simulated FP16, the worst over the samples held; ``inf`` if not finite.

    ``places``: the nodes by number. ``mode``: see ``simulate.kernels``; ``half``, ``guards``: see
    ``build_switched``. Raises ModelError and DataError.
    """

    def __init__(
        self,
        places: Places,
        data: Dataset,
        cache: TrialCache,
        mode: Mode = "default",
        half: FloatType = FP16,
        guards: Collection[str] = frozenset(),
    ) -> None:
        self._names, self._data, self._cache = places.names, data, cache
        model = places.main.model
        base = model.base_dir
        switched = build_switched(places, mode, half, guards)
        self._switches, self._weights = switched.switches, switched.weights
        self.outputs = list(dict.fromkeys(info.name for info in model.proto.graph.output))
        # what FP32 draws for a sample is fed to all its trials
        self._drawn = {name: places.main.dtype(name) for name in drawn(places.main).values()}
        self._reference = open_session(
            model.proto, base, outputs=dict.fromkeys([*self.outputs, *self._drawn]) if self._drawn else None
        )
        self._session = open_session(
            switched.proto, base, given=self._drawn, outputs=self.outputs if self._drawn else None
        )
        self._held: list[_Sample] = []
        self._sound: set[str] = set()
        self.nonfinite: dict[str, bool] = {}
        """Outputs with NaN or infinities in FP32 already, and whether nothing else was seen in them."""
        self.samples = 0
        """How many the data have, once they were all read."""
        self.nodes: Nodes = frozenset(self._switches)
        """Nodes that have a choice."""

    def worst(self, fp32: Nodes, progress: Progress, title: str, hold: int = 0) -> float:
        """The error over all samples of the data; keeps the ``hold`` worst samples for the search."""
        errors = []
        worst: list[tuple[float, int, _Sample]] = []
        with progress.step(title, self._data.length) as step:
            for number, sample in enumerate(self._samples()):
                error = self._measure(fp32, sample)
                errors.append(error)
                # the first of equals, hence the minus
                heapq.heappush(worst, (error, -number, sample))
                if len(worst) > hold:
                    heapq.heappop(worst)
                step.advance()
        self.samples = len(errors)
        held = {sample.digest for sample in self._held}
        best_first = sorted(worst, key=lambda entry: (-entry[0], -entry[1]))
        self._held += [sample for _, _, sample in best_first if sample.digest not in held]
        return max(errors)

    def error(self, fp32: Nodes) -> float:
        """The error over the samples held."""
        return max(self._measure(fp32, sample) for sample in self._held)

    def passes(self, fp32: Nodes, tolerance: float) -> bool:
        """Whether the error of every sample held is within ``tolerance``; the first that is not ends it."""
        return all(self._measure(fp32, sample) <= tolerance for sample in self._held)

    def _samples(self) -> Iterator[_Sample]:
        for feed in self._data:
            found = self._reference.run(feed, [*self.outputs, *self._drawn])
            feed = {**feed, **{name: found[name] for name in self._drawn}}
            sample = _Sample(feed, {name: found[name] for name in self.outputs}, _digest(feed))
            self._look(sample.expected)
            yield sample

    def _look(self, expected: Mapping[str, Any]) -> None:
        for name, value in expected.items():
            if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.size:
                finite = np.isfinite(value)
                if not finite.all() or name in self.nonfinite:
                    self.nonfinite[name] = (
                        self.nonfinite.get(name, name not in self._sound) and not finite.any()
                    )
                else:
                    self._sound.add(name)

    def _measure(self, fp32: Nodes, sample: _Sample) -> float:
        nodes = [self._names[index] for index in sorted(fp32 & self.nodes)]
        known = self._cache.get(sample.digest, nodes)
        if known is None:
            switches = {name: np.array(index not in fp32) for index, name in self._switches.items()}
            found = self._session.run({**sample.feed, **switches}, self.outputs)
            known = max(
                (output_error(found[name], sample.expected[name]) for name in self.outputs), default=0.0
            )
            self._cache.put(sample.digest, nodes, known)
        return known


def output_error(values: Any, reference: Any) -> float:
    """Relative L2 error of a float output, ``inf`` if not finite; the share of places that differ for other tensors."""
    if not isinstance(values, np.ndarray) or not isinstance(reference, np.ndarray):
        return 0.0 if _equal(values, reference) else math.inf
    if values.shape != reference.shape:
        return math.inf
    if values.dtype.kind == "f":
        return distance(values, reference).rel_l2
    return float(np.mean(values != reference)) if values.size else 0.0


def _equal(values: Any, reference: Any) -> bool:
    if isinstance(values, (list, tuple)) and isinstance(reference, (list, tuple)):
        pairs = itertools.zip_longest(values, reference)
        return all(np.array_equal(a, b, equal_nan=_is_float(a)) for a, b in pairs)
    return bool(values == reference)


def _is_float(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def _digest(feed: Mapping[str, npt.NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(feed):
        value = np.ascontiguousarray(feed[name])
        digest.update(f"{name} {value.dtype} {value.shape} ".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
