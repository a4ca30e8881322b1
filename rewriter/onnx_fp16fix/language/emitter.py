"""New nodes and constants for one match, in the form of the model's opset."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnx_fp16fix.language.operations import moved_slot, takes_floats
from onnx_fp16fix.model import Names, Patch
from onnx_fp16fix.model.infer import Dim

__all__ = ["METADATA_KEY", "ConstantPool", "Emitter", "Untranslatable"]

METADATA_KEY = "fp16fix.rule"
"""Key of the metadata entry that says which rule made a node."""
_SIZES = 1 << 10
"""Elements of constants up to which the type of a replacement is remembered."""
_KNOWN: Final[dict[Hashable, onnx.TypeProto]] = {}
"""Types of replacements that repeat themselves in a model."""
_MOST_KNOWN = 256
_METADATA_SINCE_IR = 10
"""First ONNX IR version whose nodes have metadata_props."""


class Untranslatable(Exception):
    """The replacement cannot be written for this match; the rule is skipped with this reason."""


class ConstantPool:
    """Constants added to one scope; equal ones are added once."""

    def __init__(self, patch: Patch, names: Names, is_function: bool) -> None:
        self.patch, self.names, self.is_function = patch, names, is_function
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def add(self, values: npt.NDArray[Any], base: str) -> str:
        """Name of a tensor with these values: an initializer, or a Constant node where a function has none."""
        key = (values.dtype.str, values.shape, values.tobytes())
        if key not in self._known:
            name = self._known[key] = self.names.fresh(base)
            tensor = numpy_helper.from_array(np.ascontiguousarray(values).reshape(values.shape), name)
            if self.is_function:
                self.patch.insert(0, helper.make_node("Constant", [], [name], name=name, value=tensor))
            else:
                self.patch.initializers.append(tensor)
        return self._known[key]


class Emitter:
    """Collects the nodes of one replacement; nothing reaches the patch before the whole of it is known to fit.

    ``base`` is the prefix of new names, ``dtype`` the TensorProto type of numbers that meet tensors. With
    ``literal`` an operator is exactly its ONNX op (``x ** 2`` a Pow): test models are written that way.
    """

    def __init__(
        self,
        names: Names,
        opset: int,
        ir_version: int,
        base: str,
        dtype: int,
        literal: bool = False,
        rule: str = "",
    ) -> None:
        self.names, self.opset, self.base, self.dtype = names, opset, base, dtype
        self.literal, self.rule = literal, rule
        self.with_metadata = ir_version >= _METADATA_SINCE_IR and bool(rule)
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, npt.NDArray[Any]] = {}

    def number(self, value: float | npt.NDArray[Any]) -> str:
        """Placeholder name of a constant of the emitter's type."""
        with np.errstate(over="ignore"):
            values = np.asarray(value, np.float64).astype(helper.tensor_dtype_to_np_dtype(self.dtype))
        finite = np.isfinite(values)
        if not (self.literal or finite.all() or np.array_equal(finite, np.isfinite(np.asarray(value)))):
            raise Untranslatable(f"the constant {value} does not fit its type")
        return self.array(values)

    def array(self, values: npt.NDArray[Any]) -> str:
        """Placeholder name of a constant as it is."""
        name = f"\0constant{len(self.constants)}"
        self.constants[name] = values
        return name

    def call(
        self, op: str, domain: str, inputs: Sequence[str], attributes: dict[str, Any], output: str = ""
    ) -> str:
        """Add one node and return the name of its output. Attributes become inputs where the opset wants that."""
        return self.several(
            op, domain, inputs, attributes, [output or self.names.fresh(f"{self.base}/{op}")]
        )[0]

    def several(
        self, op: str, domain: str, inputs: Sequence[str], attributes: dict[str, Any], outputs: Sequence[str]
    ) -> list[str]:
        """Add one node with these outputs, "" where one is not needed."""
        inputs, name = list(inputs), next(filter(None, outputs))
        if not domain:
            attributes = self._place_attributes(op, inputs, attributes)
        else:
            attributes = {
                key: value if takes_floats(op, key, domain) else _whole(value)
                for key, value in attributes.items()
            }
        try:
            node = helper.make_node(op, inputs, outputs, name=name, domain=domain, **attributes)
        except (TypeError, ValueError) as error:
            raise Untranslatable(f"{op}: {error}") from None
        if self.with_metadata:
            node.metadata_props.add(key=METADATA_KEY, value=self.rule)
        self.nodes.append(node)
        return list(outputs)

    def _place_attributes(self, op: str, inputs: list[str], attributes: dict[str, Any]) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        for key, value in attributes.items():
            slot = moved_slot(op, key, self.opset)
            if slot is None:
                kept[key] = value if takes_floats(op, key) else _whole(value)
                continue
            while len(inputs) <= slot:
                inputs.append("")
            if op == "Clip":
                inputs[slot] = self.number(value)
            else:
                flat = value if isinstance(value, list | tuple) else [value]
                inputs[slot] = self.array(np.asarray([int(item) for item in flat], np.int64))
        if op == "Clip":
            self._clip_attributes(inputs, kept)
        return kept

    def _clip_attributes(self, inputs: list[str], kept: dict[str, Any]) -> None:
        """Bounds given as operands become attributes before opset 11."""
        for slot, key in ((2, "max"), (1, "min")):
            if self.opset < 11 and len(inputs) > slot:
                bound = inputs.pop(slot)
                if bound and bound not in self.constants:
                    raise Untranslatable("Clip needs constant bounds before opset 11")
                if bound:
                    kept[key] = float(self.constants.pop(bound))

    def rename(self, new: Mapping[str, str]) -> None:
        """Give values made here other names."""
        for node in self.nodes:
            for names in (node.input, node.output):
                for slot, name in enumerate(names):
                    if name in new:
                        names[slot] = new[name]

    def flush(self, patch: Patch, pool: ConstantPool, place: Callable[[NodeProto], int]) -> list[NodeProto]:
        """Write nodes (each before the node of index ``place(node)``) and constants into the patch."""
        self.rename(
            {name: pool.add(values, f"{self.base}/constant") for name, values in self.constants.items()}
        )
        for node in self.nodes:
            patch.insert(place(node), node)
        return self.nodes


