"""Facts about standard ONNX ops, from ``onnx.defs`` where it knows them."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from typing import Any, Final

import onnx
from onnx import AttributeProto, helper

__all__ = [
    "INPUT_SINCE",
    "attribute_names",
    "closest",
    "default_attributes",
    "has_any_outputs",
    "is_known",
    "most_inputs",
    "most_outputs",
    "moved_slot",
    "similar_ops",
    "takes_floats",
]

INPUT_SINCE: Final[dict[tuple[str, str], tuple[int, int]]] = {
    **{
        (f"Reduce{kind}", "axes"): (18, 1) for kind in ("Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare")
    },
    ("ReduceLogSum", "axes"): (18, 1),
    ("ReduceLogSumExp", "axes"): (18, 1),
    ("ReduceSum", "axes"): (13, 1),
    ("Squeeze", "axes"): (13, 1),
    ("Unsqueeze", "axes"): (13, 1),
    ("Clip", "min"): (11, 1),
    ("Clip", "max"): (11, 2),
    ("Dropout", "ratio"): (12, 1),
    ("Slice", "starts"): (10, 1),
    ("Slice", "ends"): (10, 2),
    ("Slice", "axes"): (10, 3),
    ("Pad", "pads"): (11, 1),
    ("Split", "split"): (13, 1),
    ("TopK", "k"): (10, 1),
}
"""Attributes that became inputs: (op, attribute) -> (first opset, input slot). From the ONNX change log."""


_FLOATS_OF_RUNTIME: Final = frozenset(
    (
        "alpha",
        "beta",
        "epsilon",
        "mask_filter_value",
        "scale",
        "softcap",
        "activation_alpha",
        "activation_beta",
    )
)
"""Float attributes of ops of ONNX Runtime's own, from its ContribOperators.md; the others are integers or texts."""


@cache
def _schemas(op: str) -> tuple[onnx.defs.OpSchema, ...]:
    """All versions of the op, the newest first; none if there is no such op."""
    found: list[onnx.defs.OpSchema] = []
    newest = (1 << 31) - 1
    while newest:
        try:  # asked for one by one: the history of all ops takes 30 ms
            found.append(onnx.defs.get_schema(op, newest, ""))
        except onnx.defs.SchemaError:
            break
        newest = found[-1].since_version - 1
    return tuple(found)


def is_known(op: str) -> bool:
    """Whether any version of the standard operator set has the op."""
    return bool(_schemas(op))


def similar_ops(op: str) -> str | None:
    """The known op whose name is closest, in any case of letters."""
    schemas = onnx.defs.get_all_schemas_with_history()
    lower = {schema.name.lower(): schema.name for schema in schemas if schema.domain == ""}
    match = get_close_matches(op.lower(), lower, 1, 0.6)
    return lower[match[0]] if match else None


def closest(name: str, known: Any) -> str | None:
    """A hint "did you mean 'x'?" or None."""
    match = get_close_matches(name, list(known), 1, 0.6)
    return f"did you mean '{match[0]}'?" if match else None


@cache
def attribute_names(op: str) -> frozenset[str]:
    """Attributes of all versions of the op."""
    return frozenset(name for schema in _schemas(op) for name in schema.attributes)


@cache
def takes_floats(op: str, attribute: str, domain: str = "") -> bool:
    """Whether the attribute holds floats (numbers of the language are written as either)."""
    if domain:
        return attribute in _FLOATS_OF_RUNTIME
    float_types = (onnx.defs.OpSchema.AttrType.FLOAT, onnx.defs.OpSchema.AttrType.FLOATS)
    return any(
        schema.attributes[attribute].type in float_types
        for schema in _schemas(op)
        if attribute in schema.attributes
    )


@cache
def most_inputs(op: str) -> int:
    """Most inputs any version takes."""
    return max(schema.max_input for schema in _schemas(op))


@cache
def most_outputs(op: str) -> int:
    """Most outputs any version has."""
    return max(schema.max_output for schema in _schemas(op))


@cache
def has_any_outputs(op: str) -> bool:
    """Whether a node of the op may have any number of outputs, all of equal rank, as Split has."""
    kinds = [schema.outputs[-1].option for schema in _schemas(op) if schema.outputs]
    return onnx.defs.OpSchema.FormalParameterOption.Variadic in kinds


@cache
def default_attributes(op: str, opset: int) -> dict[str, Any]:
    """Default values at an opset; attributes without a default are left out. Empty for unknown ops."""
    try:
        schema = onnx.defs.get_schema(op, opset, "")
    except onnx.defs.SchemaError:
        return {}
    return {
        name: helper.get_attribute_value(attribute.default_value)
        for name, attribute in schema.attributes.items()
        if attribute.default_value.type != AttributeProto.UNDEFINED
    }


def moved_slot(op: str, attribute: str, opset: int) -> int | None:
    """Input slot that holds what the attribute held before ``opset``, or None while it is an attribute."""
    since, slot = INPUT_SINCE.get((op, attribute), (1 << 30, 0))
    return slot if opset >= since else None
