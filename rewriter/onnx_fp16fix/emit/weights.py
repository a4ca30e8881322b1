"""Constants of the models that are made: computed block by block, and kept in a file where the model is heavy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from onnx_fp16fix.half import FloatType
from onnx_fp16fix.model import Model, Spool, is_heavy

__all__ = ["Halved", "changed", "halved", "scaled", "spool_for", "with_spool"]

_BLOCK = 1 << 22
"""Elements made at a time."""
_SPOOLED = 1 << 16
"""Constants of so many elements go to the file; smaller ones are looked at often."""

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Halved:
    """A constant in a 16-bit type; ``overflowed``: a finite element became infinite; ``raised``: one that would have
    vanished became the type's smallest value."""

    tensor: TensorProto
    overflowed: bool
    raised: bool


def spool_for(model: Model) -> Spool | None:
    """A file for the constants made from this model; None where memory will do. Before IR version 4 new constants
    become nodes, which hold them."""
    if model.proto.ir_version < 4 or not is_heavy(model.proto.graph.initializer):
        return None
    return Spool()


def with_spool(model: Model, spool: Spool | None) -> Model:
    """The model, which keeps the file for as long as it lives."""
    return model if spool is None else replace(model, spools=(*model.spools, spool))


def halved(
    values: Array, half: FloatType, name: str = "", *, guard: bool = False, spool: Spool | None = None
) -> Halved:
    """Values rounded to ``half``. ``guard``: positive ones do not vanish."""
    overflowed = raised = False

    def convert(block: Array) -> Array:
        nonlocal overflowed, raised
        bits = half.encode(block)
        infinite = np.count_nonzero(bits & 0x7FFF == half.infinity)
        overflowed |= bool(infinite and infinite > np.count_nonzero(np.isinf(block)))
        if guard and (lost := (bits == 0) & (block > 0)).any():
            bits, raised = np.where(lost, np.uint16(1), bits), True
        return bits.astype("<u2", copy=False)

    tensor = _made(values, convert, half.elem_type, name, spool)
    return Halved(tensor, overflowed, raised)


def scaled(values: Array, exponent: int, name: str, spool: Spool | None = None) -> TensorProto:
    """FLOAT values times ``2**-exponent``."""

    return changed(values, lambda block: np.ldexp(block, -exponent), name, spool)


def changed(
    values: Array, change: Callable[[Array], Array], name: str, spool: Spool | None = None
) -> TensorProto:
    """FLOAT values after ``change``, which gets them block by block."""
    return _made(
        values, lambda block: change(block).astype("<f4", copy=False), TensorProto.FLOAT, name, spool
    )


def _made(
    values: Array, convert: Callable[[Array], Array], elem_type: int, name: str, spool: Spool | None
) -> TensorProto:
    if spool is None or values.size < _SPOOLED:
        tensor = TensorProto(data_type=elem_type, dims=values.shape, raw_data=convert(values).tobytes())
        if name:
            tensor.name = name
        return tensor
    flat = values.reshape(-1)
    blocks = (convert(flat[start : start + _BLOCK]) for start in range(0, flat.size, _BLOCK))
    return spool.add(name, elem_type, values.shape, blocks)
