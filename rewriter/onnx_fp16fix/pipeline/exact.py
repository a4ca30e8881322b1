"""Rules that call themselves exact are held to it one round at a time, whatever other rules a run uses."""

from __future__ import annotations

from onnx_fp16fix.language import Rule, apply_rules
from onnx_fp16fix.model import apply_patches
from onnx_fp16fix.pipeline.prepare import Run
from onnx_fp16fix.pipeline.rules import Round, RuleStage
from onnx_fp16fix.simulate import compare_fp32

__all__ = ["broken_promises"]


def broken_promises(run: Run, stage: RuleStage, *, beside_others: bool) -> list[str]:
    """What exact rules changed that they must not: outputs that are not bit-identical with them alone.

    ``beside_others``: only where rules of other classes ran too; else the FP32 check of the result says the same.
    """
    if beside_others and not stage.tolerance:
        return []
    failures: list[str] = []
    with run.progress.step("verify exact rules"):
        for turn in stage.rounds:
            rules = [rule for rule in stage.rules if rule.id in turn.exact]
            if rules and _difference(run, stage, turn, rules) is not None:
                for rule in rules:
                    difference = _difference(run, stage, turn, [rule])
                    if difference is not None:
                        failures.append(
                            f"{rule.id} calls itself exact, but outputs differ with it alone: {difference}"
                        )
    return list(dict.fromkeys(failures))


def _difference(run: Run, stage: RuleStage, turn: Round, rules: list[Rule]) -> str | None:
    """How outputs differ between the model of a round and what these rules alone make of it; None where they do not."""
    alone = apply_rules(
        turn.view, rules, turn.ranges, margin=stage.margin, targets=stage.targets, allow=stage.allow
    )
    before = turn.view.model
    after = apply_patches(before, alone.patches)
    report = compare_fp32(
        before.proto, after.proto, run.dataset, before_dir=before.base_dir, after_dir=after.base_dir
    )
    return None if report.identical else f"relative L2 error {report.rel_l2:.3g}"
