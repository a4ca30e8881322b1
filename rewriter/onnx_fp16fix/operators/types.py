"""Which operands of a node may be FLOAT16 or BFLOAT16, read from the ONNX schemas rather than from a list of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import onnx

from onnx_fp16fix.half import FP16, FloatType, Half
from onnx_fp16fix.model import contrib_slots
from onnx_fp16fix.operators.kernels import has_kernel

__all__ = ["FloatSlots", "first_opset", "float_slots", "hands_on"]

_ALSO = {
    # one element-wise kernel, one type: TensorRT refuses a base and an exponent of different types
    "Pow": frozenset({"T1"}),
    # queries, keys and values are multiplied with each other; the mask stays FP32, where -1e9 is no infinity
    "Attention": frozenset({"T2"}),
}

_NEVER = frozenset(
    {
        # statistics are small, and a running variance beyond 65504 is common: they stay FP32 (opset >= 15)
        ("BatchNormalization", "T2"),
        # mean and deviation have the type that the attribute stash_type says
        ("LayerNormalization", "U"),
        # indices, which may be floats: beyond 2048 FP16 would choose another class
        ("OneHot", "T1"),
    }
)

_SEVERAL = frozenset({"BatchNormalization", "DequantizeLinear", "QuantizeLinear"})
"""Ops whose scales are data too, with type variables of their own."""

_FP32_ONLY = frozenset(
    {
        # bodies are emitted as they are, in FP32
        "If",
        "Loop",
        "Scan",
        "SequenceMap",
        # ONNX allows FP16, engines do not run it: NonMaxSuppression and RoiAlign need FP32 boxes
        "RoiAlign",
        "MaxRoiPool",
        # positions and counts must be exact
        "Range",
        "Multinomial",
        "AffineGrid",
        # the same numbers, and ONNX Runtime makes them in FP32 only
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "EyeLike",
        # it reinterprets the 32 bits
        "BitCast",
        # its definition in ONNX adds an FP32 constant to its operand
        "MeanVarianceNormalization",
        # what it takes out of the optional is what was put in, FP32
        "OptionalGetElement",
        # frames and angles span more than FP16 holds
        "HannWindow",
        "HammingWindow",
        "BlackmanWindow",
        "STFT",
        "DFT",
        "MelWeightMatrix",
    }
)

_FP32_FOR: Mapping[Half, frozenset[str]] = {
    "fp16": frozenset(),
    # ONNX allows BF16, and TensorRT-RTX 1.7.1 builds FP32 and FP16 but not BF16 (one-op models, every op of the tests)
    "bf16": frozenset(
        {"ConvTranspose", "GRU", "HardSwish", "Mish", "LpPool", "GlobalLpPool", "LpNormalization"}
        # a result of the type of its operand, which ONNX has no BF16 form of
        | {"Bernoulli"}
    ),
}
"""Ops that stay FP32 in models of one type alone."""


@dataclass(frozen=True, slots=True)
class FloatSlots:
    """Input and output slots whose type variable admits the 16-bit type; ``fp16`` tells whether the node can run in it.

    ``either`` slots take what the producer makes: the node works with any type (Shape, Cast).
    """

    fp16: bool
    inputs: frozenset[int]
    outputs: frozenset[int]
    either: frozenset[int] = frozenset()

    def border(self) -> FloatSlots:
        """Those of a node that stays as it is."""
        return FloatSlots(False, frozenset(), frozenset(), self.either)


_NONE = FloatSlots(False, frozenset(), frozenset())
_EITHER = frozenset({"Shape", "Size", "Cast"})


def float_slots(
    domain: str, op: str, opset: int, inputs: int, outputs: int, half: FloatType = FP16
) -> FloatSlots:
    """Convertible slots of a node with so many inputs and outputs. Ops without a schema stay FP32."""
    if (own := contrib_slots(domain, op, opset)) is not None:
        if half is not FP16:
            return _NONE  # few kernels of ONNX Runtime's own ops have BFLOAT16
        return FloatSlots(True, own[0] & frozenset(range(inputs)), own[1] & frozenset(range(outputs)))
    if op in _FP32_ONLY or op in _FP32_FOR[half.name] or not opset or not has_kernel(op, opset, half):
        return _NONE
    return _slots(domain, op, opset, inputs, outputs, f"tensor({half.suffix})")


@lru_cache(maxsize=4096)
def _slots(domain: str, op: str, opset: int, inputs: int, outputs: int, wanted: str) -> FloatSlots:
    try:
        schema = onnx.defs.get_schema(op, opset, domain)
    except onnx.defs.SchemaError:
        return _NONE
    if any(_is_container(schema, formal) for formal in (*schema.inputs, *schema.outputs)):
        return _NONE  # what is inside follows from all nodes that fill it, and a graph output promises FP32
    half = {
        constraint.type_param_str
        for constraint in schema.type_constraints
        if wanted in constraint.allowed_type_strs
        and "tensor(float)" in constraint.allowed_type_strs
        and (op, constraint.type_param_str) not in _NEVER
    }
    formal_in = _expand(schema.inputs, inputs)
    formal_out = _expand(schema.outputs, outputs)
    data = {*formal_out, *formal_in[:1], *_ALSO.get(op, ())} & half
    if op in _SEVERAL:
        data |= half
    ins = frozenset(slot for slot, name in enumerate(formal_in) if name in data)
    outs = frozenset(slot for slot, name in enumerate(formal_out) if name in data)
    return FloatSlots(bool(ins or outs), ins, outs, frozenset({0}) if op in _EITHER else frozenset())


@lru_cache(maxsize=1024)
def first_opset(domain: str, op: str, half: FloatType) -> int | None:
    """The first opset in which a node of this type can run in ``half``; None if that is none or not known."""
    latest = onnx.defs.onnx_opset_version() if not domain else 0
    versions = (opset for opset in range(1, latest + 1) if float_slots(domain, op, opset, 1, 1, half).fp16)
    return next(versions, None)


@lru_cache(maxsize=64)
def hands_on(op: str, opset: int, half: FloatType) -> bool:
    """Whether an If, Loop or Scan of the default domain may hand tensors of this type in and out."""
    try:
        schema = onnx.defs.get_schema(op, opset, "")
    except onnx.defs.SchemaError:
        return False
    return any(f"tensor({half.suffix})" in entry.allowed_type_strs for entry in schema.type_constraints)


def _is_container(schema: onnx.defs.OpSchema, formal: onnx.defs.OpSchema.FormalParameter) -> bool:
    """Whether the operand is a sequence or an optional, and never a tensor."""
    allowed = next(
        (c.allowed_type_strs for c in schema.type_constraints if c.type_param_str == formal.type_str), ()
    )
    return not any(name.startswith("tensor(") for name in allowed or [formal.type_str])


def _expand(formal: Sequence[onnx.defs.OpSchema.FormalParameter], count: int) -> list[str]:
    """Type variable of each slot; the last formal parameter repeats where it is variadic."""
    names = [parameter.type_str for parameter in formal]
    if names and formal[-1].option == onnx.defs.OpSchema.FormalParameterOption.Variadic:
        names += [names[-1]] * (count - len(names))
    return names[:count]
