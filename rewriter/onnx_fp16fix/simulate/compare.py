"""Two models side by side over a dataset: simulated FP16 against FP32, and FP32 against FP32.

Both models run part by part, each node once a sample; numpy compares the tensors of one part, and they are dropped
before the next. Metrics as nodes of one joined graph would add about ten nodes a tensor, and loading 100,000 nodes
takes longer than running them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx.inliner

from onnx_fp16fix.calibrate.data import Dataset
from onnx_fp16fix.calibrate.shapes import MEASURED_TYPES, infer_elements, tensor_bytes, tensor_types
from onnx_fp16fix.errors import ModelError, Problem
from onnx_fp16fix.progress import Progress, Silent
from onnx_fp16fix.runtime import open_session
from onnx_fp16fix.simulate.bodies import Inside, compare_bodies, matching_bodies
from onnx_fp16fix.simulate.harm import harmless_tensors
from onnx_fp16fix.simulate.inside import first_of, harmless_inside, in_order
from onnx_fp16fix.simulate.kernels import Mode
from onnx_fp16fix.simulate.metrics import Distance, distance, distances, same_bits
from onnx_fp16fix.simulate.parts import PartedModel
from onnx_fp16fix.simulate.report import Fp32Report, SimulationReport, TensorError
from onnx_fp16fix.simulate.rounding import Half, rounded_model

__all__ = ["GROUP_BYTES", "GROUP_TENSORS", "Tensors", "compare_fp32", "compare_outputs", "compare_simulated"]

Tensors = Literal["all", "outputs"]
_LABEL_TYPES = frozenset(
    {
        onnx.TensorProto.BOOL,
        onnx.TensorProto.INT8,
        onnx.TensorProto.UINT8,
        onnx.TensorProto.INT16,
        onnx.TensorProto.UINT16,
        onnx.TensorProto.INT32,
        onnx.TensorProto.UINT32,
        onnx.TensorProto.INT64,
        onnx.TensorProto.UINT64,
    }
)
"""Outputs of these types are compared by the share of elements that differ."""

GROUP_BYTES = 64 << 20
"""Tensors of one model fetched together; both models hold as much."""
GROUP_TENSORS = 1000
"""Loading a session costs more than linearly in its outputs: 10,000 together take twice as long as ten times 1,000."""


def compare_simulated(
    before: onnx.ModelProto,
    after: onnx.ModelProto,
    data: Dataset,
    *,
    before_dir: Path | None = None,
    after_dir: Path | None = None,
    exponents: Mapping[str, int] | None = None,
    assume_fp16: bool = False,
    tensors: Tensors = "all",
    mode: Mode = "default",
    half: Half = "fp16",
    threshold: float = 1e-2,
    progress: Progress | None = None,
) -> SimulationReport:
    """Run ``before`` in FP32 and ``after`` in simulated FP16 and compare every float tensor both have by name.

    Tensors inside bodies of If, Loop and Scan are compared each time the body runs.
    ``exponents[key] = s``: ``after`` stores that tensor as true value x 2**-s (keys with places in ``after``, see
    ``calibrate.ranges.tensor_key``). ``assume_fp16``: ``after`` is an FP32
    model to be taken as FP16 throughout, or as BF16 with ``half="bf16"``.
    ``tensors="outputs"`` compares graph outputs only, which costs two plain
    inferences and little more. ``mode``: what kernels keep in FP16 inside, see ``kernels``. ``threshold``:
    ``rel_l2`` beyond which a tensor has lost too much. Constants are not compared. Raises ModelError and DataError.
    """
    progress, exponents = progress or Silent(), exponents or {}
    before = _inlined(before)
    rounded, narrowed = rounded_model(
        after, assume_fp16=assume_fp16, base_dir=after_dir, mode=mode, half=half
    )
    _check_outputs(before, rounded)
    wanted = {info.name for info in before.graph.output}
    shapes = {name: value.shape for name, value in next(iter(data)).items()}
    inferred = infer_elements(before, shapes)
    types = tensor_types(before, before_dir, inferred)
    names = _comparable(before, rounded, types, wanted)
    if tensors == "outputs":
        names = [name for name in names if name in wanted]
        groups = [names]
    else:
        sizes = tensor_bytes(before, before_dir, next(iter(data)), types, names, inferred)
        groups = list(_groups(names, sizes))
    reference = PartedModel(before, before_dir, groups, types)
    simulated = PartedModel(rounded, after_dir, groups, narrowed)
    found: dict[str, Distance] = {}
    spoilt: dict[str, list[int]] = defaultdict(list)
    finite: set[str] = set()
    with progress.step("simulate FP16", data.length) as step:
        for number, feed in enumerate(data):
            left, right = simulated.run(feed), reference.run(feed)
            for group in groups:
                actual, expected = next(left), next(right)
                finite.update(name for name in wanted & expected.keys() if np.isfinite(expected[name]).any())
                for name, metric in distances(actual, expected, group, exponents).items():
                    found[name] = metric.worse(found.get(name))
                    if metric.nonfinite:
                        spoilt[name].append(number)
                del expected, actual  # before the next part makes its own
            step.advance()
    harmless = frozenset[str]()
    if spoilt and tensors == "all":
        harmless = harmless_tensors(
            before, rounded, data, {name: spoilt[name] for name in names if name in spoilt},
            types={name: narrowed[name] for name in names}, exponents=exponents,
            before_dir=before_dir, after_dir=after_dir,
        )  # fmt: skip
    incomparable = frozenset(name for name in names if name in wanted and name not in finite)
    inside, strayed = dict[str, Inside](), dict[str, tuple[int, int]]()
    if tensors == "all":
        inside, strayed = compare_bodies(
            before, rounded, data, before_dir=before_dir, after_dir=after_dir,
            exponents=_of_bodies(exponents, before, after), threshold=threshold, progress=progress,
        )  # fmt: skip
    main = {name: _error(name, found[name]) for name in names}
    errors = in_order(before.graph, rounded.graph, main, inside)
    if inside:
        harmless |= harmless_inside(before.graph, errors)
    return _report(before, errors, inside, harmless, incomparable, threshold, strayed)


def _of_bodies(
    exponents: Mapping[str, int], before: onnx.ModelProto, after: onnx.ModelProto
) -> dict[str, int]:
    """Exponents inside bodies, whose keys have the places of ``after``, under the keys of ``before``."""
    inner = {key: key.split("::", 1) for key in exponents if "::" in key}
    places = matching_bodies(before.graph, after.graph) if inner else {}
    keys = {"/".join(other): "/".join(own) for other, own in places.items()}
    return {f"{keys[place]}::{name}": exponents[key] for key, (place, name) in inner.items() if place in keys}


def _report(
    before: onnx.ModelProto,
    found: Mapping[str, TensorError],
    inside: Mapping[str, Inside],
    harmless: frozenset[str],
    incomparable: frozenset[str],
    threshold: float,
    strayed: Mapping[str, tuple[int, int]],
) -> SimulationReport:
    return SimulationReport(
        outputs=tuple(found[info.name] for info in before.graph.output if info.name in found),
        tensors=found,
        first_nonfinite=first_of(found, inside, lambda error: error.nonfinite > 0, lambda entry: entry.bad),
        worst=max(found.values(), key=lambda error: error.rel_l2, default=None),
        first_lossy=first_of(
            found, inside, lambda error: not error.rel_l2 <= threshold, lambda entry: entry.lossy
        ),
        harmless=harmless,
        incomparable=incomparable,
        strayed=strayed,
    )


def _inlined(proto: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.inliner.inline_local_functions(proto) if proto.functions else proto


def _comparable(
    before: onnx.ModelProto, after: onnx.ModelProto, types: Mapping[str, int], outputs: Set[str]
) -> list[str]:
    """Computed float tensors of both main graphs and outputs of any number type, in the order ``after`` computes."""
    computed = set(_computed(before))
    return [
        name
        for name in _computed(after)
        if name in computed
        and (types.get(name) in MEASURED_TYPES or (name in outputs and types.get(name) in _LABEL_TYPES))
    ]


def _computed(proto: onnx.ModelProto) -> Iterator[str]:
    for node in proto.graph.node:
        if node.op_type != "Constant":
            yield from filter(None, node.output)


def _groups(names: Iterable[str], sizes: Mapping[str, int]) -> Iterator[list[str]]:
    group: list[str] = []
    total = 0
    for name in names:
        if group and (total + sizes[name] > GROUP_BYTES or len(group) == GROUP_TENSORS):
            yield group
            group, total = [], 0
        group.append(name)
        total += sizes[name]
    if group:
        yield group


def compare_fp32(
    before: onnx.ModelProto,
    after: onnx.ModelProto,
    data: Dataset,
    *,
    before_dir: Path | None = None,
    after_dir: Path | None = None,
    progress: Progress | None = None,
) -> Fp32Report:
    """Run both models as they are, without graph optimizations (a fusion changes bits), and compare the outputs.

    Outputs of another float type (FLOAT16 for ``--io fp16``) are cast first. Raises ModelError and DataError.
    """
    progress = progress or Silent()
    _check_outputs(before, after)
    # both are loaded at once: neither gets a second copy of its weights
    reference = open_session(before, before_dir, prepack=False)
    changed = open_session(after, after_dir, prepack=False)
    names = [info.name for info in before.graph.output]

    def runs() -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
        for feed in data:
            yield reference.run(feed), changed.run(feed, names)
            step.advance()

    with progress.step("compare in FP32", data.length) as step:
        return compare_outputs(names, runs())


def compare_outputs(
    names: Sequence[str], samples: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]
) -> Fp32Report:
    """The named outputs of each sample, those that are expected first."""
    found: dict[str, Distance] = {}
    identical, max_rel = True, 0.0
    for expected, actual in samples:
        for name in names:
            metric, same = _compare_output(actual[name], expected[name])
            found[name] = metric.worse(found.get(name))
            identical, max_rel = identical and same, max(max_rel, metric.max_rel)
    outputs = tuple(_error(name, found[name]) for name in names)
    return Fp32Report(
        max_abs=max((error.max_abs for error in outputs), default=0.0),
        max_rel=max_rel,
        rel_l2=max((error.rel_l2 for error in outputs), default=0.0),
        identical=identical,
        outputs=outputs,
    )


_EQUAL, _DIFFERENT = Distance(0.0, 0.0, 0.0, 0), Distance(np.inf, np.inf, np.inf, 0)


def _compare_output(values: Any, reference: Any) -> tuple[Distance, bool]:
    numeric = isinstance(values, np.ndarray) and isinstance(reference, np.ndarray)
    if not numeric or values.dtype.kind not in "fiub" or reference.dtype.kind not in "fiub":
        same = _equal(values, reference)  # strings, sequences, maps
        return (_EQUAL if same else _DIFFERENT), same
    if values.dtype.kind == reference.dtype.kind == "f":
        values = values.astype(reference.dtype, copy=False)
    same = same_bits(values, reference)
    return (_EQUAL if same else distance(values, reference, relative=True)), same


def _equal(values: Any, reference: Any) -> bool:
    if isinstance(values, np.ndarray) and isinstance(reference, np.ndarray):
        return same_bits(values, reference)
    if isinstance(values, Sequence) and not isinstance(values, (str, bytes)):
        pairs = zip(values, reference, strict=False)
        return len(values) == len(reference) and all(_equal(a, b) for a, b in pairs)
    return bool(values == reference)


def _check_outputs(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    has = {info.name for info in after.graph.output}
    missing = [info.name for info in before.graph.output if info.name not in has]
    if missing:
        raise ModelError(
            [
                Problem("MODEL-OUTPUT", f"the second model has no output '{name}'", tensor=name,
                        hint=f"its outputs: {', '.join(sorted(has))}")
                for name in missing
            ]
        )  # fmt: skip


def _error(name: str, metric: Distance) -> TensorError:
    return TensorError(name, metric.rel_l2, metric.max_abs, metric.nonfinite)
