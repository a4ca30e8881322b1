"""Which chains need exponents of their own per channel, which exponents, and the model that has them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from onnx_fp16fix import fp16
from onnx_fp16fix.graph import ScopeView
from onnx_fp16fix.half import FP16, FloatType
from onnx_fp16fix.model import Model, Names, Patch, Spool, apply_patches
from onnx_fp16fix.plan.channels import Chain, ConstantEdit, factors, find_chains

__all__ = ["ChannelScale", "candidates", "choose", "scale_channels"]

_LOST_BITS = 4
"""Typical values of a channel may give up less than this many of FP16's 11 bits."""

_LEAST = 2.0**-76
"""Channels that are smaller stay as they are: what makes them may be subnormal in FP32, and rounded so."""
_BLOCK, _SPOOLED = 1 << 22, 1 << 16
"""Elements made at a time; constants of so many go to the file."""

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ChannelScale:
    """Exponents per channel of the chain that starts at tensor ``tensor``: stored is true times ``2**-s[c]``."""

    tensor: str
    exponents: tuple[int, ...]


def candidates(scope: ScopeView, half: FloatType = FP16) -> list[Chain]:
    """Chains whose weights leave room for channels of very different size; each weight is looked at once."""
    # a channel that small beside others can matter only if the weights that read it are larger by about as much
    spread = 2.0 ** (-half.least - _LOST_BITS)
    return [chain for chain in find_chains(scope) if _may_differ(scope, chain, spread)]


def _may_differ(scope: ScopeView, chain: Chain, spread: float) -> bool:
    read = reading_weights(scope, chain)
    if read is not None:
        return _spread(read) >= spread
    # channels go on apart, so what they weigh in the end is not known here: what makes them must tell
    maker = chain.maker
    if maker.op == "BatchNormalization" or (
        maker.op == "Conv" and maker.attrs.get("group", 1) == chain.channels
    ):
        return True  # as different as those that it reads
    made = [_largest(scope, edit) for edit in chain.edits if edit.node == maker.index and edit.slot == 1]
    return any(_spread(size) >= spread for size in made)


def _spread(size: Vector) -> float:
    nonzero = size[size > 0]
    return float(nonzero.max() / nonzero.min()) if nonzero.size else 1.0


def reading_weights(scope: ScopeView, chain: Chain) -> Vector | None:
    """Largest magnitude of the weights that read each channel, [C]; None where a reader keeps channels apart."""
    size = np.zeros(chain.channels)
    for edit in chain.edits:
        if edit.sign > 0:
            node = scope.nodes[edit.node]
            if node.op == "BatchNormalization" or (edit.group > 1 and edit.group == chain.channels):
                return None
            size = np.maximum(size, _largest(scope, edit))
    return size


def _largest(scope: ScopeView, edit: ConstantEdit) -> Vector:
    """Largest magnitude of a constant by channel."""
    values = scope.constant(scope.nodes[edit.node].inputs[edit.slot])
    assert values is not None
    rest = tuple(axis for axis in range(values.ndim) if axis != edit.axis)
    if edit.group > 1:  # [M, C / group, ...]: rows of a group read that group's channels
        values = values.reshape(edit.group, -1, *values.shape[1:])
        rest = tuple(axis for axis in range(values.ndim) if axis not in (0, 2))
    largest: Vector = np.maximum(values.max(axis=rest), -values.min(axis=rest)).reshape(-1).astype(np.float64)
    return largest


def choose(
    scope: ScopeView, chain: Chain, absmax: Vector, mean_abs: Vector, margin: float, half: FloatType = FP16
) -> ChannelScale | None:
    """Exponents that bring all channels to one size; None if one exponent for all does as well.

    ``absmax``, ``mean_abs``: of each channel over the data, [C].
    """
    if not np.isfinite(absmax).all() or not (absmax >= _LEAST).any():
        return None
    live = absmax >= _LEAST
    common = fp16.ceil_log2(float(absmax.max()) * margin / half.max)
    read = reading_weights(scope, chain)
    share = live.astype(np.float64) if read is None else absmax * read
    matters = live & (mean_abs > 0) & (share >= half.eps / 2 * share.max())  # less is lost in rounding anyway
    lost = half.least + common - np.log2(mean_abs, where=mean_abs > 0, out=np.full_like(mean_abs, np.inf))
    if not (lost[matters] >= _LOST_BITS).any():
        return None
    top = np.floor(np.log2(absmax * margin, where=live, out=np.zeros_like(absmax)))
    middle = np.clip(np.floor(np.median(top[live])), -4, 12)
    exponents = np.where(live, top - middle, 0).astype(np.int64)
    return ChannelScale(chain.tensors[0][0].name, tuple(int(value) for value in exponents))


