"""Per-channel scales before the plan: measure the channels of the few chains that may need them, and scale those."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from onnx_fp16fix.calibrate import RangeTable
from onnx_fp16fix.document import Finding
from onnx_fp16fix.emit.weights import spool_for, with_spool
from onnx_fp16fix.graph import GraphView, ScopeView
from onnx_fp16fix.half import FloatType
from onnx_fp16fix.model import Model
from onnx_fp16fix.pipeline.prepare import Run
from onnx_fp16fix.plan.channel_scales import ChannelScale, candidates, choose, scale_channels
from onnx_fp16fix.plan.channels import Chain
from onnx_fp16fix.runtime import open_session

__all__ = ["equalize_channels", "with_channels"]

_BYTES = 256 << 20
"""Tensors measured in one run of the model."""

Vector = npt.NDArray[np.float64]


def equalize_channels(
    run: Run, view: GraphView, ranges: RangeTable, margin: float, half: FloatType
) -> tuple[Model, tuple[ChannelScale, ...]] | None:
    """The model, and its scales, with exponents per channel where one exponent for all would lose channels;
    None if nowhere.

    Needs data: made-up inputs say little about what a channel holds next to another.
    """
    chains = [] if run.dataset.random else candidates(view.main, half)
    if not chains:
        return None
    scales = list[ChannelScale]()
    with run.progress.step("channels"):
        for group in _groups(chains, ranges):
            for chain, (absmax, mean_abs) in zip(group, _measure(run, view.main, group), strict=True):
                if (scale := choose(view.main, chain, absmax, mean_abs, margin, half)) is not None:
                    scales.append(scale)
        if not scales:
            return None
        model, done = with_channels(view.main, scales)
    run.document.findings += [_finding(view.main, scale, half) for scale in done]
    return (model, tuple(done)) if done else None


def with_channels(scope: ScopeView, scales: Sequence[ChannelScale]) -> tuple[Model, list[ChannelScale]]:
    """``scale_channels``, with heavy weights in a file."""
    spool = spool_for(scope.model)
    model, done = scale_channels(scope, scales, spool)
    return with_spool(model, spool), done


def _groups(chains: Sequence[Chain], ranges: RangeTable) -> Iterator[list[Chain]]:
    group, held = list[Chain](), 0
    for chain in chains:
        size = sum(4 * entry.count for name in _names(chain) if (entry := ranges.get(name)) is not None)
        if group and held + size > _BYTES:
            yield group
            group, held = [], 0
        group.append(chain)
        held += size
    yield group


def _names(chain: Chain) -> list[str]:
    return [tensor.name for tensor, _ in chain.tensors]


def _measure(run: Run, scope: ScopeView, group: Sequence[Chain]) -> list[tuple[Vector, Vector]]:
    """Largest magnitude over all tensors of each chain, and mean magnitude of its first, by channel."""
    model = scope.model
    outputs = [name for chain in group for name in _names(chain)]
    session = open_session(model.proto, model.base_dir, outputs=outputs, prepack=False)
    found = [(np.zeros(chain.channels), np.zeros(chain.channels)) for chain in group]
    samples = 0
    for feed in run.dataset:
        values = session.run(feed)
        samples += 1
        for chain, (absmax, total) in zip(group, found, strict=True):
            for tensor, axis in chain.tensors:
                channels = np.abs(np.moveaxis(values[tensor.name], axis, 0)).reshape(chain.channels, -1)
                if not channels.shape[1]:
                    continue
                np.maximum(absmax, channels.max(axis=1), out=absmax)
                if tensor is chain.tensors[0][0]:
                    total += channels.mean(axis=1, dtype=np.float64)
    return [(absmax, total / max(samples, 1)) for absmax, total in found]


def _finding(scope: ScopeView, scale: ChannelScale, half: FloatType) -> Finding:
    tensor = scope.tensors[scale.tensor]
    maker = scope.producer(tensor)
    low, high = min(scale.exponents), max(scale.exponents)
    return Finding(
        name=f"{half.name}-channel-range",
        kind="underflow",
        severity="warning",
        status="fixed",
        message=f"the channels of '{scale.tensor}' differ by more than {half.label} holds: each is scaled by a power "
        f"of two of its own (2**{-high} to 2**{-low}), which weights take up",
        node=None if maker is None else maker.label,
        tensor=scale.tensor,
        facts={"lowest_exponent": float(low), "highest_exponent": float(high)},
    )
