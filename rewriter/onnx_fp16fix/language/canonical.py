"""Canonical views of the nodes of one scope, computed when asked for and kept.

A view sees through what does nothing and fills in defaults. The spellings themselves are data in ``spellings``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import onnx_graphsurgeon as gs

from onnx_fp16fix.graph import ScopeView, ViewNode
from onnx_fp16fix.language import spellings
from onnx_fp16fix.language.combine import Tree, build_tree
from onnx_fp16fix.language.constants import Constants
from onnx_fp16fix.language.derived import derived
from onnx_fp16fix.language.operations import INPUT_SINCE, default_attributes
from onnx_fp16fix.language.terms import Parts, Reading, Term

__all__ = ["Canonical"]

_MOVES = 10
"""Longest chain of moving ops that is looked through."""


class Canonical(Constants):
    """Views of one scope. All results are cached by tensor identity; the scope does not change meanwhile."""

    def __init__(self, scope: ScopeView, varying: set[int] | None = None) -> None:
        super().__init__(scope, varying)
        self.opset = scope.model.opset
        self._parts: dict[str, dict[int, Parts | None]] = {kind: {} for kind in spellings.SPLITS}
        self._trees: dict[str, dict[int, Tree | None]] = {kind: {} for kind in spellings.SPLITS}
        self._readings: dict[int, tuple[Reading, ...]] = {}
        self._direct: dict[int, Reading | None] = {}

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
