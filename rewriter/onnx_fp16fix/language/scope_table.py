"""One scope as arrays: tensors and nodes by number, and what can be said of each without looking around.

Two tensors (or nodes) of one *key* cannot be told apart by anything but their names, what they are connected to, and
the contents of constants that are larger than a number or a list of sizes.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs
from onnx import AttributeProto

from onnx_fp16fix.graph import ConstantTensor, ScopeView, ViewNode

__all__ = ["Hashes", "ScopeTable"]

_SIZES = 64
"""Integers in a constant up to which they are part of its key: axes, shapes, permutations."""
_BODIES = (AttributeProto.GRAPH, AttributeProto.GRAPHS)
_ODD = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x165667B19E3779F9))
Integers = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]


class ScopeTable:
    """``maker``: for each tensor the node that makes it, or -1, and ``slot`` as which output. ``sources``: for each
    node its inputs from ``first[node]`` on, -1 where one is absent. ``result``: the first output of each node, or -1.
    """

    def __init__(self, scope: ScopeView, varying: set[int]) -> None:
        self.scope, self._varying = scope, varying
        self.tensors: list[gs.Tensor] = []
        self.numbers: dict[int, int] = {}
        """By identity; -1 for an operand that is absent."""
        self._keys: dict[Hashable, int] = {}
        self._contents: dict[int, int] = {}
        sources, first, result = list[int](), [0], list[int]()
        made: dict[int, tuple[int, int]] = {}
        known = self.numbers
        for node in scope.nodes:
            for tensor in node.inputs:
                number = known.get(id(tensor))
                sources.append(self._number(tensor) if number is None else number)
            first.append(len(sources))
            outputs = [self._number(tensor) for tensor in node.outputs]
            result.append(outputs[0] if outputs else -1)
            for slot, number in enumerate(outputs):
                made[number] = (node.index, slot)
        made.pop(-1, None)
        self.maker, self.slot = (np.full(len(self.tensors), -1) for _ in range(2))
        if made:
            places = np.array(list(made.values()))
            self.maker[list(made)], self.slot[list(made)] = places[:, 0], places[:, 1]
        self.sources, self.first, self.result = np.array(sources, np.int64), np.array(first), np.array(result)

    @cached_property
    def node_key(self) -> Integers:
        """A number for each node that only nodes share which cannot be told apart."""
        readers = np.bincount(self.sources[self.sources >= 0], minlength=len(self.tensors)).tolist()
        sources, first = self.sources.tolist(), self.first.tolist()
        return np.array(
            [
                self._node_key(node, sources[start:end], readers)
                for node, start, end in zip(self.scope.nodes, first, first[1:], strict=False)
            ]
        )

    @cached_property
    def tensor_key(self) -> Integers:
        """The same for each tensor."""
        return np.array(list(map(self._tensor_key, self.tensors)))

    def likeness_of_ops(self, rounds: int) -> Hashes:
        """As ``likeness``, as far as ops alone tell: nodes that differ here look different."""
        ops: dict[str, int] = {}
        codes = np.array([ops.setdefault(node.op, len(ops)) for node in self.scope.nodes])
        return self._hashes(codes, (self.maker >= 0).astype(np.int64), rounds)

    def _number(self, tensor: gs.Tensor) -> int:
        number = -1 if tensor.is_empty() else self.numbers.get(id(tensor), len(self.tensors))
        if number == len(self.tensors):
            self.tensors.append(tensor)
        self.numbers[id(tensor)] = number
        return number

    def _key(self, said: Hashable) -> int:
        return self._keys.setdefault(said, len(self._keys))

    def _node_key(self, node: ViewNode, sources: list[int], readers: list[int]) -> int:
        """``sources``: its inputs. ``readers``: how often nodes of the scope read each tensor."""
        attributes, known, outside = node.proto.attribute, self.numbers, self.scope.outside_uses
        written: Hashable = ()
        if node.op == "Constant" and not node.domain:
            pass  # the tensor's key and content tell
        elif attributes:
            if any(attribute.type in _BODIES for attribute in attributes):
                written = node.index
            else:
                written = tuple(sorted([each.SerializeToString(deterministic=True) for each in attributes]))
        absent: Hashable = ()
        if -1 in sources:
            absent = tuple(slot for slot, number in enumerate(sources) if number < 0)
        uses = tuple(
            [
                -1 if (number := known[id(tensor)]) < 0 else (readers[number], outside(tensor))
                for tensor in node.outputs
            ]
        )
        return self._key((node.op, node.domain, len(sources), absent, uses, written))

    def _tensor_key(self, tensor: gs.Tensor) -> int:
        scope, name = self.scope, tensor.name
        about = (scope.dtype(name), scope.shape(name))
        if id(tensor) in self._varying:
            return self._key(about)
        if isinstance(tensor, ConstantTensor):
            known, shape, kind = True, tensor.shape, tensor.dtype
            values = tensor.values if _small(shape, kind) else None
        else:
            node = scope.producer(tensor)
            values = scope.constant(tensor) if node is not None and node.op == "Constant" else None
            known = values is not None
            shape, kind = (values.shape, values.dtype) if values is not None else ((), np.dtype(object))
            if values is not None and not _small(shape, kind):
                values = None
        content = None if values is None else values.tobytes()
        return self._key((about, known, shape, kind.str, isinstance(tensor, ConstantTensor), content))

    def content(self, number: int) -> int:
        """A number that only constants of equal content share."""
        if number not in self._contents:
            values = self.scope.constant(self.tensors[number])
            said: Hashable = number
            if values is not None and values.size <= _SIZES and values.dtype.kind != "O":
                said = (values.dtype.str, values.shape, values.tobytes())
            self._contents[number] = self._key(("content", said))
        return self._contents[number]

    def likeness(self, rounds: int) -> Hashes:
        """A hash of each node and of what lies up to so many steps above it (Weisfeiler and Leman, 1968)."""
        return self._hashes(self.node_key, self.tensor_key, rounds)

    def _hashes(self, node_key: Integers, tensor_key: Integers, rounds: int) -> Hashes:
        with np.errstate(over="ignore"):
            own = _mixed(tensor_key.astype(np.uint64) * _ODD[0])
            value = own
            counts = np.diff(self.first)
            place = np.arange(len(self.sources)) - np.repeat(self.first[:-1], counts)
            reader = np.repeat(np.arange(len(counts)), counts)
            position, key = (
                place.astype(np.uint64) * _ODD[1],
                _mixed(node_key.astype(np.uint64) + _ODD[2]),
            )
            made, slot = self.maker >= 0, self.slot.astype(np.uint64) * _ODD[1]
            node = key
            for _ in range(rounds):
                edges = _mixed(np.where(self.sources >= 0, value[self.sources], _ODD[2]) + position)
                sums = np.zeros(len(counts), np.uint64)
                np.add.at(sums, reader, edges)
                node = _mixed(key + sums * _ODD[0])
                value = np.where(made, _mixed(node[self.maker] + slot) + own, own)
        return node


def _small(shape: tuple[int, ...], kind: np.dtype[Any]) -> bool:
    size = math.prod(shape)
    return size <= 1 or (size <= _SIZES and kind.kind in "iub")


def _mixed(value: Hashes) -> Hashes:
    """Each bit depends on all bits (the finalizer of MurmurHash3)."""
    value = (value ^ (value >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    value = (value ^ (value >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    mixed: Hashes = value ^ (value >> np.uint64(33))
    return mixed
