"""Writes the rounded form of one graph: the main one, or the body of an If, a Loop or a Scan."""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_fp16fix.errors import ModelError, Problem
from onnx_fp16fix.model.model import Model, ScopePath, subgraphs
from onnx_fp16fix.model.names import Names
from onnx_fp16fix.model.tensors import is_external
from onnx_fp16fix.runtime import node_reads
from onnx_fp16fix.simulate.build import Builder, Known
from onnx_fp16fix.simulate.constants import HALVES, constant_tensor, rounded_tensor, widened_attribute
from onnx_fp16fix.simulate.kernels import Write
from onnx_fp16fix.simulate.operators import KEEPS_FP16, takes_fp16

__all__ = ["Rounder"]

_Entry = TypeVar("_Entry")
_LIGHT = 1024
"""Constants of at most so many elements are looked into, for axes."""
_TURNS = 4096
"""Most turns of a Loop that ends by a computed condition: in FP16 the condition may never be met."""


class Rounder:
    """What all scopes of a model share.

    ``kernels``: what to write instead of a node, by op. ``assumed``: the type that FLOAT is taken for, 0 if none.
    """

    def __init__(
        self,
        model: Model,
        types: Mapping[ScopePath, dict[str, int]],
        ranks: Mapping[ScopePath, dict[str, int]],
        assumed: int,
        kernels: Mapping[str, Write],
    ) -> None:
        self.types, self.ranks, self.kernels = types, ranks, kernels
        self.fresh = Names(model).fresh
        self.opset = model.opset or 13
        self._opsets = {entry.domain: entry.version for entry in model.proto.opset_import}
        self._assumed = assumed

    def graph(
        self,
        source: onnx.GraphProto,
        target: onnx.GraphProto,
        path: ScopePath,
        outer: _ScopeWriter | None = None,
    ) -> None:
        """Write the rounded ``source`` into the empty ``target``; ``outer`` writes the scope around it."""
        _ScopeWriter(self, source, target, path, outer).write()

    def half(self, elem_type: int) -> int:
        """The type a tensor of this type is rounded to; 0 if it is not."""
        if elem_type in HALVES:
            return elem_type
        return self._assumed if elem_type == TensorProto.FLOAT else 0

    def takes_half(self, node: onnx.NodeProto, position: int) -> bool:
        """Whether an FP16 model can feed FP16 here; a typed model has decided that itself."""
        return not self._assumed or takes_fp16(node, position, self._opsets)


