"""What is known of a tensor of one scope: its value before ops that do nothing, its shape, the numbers of a constant.

Identity, Dropout at inference, Cast to the same type, times 1 and plus 0 do nothing; small constants are folded.
"""

from __future__ import annotations

import math
from typing import Any

import numpy.typing as npt
import onnx_graphsurgeon as gs

from onnx_fp16fix.graph import ConstantTensor, ScopeView, ViewNode
from onnx_fp16fix.language.folding import FOLDABLE, fold
from onnx_fp16fix.language.sizes import SIZE_OPS, Sizes
from onnx_fp16fix.language.terms import Term
from onnx_fp16fix.language.varying import varying_tensors

__all__ = ["DOING_NOTHING", "Constants"]

DOING_NOTHING = frozenset({"Identity", "Dropout", "Cast", "Mul", "Div", "Add", "Sub"})
"""Ops that may pass an input on unchanged."""

_FOLD_ELEMENTS = 64
"""Constants are folded up to this many elements: enough for scalars, epsilons and shapes."""
_FOLD_DEPTH = 6


class Constants:
    """Constants of one scope. All results are cached by tensor identity; the scope does not change meanwhile."""

    def __init__(self, scope: ScopeView, varying: set[int] | None = None) -> None:
        self.scope = scope
        self.sizes = Sizes(self)
        self.varying = varying_tensors(scope) if varying is None else varying
        self._stripped: dict[int, tuple[gs.Tensor, tuple[int, ...]]] = {}
        self._are_constant: dict[int, bool] = {}
        self._constants: dict[int, npt.NDArray[Any] | None] = {}
        self._scalars: dict[int, float | None] = {}

    def strip(self, tensor: gs.Tensor) -> tuple[gs.Tensor, tuple[int, ...]]:
        """The tensor behind ops that do nothing, and the indices of those ops."""
        found = self._stripped.get(id(tensor))
        if found is None:
            nodes: list[int] = []
            current = tensor
            while (node := self.scope.producer(current)) is not None:
                slot = self._passed_on(node, current)
                if slot is None:
                    break
                nodes.append(node.index)
                current = node.inputs[slot]
            found = self._stripped[id(tensor)] = (current, tuple(nodes))
        return found

    def _passed_on(self, node: ViewNode, output: gs.Tensor) -> int | None:
        """The input slot that the output is equal to, None where the node does something."""
        if node.domain or node.op not in DOING_NOTHING or node.input(0) is None:
            return None
        if node.op == "Cast":
            source = self.scope.dtype(node.inputs[0].name)
            return 0 if source != 0 and node.attrs.get("to") == source else None
        if node.op == "Dropout":
            if output is not node.outputs[0]:
                return None
            training = node.input(2)
            return 0 if training is None or self.scalar(Term(training)) == 0 else None
        return 0 if node.op == "Identity" else self._beside_neutral(node)

    def _beside_neutral(self, node: ViewNode) -> int | None:
        """The operand beside a 1 (product, quotient) or a 0 (sum, difference); paddle2onnx writes ``x * 1 + c``."""
        neutral = 1 if node.op in ("Mul", "Div") else 0
        for slot in (0, 1) if node.op in ("Mul", "Add") else (0,):
            other = node.input(1 - slot)
            if other is None or self.scalar(Term(other)) != neutral:
                continue
            added, shape = self.scope.shape(other.name), self.scope.shape(node.inputs[slot].name)
            if added == () or (added is not None and shape is not None and len(added) <= len(shape)):
                return slot
        return None

    def constant(self, term: Term) -> npt.NDArray[Any] | None:
        """Values of a constant term: initializers and what follows from small ones by arithmetic."""
        if term.tensor is None:
            return term.value
        return self.constant_of(term.tensor)

    def constant_of(self, tensor: gs.Tensor) -> npt.NDArray[Any] | None:
        """Values of a constant tensor, None for any other."""
        return None if id(tensor) in self.varying else self._constant(self.strip(tensor)[0], 0)

    def is_constant(self, term: Term) -> bool:
        """Like ``constant`` without reading the values of initializers."""
        if term.tensor is None:
            return term.value is not None
        if id(term.tensor) in self.varying:
            return False
        known = self._are_constant.get(id(term.tensor))
        if known is None:
            tensor = self.strip(term.tensor)[0]
            known = self.scope.is_constant(tensor) or self._constant(tensor, 0) is not None
            self._are_constant[id(term.tensor)] = known
        return known

    def scalar(self, term: Term) -> float | None:
        """The value of a constant with one element (any rank), else None; large constants are not read."""
        if term.tensor is None:
            return _only_element(term.value)
        key = id(term.tensor)
        if key in self.varying:
            return None
        if key not in self._scalars:
            tensor = self.strip(term.tensor)[0]
            single = self._stored_elements(tensor) in (None, 1)
            self._scalars[key] = _only_element(self._constant(tensor, 0)) if single else None
        return self._scalars[key]

    def _stored_elements(self, tensor: gs.Tensor) -> int | None:
        """Elements of an initializer or of a Constant's value, without reading them; None where that is not known."""
        if isinstance(tensor, ConstantTensor):
            return math.prod(tensor.shape)
        node = self.scope.producer(tensor)
        shape = self.scope.shape(tensor.name) if node is not None and node.op == "Constant" else None
        sizes = [size for size in shape or () if isinstance(size, int)]
        return math.prod(sizes) if shape is not None and len(sizes) == len(shape) else None

    def _constant(self, tensor: gs.Tensor, depth: int) -> npt.NDArray[Any] | None:
        if id(tensor) in self.varying:
            return None
        if id(tensor) in self._constants:
            return self._constants[id(tensor)]
        if isinstance(tensor, ConstantTensor):
            stored = self.scope.constant(tensor)
            if math.prod(tensor.shape) <= _FOLD_ELEMENTS:  # others are not kept: the file is the cache
                self._constants[id(tensor)] = stored
            return stored
        values = self.scope.constant(tensor)
        if values is None and depth < _FOLD_DEPTH:
            values = self._folded(tensor, depth)
        self._constants[id(tensor)] = values
        return values

    def _folded(self, tensor: gs.Tensor, depth: int) -> npt.NDArray[Any] | None:
        node = self.scope.producer(tensor)
        if node is None or node.domain or not len(node.inputs):
            return None
        if node.op in SIZE_OPS and (sizes := self.sizes.numbers(tensor)) is not None:
            return sizes
        if node.op not in FOLDABLE:
            return None
        values = []
        for source in node.inputs:
            if source.is_empty() or (
                isinstance(source, ConstantTensor) and math.prod(source.shape) > _FOLD_ELEMENTS
            ):
                return None
            value = self._constant(source, depth + 1)
            if value is None or value.size > _FOLD_ELEMENTS:
                return None
            values.append(value)
        return fold(node.op, values, node.attrs)

    def shape(self, term: Term) -> tuple[int | str | None, ...] | None:
        """Shape of a term; that of a power is the shape of its base."""
        if term.tensor is not None:
            return self.scope.shape(term.tensor.name)
        if term.parts is not None and len(term.parts.items) == 1:
            return self.shape(term.parts.items[0][0])
        return None


def _only_element(values: npt.NDArray[Any] | None) -> float | None:
    if values is None or values.size != 1 or not _real(values):
        return None
    return float(values.reshape(-1)[0])


def _real(values: npt.NDArray[Any]) -> bool:
    return values.dtype.kind in "fiub" or values.dtype.name == "bfloat16"
