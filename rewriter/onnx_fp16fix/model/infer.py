"""Types and shapes of every tensor, by ONNX shape inference on a copy without the big weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from onnx_fp16fix.model.contrib import contrib_slots
from onnx_fp16fix.model.model import GraphLike, Model, ScopePath

__all__ = ["Dim", "TensorType", "TypeTable", "agreed_types", "declared_types", "infer_types", "light_copy"]

Dim = int | str | None
"""A size, a symbolic name, or unknown."""


@dataclass(frozen=True, slots=True)
class TensorType:
    """Element type (``TensorProto.DataType``, 0 if unknown) and shape (None if the rank is unknown)."""

    elem_type: int = 0
    shape: tuple[Dim, ...] | None = None


@dataclass(frozen=True, slots=True)
class TypeTable:
    """Types by scope and tensor name; names of outer scopes are looked up by ``graph.ScopeView``."""

    scopes: Mapping[ScopePath, Mapping[str, TensorType]]

    def get(self, scope: ScopePath, name: str) -> TensorType:
        """The type of a tensor of this very scope; an unknown type where inference could not tell."""
        return self.scopes.get(scope, {}).get(name, _UNKNOWN)


_UNKNOWN = TensorType()
_LONG = 1 << 24
"""Elements of a vector that is no list of sizes."""
_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
_FACTORS = 64
"""Elements of floats that sizes may depend on: the factors of a Resize, the limits of a Range."""


def light_copy(proto: onnx.ModelProto, keep: int = 1024) -> onnx.ModelProto:
    """The model with initializers of more than ``keep`` elements emptied (marked as external data), of floats sooner.

    Shape inference and the checker read types, shapes and small shape constants only; the copy stays far below
    protobuf's 2 GiB however large the model is. The checker would want data or a file, so ``keep=0`` turns every
    initializer into one without elements on disk.
    """
    light = onnx.ModelProto()
    for field, value in proto.ListFields():
        if field.name == "graph":
            _light_graph(value, light.graph, keep)
        elif field.name == "functions":
            light.functions.extend(value)
        elif field.is_repeated:
            getattr(light, field.name).extend(value)
        elif field.message_type is not None:
            getattr(light, field.name).CopyFrom(value)
        else:
            setattr(light, field.name, value)
    return light


def _light_graph(graph: onnx.GraphProto, light: onnx.GraphProto, keep: int) -> None:
    for field, value in graph.ListFields():
        if field.name == "initializer" and not all(_stays(tensor, keep) for tensor in value):
            for tensor in value:
                _light_tensor(tensor, light.initializer.add(), keep)
        elif field.is_repeated:
            getattr(light, field.name).extend(value)
        else:
            setattr(light, field.name, value)


def _stays(tensor: TensorProto, keep: int) -> bool:
    if tensor.data_type in _FLOATS:
        keep = min(keep, _FACTORS)
    return keep > 0 and math.prod(tensor.dims[:]) <= keep and tensor.data_location != TensorProto.EXTERNAL


def _light_tensor(tensor: TensorProto, light: TensorProto, keep: int) -> None:
    if _stays(tensor, keep):
        light.CopyFrom(tensor)
        return
    light.name, light.data_type = tensor.name, tensor.data_type
    if keep:
        light.dims.extend(tensor.dims)
        light.data_location = TensorProto.EXTERNAL
    else:
        light.dims.append(0)  # no elements, so the checker asks for no data


def infer_types(model: Model) -> TypeTable:
    """Infer all scopes. A tensor that inference does not reach is unknown, never guessed."""
    if model.types is not None:
        return model.types
    light = light_copy(model.proto)
    try:
        inferred = _inferred(light)
    except Exception:  # inference of custom or broken nodes raises many kinds; what the file declares remains
        inferred = light
    return _table(inferred, model)


def agreed_types(model: Model) -> TypeTable | None:
    """What ``infer_types`` finds, where it knows all ops and no declaration of the model says otherwise; else None."""
    own = {(function.domain, function.name) for function in model.proto.functions}
    if not all(onnx.defs.has(op, domain) for domain, op in model.ops - own):
        return (
            None  # inference passes over errors, however strict, in a graph with an op that it does not know
        )
    try:
        inferred = _inferred(light_copy(model.proto), strict=True)
    except (
        Exception
    ):  # what can be told of such a model, and what it declares wrongly, is found without being strict
        return None
    return _table(inferred, model)


def _inferred(light: onnx.ModelProto, *, strict: bool = False) -> onnx.ModelProto:
    # sizes that are computed are followed, which writes down a number for each element of a vector
    long = any(len(tensor.dims) == 1 and tensor.dims[0] > _LONG for tensor in light.graph.initializer)
    return onnx.shape_inference.infer_shapes(light, strict_mode=strict, data_prop=not long)


def _table(inferred: onnx.ModelProto, model: Model) -> TypeTable:
    scopes: dict[ScopePath, dict[str, TensorType]] = {}
    for scope in Model(inferred).scopes():
        scopes[scope.path] = declared_types(scope.graph)
        outer = scopes[scope.parent.path] if scope.parent is not None else {}
        _bind_types(scope.graph, scopes[scope.path], outer, model)
    return TypeTable(scopes)


def _bind_types(
    graph: GraphLike, types: dict[str, TensorType], outer: Mapping[str, TensorType], model: Model
) -> None:
    """Element types that inference left out (it stops at what it cannot shape), by the schemas' type variables."""
    known_types = {name for name, found in types.items() if found.elem_type}
    known_types.add("")
    for node in graph.node:
        if known_types.issuperset(made := node.output[:]):
            continue
        missing = [name for name in made if name and not types.get(name, _UNKNOWN).elem_type]
        own = contrib_slots(node.domain, node.op_type, model.opset_of(node.domain))
        if own is not None:
            _bind_contrib(node, own, types, outer)
            continue
        try:
            schema = onnx.defs.get_schema(node.op_type, model.opset_of(node.domain), node.domain)
        except onnx.defs.SchemaError:
            continue
        bound: dict[str, int] = {}
        for name, formal in zip(node.input, _repeated(schema.inputs, len(node.input)), strict=False):
            known = (types.get(name) or outer.get(name, _UNKNOWN)).elem_type
            if known:
                bound.setdefault(formal.type_str, known)
        for name, formal in zip(node.output, _repeated(schema.outputs, len(node.output)), strict=False):
            if name in missing and formal.type_str in bound:
                types[name] = TensorType(bound[formal.type_str], types.get(name, _UNKNOWN).shape)


