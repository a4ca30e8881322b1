"""Canonical views of the nodes of one scope, computed when asked for and kept.

A view sees through what does nothing (Identity, Dropout at inference, Cast to the same type, times 1, plus 0), folds
small constants and fills in defaults. The spellings themselves are data in ``spellings``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy.typing as npt
import onnx_graphsurgeon as gs

from onnx_fp16fix.graph import ConstantTensor, ScopeView, ViewNode
from onnx_fp16fix.language import spellings
from onnx_fp16fix.language.combine import Tree, build_tree
from onnx_fp16fix.language.derived import derived
from onnx_fp16fix.language.folding import FOLDABLE, fold
from onnx_fp16fix.language.operations import INPUT_SINCE, default_attributes
from onnx_fp16fix.language.sizes import SIZE_OPS, Sizes
from onnx_fp16fix.language.terms import Parts, Reading, Term
from onnx_fp16fix.language.varying import varying_tensors

__all__ = ["DOING_NOTHING", "Canonical"]

DOING_NOTHING = frozenset({"Identity", "Dropout", "Cast", "Mul", "Div", "Add", "Sub"})
"""Ops that may pass an input on unchanged."""

_FOLD_ELEMENTS = 64
"""Constants are folded up to this many elements: enough for scalars, epsilons and shapes."""
_FOLD_DEPTH = 6
_MOVES = 10
"""Longest chain of moving ops that is looked through."""


class Canonical:
    """Views of one scope. All results are cached by tensor identity; the scope does not change meanwhile."""

    def __init__(self, scope: ScopeView, varying: set[int] | None = None) -> None:
        self.scope = scope
        self.opset = scope.model.opset
        self.sizes = Sizes(self)
        self._stripped: dict[int, tuple[gs.Tensor, tuple[int, ...]]] = {}
        self._parts: dict[str, dict[int, Parts | None]] = {kind: {} for kind in spellings.SPLITS}
        self._trees: dict[str, dict[int, Tree | None]] = {kind: {} for kind in spellings.SPLITS}
        self._are_constant: dict[int, bool] = {}
        self._readings: dict[int, tuple[Reading, ...]] = {}
        self._constants: dict[int, npt.NDArray[Any] | None] = {}
        self._scalars: dict[int, float | None] = {}
        self._direct: dict[int, Reading | None] = {}
        self.varying = varying_tensors(scope) if varying is None else varying

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

    def maker(self, term: Term) -> tuple[ViewNode | None, tuple[int, ...]]:
        """The node whose first output the value is, None where there is no such; and ops after it that do nothing."""
        if term.tensor is None:
            return None, ()
        tensor, passed = self.strip(term.tensor)
        node = self.scope.producer(tensor)
        return (node if node is not None and tensor is node.outputs[0] else None), passed

    def term(self, node: ViewNode, slot: int) -> Term | None:
        """The value at an input slot, None where it is absent."""
        tensor = node.input(slot)
        return None if tensor is None else Term(tensor, ((node.index, slot),))

    def moved_from(self, term: Term) -> Iterator[tuple[Term, frozenset[int]]]:
        """What the value is after ops that only move elements undone, one op more each time, with those ops."""
        current, passed = term, frozenset[int]()
        for _ in range(_MOVES):
            if current.tensor is None:
                return
            tensor, nodes = self.strip(current.tensor)
            node = self.scope.producer(tensor)
            if node is None or node.domain or not (node.op in spellings.MOVERS or self._is_float_cast(node)):
                return
            passed |= {node.index, *nodes}
            source = self.term(node, 0)
            if source is None:
                return
            current = source
            yield current, passed

    def _is_float_cast(self, node: ViewNode) -> bool:
        """FLOAT and DOUBLE only: nothing is rounded to FP16."""
        if node.op != "Cast":
            return False
        return self.scope.dtype(node.inputs[0].name) in (1, 11) and node.attrs.get("to") in (1, 11)

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

    def parts(self, kind: str, term: Term) -> Parts | None:
        """The term as a combination of one level, or None when it is none of that kind."""
        if term.tensor is None:
            return term.parts if term.parts is not None and term.parts.kind == kind else None
        known, key = self._parts[kind], id(term.tensor)
        if key not in known:
            tensor, passed = self.strip(term.tensor)
            node, found = self.scope.producer(tensor), None
            if node is not None and not node.domain and tensor is node.outputs[0]:
                found = spellings.split(kind, node, self)
            if found is not None and passed:
                found = Parts(kind, found.items, (*found.nodes, *passed))
            known[key] = found
        return known[key]

    def tree(self, kind: str, term: Term) -> Tree | None:
        """The term as a combination of all levels."""
        if term.tensor is None:
            return build_tree(self, kind, term)
        trees, key = self._trees[kind], id(term.tensor)
        if key not in trees:
            trees[key] = build_tree(self, kind, term)
        return trees[key]

    def direct(self, node: ViewNode) -> Reading | None:
        """The node as it is written, attributes in the form of the oldest opset; None if that cannot be told."""
        if node.index not in self._direct:
            self._direct[node.index] = self._read_node(node)
        return self._direct[node.index]

    def _read_node(self, node: ViewNode) -> Reading | None:
        attributes = dict(node.attrs)
        slots = set()
        if not node.domain:
            attributes = {**default_attributes(node.op, self.opset), **attributes}
            for attribute in spellings.INPUT_ATTRIBUTES.get(node.op, ()):
                since, slot = INPUT_SINCE[node.op, attribute]
                if self.opset < since:
                    continue
                slots.add(slot)
                source = self.term(node, slot)
                if source is not None:
                    values = self.constant(source)
                    if values is None:
                        return None
                    attributes[attribute] = [int(value) for value in values.reshape(-1)]
        if not spellings.normalise(node, attributes, self):
            return None
        args = tuple(self.term(node, slot) for slot in range(len(node.inputs)) if slot not in slots)
        while args and args[-1] is None:
            args = args[:-1]
        return Reading(node.op, node.domain, args, attributes, (node.index,))

    def readings(self, term: Term) -> tuple[Reading, ...]:
        """Every op the value can be read as the result of, the written one first."""
        if term.tensor is None:
            return (term.reading,) if term.reading is not None else ()
        tensor, passed = self.strip(term.tensor)
        if id(tensor) not in self._readings:
            self._readings[id(tensor)] = tuple(self._all_readings(tensor))
        found = self._readings[id(tensor)]
        return tuple(each.after(passed) for each in found) if passed else found

    def _all_readings(self, tensor: gs.Tensor) -> list[Reading]:
        node = self.scope.producer(tensor)
        if node is None:
            return []
        direct = self.direct(node)
        if tensor is not node.outputs[0]:
            return [] if direct is None else [replace(direct, output=node.output_slot(tensor))]
        found = [direct] if direct is not None else []
        return found if node.domain else found + list(derived(node, direct, self))

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