def _whole(value: Any) -> Any:
    """ONNX attributes are typed: whole numbers of the language, which are float64, become integers."""
    if isinstance(value, tuple | list):
        return [_whole(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def inferred_output(
    nodes: Sequence[NodeProto],
    constants: dict[str, npt.NDArray[Any]],
    inputs: Mapping[str, tuple[int, tuple[Dim, ...] | None]],
    output: str,
    opset: int,
) -> onnx.TypeProto | None:
    """Type of ``output`` when the nodes run on the inputs (type and shape), or None where inference cannot tell.

    Raises Untranslatable where the nodes do not fit their inputs.
    """
    nameless = _nameless(nodes, constants, inputs, output, opset)
    found = None if nameless is None else _KNOWN.get(nameless)
    if found is None:
        try:
            found = _output_type(nodes, constants, inputs, output, opset)
        except (onnx.shape_inference.InferenceError, RuntimeError) as error:
            raise Untranslatable(
                f"the replacement does not fit the shapes: {str(error).splitlines()[-1]}"
            ) from None
        if nameless is not None:
            if len(_KNOWN) >= _MOST_KNOWN:
                _KNOWN.clear()
            _KNOWN[nameless] = found
    return found if found.tensor_type.elem_type != TensorProto.UNDEFINED else None


def _output_type(
    nodes: Sequence[NodeProto],
    constants: dict[str, npt.NDArray[Any]],
    inputs: Mapping[str, tuple[int, tuple[Dim, ...] | None]],
    output: str,
    opset: int,
) -> onnx.TypeProto:
    tensors = [numpy_helper.from_array(values, name) for name, values in constants.items()]
    given = [helper.make_tensor_value_info(name, *inputs[name]) for name in sorted(inputs)]
    wanted = helper.make_empty_tensor_value_info(output)
    graph = helper.make_graph(list(nodes), "replacement", given, [wanted], tensors)
    others = sorted({node.domain for node in nodes if node.domain})  # ONNX knows no types of theirs
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in others)]
    model = helper.make_model(graph, opset_imports=imports)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=not others, data_prop=True)
    found: onnx.TypeProto = inferred.graph.output[0].type
    return found


def _nameless(
    nodes: Sequence[NodeProto],
    constants: dict[str, npt.NDArray[Any]],
    inputs: Mapping[str, tuple[int, tuple[Dim, ...] | None]],
    output: str,
    opset: int,
) -> Hashable | None:
    """All that the type follows from, with numbers for names; None where bodies read names too, or for much data."""
    attributes = [attribute for node in nodes for attribute in node.attribute]
    if sum(values.size for values in constants.values()) > _SIZES or any(
        attribute.HasField("g") or attribute.graphs for attribute in attributes
    ):
        return None
    numbers: dict[str, int] = {}

    def number(name: str) -> int:
        return numbers.setdefault(name, len(numbers)) if name else -1

    return (
        opset,
        *(
            (
                node.op_type,
                node.domain,
                tuple(map(number, node.input)),
                tuple(map(number, node.output)),
                *(each.SerializeToString(deterministic=True) for each in node.attribute),
            )
            for node in nodes
        ),
        frozenset((number(name), about) for name, about in inputs.items()),
        frozenset((number(name), v.dtype.str, v.shape, v.tobytes()) for name, v in constants.items()),
        number(output),
    )
