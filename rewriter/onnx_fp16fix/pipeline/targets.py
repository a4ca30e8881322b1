"""What a model is made for, and the rules that only a target needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnx_fp16fix.errors import Problem, UsageError
from onnx_fp16fix.half import FloatType
from onnx_fp16fix.language import Target, parse_target, shipped_rules
from onnx_fp16fix.pipeline.prepare import Run, calibrated
from onnx_fp16fix.pipeline.rules import RuleLoader, RuleStage
from onnx_fp16fix.pipeline.state import State

__all__ = ["apply_rules", "asked_targets"]

_ALL = "pack:all"


def asked_targets(
    target: str | None,
    sources: str | Path | Sequence[str | Path] | None,
    rules: RuleLoader,
    half: FloatType,
) -> tuple[Target, ...]:
    """The target that is named; without one, those of the rules that are: who names such a rule wants it.
    ``half``: the type that the model is for.

    Raises UsageError for what is no target, and for one that no rule knows of.
    """
    if target is not None:
        asked = parse_target(target, half.name)
        known = sorted({name for rule in (*rules(), *shipped_rules()) for name in rule.targets})
        if asked.name not in known:
            hint = "targets that rules know of: " + ", ".join(known)
            raise UsageError(Problem("USAGE-TARGET", f"no rule is for the target '{asked.name}'", hint=hint))
        return (asked,)
    named = [sources] if isinstance(sources, (str, Path)) else sources or []
    if not named or _ALL in (part.strip() for source in named for part in str(source).split(",")):
        return ()
    return tuple(
        Target(name, type=half.name)
        for name in dict.fromkeys(name for rule in rules() for name in rule.targets)
    )


def apply_rules(run: Run, state: State, stage: RuleStage, *, for_targets: bool = False) -> State:
    """Rewrite until no rule finds anything new; rounds are bounded, so rules that feed each other end too.

    ``for_targets``: with the rules alone that name a target.
    """
    for _ in range(stage.MAX_ROUNDS):
        with run.progress.step("rules"):
            model = stage.run(state.view, state.ranges, for_targets=for_targets)
        stage.keep()
        if model is None:
            return state
        view, ranges = calibrated(run, model)
        state = State(
            model, view, ranges, state.margin, steps=(*state.steps, stage.patches), half_type=state.half_type
        )
    run.warn(f"rules still change the model after {stage.MAX_ROUNDS} rounds: they undo each other's work")
    return state
