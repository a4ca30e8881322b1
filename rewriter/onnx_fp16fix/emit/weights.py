"""Constants of the models that are made: computed block by block, and kept in a file where the model is heavy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from onnx_fp16fix.half import FloatType
from onnx_fp16fix.model import Model, Spool, is_heavy

__all__ = ["Halved", "Wanted", "changed", "halved", "halved_all", "scaled_all", "spool_for", "with_spool"]

_BLOCK = 1 << 22
"""Elements made at a time."""
_SPOOLED = 1 << 16
"""Constants of so many elements go to the file; smaller ones are looked at often."""

_TOGETHER = 1 << 14
"""Elements of small constants made at a time; fewer than ``_SPOOLED``, so none of them goes to the file."""

_FACTOR = 126
"""Up to here 2**exponent and its inverse are normal FP32 numbers."""

Array = npt.NDArray[Any]


class Wanted(NamedTuple):
    """A constant to be made: the values as they are, its name, the file for it, the exponent to scale it by, and
    whether its positive elements must not vanish."""

    values: Array
    name: str
    spool: Spool | None = None
    exponent: int = 0
    guard: bool = False


class Halved(NamedTuple):
    """A constant in a 16-bit type; ``overflowed``: a finite element became infinite; ``raised``: one that would have
    vanished became the type's smallest value."""

    tensor: TensorProto
    overflowed: bool
    raised: bool


def spool_for(model: Model) -> Spool | None:
    """A file for the constants made from this model; None where memory will do. Before IR version 4 new constants
    become nodes, which hold them."""
    if model.proto.ir_version < 4 or not is_heavy(model.weight_bytes):
        return None
    return Spool()


def with_spool(model: Model, spool: Spool | None) -> Model:
    """The model, which keeps the file for as long as it lives."""
    return model if spool is None else replace(model, spools=(*model.spools, spool))


def halved(
    values: Array,
    half: FloatType,
    name: str = "",
    *,
    guard: bool = False,
    spool: Spool | None = None,
    exponent: int = 0,
) -> Halved:
    """FLOAT values times ``2**-exponent``, rounded to ``half``. ``guard``: positive ones do not vanish."""
    overflowed = raised = False

    def convert(block: Array) -> Array:
        nonlocal overflowed, raised
        block = _times(block, exponent)
        bits = half.encode(block)
        infinite = np.count_nonzero(bits & 0x7FFF == half.infinity)
        overflowed |= bool(infinite and infinite > np.count_nonzero(np.isinf(block)))
        if guard and (lost := (bits == 0) & (block > 0)).any():
            bits, raised = np.where(lost, np.uint16(1), bits), True
        return bits.astype("<u2", copy=False)

    tensor = _made(values, convert, half.elem_type, name, spool)
    return Halved(tensor, overflowed, raised)


def halved_all(constants: Iterable[Wanted], half: FloatType) -> Iterator[Halved]:
    """``halved`` of each. Small ones are rounded together: numpy takes longer to begin than to do it."""
    for run in _runs(constants):
        if len(run) > 1 and not any(constant.guard for constant in run):
            bits = half.encode(_together(run))
            if not (bits & 0x7FFF == half.infinity).any():
                for tensor in _cut(bits.astype("<u2", copy=False), half.elem_type, run):
                    yield Halved(tensor, False, False)
                continue
        for constant in run:
            yield halved(
                constant.values,
                half,
                constant.name,
                guard=constant.guard,
                spool=constant.spool,
                exponent=constant.exponent,
            )


def scaled_all(constants: Iterable[Wanted]) -> Iterator[TensorProto]:
    """FLOAT values of each times ``2**-exponent``, small ones together."""
    for run in _runs(constants):
        if len(run) == 1:
            yield _scaled(run[0])
            continue
        yield from _cut(_together(run).astype("<f4", copy=False), TensorProto.FLOAT, run)


def _scaled(constant: Wanted) -> TensorProto:
    return changed(
        constant.values,
        lambda block: _times(block, constant.exponent),
        constant.name,
        constant.spool,
    )


def _times(values: Array, exponent: int) -> Array:
    """FLOAT values times ``2**-exponent``, rounded once."""
    if not exponent:
        return values
    if abs(exponent) > _FACTOR:
        return np.asarray(np.ldexp(values, -exponent))
    return np.asarray(values * np.ldexp(np.float32(1), -exponent))  # the same bits in a tenth of the time


def _together(run: Sequence[Wanted]) -> Array:
    """The scaled values of all, one after the other."""
    flat = np.concatenate([constant.values.reshape(-1) for constant in run])
    exponents = np.array([constant.exponent for constant in run])
    if (exponents == exponents[0]).all():
        return _times(flat, int(exponents[0]))
    shifts, sizes = -exponents, [constant.values.size for constant in run]
    if np.abs(shifts).max() > _FACTOR:
        return np.asarray(np.ldexp(flat, np.repeat(shifts, sizes)))
    return np.asarray(flat * np.repeat(np.ldexp(np.float32(1), shifts), sizes))


def _runs(constants: Iterable[Wanted]) -> Iterator[list[Wanted]]:
    """Neighbours that are small, and each large one alone; in order, and few at a time in memory."""
    run, held = list[Wanted](), 0
    for constant in constants:
        if run and held + constant.values.size > _TOGETHER:
            yield run
            run, held = [], 0
        run.append(constant)
        held += constant.values.size
    if run:
        yield run


def _cut(flat: Array, elem_type: int, run: Sequence[Wanted]) -> Iterator[TensorProto]:
    raw, at = flat.tobytes(), 0
    for constant in run:
        end = at + constant.values.size * flat.itemsize
        yield _tensor(elem_type, constant.values.shape, raw[at:end], constant.name)
        at = end


def _tensor(elem_type: int, shape: tuple[int, ...], raw: bytes, name: str) -> TensorProto:
    tensor = TensorProto()  # filled step by step: keywords take half as long again
    tensor.data_type = elem_type
    tensor.dims.extend(shape)
    tensor.raw_data = raw
    if name:
        tensor.name = name
    return tensor


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
        return _tensor(elem_type, values.shape, convert(values).tobytes(), name)
    flat = values.reshape(-1)
    blocks = (convert(flat[start : start + _BLOCK]) for start in range(0, flat.size, _BLOCK))
    return spool.add(name, elem_type, values.shape, blocks)
