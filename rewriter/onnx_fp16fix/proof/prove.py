"""Proof of rules: what the author wrote, and everything that can be derived from a hit without being written."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import onnx

from onnx_fp16fix.language import Rule
from onnx_fp16fix.language.cases import run_case
from onnx_fp16fix.language.expression import Binary, Call, Suite, walk
from onnx_fp16fix.language.pattern import Operation, patterns_in
from onnx_fp16fix.language.rule import Case
from onnx_fp16fix.proof import structure
from onnx_fp16fix.proof.equality import compare
from onnx_fp16fix.proof.guards import Mutant, cases_notice, mutants, near_cases
from onnx_fp16fix.proof.half import NEEDLESS, is_about_range, obligation
from onnx_fp16fix.proof.inputs import Sample, draw_samples
from onnx_fp16fix.proof.report import Failure, RuleProof, Step, Thoroughness
from onnx_fp16fix.proof.respell import Spelling, respell
from onnx_fp16fix.proof.text import case_text, suite_text
from onnx_fp16fix.proof.trial import Trial, case_model, measured, moved_ranges, shape_of, try_rule

__all__ = ["prove", "prove_rule"]

_Item = TypeVar("_Item")
_OPSETS = (11, 13, 17, 18, 20, 23)
_IMPOSSIBLE = (ValueError, onnx.shape_inference.InferenceError)
_FAST_SPELLINGS = 10
_SPELLINGS = 60
_NEAR = 60


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
        literal = _literal_ops(self.rule)
        most = _SPELLINGS if self.thoroughness == "full" else _FAST_SPELLINGS
        tried = 0
        for spelling in _spread(list(respell(case.suite, lambda expr: shape_of(case, expr))), most):
            if suite_text(spelling.suite) in written or _touches(spelling, case, literal):
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
        for mutant in mutants(self.rule):
            self._count("guards")
            if not cases_notice(self.rule, mutant) and not self._harmful(mutant):
                shown = self._distinguishing(mutant)
                self._fail(
                    "guards", f"{mutant.clause} is not tested: nothing fails without '{mutant.guard}'", shown
                )

    def _harmful(self, mutant: Mutant) -> bool:
        """Whether the rule without the guard does wrong near one of its hits."""
        return any(self._does_wrong(trial) for _, trial in self._differing(mutant))

    def _does_wrong(self, trial: Trial) -> bool:
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
        return self.shown and is_about_range(self.rule) and obligation(trial, samples) is not None

    def _distinguishing(self, mutant: Mutant) -> Case | None:
        found = next(self._differing(mutant), None)
        return replace(found[0], hit=False) if found is not None else None

    def _differing(self, mutant: Mutant) -> Iterator[tuple[Case, Trial]]:
        """Cases near the hits that the rule leaves alone, or mends in another way, and the mutant rewrites."""
        for case in _spread(list(near_cases(self.rule)), _NEAR):
            try:
                own, changed = try_rule(self.rule, case), try_rule(mutant.rule, case)
            except _IMPOSSIBLE:
                continue
            if changed.applied and (not own.applied or _clauses(own) != _clauses(changed)):
                yield case, changed

    def _count(self, step: Step) -> None:
        self.proof.checks[step] = self.proof.checks.get(step, 0) + 1

    def _fail(self, step: Step, message: str, case: Case | None = None, place: str = "") -> None:
        text = ""
        if case is not None:
            note = f"{self.rule.id}, step '{step}', seed {self.seed}"
            text = case_text(case.suite, case.given, hit=case.hit, opset=case.opset, note=note)
            place = place or f"{case.place.file}:{case.place.line}"
        self.proof.failures.append(Failure(self.rule.id, step, message, text, place or self.proof.place))


def _clauses(trial: Trial) -> list[str]:
    return [record.clause for record in trial.run.records if record.status == "applied"]


def _lacks_ranges(trial: Trial) -> bool:
    return any(record.missing or "no calibration" in record.reason for record in trial.run.records)


def _literal_ops(rule: Rule) -> set[str]:
    """Ops that a pattern asks for literally (``op.Div``): no other spelling of them counts."""
    return {
        part.op
        for pattern in rule.patterns
        for part in patterns_in(pattern)
        if isinstance(part, Operation) and part.literal
    }


_SYMBOLS = {"Add": "+", "Sub": "-", "Mul": "*", "Div": "/", "Pow": "**"}


def _touches(spelling: Spelling, case: Case, literal: set[str]) -> bool:
    """Whether the spelling has fewer of a literal op than the case."""
    return any(_uses(spelling.suite, op) < _uses(case.suite, op) for op in literal)


def _uses(suite: Suite, op: str) -> int:
    exprs = [*(expr for _, expr in suite.steps), suite.result]
    parts = [part for expr in exprs for part in walk(expr)]
    named = [part for part in parts if isinstance(part, Call) and part.function.rpartition(".")[2] == op]
    return len(named) + len(
        [part for part in parts if isinstance(part, Binary) and part.op == _SYMBOLS.get(op)]
    )


def _spread(items: list[_Item], most: int) -> list[_Item]:
    """At most so many of the items, evenly taken from the whole list."""
    if len(items) <= most:
        return items
    return [items[index * len(items) // most] for index in range(most)]