@dataclass(frozen=True, slots=True)
class _Scaled:
    """A constant and the factors, powers of two, that its channels get: made block by block when it is written."""

    values: npt.NDArray[Any]
    factors: tuple[npt.NDArray[np.float32], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return np.broadcast_shapes(self.values.shape, *(factor.shape for factor in self.factors))

    def blocks(self) -> Iterator[npt.NDArray[np.float32]]:
        """The product, some rows at a time."""
        for _, block in self._rows():
            yield block

    def is_exact(self) -> bool:
        """Whether all that is not zero is a normal number."""
        return all(
            np.count_nonzero((np.abs(made) >= 2.0**-126) & np.isfinite(made)) == np.count_nonzero(rows)
            for rows, made in self._rows()
        )

    def _rows(self) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[np.float32]]]:
        shape = self.shape
        values, *factors = (np.broadcast_to(part, shape) for part in (self.values, *self.factors))
        step = max(1, _BLOCK // max(1, math.prod(shape[1:])))
        for start in range(0, shape[0], step):
            rows = values[start : start + step]
            made = rows
            with np.errstate(over="ignore", under="ignore"):
                for factor in factors:
                    made = made * factor[start : start + step]
            yield rows, np.asarray(made, np.float32)


_Constants = dict[tuple[int, int], _Scaled]
"""By node and slot."""


def scale_channels(
    scope: ScopeView, scales: Iterable[ChannelScale], spool: Spool | None = None
) -> tuple[Model, list[ChannelScale]]:
    """The model with these scales, and those that were applied; FP32 outputs keep every bit.

    A scale that would push a constant out of FP32's normal range is left out. Tensors that change get new names, so
    that none is mistaken for what it was. ``spool``: where large constants go.
    """
    wanted = {scale.tensor: scale for scale in scales}
    names, patch, done = Names(scope.model), Patch(scope.path), list[ChannelScale]()
    constants: _Constants = {}
    renamed: dict[str, str] = {}
    touched: set[int] = set()
    for chain in find_chains(scope):
        scale = wanted.get(chain.tensors[0][0].name)
        scaled = None if scale is None else _scaled(scope, chain, scale, constants)
        if scale is None or scaled is None:
            continue
        done.append(scale)
        constants |= scaled
        for tensor, _ in chain.tensors:
            renamed[tensor.name] = names.fresh(f"{tensor.name}/fp16fix/channels")
            touched.update(node.index for node, _ in scope.consumers(tensor))
        touched.update((chain.maker.index, *(edit.node for edit in chain.edits)))
    for index in sorted(touched):
        patch.replaced[index] = _node(scope, index, constants, renamed, names, patch, spool)
    patch.value_info = dict.fromkeys((info.name for info in scope.model.proto.graph.value_info
                                      if info.name in renamed), None)  # fmt: skip
    patch.dropped_initializers = _unread(scope, constants)
    return apply_patches(scope.model, [patch]), done


def _scaled(
    scope: ScopeView,
    chain: Chain,
    scale: ChannelScale,
    constants: Mapping[tuple[int, int], _Scaled],
) -> _Constants | None:
    exponents, found = np.array(scale.exponents), _Constants()
    if exponents.size != chain.channels:
        return None
    for edit in chain.edits:
        key = (edit.node, edit.slot)
        before = found.get(key, constants.get(key))
        if before is None:
            values = scope.constant(scope.nodes[edit.node].inputs[edit.slot])
            assert values is not None
            before = _Scaled(values, ())
        result = _Scaled(before.values, (*before.factors, factors(edit, exponents, before.shape)))
        if not result.is_exact():
            return None
        found[key] = result
    return found


def _node(
    scope: ScopeView,
    index: int,
    constants: Mapping[tuple[int, int], _Scaled],
    renamed: Mapping[str, str],
    names: Names,
    patch: Patch,
    spool: Spool | None,
) -> onnx.NodeProto:
    proto = onnx.NodeProto()
    proto.CopyFrom(scope.nodes[index].proto)
    for slot, name in enumerate(proto.input):
        if (index, slot) in constants:
            proto.input[slot] = names.fresh(f"{name}/fp16fix/channels")
            patch.initializers.append(_tensor(constants[index, slot], proto.input[slot], spool))
        elif name in renamed:
            proto.input[slot] = renamed[name]
    for slot, name in enumerate(proto.output):
        proto.output[slot] = renamed.get(name, name)
    return proto


def _tensor(constant: _Scaled, name: str, spool: Spool | None) -> TensorProto:
    if spool is None or math.prod(constant.shape) < _SPOOLED:
        none = np.empty((0, *constant.shape[1:]), np.float32)
        return numpy_helper.from_array(np.concatenate([none, *constant.blocks()]), name)
    return spool.add(
        name, TensorProto.FLOAT, constant.shape, (b.astype("<f4", copy=False) for b in constant.blocks())
    )


def _unread(scope: ScopeView, constants: Mapping[tuple[int, int], object]) -> set[str]:
    """Initializers that only scaled operands read."""
    own = {tensor.name for tensor in scope.model.proto.graph.initializer}
    gone = set()
    for index, slot in constants:
        tensor = scope.nodes[index].inputs[slot]
        users = scope.consumers(tensor)
        if tensor.name in own and not scope.outside_uses(tensor) and all(
            (node.index, position) in constants for node, position in users
        ):  # fmt: skip
            gone.add(tensor.name)
    return gone
