"""Which ops a target has 16-bit kernels for, where that is less than ONNX allows.

Source of ``onnxruntime-cuda`` in BF16: docs/OperatorKernels.md of ONNX Runtime (generated from the kernels registered;
commit 001d12d2), whose CUDA section names tensor(bfloat16) for these and from these opsets on. The CUDA provider
library of onnxruntime-gpu 1.31.1 agrees: it holds its kernel classes of Abs, Add, Attention, Conv, Div, Erf, Exp, Gelu,
Gemm, HardSigmoid, HardSwish, LayerNorm, MatMul, Mul, Neg, Pool, ReduceSum, Relu, RMSNorm, RotaryEmbedding, Sigmoid,
Sign, Softmax, Sqrt, Sub, Tanh and Where for BFloat16, and those of ArgMax, BatchNorm, Ceil, ConvTranspose, Elu, Equal,
Floor, Greater, InstanceNorm, LeakyRelu, Less, Log, LRN, NonZero, Pad, PRelu, Reciprocal, ReduceMax, ReduceMin, Resize,
Round, Selu, Upsample and recurrent layers for MLFloat16 only. What it has beyond the document (Cos, Sin, ReduceMean,
Softplus, ...) is left out: from which opset on is not known. What a newer version adds stays FP32, which runs.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnx_fp16fix.half import FloatType, Half

__all__ = ["TARGETS", "has_kernel"]

_CUDA_BF16 = """
    1   Flatten Gather Identity LayerNormalization Reshape Shape Slice Squeeze Transpose Unsqueeze
    2   Split
    4   Concat
    6   Max Min Sum
    8   Expand
    9   Compress ConstantOfShape
    10  ReverseSequence
    11  GatherElements ScatterElements ScatterND
    13  Abs Add Cast Div Dropout Erf Exp GatherND Gemm MatMul Mod Mul Neg ReduceSum Relu Sigmoid Sign Size Softmax Sqrt
        Sub Tanh Tile
    14  Trilu
    15  Pow
    16  Where
    20  Gelu
    22  AveragePool Conv HardSigmoid HardSwish
    23  Attention RMSNormalization RotaryEmbedding
    24  TensorScatter
"""


def _table(text: str) -> dict[str, int]:
    found, opset = dict[str, int](), 0
    for word in text.split():
        if word.isdigit():
            opset = int(word)
        else:
            found[word] = opset
    return found


TARGETS: Mapping[tuple[str, Half], Mapping[str, int]] = {("onnxruntime-cuda", "bf16"): _table(_CUDA_BF16)}
"""First opset with a kernel by op, for each target and type that lacks some; ops of the default domain."""


def has_kernel(op: str, opset: int, half: FloatType) -> bool:
    """Whether what the type is for, if anything, can run the op in it."""
    table = TARGETS.get((half.target, half.name))
    return table is None or opset >= table.get(op, 1 << 30)
