"""Users' rules must hold their own cases before they touch a model; the shipped ones are proven in the tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnx_fp16fix.errors import Problem, RuleFileError
from onnx_fp16fix.language import packs
from onnx_fp16fix.pipeline.prepare import Run
from onnx_fp16fix.pipeline.rules import RuleStage
from onnx_fp16fix.shipped import rules_dir
from onnx_fp16fix.wording import spelled

__all__ = ["refuse_unproven"]


def refuse_unproven(
    run: Run, stage: RuleStage, sources: str | Path | Sequence[str | Path] | None, *, trusted: bool
) -> None:
    """The quick proof of every rule that is not shipped: its cases, equality on its hits, a second application.

    ``sources``: where the rules of ``stage`` are from, None for the shipped ones.
    Raises RuleFileError (RULE-PROOF) with all that fails. A rule without cases cannot be proven: the user is warned.
    """
    if trusted or sources is None:
        return
    named = [sources] if isinstance(sources, (str, Path)) else list(sources)
    parts = [part.strip() for source in named for part in str(source).split(",")]
    if all(part.startswith("pack:") and part.removeprefix("pack:") in packs() for part in parts):
        return
    shipped = rules_dir().resolve()
    own = [rule for rule in stage.rules if not Path(rule.place.file).resolve().is_relative_to(shipped)]
    if not own:
        return
    from onnx_fp16fix.proof import prove  # not imported where no rule is a user's own

    with run.progress.step("prove rules"):
        proofs = prove(own, "quick")
    problems = []
    for proof in proofs:
        for text in proof.warnings:
            run.warn(f"{proof.rule}: {text}")
        for failure in proof.failures:
            file, _, line = failure.place.rpartition(":")
            message = f"{proof.rule} fails its proof ({failure.step}): {failure.message}"
            trusting = spelled("trust_rules", True)
            hint = f"'onnx-fp16fix rules test {file}' shows all of it; {trusting} applies it nevertheless"
            problems.append(Problem("RULE-PROOF", message, file=file, line=int(line), hint=hint))
    if problems:
        raise RuleFileError(problems)
