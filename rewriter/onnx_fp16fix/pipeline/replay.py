"""``apply`` of a lock file: what ``fix`` decided, done again without calibration or solving."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from onnx_fp16fix import __version__
from onnx_fp16fix.calibrate import RangeTable, Source
from onnx_fp16fix.emit import selecting_inputs
from onnx_fp16fix.errors import Problem, RuleFileError, UsageError
from onnx_fp16fix.graph import build_view
from onnx_fp16fix.model import Model, Patch, apply_patches
from onnx_fp16fix.model.digest import content_digest
from onnx_fp16fix.outcome import Outcome
from onnx_fp16fix.pipeline.accuracy import simulate
from onnx_fp16fix.pipeline.channels import with_channels
from onnx_fp16fix.pipeline.conclude import TensorRTMode, conclude
from onnx_fp16fix.pipeline.lock import Lock, Step, lock_text, read_lock
from onnx_fp16fix.pipeline.prepare import ModelSource, Run, inline_functions
from onnx_fp16fix.pipeline.state import Emitted, Io, Precision, State, emit, type_for
from onnx_fp16fix.plan.channel_scales import ChannelScale
from onnx_fp16fix.progress import Progress
from onnx_fp16fix.simulate import Mode
from onnx_fp16fix.verify import Tolerances
from onnx_fp16fix.wording import spelled

__all__ = ["locked", "replay"]


def locked(
    run: Run,
    state: State,
    emitted: Emitted,
    outcome: Outcome,
    precision: Precision,
    io: Io,
    limits: Tolerances,
) -> Outcome:
    """The outcome of ``fix`` with its lock file, whose text is made when it is asked for."""
    verification, tolerance, model = run.document.verification, limits.fp16, run.document.model
    assert tolerance is not None
    assert model is not None
    chosen = (
        selecting_inputs(state.scope, state.half_type) if state.half and io == "fp32" else frozenset[int]()
    )
    selecting = tuple(sorted(index for index in chosen if ((), index) in state.half))
    file, sha256 = Path(model.path).name if model.path else "", model.sha256

    def text() -> str:
        lock = Lock(
            content_digest(run.model),
            content_digest(emitted.result),
            precision,
            io,
            state.steps,
            state.plan,
            run.document.status,
            verification is not None and verification.passed,
            tolerance,
            limits.fp32,
            file=file,
            sha256=sha256,
            forced=run.forced,
            selecting=selecting,
        )
        return lock_text(lock, state.scope)

    outcome.make_lock = text
    return outcome


def replay(
    path: Path,
    model: ModelSource,
    data: Source,
    *,
    samples: int,
    seed: int,
    verify: bool,
    kernels: Mode,
    tensorrt: TensorRTMode,
    progress: Progress,
    tolerance: float | None = None,
    asked: Mapping[str, object] = MappingProxyType({}),
) -> Outcome:
    """The model that ``fix`` made when it wrote the lock.

    It is verified where data are given, and where it is not the very result that ``fix`` had; else that result's own
    verification counts. ``tolerance``: in place of the lock's. ``asked``: other options that users gave, by keyword.
    Raises RuleFileError (LOCK-MODEL) for another model, UsageError (LOCK-OPTION) for what the lock has decided.
    """
    lock = read_lock(path)
    _refuse_options(lock, path, asked)
    run = Run(
        "apply", model, data, progress, samples, seed, measures=False, kernels=kernels, forced=lock.forced
    )
    if (digest := content_digest(run.model)) != lock.model:
        raise _other_model(lock, path, digest, run)
    try:
        changed = inline_functions(run.model)
        for step in lock.steps:
            changed = _redone(changed, step)
        state = State(
            changed, build_view(changed), RangeTable({}, samples=0), 1.0, lock.plan, steps=lock.steps,
            half_type=type_for(lock.precision), half={((), index): "" for index in lock.selecting},
        )  # fmt: skip
        emitted = emit(run, state, lock.precision, lock.io)
        emitted.note(run.document)
    except (LookupError, AssertionError, AttributeError, ValueError) as error:
        problem = Problem("LOCK-READ", f"does not fit its model, was it edited? {error}", file=str(path))
        raise RuleFileError(problem) from error
    same = content_digest(emitted.result) == lock.result
    if not same:
        run.warn(f"this is not the model that fix made with the lock: {_why_other(lock)}")
    if verify and (data is not None or not same):
        limits = Tolerances(lock.fp16 if tolerance is None else tolerance, lock.fp32)
        typed = simulate(run, emit(run, state, "fp16", "fp32")) if lock.precision == "fp32" else None
        return conclude(run, state, emitted, limits, verify, tensorrt, typed)
    if not same:
        run.warn("the result was not verified")
    elif not lock.verified:
        run.warn("fix did not verify this result when it wrote the lock")
    if tolerance is not None and data is None:
        run.warn(
            f"{spelled('tolerance')} decides nothing: without {spelled('data')} the result is not verified again"
        )
    if lock.status == "findings":
        run.warn("fix left findings when it wrote this lock; its own report names them")
    outcome = run.finish(lock.status, emitted.result)
    outcome.sidecars = emitted.sidecars
    return outcome


def _refuse_options(lock: Lock, path: Path, asked: Mapping[str, object]) -> None:
    decided = {"precision": lock.precision, "io": lock.io}
    problems = []
    for name, value in asked.items():
        if name not in decided:
            found = f"{spelled(name)} does not go with a lock file: it holds what was decided already"
            problems.append(Problem("LOCK-OPTION", found, file=str(path)))
        elif value != decided[name]:
            found = f"{spelled(name)} is {value!r}, and this lock makes {decided[name]!r}"
            hint = f"leave {spelled(name)} out, or let fix make another lock"
            problems.append(Problem("LOCK-OPTION", found, file=str(path), hint=hint))
    if problems:
        raise UsageError(problems)


def _why_other(lock: Lock) -> str:
    if lock.version == __version__:
        return "the lock was edited, or an unreleased version wrote it; fix makes another one"
    return f"version {lock.version} wrote it, and {__version__} writes such models differently"


def _other_model(lock: Lock, path: Path, digest: str, run: Run) -> RuleFileError:
    origin = f": it was made for {lock.origin()}" if lock.origin() else ""
    entry = run.document.model
    if origin and entry is not None and entry.sha256 and entry.sha256 != lock.sha256:
        origin += f", and this one has {entry.sha256}"
    if digest == lock.result:
        found = f"this model is what the lock makes already{origin}"
        hint = "nothing is left to do; to make it again, give the model from before"
    else:
        found = f"this lock belongs to another model{origin}"
        hint = "fix this model anew, or give the model that the lock was made for"
    return RuleFileError(Problem("LOCK-MODEL", found, file=str(path), hint=hint))


def _redone(model: Model, step: Step) -> Model:
    patches = [patch for patch in step if isinstance(patch, Patch)]
    if patches:
        return apply_patches(model, patches)
    scales = [scale for scale in step if isinstance(scale, ChannelScale)]
    return with_channels(build_view(model).main, scales)[0]