def _repeated(
    formal: Sequence[onnx.defs.OpSchema.FormalParameter], count: int
) -> list[onnx.defs.OpSchema.FormalParameter]:
    """Formal parameters of so many operands; the last repeats where it is variadic, as the outputs of Split."""
    variadic = bool(formal) and formal[-1].option == onnx.defs.OpSchema.FormalParameterOption.Variadic
    return [*formal, *([formal[-1]] * (count - len(formal)) if variadic else ())]


def _bind_contrib(
    node: onnx.NodeProto,
    slots: tuple[frozenset[int], frozenset[int]],
    types: dict[str, TensorType],
    outer: Mapping[str, TensorType],
) -> None:
    """Outputs of an op of ONNX Runtime's own have the type of the inputs that share theirs."""
    inputs, outputs = slots
    named = [name for slot, name in enumerate(node.input) if slot in inputs and name]
    elem_type = next(
        (t for name in named if (t := (types.get(name) or outer.get(name, _UNKNOWN)).elem_type)), 0
    )
    for slot, name in enumerate(node.output):
        if slot in outputs and name and not types.get(name, _UNKNOWN).elem_type:
            types[name] = TensorType(elem_type, types.get(name, _UNKNOWN).shape)


def declared_types(graph: GraphLike) -> dict[str, TensorType]:
    """Types by name as they are written down in a graph; initializers included."""
    types: dict[str, TensorType] = {}
    seen: dict[bytes | tuple[int, ...], TensorType] = {}  # most tensors have one of a few types

    def read(infos: Iterable[onnx.ValueInfoProto]) -> None:
        for info in infos:
            written = info.type.SerializeToString()
            if (known := seen.get(written)) is None:
                known = seen[written] = _tensor_type(info)
            types[info.name] = known

    if isinstance(graph, onnx.GraphProto):
        for tensor in graph.initializer:
            key = tensor.data_type, *tensor.dims[:]
            if (known := seen.get(key)) is None:
                known = seen[key] = TensorType(key[0], key[1:])
            types[tensor.name] = known
        read(graph.input)
        read(graph.output)
    read(graph.value_info)
    return types


def _tensor_type(info: onnx.ValueInfoProto) -> TensorType:
    if not info.type.HasField("tensor_type"):
        return _UNKNOWN
    tensor = info.type.tensor_type
    if not tensor.HasField("shape"):
        return TensorType(tensor.elem_type, None)
    dims = tuple(
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in tensor.shape.dim
    )
    return TensorType(tensor.elem_type, dims)
