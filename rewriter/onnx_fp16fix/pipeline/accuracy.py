"""Accuracy beyond range: simulate, refine where the tolerance is missed or nearly, know when FP16 is too coarse."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from onnx_fp16fix.calibrate.ranges import tensor_key
from onnx_fp16fix.document import Finding
from onnx_fp16fix.half import FloatType
from onnx_fp16fix.model import ScopePath
from onnx_fp16fix.pipeline.floor import rounding_floor
from onnx_fp16fix.pipeline.measured import elements_of_a_run, measured_islands
from onnx_fp16fix.pipeline.planning import planned, with_spare
from onnx_fp16fix.pipeline.prepare import Run, inline_functions
from onnx_fp16fix.pipeline.refine import Measured, refine, suspects
from onnx_fp16fix.pipeline.state import Emitted, Io, Precision, State, emit
from onnx_fp16fix.plan import Place
from onnx_fp16fix.simulate import SimulationReport, compare_simulated
from onnx_fp16fix.simulate.bodies import matching_bodies

__all__ = ["Mended", "admit_floor", "aimed_error", "measure_up", "mend_accuracy", "simulate", "tell_narrow"]

Mended = tuple[State, Emitted, SimulationReport]

_FLOORS = 4.0
"""Activations are rounded too, at every step: an error within this factor of the floor is FP16's own."""
_ROOM = 0.5
"""Share of the tolerance that samples should need: others may need more."""
_PAID = 0.25
"""The same where FP32 has to be paid for anyway: errors of other samples were up to 2.6 times those of three."""
_SENSITIVE = 0.25
"""Share of the tolerance that rounding weights and inputs takes where samples differ much in how far they are off."""
_AS_EXACT = 1.125
"""Growth of the error that is taken for chance."""
_FEW = 4
"""Nodes that may go to FP32 for such room."""
_RARE = 0.01
"""Share of samples that may miss the tolerance."""
_TINY = 200
"""Nodes of graphs in which outputs of few elements are looked after."""
_SMALL = 4e6
"""Elements of a run: hundreds of trials of larger models are for needs only."""
_WORTHWHILE = 0.5
"""FP32 nodes that neither reach the tolerance nor halve the error are not worth their price."""


def simulate(run: Run, emitted: Emitted, tensors: Literal["all", "outputs"] = "all") -> SimulationReport:
    """The result in simulated FP16 against the original in FP32."""
    return compare_simulated(
        run.model.proto,
        emitted.result.proto,
        run.dataset,
        before_dir=run.model.base_dir,
        after_dir=emitted.result.base_dir,
        exponents=emitted.exponents,
        tensors=tensors,
        mode=run.kernels,
        progress=run.progress,
    )


def aimed_error(half: FloatType) -> float:
    """From which error on nodes that lose accuracy are worth FP32 where the user names no tolerance: 1e-2, or four
    steps of a coarser type."""
    return max(1e-2, 4 * half.eps)


def mend_accuracy(
    run: Run, state: State, report: SimulationReport, precision: Precision, io: Io, tolerance: float
) -> tuple[State, Emitted]:
    """The outputs miss the tolerance in simulation: put what loses the accuracy into FP32."""

    def measure(fp32: Mapping[Place, str]) -> float:
        return simulate(run, _with_fp32(run, state, fp32, precision, io)[1], "outputs").output_rel_l2

    with run.progress.step("refine"):
        candidates = suspects(_measured(run, state, report))
        fp32 = refine(candidates, report.output_rel_l2, tolerance, measure)
    _tell(run, state, fp32)
    return _with_fp32(run, state, fp32, precision, io)


def measure_up(
    run: Run, found: Mended, precision: Precision, io: Io, tolerance: float, limit: float
) -> Mended:
    """What measuring single nodes does for the error, and larger values held where it is within ``limit`` then."""
    state, emitted, report = found
    if report.output_rel_l2 > tolerance:
        found = _mend_measured(run, state, emitted, report.output_rel_l2, precision, io, tolerance) or found
    else:
        found = _make_room(run, state, emitted, report, precision, io, tolerance) or found
    state, emitted, report = found
    if report.output_rel_l2 > limit:
        return found
    return _spare_room(run, state, report, precision, io) or found


def _mend_measured(
    run: Run, state: State, emitted: Emitted, error: float, precision: Precision, io: Io, tolerance: float
) -> Mended | None:
    """What ranges and amplification do not explain: FP32 for the nodes that measurably cost the most for the least.

    Down to the type's own rounding floor at most; matrix products only where the error is not FP16's own. None where
    that neither reaches it nor halves the ``error``.
    """
    floor = _floor(run, state.half_type)
    if math.isinf(floor):  # other elements are selected: that is no matter of how exact they are
        floor = 0.0
    limit = max(tolerance, floor)
    products = state.max_fp32_flops is None and (floor <= tolerance or error > _FLOORS * floor)
    fp32 = measured_islands(run, state, emitted, _PAID * tolerance, tolerance, limit, products=products)
    return None if fp32 is None else _tried(run, state, fp32, precision, io, max(limit, _WORTHWHILE * error))


def _make_room(
    run: Run,
    state: State,
    emitted: Emitted,
    report: SimulationReport,
    precision: Precision,
    io: Io,
    tolerance: float,
) -> Mended | None:
    """Within the tolerance but not far: FP32 for a few cheap nodes, if that is all it takes to get well within."""
    aims = {error.name: _aim(state, error.name, tolerance) for error in report.outputs}
    missed = [aims[error.name] for error in report.outputs if error.rel_l2 > aims[error.name]]
    if not missed or emitted.result.spools or elements_of_a_run(state) > _SMALL:
        return None
    aim = min(missed)
    fp32 = measured_islands(run, state, emitted, aim, aim, aim, products=False)
    return None if fp32 is None or len(fp32) > _FEW else _tried(run, state, fp32, precision, io, aim)


