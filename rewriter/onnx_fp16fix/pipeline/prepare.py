"""What every run begins with: model, data, view, ranges; and the document that collects what happens."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from weakref import WeakKeyDictionary

import onnx

from onnx_fp16fix.calibrate import Dataset, KeptOutputs, RangeTable, Source, open_data
from onnx_fp16fix.calibrate import calibrate as measure
from onnx_fp16fix.calibrate.bounds import complete, known_bounds
from onnx_fp16fix.calibrate.origin import inlined_keys
from onnx_fp16fix.calibrate.shapes import computed_names
from onnx_fp16fix.document import DataEntry, RunDocument, RunStatus
from onnx_fp16fix.errors import ModelError, Problem
from onnx_fp16fix.graph import GraphView, build_view
from onnx_fp16fix.model import Model, is_heavy_file, load_model
from onnx_fp16fix.outcome import Outcome, describe_model
from onnx_fp16fix.progress import Progress
from onnx_fp16fix.range_file import load_ranges
from onnx_fp16fix.runtime import may_draw, random_nodes
from onnx_fp16fix.simulate import Mode
from onnx_fp16fix.wording import counted, spelled

__all__ = ["ModelSource", "Run", "calibrated", "inline_functions"]

ModelSource = str | Path | onnx.ModelProto

_HALF_ALREADY = (
    "most weights of this model are 16-bit already: what they lost is not seen here, and it stands for FP32 below; "
    "start from the FP32 model where there is one"
)
_WITHOUT_OUTPUTS = ("calibrate", "check")
"""Commands that tell something of a graph without outputs all the same."""
_NO_OUTPUTS = Problem(
    "MODEL-OUTPUTS",
    "the graph has no outputs: no result could be compared",
    hint="export the model with the outputs that are wanted",
)
_EXIT: dict[RunStatus, int] = {"ok": 0, "findings": 1, "rejected": 4, "error": 70}


@dataclass
class Run:
    """A run in progress."""

    command: str
    source: ModelSource
    data: Source
    progress: Progress
    samples: int = 4
    seed: int = 0
    ranges: str | Path | None = None
    measures: bool = True
    """Whether anything is concluded from data; if not, none given is no reason for a warning."""
    lean: bool = False
    """The model is run and measured only: its weights may stay in the file."""
    kernels: Mode = "default"
    """What simulation takes kernels to keep in FP16 inside, see ``simulate.kernels``."""
    forced: bool = False
    """A wish that cannot go well was obeyed: the result is written although it fails."""
    started: float = field(default_factory=time.perf_counter)
    floors: dict[int, float] = field(default_factory=dict)
    """Rounding floors of the model, by bits."""
    outputs: WeakKeyDictionary[GraphView, KeptOutputs] = field(default_factory=WeakKeyDictionary)
    """Graph outputs of the models that ``fix`` calibrated, by their views."""

    def __post_init__(self) -> None:
        self.document = RunDocument(command=self.command)
        with self.progress.step("load"):
            self.model = load_model(self.source, lean=self.lean or _is_heavy(self.source))
            self.document.model = describe_model(self.model)
        if self.command not in _WITHOUT_OUTPUTS and not self.model.proto.graph.output:
            raise ModelError(_NO_OUTPUTS)
        if self.measures and _is_half(self.model.proto):
            self.warn(_HALF_ALREADY)
        drawing = random_nodes(self.model.proto.graph) if self.measures and may_draw(self.model.ops) else []
        if names := sorted({node.op_type for node in drawing}):
            self.warn(
                f"the model draws random numbers ({', '.join(names)}): it is run with fixed seeds here, "
                "and what is written draws as before"
            )
        self.dataset: Dataset = open_data(self.data, self.model.proto, seed=self.seed, samples=self.samples)
        self.document.data = DataEntry(source=self.dataset.source, samples=0, random=self.dataset.random)
        self.table = None if self.ranges is None else self._load_ranges(self.ranges)
        if self.dataset.random and self.table is None and self.measures:
            self.warn(
                "no data given: ranges come from seeded random inputs and may be far from those of real data; "
                f"give real samples with {spelled('data')}"
            )

    def _load_ranges(self, path: str | Path) -> RangeTable:
        """The table of an earlier calibration, with a warning for whatever makes it worth less."""
        assert self.document.model is not None
        table = load_ranges(path, self.document.model.sha256)
        if not table.complete:
            self.warn(f"{path} is of an interrupted run and holds {counted(table.samples, 'sample')} only")
        if table.random:
            self.warn(f"{path} was measured on random inputs and may be far from real data")
        if self.dataset.random:
            self.warn("no data given: whatever is run beside these ranges runs on seeded random inputs")
            self.document.data = DataEntry(
                source=table.source or str(path), samples=table.samples, random=table.random
            )
        return table

    def warn(self, message: str) -> None:
        """Tell the user now, and write it into the document."""
        self.progress.warn(message)
        self.document.warnings.append(message)

    def finish(self, status: RunStatus, result: Model | None = None) -> Outcome:
        """Close the document."""
        self.document.status = status
        self.document.exit_code = _EXIT[status]
        self.document.seconds = time.perf_counter() - self.started
        return Outcome(self.document, result)


def _is_heavy(source: ModelSource) -> bool:
    return isinstance(source, (str, Path)) and is_heavy_file(Path(source))


def _is_half(proto: onnx.ModelProto) -> bool:
    """Whether more elements of the weights are FP16 or BF16 than FP32."""
    half = full = 0
    for tensor in proto.graph.initializer:
        if tensor.data_type in (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16):
            half += math.prod(tensor.dims)
        elif tensor.data_type == onnx.TensorProto.FLOAT:
            full += math.prod(tensor.dims)
    return half > full


def inline_functions(model: Model) -> Model:
    """The model without local functions: callers may need different scales, so each gets its own copy."""
    if not model.proto.functions:
        return model
    return model.with_proto(onnx.inliner.inline_local_functions(model.proto))


def calibrated(run: Run, model: Model) -> tuple[GraphView, RangeTable]:
    """View and ranges of a model on the run's data, or from the table that the run was given."""
    view = build_view(model)
    if run.table is None:
        kept = None
        if run.command == "fix":  # which compares models by them
            kept = run.outputs[view] = KeptOutputs(info.name for info in model.proto.graph.output)
        ranges = measure(
            model.proto, run.dataset, base_dir=model.base_dir, outputs=kept, progress=run.progress
        )
        if run.dataset.random:  # made-up inputs see little of what can happen
            ranges = complete(ranges, known_bounds(model.proto, model.base_dir, view.types))
    else:
        ranges = _from_table(run, run.table, model)
    assert run.document.data is not None
    run.document.data.samples = ranges.samples
    return view, ranges


def _from_table(run: Run, table: RangeTable, model: Model) -> RangeTable:
    """The table with what it does not know of this model: names that inlining made, tensors that rules made.

    The latter are measured where there are data and else bounded by analysis; unknown ones stay unknown.
    """
    inlined = inlined_keys(run.model.proto)
    found = dict(table.tensors)
    found.update((name, table.tensors[key]) for name, key in inlined.items() if key in table.tensors)
    names = {*(item.name for item in run.dataset.inputs), *computed_names(model.proto.graph)}
    known = replace(table, tensors=found)
    missing = names - found.keys()
    if missing and not run.dataset.random:
        measured = measure(
            model.proto, run.dataset, base_dir=model.base_dir, only=missing, progress=run.progress
        )
        return replace(known, tensors={**measured.tensors, **found})
    bounds = known_bounds(model.proto, model.base_dir)
    return complete(known, {name: bound for name, bound in bounds.items() if name in missing})
