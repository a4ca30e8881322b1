"""Users' rules must hold their own cases before they touch a model; the shipped ones are proven in the tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnx_fp16fix.errors import Problem, RuleFileError
from onnx_fp16fix.language import Rule, packs, shipped_rules
from onnx_fp16fix.pipeline.prepare import Run
from onnx_fp16fix.wording import spelled

__all__ = ["refuse_unproven"]


def refuse_unproven(run: Run, rules: Sequence[Rule], sources: str | Path | Sequence[str | Path]) -> None:
    """The quick proof of every rule that is not shipped: its cases, equality on its hits, a second application.

    Raises RuleFileError (RULE-PROOF) with all that fails. A rule without cases cannot be proven: the user is warned.
    """
    named = [sources] if isinstance(sources, (str, Path)) else list(sources)
    parts = [part.strip() for source in named for part in str(source).split(",")]
    if all(part.startswith("pack:") and part.removeprefix("pack:") in packs() for part in parts):
        return
    shipped = {rule.id: rule for rule in shipped_rules()}
    own = [rule for rule in rules if shipped.get(rule.id) != rule]
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
