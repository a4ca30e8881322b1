"""Templates: the suite of ``with``, the expressions of ``set`` and the graphs of ``tests``, turned into nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_fp16fix.language.emitter import Emitter, Untranslatable
from onnx_fp16fix.language.evaluate import evaluate
from onnx_fp16fix.language.expression import (
    Binary,
    Call,
    Expr,
    Listing,
    Member,
    Name,
    Number,
    Output,
    Suite,
    Text,
    Unary,
)
from onnx_fp16fix.language.guard import FACTS, MATH, FactSource, Unknown

__all__ = ["Known", "Ref", "Template"]

_OPS = {"+": "Add", "-": "Sub", "*": "Mul", "/": "Div", "**": "Pow", "@": "MatMul"}


@dataclass(frozen=True, slots=True)
class Ref:
    """A tensor by name."""

    name: str


@dataclass(frozen=True, slots=True)
class Known:
    """Constant values in float64; ``name`` is the tensor that already holds exactly them, if there is one."""

    values: npt.NDArray[Any]
    name: str | None = None


Value = Ref | Known | float | str | tuple[Any, ...]


class Template:
    """Evaluates expressions of one match into an emitter.

    ``tensors`` are the captured values by name, ``rests`` what ``*name`` and ``**name`` took. Numbers, facts and let
    names come from ``facts``. Raises Untranslatable when a number is not known.
    """

    def __init__(
        self,
        emitter: Emitter,
        facts: FactSource,
        tensors: Mapping[str, Ref | Known],
        rests: Mapping[str, Any] | None = None,
    ) -> None:
        self.emitter, self.facts = emitter, facts
        self.values: dict[str, Value] = dict(tensors)
        self.rests = rests or {}
        self._made: dict[Call, list[str]] = {}

    def suite(self, suite: Suite, name_steps: bool = False) -> Value:
        """Value of the suite. ``name_steps`` calls the output of each step by the step's name."""
        for step, expr in suite.steps:
            value = self.value(expr)
            if name_steps and isinstance(value, Ref):
                self.emitter.rename({value.name: step.id})
                value = Ref(step.id)
            self.values[step.id] = value
        return self.value(suite.result)

    def results(self, suite: Suite) -> list[str]:
        """Names of the tensors of a replacement: one, or one for each root of ``(a, b)``."""
        if not isinstance(suite.result, Listing):
            return [self.operand(self.suite(suite))]
        first, *others = suite.result.items
        names = [self.operand(self.suite(Suite(suite.steps, first)))]
        return [*names, *(self.operand(self.value(item)) for item in others)]

    def value(self, expr: Expr) -> Value:
        """Value of an expression; tensors appear as Ref."""
        if self._is_plain(expr):
            return self._plain(expr)
        if isinstance(expr, Name):
            return self.values[expr.id]
        if isinstance(expr, Unary):
            return self._negate(self.value(expr.operand))
        if isinstance(expr, Binary):
            return self._binary(expr.op, self.value(expr.left), self.value(expr.right))
        if isinstance(expr, Call):
            return self._call(expr)
        if isinstance(expr, Output):
            return Ref(self._outputs(expr)[expr.slot])
        raise Untranslatable("this expression has no meaning in a replacement")

    def operand(self, value: Value) -> str:
        """Name of a tensor that holds the value."""
        if isinstance(value, Ref):
            return value.name
        if isinstance(value, Known):
            return value.name if value.name is not None else self.emitter.number(value.values)
        if isinstance(value, int | float | np.ndarray):
            return self.emitter.number(value)
        raise Untranslatable(f"{value!r} is not a tensor")

    def _is_plain(self, expr: Expr) -> bool:
        """Whether the expression is all numbers, facts and let names."""
        if isinstance(expr, Name):
            return expr.id not in self.values
        if isinstance(expr, Number | Text | Member):
            return True
        if isinstance(expr, Call):
            if expr.function in FACTS:
                return True
            return expr.function in MATH and all(self._is_plain(argument) for argument in expr.args)
        if isinstance(expr, Unary):
            return self._is_plain(expr.operand)
        if isinstance(expr, Binary):
            return self._is_plain(expr.left) and self._is_plain(expr.right)
        # lists, comparisons and indices hold numbers only; checked at load
        return not isinstance(expr, Output)

    def _plain(self, expr: Expr) -> Value:
        value = evaluate(expr, self.facts)
        if isinstance(value, Unknown):
            raise Untranslatable("; ".join(value.missing))
        if isinstance(value, np.ndarray):
            return Known(value)
        known: Value = value
        return known

    def _negate(self, value: Value) -> Value:
        if isinstance(value, Known):
            return Known(-value.values)
        return Ref(self.emitter.call("Neg", "", [self.operand(value)], {}))

    def _binary(self, op: str, left: Value, right: Value) -> Value:
        folded = None if self.emitter.literal else _fold(op, left, right)
        if folded is not None:
            return folded
        if op == "**" and isinstance(right, float) and not self.emitter.literal:
            if right == 2:
                name = self.operand(left)
                return Ref(self.emitter.call("Mul", "", [name, name], {}))
            if right in (0.5, -1):
                return Ref(
                    self.emitter.call("Sqrt" if right > 0 else "Reciprocal", "", [self.operand(left)], {})
                )
        if op not in _OPS:
            raise Untranslatable(f"'{op}' has no meaning in a replacement")
        return Ref(self.emitter.call(_OPS[op], "", [self.operand(left), self.operand(right)], {}))

    def _outputs(self, expr: Output) -> list[str]:
        """All outputs of the node that a step with several names makes, once for all of them."""
        if expr.call not in self._made:
            op, domain, inputs, attributes = self._node(expr.call)
            fresh = [self.emitter.names.fresh(f"{self.emitter.base}/{op}") for _ in range(expr.count)]
            self._made[expr.call] = self.emitter.several(op, domain, inputs, attributes, fresh)
        return self._made[expr.call]

    def _call(self, call: Call) -> Value:
        return Ref(self.emitter.call(*self._node(call)))

    def _node(self, call: Call) -> tuple[str, str, list[str], dict[str, Any]]:
        """Op, domain, inputs and attributes."""
        prefix, _, op = call.function.rpartition(".")
        inputs = [
            "" if isinstance(argument, Name) and argument.id == "None" else self.operand(self.value(argument))
            for argument in call.args
        ]
        if call.star is not None:
            inputs += [tensor.name if tensor is not None else "" for tensor in self.rests[call.star.id]]
        attributes: dict[str, Any] = dict(self.rests[call.stars.id]) if call.stars is not None else {}
        attributes.update({key: self._attribute(value) for key, value in call.keywords})
        return op, "" if prefix == "op" else prefix, inputs, attributes

    def _attribute(self, expr: Expr) -> Any:
        if isinstance(expr, Listing):
            return [self._attribute(item) for item in expr.items]
        value = self._plain(expr)
        return list(value) if isinstance(value, tuple) else value


def _fold(op: str, left: Value, right: Value) -> Value | None:
    """Arithmetic among constants is done here, in float64, so that a replacement adds no node for it."""
    plain = (Known, int, float)
    if not (isinstance(left, plain) and isinstance(right, plain)):
        return None
    a = left.values if isinstance(left, Known) else np.asarray(left, np.float64)
    b = right.values if isinstance(right, Known) else np.asarray(right, np.float64)
    with np.errstate(all="ignore"):
        results = {"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide, "**": np.power}
        return Known(np.asarray(results[op](a, b))) if op in results else None
