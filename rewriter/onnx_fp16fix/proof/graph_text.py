"""A small model in the words of the rule language: the pictures before and after on the pages of rules."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_fp16fix.language.expression import (
    Binary,
    Call,
    Expr,
    Listing,
    Name,
    Number,
    Output,
    Suite,
    Text,
    Unary,
)
from onnx_fp16fix.language.yaml_source import Place
from onnx_fp16fix.proof.text import suite_text

__all__ = ["graph_text"]

_HERE = Place("", 1, 1)
_OPERATORS = {"Add": "+", "Sub": "-", "Mul": "*", "Div": "/", "Pow": "**", "MatMul": "@"}
_FEW = 4


def graph_text(model: onnx.ModelProto) -> str:
    """Formulas, one line for each value that is used more than once or has a name of its own."""
    return suite_text(_Reader(model).suite())


class _Reader:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.uses = Counter(name for node in self.graph.node for name in node.input)
        self.known: dict[str, Expr] = {}
        self.taken = {info.name for info in self.graph.input}
        for tensor in self.graph.initializer:
            self.known[tensor.name] = self._constant(tensor)

    def suite(self) -> Suite:
        """The graph as steps and its first output; other outputs are steps too."""
        steps: list[tuple[Name, Expr]] = []
        final = self.graph.output[0].name
        for node in self.graph.node:
            if sum(map(bool, node.output)) > 1:
                steps += self._outputs(node)
                continue
            output, expr = node.output[0], self._node(node)
            own = "/" not in output and output.isidentifier()
            if output != final and (own or self.uses[output] != 1):
                name = Name(output if own else self._fresh(node.op_type), _HERE)
                self.taken.add(name.id)
                steps.append((name, expr))
                expr = name
            self.known[output] = expr
        return Suite(tuple(steps), self._value(final))

    def _outputs(self, node: onnx.NodeProto) -> list[tuple[Name, Expr]]:
        """A step for each output of a node with several."""
        call, steps = self._node(node), list[tuple[Name, Expr]]()
        assert isinstance(call, Call)
        for slot, output in enumerate(node.output):
            if output:
                own = "/" not in output and output.isidentifier()
                name = Name(output if own else self._fresh(node.op_type), _HERE)
                self.taken.add(name.id)
                self.known[output] = name
                steps.append((name, Output(call, slot, len(node.output), _HERE)))
        return steps

    def _fresh(self, op: str) -> str:
        base = op.lower()
        names = (base if number == 1 else f"{base}{number}" for number in range(1, 1000))
        return next(name for name in names if name not in self.taken)

    def _value(self, name: str) -> Expr:
        return self.known.get(name) or Name(name or "None", _HERE)

    def _node(self, node: onnx.NodeProto) -> Expr:
        args = tuple(self._value(name) for name in node.input)
        if node.op_type in _OPERATORS and len(args) == 2 and not node.attribute:
            return Binary(_OPERATORS[node.op_type], args[0], args[1], _HERE)
        keywords = tuple(
            (attribute.name, _attribute(onnx.helper.get_attribute_value(attribute)))
            for attribute in node.attribute
            if attribute.type != onnx.AttributeProto.GRAPH
        )
        name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        return Call(name, args, keywords, None, None, _HERE)

    def _constant(self, tensor: onnx.TensorProto) -> Expr:
        values = numpy_helper.to_array(tensor)
        if values.size == 1 and values.dtype.kind in "fiu":
            return _number(values.reshape(-1)[0])
        if values.ndim == 1 and values.size <= _FEW and values.dtype.kind in "iu":
            return Listing(tuple(_number(value) for value in values), _HERE)
        short = tensor.name.rpartition("/")[2]
        name = short if short.isidentifier() and short not in ("constant", *self.taken) else self._fresh("w")
        self.taken.add(name)
        return Name(name, _HERE)


def _attribute(value: Any) -> Expr:
    if isinstance(value, bytes):
        return Text(value.decode(errors="replace"), _HERE)
    if isinstance(value, list | tuple):
        return Listing(tuple(_attribute(item) for item in value), _HERE)
    return _number(value) if isinstance(value, int | float) else Name("tensor", _HERE)


def _number(value: Any) -> Expr:
    whole = isinstance(value, int | np.integer)
    shown = float(value) if whole else float(f"{float(value):.7g}")
    if not np.isfinite(shown):
        return Name("inf" if shown > 0 else "minus_inf", _HERE)
    number = Number(abs(shown), _HERE, integer=whole or (shown.is_integer() and abs(shown) < 1e6))
    return Unary("-", number, _HERE) if shown < 0 else number