class _ScopeWriter:
    """``_read`` maps a tensor to the name its consumers read, if not its own."""

    def __init__(
        self,
        rounder: Rounder,
        source: onnx.GraphProto,
        target: onnx.GraphProto,
        path: ScopePath,
        outer: _ScopeWriter | None,
    ) -> None:
        self._rounder, self._source, self._target, self._path = rounder, source, target, path
        self._outer = outer
        own = rounder.types.get(path, {})
        self._ranks = dict(rounder.ranks.get(path, {}))
        self._types: MutableMapping[str, int] = _within(dict(own), outer._types if outer else {})
        # A name of this scope hides the outer one, and is read under itself.
        names = {name: name for name in own} if path else {}
        self._read: MutableMapping[str, str] = _within(names, outer._read if outer else {})
        self._own = own.keys()
        self._exact: dict[str, str] = {}
        self._initializers: dict[str, TensorProto] = {}
        self._waiting: dict[str, str] = {}
        self._build = Builder(target, rounder.fresh, rounder.opset)
        self._known = Known(self._value, self._rank)

    def write(self) -> None:
        self._target.name = self._source.name or "graph"
        self._target.sparse_initializer.extend(self._source.sparse_initializer)
        for info in (*self._source.input, *self._source.output):
            self._types.setdefault(info.name, info.type.tensor_type.elem_type)
        for tensor in self._source.initializer:
            self._initializer(tensor)
        for info in self._source.input:
            self._input(info)
        for index, node in enumerate(self._source.node):
            if self._waiting:  # next to the first reader: all at once would be all in memory at once
                self._round_weights(node_reads(node))
            self._node(index, node)
        self._round_weights(list(self._waiting))
        for info in self._source.output:
            self._declare(info, self._target.output.add())

    def _half(self, name: str) -> int:
        return self._rounder.half(self._types.get(name, 0))

    def _declare(self, info: onnx.ValueInfoProto, target: onnx.ValueInfoProto) -> None:
        target.CopyFrom(info)
        if info.type.HasField("tensor_type") and info.type.tensor_type.elem_type in HALVES:
            target.type.tensor_type.elem_type = TensorProto.FLOAT
        for kind in ("sequence_type", "optional_type"):
            if info.type.HasField(kind):
                target.ClearField("type")  # ONNX Runtime infers it; its elements may have become FLOAT

    def _input(self, info: onnx.ValueInfoProto) -> None:
        self._declare(info, self._target.input.add())
        half = self._half(info.name)
        # Bodies are fed tensors that are rounded already, and so are inputs that an initializer fills.
        if not self._path and half and info.name not in self._initializers:
            rounded = self._build.rounded(info.name, half=half)
            self._read[info.name] = rounded
            if info.name in self._ranks:
                self._ranks[rounded] = self._ranks[info.name]

    def _initializer(self, tensor: TensorProto) -> None:
        self._initializers[tensor.name] = tensor
        self._types[tensor.name] = tensor.data_type
        half = self._rounder.half(tensor.data_type)
        if not half:
            self._target.initializer.append(tensor)
        elif is_external(tensor):
            stored = self._target.initializer.add()
            stored.CopyFrom(tensor)
            stored.name = self._waiting[tensor.name] = self._rounder.fresh(f"{tensor.name}.stored")
        else:
            self._target.initializer.append(rounded_tensor(tensor, half))

    def _round_weights(self, names: Iterable[str]) -> None:
        """Write the rounding of weights in files that are read for the first time."""
        for name in names:
            if (stored := self._waiting.pop(name, None)) is not None:
                self._build.rounded(stored, name, self._half(name))

    def _node(self, index: int, node: onnx.NodeProto) -> None:
        for name in node.output:
            if name and name not in self._types:
                raise _unknown_type(node, name)
        standard = node.domain in ("", "ai.onnx")
        half = self._half(node.output[0]) if node.output else 0
        if not standard or not half:
            self._write(self._copied(index, node), keeps=standard and node.op_type in KEEPS_FP16)
        elif node.op_type == "Constant":
            self._constant(node)
        elif node.op_type in {"Cast", "CastLike"}:
            # In one step: by way of FLOAT a DOUBLE would be rounded twice.
            self._build.rounded(self._read.get(node.input[0], node.input[0]), node.output[0], half)
        else:
            copy = self._copied(index, node)
            write = self._rounder.kernels.get(node.op_type) if half == TensorProto.FLOAT16 else None
            result = write(self._build, copy, self._known) if write else None
            if result is None:
                self._write(copy, keeps=node.op_type in KEEPS_FP16)
            else:
                self._build.rounded(result, node.output[0], half)

    def _write(self, copy: onnx.NodeProto, *, keeps: bool) -> None:
        widened = [] if keeps else list(self._widened_outputs(copy))
        self._target.node.append(copy)
        for wide, name in widened:
            self._build.rounded(wide, name, self._half(name))

    def _copied(self, index: int, node: onnx.NodeProto) -> onnx.NodeProto:
        """The node with its inputs as they are read here, FLOAT for FP16 in its attributes, bodies rounded."""
        copy = onnx.NodeProto(op_type=node.op_type, domain=node.domain, name=node.name, output=node.output)
        if node.op_type == "Cast" and node.name.startswith("InsertedPrecisionFreeCast_"):
            copy.name = self._rounder.fresh("fp16fix.cast")
        for position, name in enumerate(node.input):
            exact = self._half(name) and not self._rounder.takes_half(node, position)
            copy.input.append(self._unrounded(name) if exact else self._read.get(name, name))
        bodies = dict(subgraphs(node))
        if node.op_type == "Loop" and not node.domain and _decides(bodies["body:0"]):
            copy.input[0] = self._limited(copy.input[0])
        for attribute in node.attribute:
            new = copy.attribute.add()
            if attribute.type == onnx.AttributeProto.GRAPH:
                new.name, new.type = attribute.name, attribute.type
                element = f"{attribute.name}:0"
                path = (*self._path, f"{index}:{element}")
                self._rounder.graph(bodies[element], new.g, path, self)
            else:
                new.CopyFrom(widened_attribute(attribute))
        return copy

    def _limited(self, trip_count: str) -> str:
        """The trip count, ``_TURNS`` at most."""
        most = self._build.constant(_TURNS, np.int64)
        if not trip_count:
            return most
        return self._build.add("Where", self._build.add("Less", trip_count, most), trip_count, most)

    def _widened_outputs(self, node: onnx.NodeProto) -> Iterator[tuple[str, str]]:
        """Rename the FP16 outputs of ``node`` and yield new and old names."""
        for position, name in enumerate(node.output):
            if name and self._half(name):
                node.output[position] = self._rounder.fresh(f"{name}.wide")
                yield node.output[position], name

    def _constant(self, node: onnx.NodeProto) -> None:
        tensor = constant_tensor(node)
        if tensor is None:
            raise ModelError(Problem("MODEL-TYPE", "constant of an unknown kind", node=node.name or None))
        self._initializers[node.output[0]] = tensor
        rounded = rounded_tensor(tensor, self._half(node.output[0]))
        self._target.node.append(helper.make_node("Constant", [], node.output, name=node.name, value=rounded))

    def _unrounded(self, name: str) -> str:
        """The name of the constant's own values, written on first use; a computed tensor is read as it is."""
        tensor = self._initializers.get(name)
        if tensor is None or tensor.data_type != TensorProto.FLOAT:
            return self._read.get(name, name)
        if name not in self._exact:
            self._exact[name] = self._rounder.fresh(f"{name}.exact")
            stored = self._target.initializer.add()
            stored.CopyFrom(tensor)
            stored.name = self._exact[name]
        return self._exact[name]

    def _value(self, name: str) -> npt.NDArray[Any] | None:
        """A small constant, from an initializer or a Constant node of this scope or one around it."""
        tensor = self._initializers.get(name)
        if tensor is None and self._outer is not None and name not in self._own:
            return self._outer._value(name)
        if tensor is None:
            makers = (n for n in self._source.node if n.op_type == "Constant" and name in n.output)
            tensor = next((constant for n in makers if (constant := constant_tensor(n))), None)
        if tensor is None or is_external(tensor) or math.prod(tensor.dims) > _LIGHT:
            return None
        return numpy_helper.to_array(tensor)

    def _rank(self, name: str) -> int | None:
        if name in self._initializers:
            return len(self._initializers[name].dims)
        if self._outer is not None and name not in self._ranks and name not in self._own:
            return self._outer._rank(name)
        return self._ranks.get(name)


def _decides(body: onnx.GraphProto) -> bool:
    """Whether the body of a Loop computes when it ends, rather than handing on what it is given."""
    makers = {name: node for node in body.node for name in node.output}
    name = body.output[0].name
    while name in makers and makers[name].op_type == "Identity":
        name = makers[name].input[0]
    return name in makers and makers[name].op_type != "Constant"


def _within(own: dict[str, _Entry], outer: Mapping[str, _Entry]) -> MutableMapping[str, _Entry]:
    """Names of a scope over those around it; the main graph has none around it, and gets the faster mapping."""
    return ChainMap(own, cast("MutableMapping[str, _Entry]", outer)) if outer else own


def _unknown_type(node: onnx.NodeProto, name: str) -> ModelError:
    return ModelError(
        Problem(
            "MODEL-TYPE", f"the type of an output of {node.op_type} is not known, so FP16 cannot be simulated",
            node=node.name or None, tensor=name, hint="add it to the graph's value_info, or run shape inference",
        )
    )  # fmt: skip
