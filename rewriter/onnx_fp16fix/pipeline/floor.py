"""How well any 16-bit form of a model can do: the error that rounding its weights and inputs makes alone.

A model may be so sensitive (gates that saturate, thresholds, chaos) that FP16 is too coarse for it at any scale. Its
constants and float inputs are rounded to FP16's 11 bits, or BF16's 8, with FP32's range, all arithmetic stays FP32;
what the outputs then miss no rescaling can give back.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from onnx_fp16fix.calibrate import Dataset
from onnx_fp16fix.emit.weights import changed, spool_for, with_spool
from onnx_fp16fix.model import Model
from onnx_fp16fix.model.tensors import read_tensor
from onnx_fp16fix.runtime import open_session
from onnx_fp16fix.simulate.metrics import distance

__all__ = ["rounding_floor", "to_bits"]


def rounding_floor(model: Model, data: Dataset, bits: int = 11) -> float:
    """Largest relative L2 error of an output over all samples (of labels, the share that differs)."""
    rounded = _rounded(model, bits)
    # both are loaded at once: neither gets a second copy of its weights
    exact = open_session(model.proto, model.base_dir, prepack=False)
    coarse = open_session(rounded.proto, model.base_dir, prepack=False)
    worst = 0.0
    for feed in data:
        expected = exact.run(feed)
        found = coarse.run({name: _round_float(value, bits) for name, value in feed.items()})
        for name, reference in expected.items():
            if isinstance(reference, np.ndarray) and reference.dtype.kind in "fiub":
                worst = max(worst, distance(found[name], reference).rel_l2)
    return worst


def to_bits(values: npt.NDArray[Any], bits: int) -> npt.NDArray[np.float32]:
    """Round to nearest even with so many bits of significand and FP32's range."""
    values = np.asarray(values, np.float32)
    mantissa, exponent = np.frexp(values)
    with np.errstate(over="ignore"):
        rounded = np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits).astype(np.float32)
    # FP32's own maximum, a common mask, would round up to infinity and make NaN of masked rows
    return np.where(np.isinf(rounded), values, rounded)


def _round_float(value: npt.NDArray[Any], bits: int) -> npt.NDArray[Any]:
    return to_bits(value, bits) if value.dtype == np.float32 else value


def _rounded(model: Model, bits: int) -> Model:
    proto, spool, change = onnx.ModelProto(), spool_for(model), partial(to_bits, bits=bits)
    proto.CopyFrom(model.proto)
    for tensor in proto.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(changed(read_tensor(tensor, model.base_dir), change, tensor.name, spool))
    return with_spool(model.with_proto(proto), spool)
