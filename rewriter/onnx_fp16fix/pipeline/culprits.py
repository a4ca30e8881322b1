"""``bisect``: which nodes cause the error, by measurement, and the smallest set of them to keep in FP32."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from onnx_fp16fix import __version__
from onnx_fp16fix.blame import (
    Alone,
    CheckCommand,
    OutOfTrials,
    Places,
    Simulated,
    TrialCache,
    Trials,
    measure_alone,
    minimise,
    model_stamp,
    resolve_names,
    rule_file,
)
from onnx_fp16fix.calibrate import Source
from onnx_fp16fix.document import BisectEntry, BlamedNode, Finding
from onnx_fp16fix.errors import ModelError, Problem, UsageError
from onnx_fp16fix.graph import build_view
from onnx_fp16fix.half import FP16, HALF_TYPES, FloatType, Half
from onnx_fp16fix.keywords import typed
from onnx_fp16fix.outcome import Outcome
from onnx_fp16fix.pipeline.arguments import check_arguments
from onnx_fp16fix.pipeline.nonfinite import measured_nonfinite
from onnx_fp16fix.pipeline.opset import refuse_old_opset
from onnx_fp16fix.pipeline.prepare import ModelSource, Run, inline_functions
from onnx_fp16fix.progress import Progress, Silent
from onnx_fp16fix.runtime import random_nodes
from onnx_fp16fix.simulate import Mode
from onnx_fp16fix.verify import usual_tolerance

__all__ = ["bisect"]

_SILENT = Silent()
_HELD = 4
"""Samples a search looks at, the worst ones; all samples judge its result."""
_NEGLIGIBLE = 0.1
"""Share of the tolerance below which a block of nodes is cleared together."""
_HEALED = 32
"""Nodes that are also measured the other way round, in FP32 with all others in FP16."""
_INLINED = (
    "the model has local functions: node names are those after inlining them (onnx.inliner), and the rule file fits "
    "the inlined model"
)
_ACCEPTED = (
    "is the error in simulation, and yet the check command accepts the model: does it look at the outputs?"
)
Nodes = frozenset[int]
_HALVES = frozenset(half.elem_type for half in HALF_TYPES.values())


@typed
def bisect(
    model: ModelSource,
    data: Source = None,
    *,
    check: str | None = None,
    keep: Sequence[str] = (),
    tolerance: float | None = None,
    kernels: Mode = "default",
    as_type: Half = "fp16",
    cache: str | Path | None = None,
    trials: int = 4000,
    samples: int = 4,
    seed: int = 0,
    progress: Progress = _SILENT,
) -> Outcome:
    """Find the nodes that cause the error of plain FP16; the result is ``run.bisect``, its ``rules`` a rule file.

    Judged by simulation: the relative L2 error of every output must be within ``tolerance`` (for outputs that are no
    floats, the share of elements that differ). With ``check``, a command with ``{model}`` in it judges instead: exit
    status 0 means good, and simulation only tells in which order to try. ``keep`` names nodes that stay in FP32 in any
    case. ``as_type="bf16"`` asks the same of BF16; ``tolerance``: None is 1e-2, in BF16 8e-2. ``kernels``: what
    simulation takes GPU kernels to keep in FP16 inside (default, cuda, pessimistic).
    ``cache`` is a file of trials: the same call goes on where an interrupted one stopped. ``trials``: most sets
    of nodes to try; status ``findings`` where that was too few for a minimal set. Raises UsageError (unknown names,
    a check command or cache that cannot be used), ModelError and DataError.
    """
    check_arguments(tolerance=tolerance, samples=samples, kernels=kernels, as_type=as_type)
    half = HALF_TYPES[as_type]
    limit = usual_tolerance(half) if tolerance is None else tolerance
    run = Run("bisect", model, data, progress, samples, seed, kernels=kernels)
    refuse_old_opset(run.model, half)
    base = inline_functions(run.model)
    if base is not run.model:
        run.warn(_INLINED)
    places = Places(build_view(base).main)
    kept = resolve_names(keep, places.names)
    assert run.document.model is not None
    stamp = model_stamp(run.model, run.document.model.sha256)
    # BF16 adds to the stamp of FP16, so that trials of earlier versions are found again
    stamps = (__version__, stamp, kernels) if half is FP16 else (__version__, stamp, kernels, half.name)
    store = TrialCache(None if cache is None else Path(cache), *stamps)
    try:
        return _Search(run, places, kept, store, check, limit, trials, half).outcome()
    except KeyboardInterrupt:
        if cache is not None:
            run.warn(f"interrupted: what was measured is in {cache}, and the same command goes on from there")
        raise


class _Search:
    def __init__(
        self,
        run: Run,
        places: Places,
        kept: Nodes,
        store: TrialCache,
        check: str | None,
        tolerance: float,
        limit: int,
        half: FloatType,
    ) -> None:
        self._run, self._places, self._names, self._kept = run, places, places.names, kept
        self._store, self._tolerance, self._limit, self._half = store, tolerance, limit, half
        self._command = None if check is None else CheckCommand(check, places, store, half)
        with run.progress.step("build the switched model"):
            self._simulated = Simulated(places, run.dataset, store, run.kernels, half)
        self._all = self._simulated.nodes
        self._entry = BisectEntry(
            judge=check or "simulator", tolerance=tolerance, nodes=len(self._all), as_type=half.name
        )
        run.document.bisect = self._entry

    def outcome(self) -> Outcome:
        entry, progress = self._entry, self._run.progress
        entry.error_fp16 = self._simulated.worst(
            self._kept, progress, f"all nodes in {self._half.label}", _HELD
        )
        assert self._run.document.data is not None
        self._run.document.data.samples = self._simulated.samples
        self._check_finite()
        if self._is_good(self._kept):
            entry.error = entry.error_fp16
            entry.minimal = True
            if entry.error_fp16 > self._tolerance:
                self._run.warn(f"{_number(entry.error_fp16)} {_ACCEPTED}")
            return self._finish(())
        self._check_fp32()
        candidates = sorted(self._all - self._kept)
        with progress.step(
            f"one node in {self._half.label}, the others in FP32", 2 * len(candidates)
        ) as step:
            alone = measure_alone(candidates, _counted(self._error_in_fp16, step.advance), self._negligible())
        found = self._minimal_set(alone.order())
        entry.error = self._simulated.worst(self._kept | found, progress, "judge the result")
        self._rank(alone, found)
        self._explain(found)
        return self._finish(sorted(self._kept | found))

    def _is_good(self, fp32: Nodes) -> bool:
        if self._command is not None:
            return self._command.passes(fp32)
        return self._simulated.passes(fp32, self._tolerance)

    def _check_finite(self) -> None:
        """Say that FP32 is not finite already. Raises ModelError where that leaves nothing to compare."""
        broken = self._simulated.nonfinite
        text = measured_nonfinite(self._run, self._places.main.model) if broken else None
        if text is None:
            return
        if all(broken.get(name, False) for name in self._simulated.outputs):
            raise ModelError(
                Problem("BISECT-NONFINITE", text, hint="no output has a finite value to compare")
            )
        self._run.warn(text)

    def _check_fp32(self) -> None:
        """With every node in FP32 all must be well, or the search has no end. Raises UsageError or ModelError."""
        if self._is_good(self._all):
            return
        if self._command is not None:
            message = f"the check command '{self._entry.judge}' fails with every node in FP32 too"
            said = f" (it said: {self._command.last_words})" if self._command.last_words else ""
            hint = f"run it on the FP32 model by hand: it must end with status 0 there{said}"
            raise UsageError(Problem("BISECT-CHECK", message, hint=hint))
        error = self._simulated.error(self._all)
        scopes = [self._places.main, *self._places.main.inside()]
        if any(scope.dtype(name) in _HALVES for scope in scopes for name in scope.tensors):
            message = f"parts that are 16-bit in the model itself give the outputs an error of {error:.3g}"
            raise ModelError(Problem("BISECT-TYPED", message, hint="give the FP32 model it was made from"))
        drawing = {node.op_type for node in random_nodes(self._places.main.model.proto.graph)}
        what = " and ".join(sorted(drawing)) or "something in it"
        differ = f"two runs in FP32 differ by {error:.3g}"
        message = f"{differ}: {what} draws other numbers at each run, so no node can be blamed"
        hint = "random numbers that the main graph draws are held fixed, those of bodies and of Dropout cannot be"
        raise ModelError(Problem("BISECT-RANDOM", message, hint=f"{hint}: take these out"))

    def _negligible(self) -> float:
        return _NEGLIGIBLE * self._tolerance

    def _error_in_fp16(self, narrow: Nodes) -> float:
        return self._simulated.error(self._all - narrow)

    def _minimal_set(self, order: list[int]) -> Nodes:
        """A set that is enough for all samples; minimal unless the trials run out."""
        best = frozenset(order)
        with self._run.progress.step("smallest set of FP32 nodes") as step:
            trials = Trials(lambda fp32: self._is_good(self._kept | fp32), self._limit, step.advance)
            try:
                while True:
                    for smaller in minimise(order, trials.passes):
                        best = frozenset(smaller)
                    self._entry.minimal = True
                    if self._holds(best):
                        break
                    trials.forget()
            except OutOfTrials:
                self._entry.minimal = False
                if not self._holds(best):
                    best = frozenset(order)
        self._entry.trials = trials.count
        return best

    def _holds(self, found: Nodes) -> bool:
        """Whether all samples agree; those that do not join the search. A command has given its verdict already."""
        if self._command is not None:
            return True
        error = self._simulated.worst(self._kept | found, _SILENT, "judge", _HELD)
        return error <= self._tolerance

    def _rank(self, alone: Alone, found: Nodes) -> None:
        """Effects of the nodes that matter, and of all in the set, worst first."""
        effects = dict(alone.measured)
        for index in sorted(found - effects.keys()):
            effects[index] = self._error_in_fp16(frozenset({index}))
        ranked = sorted(effects, key=lambda index: (-effects[index], index))
        healed = {*ranked[:_HEALED], *found}
        with self._run.progress.step(
            f"one node in FP32, the others in {self._half.label}", len(healed)
        ) as step:
            for index in ranked:
                blamed = BlamedNode(
                    node=self._names[index],
                    op=self._places.op(index),
                    alone=effects[index],
                    kept=index in found,
                )
                if index in healed:
                    blamed.others = self._simulated.error(self._kept | {index})
                    blamed.others_measured = True
                    step.advance()
                self._entry.ranking.append(blamed)
        self._entry.cleared = len(self._all - self._kept) - len(ranked)
        self._entry.negligible = self._negligible()

    def _explain(self, found: Nodes) -> None:
        for blamed in self._entry.ranking:
            if not blamed.kept:
                continue
            alone = blamed.alone
            finite = alone is not None and math.isfinite(alone)
            effect = f"puts an error of {alone:.3g} into the outputs" if finite else "makes them not finite"
            self._run.document.findings.append(
                Finding(
                    name=f"{self._half.name}-culprit",
                    kind="precision" if finite else "nan",
                    severity="error",
                    status="available",
                    message=f"{blamed.op} alone in {self._half.label} {effect}: the rule keeps it in FP32",
                    node=blamed.node,
                    facts={"alone": alone if finite else None},
                )
            )

    def _finish(self, fp32: Sequence[int]) -> Outcome:
        entry, run = self._entry, self._run
        entry.recalled = self._store.recalled
        entry.fp32_nodes = [self._names[index] for index in fp32]
        if fp32 and entry.ranking:
            model = run.document.model
            entry.rules = rule_file(
                entry.fp32_nodes,
                model=Path(model.path).name if model is not None and model.path else "a model from memory",
                judge=entry.judge,
                errors=f"{_number(entry.error_fp16)} all in {self._half.label}, {_number(entry.error)} with this rule",
                minimal=entry.minimal,
                precision=self._half.name,
            )
        return run.finish("ok" if entry.minimal else "findings")


def _counted(measure: Callable[[Nodes], float], advance: Callable[[], None]) -> Callable[[Nodes], float]:
    def counted(nodes: Nodes) -> float:
        advance()
        return measure(nodes)

    return counted


def _number(value: float | None) -> str:
    return f"{value:.3g}" if value is not None and math.isfinite(value) else "not finite"
