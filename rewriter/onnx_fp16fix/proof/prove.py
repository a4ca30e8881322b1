"""Proof of rules: what the author wrote, and everything that can be derived from a hit without being written."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from onnx_fp16fix.keywords import typed
from onnx_fp16fix.language import Rule, load_rules, select_rules
from onnx_fp16fix.language.cases import run_case
from onnx_fp16fix.language.rule import Case
from onnx_fp16fix.proof import structure
from onnx_fp16fix.proof.equality import compare
from onnx_fp16fix.proof.guards import cases_notice, mutants
from onnx_fp16fix.proof.half import NEEDLESS, is_about_range, obligation
from onnx_fp16fix.proof.inputs import Sample, draw_samples
from onnx_fp16fix.proof.literal import literal_ops, loses
from onnx_fp16fix.proof.report import Failure, RuleProof, Step, Thoroughness
from onnx_fp16fix.proof.respell import respell, spread
from onnx_fp16fix.proof.text import case_text, suite_text
from onnx_fp16fix.proof.trial import Trial, case_model, measured, moved_ranges, shape_of, try_rule
from onnx_fp16fix.proof.unguarded import Unguarded

__all__ = ["prove", "prove_rule", "prove_rules"]

_OPSETS = (11, 13, 17, 18, 20, 23)
_IMPOSSIBLE = (ValueError, onnx.shape_inference.InferenceError)
_FAST_SPELLINGS = 10
_SPELLINGS = 60


def prove(
    rules: Iterable[Rule],
    thoroughness: Thoroughness = "full",
    *,
    seed: int = 0,
    advance: Callable[[RuleProof], None] = lambda proof: None,
) -> tuple[RuleProof, ...]:
    """The proof of each rule, alone; ``advance`` hears of each when it is done."""
    found = []
    for rule in rules:
        found.append(prove_rule(rule, thoroughness, seed=seed))
        advance(found[-1])
    return tuple(found)


@typed
def prove_rules(
    rules: str | Path | Sequence[str | Path] = "pack:all",
    *,
    select: Sequence[str] = (),
    fast: bool = False,
    seed: int = 0,
) -> tuple[RuleProof, ...]:
    """What ``rules test`` does: the proof of each rule of these files, folders and packs; all shipped rules without.

    ``select``: ids, prefixes of ids, names. ``fast``: fewer spellings, opsets and inputs. ``seed`` is that of the
    inputs. Raises RuleFileError for files that cannot be loaded; a rule that fails says so in its proof.
    """
    loaded = load_rules([rules] if isinstance(rules, str | Path) else list(rules))
    return prove(select_rules(loaded, select) if select else loaded, "fast" if fast else "full", seed=seed)


def prove_rule(rule: Rule, thoroughness: Thoroughness = "full", *, seed: int = 0) -> RuleProof:
    """The proof of one rule. A rule for the whole model has nothing that could be proven."""
    start = time.process_time()
    proof = RuleProof(rule.id, rule.name, f"{rule.place.file}:{rule.place.line}")
    if rule.patterns:
        _Prover(rule, thoroughness, seed, proof).run()
    proof.seconds = time.process_time() - start
    return proof


@dataclass
class _Prover:
    rule: Rule
    thoroughness: Thoroughness
    seed: int
    proof: RuleProof
    shown: bool = False
    """Whether FP16 fails on some hit without the rule."""

    def run(self) -> None:
        hits = [case for case in self.rule.cases if case.hit and self._holds(case)]
        if not self.rule.cases:
            self._without_cases()
            return
        misses = [case for case in self.rule.cases if not case.hit]
        for case in misses:
            self._holds(case)
        for case in hits:
            self._hit(case)
        if self.thoroughness != "quick":
            if not hits and not any(case.todo for case in self.rule.cases if case.hit):
                self._fail("cases", "no hit holds, so nothing can be derived from it")
            if not misses:
                self._fail("cases", "no miss shows where the rule keeps away")
            if hits and is_about_range(self.rule) and not self.shown:
                self.proof.warnings.append("no hit shows in simulation that FP16 fails without the rule")
            self._guards()

    def _without_cases(self) -> None:
        message = "the rule has no tests, so nothing of it can be proven"
        if self.thoroughness == "quick":
            self.proof.warnings.append(message)
        else:
            self._fail(
                "cases", f"{message}; 'onnx-fp16fix rules new {self.rule.id}' shows what a case looks like"
            )

    def _holds(self, case: Case) -> bool:
        self._count("cases")
        result = run_case(self.rule, case)
        place = f"{case.place.file}:{case.place.line}"
        if result.known_gap:
            self.proof.gaps.append(f"{place}: {case.todo}")
        elif not result.passed:
            self._fail("cases", result.message, place=place)
        elif case.todo is not None:
            self.proof.warnings.append(f"{place}: this case holds, its 'todo' can go")
        return result.passed

    def _hit(self, case: Case) -> None:
        trial = try_rule(self.rule, case)
        samples = self._samples(trial)
        self._sound(case, trial)
        self._equal(case, trial, samples)
        self._twice(case, trial, samples)
        if self.thoroughness == "quick":
            return
        self._other_readers(case, trial)
        self._spellings(case)
        self._opsets(case)
        if is_about_range(self.rule) and case.todo is None:
            self._count("fp16")
            message = obligation(trial, samples)
            self.shown = self.shown or message != NEEDLESS
            if message not in (None, NEEDLESS):
                self._fail("fp16", str(message), case)

    def _samples(self, trial: Trial) -> list[Sample]:
        masks = self.rule.equal == "context"
        seeds = range(self.seed, self.seed + (4 if self.thoroughness == "full" else 1))
        session = trial.sessions[0]
        drawn = [draw_samples(trial.before, trial.given, session, seed=seed, masks=masks) for seed in seeds]
        return [sample for samples in drawn for sample in samples]

    def _sound(self, case: Case, trial: Trial, note: str = "") -> bool:
        self._count("structure")
        message = structure.sound(trial)
        if message is not None:
            self._fail("structure", note + message, case)
        return message is None

    def _equal(
        self, case: Case, trial: Trial, samples: Sequence[Sample], note: str = "", rounds: bool = False
    ) -> None:
        if not trial.rewritten:
            return
        self._count("equality")
        if not samples:
            self._fail("equality", f"{note}no inputs keep the inner values in their given ranges", case)
        elif (found := compare(trial, samples, rounds=rounds)) is not None:
            self._fail("equality", note + found[1], case)

    def _twice(self, case: Case, trial: Trial, samples: Sequence[Sample]) -> None:
        self._count("twice")
        table = measured(trial, samples[0].feeds) if samples else trial.table
        again = try_rule(self.rule, case, trial.after, table)
        if (message := structure.settled(trial, again)) is not None:
            self._fail("twice", message, case)

    def _other_readers(self, case: Case, trial: Trial) -> None:
        for value in structure.inner_values(trial):
            for change, what in (
                (structure.with_consumer, "another reader"),
                (structure.with_output, "a graph output"),
            ):
                note = f"with '{value}' as {what}: " if "output" in what else f"with {what} of '{value}': "
                self._count("other readers")
                other = try_rule(self.rule, case, change(trial.before, value))
                if not other.rewritten:
                    continue
                message = structure.sound(other)
                found = compare(other, self._few(other)) if message is None else None
                if message is not None or found is not None:
                    self._fail("other readers", note + (message or (found[1] if found else "")), case)

    def _few(self, trial: Trial) -> list[Sample]:
        masks = self.rule.equal == "context"
        samples = draw_samples(trial.before, trial.given, trial.sessions[0], seed=self.seed, masks=masks)
        return [sample for sample in samples if sample.kind in ("uniform", "signs", "zero row")]

    def _spellings(self, case: Case) -> None:
        written = {suite_text(other.suite) for other in self.rule.cases if other is not case}
        literal = literal_ops(self.rule)
        most = _SPELLINGS if self.thoroughness == "full" else _FAST_SPELLINGS
        tried = 0
        for spelling in spread(list(respell(case.suite, lambda expr: shape_of(case, expr))), most):
            if suite_text(spelling.suite) in written or loses(spelling.suite, case.suite, literal):
                continue  # the author has said what happens there
            try:
                model = case_model(case, spelling.suite)
                trial = try_rule(self.rule, case, model, moved_ranges(model, case))
            except _IMPOSSIBLE:
                continue
            tried += 1
            self._count("spellings")
            other = replace(case, suite=spelling.suite)
            if not trial.applied and _lacks_ranges(trial):
                continue  # it matches; the case gives no range for a tensor that only this spelling has
            if not trial.applied:
                self._fail("spellings", f"not applied ({spelling.label}); {trial.decided}", other)
            elif self.thoroughness == "full" and self._sound(other, trial):
                self._equal(other, trial, self._few(trial), f"{spelling.label}: ", spelling.rounds)

    def _opsets(self, case: Case) -> None:
        allowed = [opset for opset in _OPSETS if opset in self.rule.opset and opset != case.opset]
        if self.thoroughness == "fast":
            allowed = sorted({*allowed[:1], *allowed[-1:]})
        for opset in allowed:
            try:
                model = case_model(case, opset=opset)
                onnx.checker.check_model(model, full_check=True)
            except (*_IMPOSSIBLE, onnx.checker.ValidationError):
                continue  # the case itself cannot be written there
            self._count("opsets")
            trial, other = try_rule(self.rule, case, model), replace(case, opset=opset)
            if not trial.applied:
                self._fail("opsets", f"not applied at opset {opset}; {trial.decided}", other)
            elif self._sound(other, trial, f"at opset {opset}: "):
                self._equal(other, trial, self._few(trial), f"at opset {opset}: ")

    def _guards(self) -> None:
        unguarded = Unguarded(self.rule, self.seed, self.shown and is_about_range(self.rule))
        for mutant in mutants(self.rule):
            self._count("guards")
            if not cases_notice(self.rule, mutant) and not unguarded.does_harm(mutant):
                shown = unguarded.shows(mutant)
                self._fail(
                    "guards", f"{mutant.clause} is not tested: nothing fails without '{mutant.guard}'", shown
                )

    def _count(self, step: Step) -> None:
        self.proof.checks[step] = self.proof.checks.get(step, 0) + 1

    def _fail(self, step: Step, message: str, case: Case | None = None, place: str = "") -> None:
        text = ""
        if case is not None:
            note = f"{self.rule.id}, step '{step}', seed {self.seed}"
            text = case_text(case.suite, case.given, hit=case.hit, opset=case.opset, note=note)
            place = place or f"{case.place.file}:{case.place.line}"
        self.proof.failures.append(Failure(self.rule.id, step, message, text, place or self.proof.place))


def _lacks_ranges(trial: Trial) -> bool:
    return any(record.missing or "no calibration" in record.reason for record in trial.run.records)
