"""Ranges of all float tensors of a model over a dataset.

The graph runs in parts (``steps``) and each part's tensors are measured in numpy (``statistics``) and dropped before
the next one runs. That costs one run of the model and, on a 2026 server with other work on it, about 1 ns per element,
without any node added to the graph; ONNX Runtime hands its tensors over without a copy. Bodies and local functions are
measured the same way (``runner``), each time they run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx

from onnx_fp16fix.calibrate.constants import constant_ranges
from onnx_fp16fix.calibrate.data import Dataset, Feed
from onnx_fp16fix.calibrate.observer import Observer
from onnx_fp16fix.calibrate.origin import inline
from onnx_fp16fix.calibrate.outputs import KeptOutputs
from onnx_fp16fix.calibrate.ranges import RangeTable, TensorRange
from onnx_fp16fix.calibrate.runner import Runner, Setting
from onnx_fp16fix.calibrate.statistics import measure_array
from onnx_fp16fix.calibrate.steps import Budget
from onnx_fp16fix.errors import DataError, Problem
from onnx_fp16fix.progress import Progress, Silent
from onnx_fp16fix.runtime import as_value
from onnx_fp16fix.wording import counted

__all__ = ["calibrate"]

Array = npt.NDArray[Any]


def calibrate(
    proto: onnx.ModelProto,
    data: Dataset,
    *,
    base_dir: Path | None = None,
    only: Collection[str] | None = None,
    histogram: bool = False,
    constants: bool = False,
    memory: int | None = None,
    resume: RangeTable | None = None,
    interrupted: Callable[[RangeTable], None] | None = None,
    outputs: KeptOutputs | None = None,
    progress: Progress | None = None,
) -> RangeTable:
    """Measure the float tensors over all samples: graph inputs, node outputs, bodies and local functions.

    ``only``: keys to measure (see ``tensor_key``), all if None. ``histogram``: count exponents as well.
    ``constants``: read initializers and Constant nodes too. ``memory``: bytes that tensors may take at a time, beside
    the weights. ``resume``: a table of this model over the first samples of ``data``, which are skipped and which the
    result includes. ``interrupted`` gets the table so far when the user interrupts, before KeyboardInterrupt goes on.
    ``outputs`` gets the graph outputs of each sample that is run.

    Raises DataError for bad samples, ModelError where ONNX Runtime cannot load or run the model, and UsageError
    (MEMORY) when ``memory`` is too little.
    """
    inlined = inline(proto)
    counter = _Counter(only, histogram, outputs)
    budget = Budget() if memory is None else Budget(memory=memory)
    setting = Setting(proto, base_dir, inlined, budget, counter)
    runner = Runner(setting, inlined.graph, (), [])
    table = resume or RangeTable({}, 0, data.random, source=data.source)
    progress = progress or Silent()

    def finished(found: RangeTable, complete: bool) -> RangeTable:
        known = found.constants
        if constants and not known:
            known = constant_ranges(proto, base_dir, histogram=histogram)
        return replace(found, constants=known, complete=complete)

    index = -1
    try:
        with progress.step("calibrate", data.length) as step:
            for index, feed in enumerate(data):
                if index >= table.samples:
                    table = table.and_sample(counter.measure(runner, feed, index), data.random)
                step.advance()
    except KeyboardInterrupt:
        if interrupted is not None and table.samples:
            interrupted(finished(table, False))
        raise
    if resume is not None and index + 1 < resume.samples:
        raise _fewer(data, index + 1, resume.samples)
    return finished(table, True)


class _Counter(Observer):
    """Gathers the statistics of one sample."""

    def __init__(self, only: Collection[str] | None, histogram: bool, outputs: KeptOutputs | None) -> None:
        self._only, self._histogram, self._outputs = only, histogram, outputs
        self._sample = -1
        self._found: dict[str, TensorRange] = {}
        self._latest: dict[str, TensorRange] = {}

    def measure(self, runner: Runner, feed: Feed, sample: int) -> dict[str, TensorRange]:
        """Statistics of every wanted tensor for one sample, the number of which is ``sample``."""
        self._found, self._latest, self._sample = {}, {}, sample
        if self._outputs is not None:
            self._outputs.begin()
        for name, value in feed.items():
            if self.wants(name) and value.dtype.kind == "f":
                self.saw([name], value, None)
        runner.run({name: as_value(value) for name, value in feed.items()})
        return self._found

    def wants(self, key: str) -> bool:
        return self._only is None or key in self._only

    def saw(self, keys: Sequence[str], values: Array, source: str | None) -> None:
        if self._outputs is not None:
            self._outputs.saw(keys, values)
        known = self._latest.get(source) if source is not None else None
        if known is None:
            entry = measure_array(values, histogram=self._histogram, sample=self._sample)
        else:
            entry = replace(known, shape=values.shape)
        self._latest[keys[0]] = entry
        for key in filter(self.wants, keys):
            self._found[key] = self._found[key].merge(entry) if key in self._found else entry


def _fewer(data: Dataset, found: int, needed: int) -> DataError:
    return DataError(
        Problem(
            "RANGES-SAMPLES",
            f"has {counted(found, 'sample')}; the table to resume holds {needed} already",
            file=data.source,
            hint="resume with the data that the table was begun with",
        )
    )
