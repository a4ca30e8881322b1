"""One rule on one small model: what it did, and the model after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import onnx

from onnx_fp16fix.calibrate.ranges import RangeTable, TensorRange
from onnx_fp16fix.graph import build_view
from onnx_fp16fix.language import EQUAL, PlanRequest, Rule, RuleRun, apply_rules
from onnx_fp16fix.language.cases import build_model, case_table, givens
from onnx_fp16fix.language.expression import Expr, Suite
from onnx_fp16fix.language.given import Given
from onnx_fp16fix.language.rule import Case
from onnx_fp16fix.model import Model, apply_patches
from onnx_fp16fix.runtime import Array, Session, open_session

__all__ = [
    "Trial",
    "case_model",
    "everything",
    "measured",
    "moved_ranges",
    "shape_of",
    "try_rule",
    "values_of",
]


@dataclass(frozen=True)
class Trial:
    """``before`` is the model of a case, ``after`` what one pass of the rule made of it (the same where nothing)."""

    rule: Rule
    given: Mapping[str, Given]
    before: onnx.ModelProto
    after: onnx.ModelProto
    table: RangeTable
    run: RuleRun

    @property
    def applied(self) -> bool:
        """Whether the rule rewrote something or asked for something."""
        return any(record.status == "applied" for record in self.run.records)

    @property
    def rewritten(self) -> bool:
        """Whether the model changed."""
        return bool(self.run.patches)

    @property
    def requests(self) -> tuple[PlanRequest, ...]:
        """What the rule asks of the planner."""
        return self.run.requests

    @property
    def decided(self) -> str:
        """Clauses and reasons, for a message."""
        records = self.run.records
        return (
            "; ".join(f"{record.clause}: {record.reason}" for record in records)
            or "the pattern does not match"
        )

    @cached_property
    def sessions(self) -> tuple[Session, Session]:
        """Both models in ONNX Runtime as written, every float tensor an output."""
        return everything(self.before), everything(self.after)


def case_model(case: Case, suite: Suite | None = None, opset: int | None = None) -> onnx.ModelProto:
    """The model of a case, or of another suite or opset in its place. Raises ValueError or InferenceError."""
    return build_model(suite or case.suite, givens(case), opset or case.opset)


def try_rule(
    rule: Rule, case: Case, model: onnx.ModelProto | None = None, table: RangeTable | None = None
) -> Trial:
    """One pass of the rule alone over the case, or over another model with the case's ranges."""
    given = givens(case)
    before = model if model is not None else case_model(case)
    table = table if table is not None else case_table(given)
    targets = [case.target] if case.target else rule.targets
    run = apply_rules(
        build_view(Model(before)), [replace(rule, after=())], table, targets=targets, allow=EQUAL
    )
    after = apply_patches(Model(before), run.patches).proto if run.patches else before
    return Trial(rule, given, before, after, table, run)


def everything(model: onnx.ModelProto) -> Session:
    """A session in which each computed tensor is an output."""
    names = [name for node in model.graph.node for name in node.output if name]
    return open_session(model, outputs=dict.fromkeys([*names, *(info.name for info in model.graph.output)]))


def values_of(session: Session, model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Graph outputs for these inputs. Raises ModelError."""
    return session.run(feeds, [info.name for info in model.graph.output])


def measured(trial: Trial, feeds: Mapping[str, Array]) -> RangeTable:
    """Ranges for the model after: what the case gives, and for new tensors what these inputs show."""
    found = dict(trial.table.tensors)
    with np.errstate(all="ignore"):
        for name, values in trial.sessions[1].run(feeds).items():
            if (
                name not in found
                and isinstance(values, np.ndarray)
                and values.dtype.kind == "f"
                and values.size
            ):
                finite = values[np.isfinite(values)]
                size = np.abs(finite[finite != 0])
                smallest = float(size.min()) if size.size else np.inf
                low, high = (float(finite.min()), float(finite.max())) if finite.size else (np.inf, -np.inf)
                spoilt = int(values.size - finite.size)
                found[name] = TensorRange(low, high, smallest, count=int(finite.size), nonfinite=spoilt)
    return RangeTable(found, 1)


def moved_ranges(model: onnx.ModelProto, case: Case) -> RangeTable:
    """The ranges of a case, also for tensors that are only another form of a named one: a value before its Identity."""
    found = dict(case_table(givens(case)).tensors)
    for node in reversed(model.graph.node):
        if node.op_type in ("Identity", "Unsqueeze") and node.output[0] in found:
            found.setdefault(node.input[0], found[node.output[0]])
    return RangeTable(found, 1)


def shape_of(case: Case, expr: Expr) -> tuple[int, ...] | None:
    """Static shape of an expression of the case, None where it has none."""
    try:
        model = build_model(Suite(case.suite.steps, expr), givens(case), case.opset)
    except (ValueError, onnx.shape_inference.InferenceError):
        return None
    kind = model.graph.output[0].type.tensor_type
    if not kind.HasField("shape") or not all(dim.HasField("dim_value") for dim in kind.shape.dim):
        return None
    return tuple(dim.dim_value for dim in kind.shape.dim)
