"""Random inputs for the model of a case, inside what the case says of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnx_fp16fix.errors import ModelError
from onnx_fp16fix.language.given import Given
from onnx_fp16fix.runtime import Array, Session

__all__ = ["KINDS", "Sample", "draw_samples"]

KINDS = (
    "uniform",
    "largest",
    "signs",
    "one-hot",
    "zeros",
    "zero row",
    "constant rows",
    "negative",
    "tiny",
    "mixed",
)
"""Ways to fill a tensor; each value stays inside the tensor's given range."""
_SYMBOLIC = 4
_TINY = 2.0**-12
_TRIES = 24


@dataclass(frozen=True, slots=True)
class Sample:
    """Inputs by name, and how they were made."""

    kind: str
    seed: int
    feeds: Mapping[str, Array]


def draw_samples(
    model: onnx.ModelProto, given: Mapping[str, Given], session: Session, *, seed: int, masks: bool
) -> Iterator[Sample]:
    """Samples of every kind that keep each named value of the case inside its given range.

    ``session`` computes those values (all its outputs are compared). ``masks``: each row holds every combination of
    what the masks say of an entry, so that one is kept and one dropped whatever a mask's zeros mean; otherwise rows
    that are masked everywhere come too. A sample whose inner values cannot be brought into range by making the inputs
    smaller is left out.
    """
    turns = {name: turn for turn, name in enumerate(filter(_is_mask(model, given), given))}
    named = {
        name: entry for name, entry in given.items() if name in session.outputs and entry.range() is not None
    }
    others = {name: entry for name, entry in given.items() if name not in turns}
    for number, kind in enumerate(KINDS):
        rng = np.random.default_rng([seed, number])
        feeds = {
            entry.name: _mask(entry, kind, rng, (turns[entry.name], 2 ** len(turns)) if masks else None)
            if entry.name in turns
            else _fill(entry, given.get(entry.name), kind, rng)
            for entry in model.graph.input
        }
        fitted = _fitted(feeds, others, named, session)
        if fitted is not None:
            yield Sample(kind, seed, fitted)


def _fitted(
    feeds: dict[str, Array], given: Mapping[str, Given], named: Mapping[str, Given], session: Session
) -> dict[str, Array] | None:
    """The inputs, made smaller until the inner values fit; None where that does not help."""
    if not named:
        return feeds
    for _ in range(_TRIES):
        try:
            values = session.run(feeds, list(named))
        except ModelError:
            return None
        excess = max((_excess(values[name], entry) for name, entry in named.items()), default=0.0)
        if excess <= 1.001:
            return feeds
        factor = np.float32(max(excess**-0.5, 2.0**-8) if np.isfinite(excess) else 2.0**-8)
        feeds = {name: _shrunk(value, given.get(name), factor) for name, value in feeds.items()}
    return None


def _excess(values: Array, entry: Given) -> float:
    """By which factor values lie outside the given range; 1 inside."""
    known = entry.range()
    assert known is not None
    if not values.size or values.dtype.kind != "f":
        return 0.0
    low, high = float(values.min()), float(values.max())
    if np.isnan(low) or np.isnan(high):
        return np.inf
    over = [abs(high) / abs(known.maximum) if known.maximum else np.inf] if high > known.maximum else []
    under = [abs(low) / abs(known.minimum) if known.minimum else np.inf] if low < known.minimum else []
    return max([1.0, *over, *under])


def _shrunk(values: Array, entry: Given | None, factor: np.float32) -> Array:
    known = entry.range() if entry is not None else None
    if known is None or values.dtype.kind != "f":
        return values
    return np.asarray(np.clip(values * factor, known.minimum, known.maximum), values.dtype)


def _is_mask(model: onnx.ModelProto, given: Mapping[str, Given]) -> Callable[[str], bool]:
    """Booleans are masks, and what is called one if it has no range other than 0 to 1."""
    types = {info.name: info.type.tensor_type.elem_type for info in model.graph.input}

    def is_mask(name: str) -> bool:
        known = given[name].range()
        within = known is None or (known.minimum, known.maximum) == (0, 1)
        return types.get(name) == TensorProto.BOOL or (name in types and "mask" in name and within)

    return is_mask


def _shape(info: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value or _SYMBOLIC for dim in info.type.tensor_type.shape.dim]


def _fill(info: onnx.ValueInfoProto, entry: Given | None, kind: str, rng: np.random.Generator) -> Array:
    shape = _shape(info)
    dtype = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
    known = entry.range() if entry is not None else None
    if dtype.kind in "iu":
        low, high = (int(known.minimum), int(known.maximum)) if known is not None else (0, 1)
        return rng.integers(low, high, shape, endpoint=True).astype(dtype)
    low_, high_ = (known.minimum, known.maximum) if known is not None else (-1.0, 1.0)
    values = np.clip(_values(kind, shape, low_, high_, rng), low_, high_)
    if known is not None and np.isfinite(known.smallest):
        values = np.where(np.abs(values) < known.smallest, min(known.smallest, high_), values)
    return np.asarray(values, dtype)


def _mask(
    info: onnx.ValueInfoProto, kind: str, rng: np.random.Generator, turn: tuple[int, int] | None
) -> Array:
    """``turn``: which bit of its index decides over each of so many first entries of a row; None: all are random."""
    shape = _shape(info)
    mask = np.asarray(rng.random(shape) < 0.5)
    if turn is not None and shape and shape[-1] > 1:
        bit, many = turn
        first = np.arange(min(many, shape[-1]))
        mask[..., first] = (first >> bit) % 2 == 0
    elif turn is None and kind in ("largest", "zeros") and shape:
        mask[...] = kind == "largest"
    return mask.astype(helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type))


def _values(kind: str, shape: list[int], low: float, high: float, rng: np.random.Generator) -> Array:
    top = max(abs(low), abs(high))
    uniform: Array = rng.uniform(low, high, shape)
    if kind == "largest":
        return np.full(shape, high if abs(high) >= abs(low) else low, np.float64)
    if kind == "signs":
        return np.asarray(np.where(rng.random(shape) < 0.5, low, high))
    if kind == "one-hot":
        values = np.zeros(shape)
        if values.size:
            values.reshape(-1, shape[-1] if shape else 1)[:, 0] = top
        return values
    if kind == "zeros":
        return np.zeros(shape)
    if kind == "zero row":
        if shape:
            uniform.reshape(-1, shape[-1])[0] = 0
        return uniform
    if kind == "constant rows":
        return np.broadcast_to(uniform[..., :1], shape).copy() if shape else uniform
    if kind == "negative":
        return -np.abs(uniform)
    if kind == "tiny":
        return np.asarray(rng.uniform(-1, 1, shape) * min(top, _TINY))
    if kind == "mixed":
        return np.asarray(uniform * 2.0 ** rng.integers(-10, 1, shape))
    return uniform