def _aim(state: State, output: str, tolerance: float) -> float:
    """The error that an output should have on the samples at hand, for nearly all others to be within the tolerance.

    n elements come together within t times their usual size with a probability of about t**n, if they are independent:
    the fewer an output has, the nearer to zero is some sample of it, with an error as large as ever.
    """
    entry, samples = state.ranges.get(output), max(1, state.ranges.samples)
    elements = max(1.0, entry.count / samples) if entry is not None else math.inf
    nearest = _RARE ** (1 / elements) if len(state.scope.nodes) <= _TINY else 1.0
    return max(_ROOM * tolerance * nearest, min(_ROOM * tolerance, state.half_type.eps))


def _spare_room(
    run: Run, state: State, report: SimulationReport, precision: Precision, io: Io
) -> Mended | None:
    """Room for larger values of what is scaled anyway, where the outputs are as exact with it."""
    trial = with_spare(state)
    if trial is state:
        return None
    emitted = emit(run, trial, precision, io)
    found = simulate(run, emitted)
    if not found.output_rel_l2 <= _AS_EXACT * max(report.output_rel_l2, state.half_type.eps):
        return None
    return trial, emitted, found


def _tried(
    run: Run, state: State, fp32: Mapping[Place, str], precision: Precision, io: Io, limit: float
) -> Mended | None:
    trial, emitted = _with_fp32(run, state, fp32, precision, io)
    report = simulate(run, emitted)
    if not report.output_rel_l2 <= limit:
        return None
    _tell(run, state, fp32)
    return trial, emitted, report


def _with_fp32(
    run: Run, state: State, fp32: Mapping[Place, str], precision: Precision, io: Io
) -> tuple[State, Emitted]:
    """Planned again and emitted with these nodes, and why, in FP32 as well."""
    trial = planned(replace(state, wished={**state.wished, **fp32}))
    return trial, emit(run, trial, precision, io)


def _tell(run: Run, state: State, fp32: Mapping[Place, str]) -> None:
    for place, why in fp32.items():
        if place in state.half:
            continue
        node = state.node(place)
        run.document.findings.append(
            Finding(
                name=f"{state.half_type.name}-precision",
                kind="precision",
                status="fixed",
                message=f"{why}: {node.op} stays in FP32",
                scope="/".join(place[0]),
                node=node.label,
                tensor=node.outputs[0].name,
            )
        )


def _measured(run: Run, state: State, report: SimulationReport) -> list[Measured]:
    """The errors by scope. The report has the places of the model as given, where rules may have moved bodies."""
    places = matching_bodies(inline_functions(run.model).proto.graph, state.model.proto.graph)
    found: list[Measured] = []
    errors: dict[ScopePath, dict[str, float]] = {}
    for scope in (state.scope, *state.scope.inside()):
        if scope.path and scope.path not in places:
            continue
        outer = {} if scope.parent is None else errors.get(scope.parent.path, {})
        known = {
            name: report.tensors[key]
            for name in scope.tensors
            if (key := tensor_key(places.get(scope.path, ()), name)) in report.tensors
        }
        errors[scope.path] = {
            **{name: error for name, error in outer.items() if name not in scope.tensors},
            **{name: error.rel_l2 for name, error in known.items() if not error.resized},
        }
        resized = frozenset(name for name, error in known.items() if error.resized)
        found.append(Measured(replace(state.facts, scope=scope), errors[scope.path], resized))
    return found


def _floor(run: Run, half: FloatType) -> float:
    """``rounding_floor`` of the model that was given, found once."""
    if half.bits not in run.floors:
        with run.progress.step("rounding floor"):
            run.floors[half.bits] = rounding_floor(run.model, run.dataset, half.bits)
    return run.floors[half.bits]


def admit_floor(run: Run, half: FloatType, error: float, tolerance: float) -> float:
    """The tolerance, or the error itself where the type is too coarse for the model whatever is done about range."""
    floor = _floor(run, half)
    if error > _FLOORS * floor:
        return tolerance
    message = (
        f"the outputs are off by {error:.3g} (tolerance {tolerance:.3g}), and rounding nothing but weights and inputs "
        f"to {half.label}'s {half.bits} bits costs {floor:.3g}: this model needs more bits than {half.label} has"
    )
    run.document.findings.append(
        Finding(
            name=f"{half.name}-too-coarse",
            kind="precision",
            severity="error",
            status="left",
            message=message,
            facts={"error": error, "floor": floor},
        )
    )
    return error


def tell_narrow(run: Run, half: FloatType, error: float, tolerance: float) -> None:
    """Say that other samples may miss the tolerance, where these nearly do and the model enlarges what it is given."""
    if not _ROOM * tolerance < error <= tolerance:
        return
    floor = _floor(run, half)
    if not _SENSITIVE * tolerance < floor < math.inf:
        return
    message = (
        f"the outputs are off by {error:.3g} (tolerance {tolerance:.3g}), and rounding nothing but weights and inputs "
        f"to {half.label}'s {half.bits} bits costs {floor:.3g}: other samples may be off by more than the tolerance"
    )
    run.document.findings.append(
        Finding(
            name=f"{half.name}-narrow",
            kind="precision",
            severity="info",
            status="skipped",
            message=message,
            facts={"error": error, "floor": floor},
        )
    )
