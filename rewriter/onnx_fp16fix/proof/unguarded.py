"""What a rule without one of its guards does near its hits: harm, or at least something else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import onnx

from onnx_fp16fix.language import Rule
from onnx_fp16fix.language.rule import Case
from onnx_fp16fix.proof import structure
from onnx_fp16fix.proof.equality import compare
from onnx_fp16fix.proof.guards import Mutant, near_cases
from onnx_fp16fix.proof.half import obligation
from onnx_fp16fix.proof.inputs import draw_samples
from onnx_fp16fix.proof.respell import spread
from onnx_fp16fix.proof.trial import Trial, try_rule

__all__ = ["Unguarded"]

_NEAR = 60
"""Cases near the hits that are looked at."""


@dataclass(frozen=True, slots=True)
class Unguarded:
    """``about_range``: FP16 fails on some hit without the rule, so what the mutant writes must work in FP16."""

    rule: Rule
    seed: int
    about_range: bool

    def does_harm(self, mutant: Mutant) -> bool:
        """Whether the rule without the guard does wrong near one of its hits."""
        return any(self._is_wrong(trial) for _, trial in self._differing(mutant))

    def shows(self, mutant: Mutant) -> Case | None:
        """A case that tells both apart, as a miss to be pasted."""
        found = next(self._differing(mutant), None)
        return replace(found[0], hit=False) if found is not None else None

    def _is_wrong(self, trial: Trial) -> bool:
        if structure.sound(trial) is not None:
            return True
        masks = self.rule.equal == "context"
        samples = list(
            draw_samples(trial.before, trial.given, trial.sessions[0], seed=self.seed, masks=masks)
        )
        if not samples:
            return False
        if trial.rewritten and compare(trial, samples) is not None:
            return True
        return self.about_range and obligation(trial, samples) is not None

    def _differing(self, mutant: Mutant) -> Iterator[tuple[Case, Trial]]:
        """Cases near the hits that the rule leaves alone, or mends in another way, and the mutant rewrites."""
        for case in spread(list(near_cases(self.rule)), _NEAR):
            try:
                own, changed = try_rule(self.rule, case), try_rule(mutant.rule, case)
            except (ValueError, onnx.shape_inference.InferenceError):
                continue
            if changed.applied and (not own.applied or _clauses(own) != _clauses(changed)):
                yield case, changed


def _clauses(trial: Trial) -> list[str]:
    return [record.clause for record in trial.run.records if record.status == "applied"]
