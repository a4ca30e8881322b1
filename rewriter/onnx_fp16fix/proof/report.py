"""What a proof found: steps counted, failures with an entry to paste, gaps that the author knows of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

__all__ = ["STEPS", "Failure", "RuleProof", "Step", "Thoroughness"]

Thoroughness = Literal["full", "fast", "quick"]
"""``full``: everything. ``fast``: fewer spellings, opsets and inputs. ``quick``: what ``apply`` asks of a file."""

Step = Literal[
    "cases", "spellings", "other readers", "equality", "fp16", "twice", "structure", "opsets", "guards"
]
STEPS: dict[Step, str] = {
    "cases": "the rule's own cases",
    "spellings": "the rule fires on every spelling and operand order of its hits",
    "other readers": "inner values that something else reads keep their values",
    "equality": "before and after agree as the equality class says, on random inputs within the given ranges",
    "fp16": "in simulated FP16 the case fails without the rule and works with it",
    "twice": "a second application changes nothing",
    "structure": "checker and strict shape inference pass, inputs and outputs stay, nothing dangles",
    "opsets": "the rule fires from its lowest to its highest opset",
    "guards": "without any one guard something fails",
}
"""Each step with what it shows, in the order in which they run."""


@dataclass(frozen=True, slots=True)
class Failure:
    """``case`` is an entry of ``tests:`` that shows it, empty where the failure is about the rule as a whole."""

    rule: str
    step: Step
    message: str
    case: str = ""
    place: str = ""


@dataclass
class RuleProof:
    """The proof of one rule; ``checks`` counts what each step tried."""

    rule: str
    name: str
    place: str
    checks: dict[Step, int] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return not self.failures

    def failed(self, step: Step) -> int:
        """Failures of one step."""
        return sum(failure.step == step for failure in self.failures)
