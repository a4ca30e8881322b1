"""What kernels keep in FP16 besides the tensors of the graph: one entry per op and target, with its source.

    mode           entries that hold
    default        any: seen on every GPU measured, and needed for verdicts that agree with it; others: not on that
                   provider, but where ONNX's own definition is followed
    cuda           any, cuda: ONNX Runtime's CUDA provider as measured
    pessimistic    any, others, cuda, worst: also what a kernel may do without breaking a promise

Measured in that provider without trouble inside: MatMul, Gemm, Conv, ConvTranspose, Einsum, poolings,
LayerNormalization, Softmax, ReduceSum, ReduceL2 and ReduceSumSquare accumulate in FP32, and Attention of opsets 23 and
24 has FP32 scores (right at 1e6, in 13 forms; for a Boolean mask it adds -65504, too little next to scores of 1e6).
TensorRT chooses kernels by itself and does not say which, so no table can promise it: ``pessimistic`` is the nearest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import onnx

from onnx_fp16fix.simulate.accumulate import halved_gemm, halved_matmul, halved_sum, running_sum
from onnx_fp16fix.simulate.build import Builder, Known
from onnx_fp16fix.simulate.inner import (
    blind_gelu,
    halved_mean,
    halved_scores,
    halved_softplus,
    halved_variance,
)
from onnx_fp16fix.simulate.products import halved_conv, halved_deconv, halved_einsum

__all__ = ["KERNELS", "MODES", "Kernel", "Mode", "Write", "kernels_of"]

Mode = Literal["default", "cuda", "pessimistic"]
Target = Literal["any", "others", "cuda", "worst"]

MODES: Mapping[Mode, frozenset[Target]] = {
    "default": frozenset({"any", "others"}),
    "cuda": frozenset({"any", "cuda"}),
    "pessimistic": frozenset({"any", "others", "cuda", "worst"}),
}
"""Targets whose entries each mode takes."""

Write = Callable[[Builder, onnx.NodeProto, Known], str | None]
"""Writes what the node computes, with what FP16 holds inside rounded, and returns the name of the unrounded result.

None, with nothing written, where it does not apply (an axis that is no constant): then only the result is rounded.
"""

_H200 = "ONNX Runtime 1.31.1, CUDA provider, NVIDIA H200, one-op models, November 2026"
_CPU = "ONNX Runtime 1.31.1, CPU provider, November 2026; ONNX's own definition has them in the type of Q too"
_UNMEASURED = "not seen on the H200; FP16 accumulation is what FP16 tensor cores and math modes offer"


@dataclass(frozen=True, slots=True)
class Kernel:
    """``inside``: what FP16 holds. ``seen``: what shows it. ``source``: where that was measured, or why it may be."""

    op: str
    target: Target
    inside: str
    seen: str
    source: str
    write: Write


KERNELS: tuple[Kernel, ...] = (
    Kernel("ReduceMean", "any", "the sum and the count",
           "1024 elements: mean 63 -> 63, mean 64 -> inf; 100,000 elements: mean 0.28 -> 0", _H200, halved_mean),
    Kernel("Softplus", "any", "1 + exp(x)", "Softplus(-9) = 0 instead of 1.2e-4", _H200, halved_softplus),
    Kernel("Attention", "others", "the scores before the softmax",
           "scores of 1e5: NaN, whatever softmax_precision says", _CPU, halved_scores),
    Kernel("InstanceNormalization", "cuda", "the variance, at batch > 1",
           "variance 9e6: right at batch 1; finite and wrong by 4.7 at batch 2", _H200, halved_variance),
    Kernel("Gelu", "cuda", "the polynomial of the tanh form", "Gelu(60000) = 0.665", _H200, blind_gelu),
    Kernel("CumSum", "cuda", "the running sum", "adding ones stops at 2048", _H200, running_sum),
    Kernel("ReduceSum", "worst", "the running sum", "", _UNMEASURED, halved_sum),
    Kernel("MatMul", "worst", "the accumulator, block by block", "", _UNMEASURED, halved_matmul),
    Kernel("Gemm", "worst", "the accumulator, block by block", "", _UNMEASURED, halved_gemm),
    Kernel("Conv", "worst", "the accumulator, block by block", "", _UNMEASURED, halved_conv),
    Kernel("ConvTranspose", "worst", "the accumulator, block by block", "", _UNMEASURED, halved_deconv),
    Kernel("Einsum", "worst", "the accumulator, block by block", "", _UNMEASURED, halved_einsum),
)  # fmt: skip


@lru_cache
def kernels_of(mode: Mode) -> Mapping[str, Write]:
    """What to write for an op of the default domain."""
    return {kernel.op: kernel.write for kernel in KERNELS if kernel.target in MODES[mode]}
