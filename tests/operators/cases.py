"""Cases for every op of ``operators.OPS``: what moves with what, by attributes and optional inputs."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from operators.one_node import Case, Data, case, computed, constant, opposite, positive

__all__ = ["CASES", "FUSED"]

F32 = np.float32
IMAGE = (1, 4, 6, 6)
PINNED = ""


def flags(*values: bool) -> Data:
    return constant(values, np.bool_)


def floats(*values: float) -> Data:
    return constant(values, F32)


def number(value: float) -> Data:
    return constant(value, F32)


ELEMENTWISE = [
    *(case(op, computed(3, 5), moves="in0 out0") for op in ("Relu", "Abs", "Neg", "Identity")),
    case("LeakyRelu", computed(3, 5), moves="in0 out0"),
    case("LeakyRelu", computed(3, 5), moves="in0 out0", alpha=0.3),
    case("Dropout", computed(3, 5), moves="in0 out0"),
    case("Dropout", computed(3, 5), number(0.3), moves="in0 out0", outputs="fb"),
    case("Dropout", computed(3, 5), moves="in0 out0", opset=10, ratio=0.3),
    *(case(op, computed(3, 5), computed(5), moves="in0 in1 out0") for op in ("Add", "Sub")),
    *(case(op, *(computed(3, 5) for _ in range(3)), moves="in0 in1 in2 out0") for op in ("Sum", "Mean")),
    case("Sum", computed(3, 5), moves="in0 out0"),
    *(case(op, computed(3, 5), computed(5), moves="in0 in1 out0") for op in ("Max", "Min")),
    case("Max", computed(3, 5), computed(5), number(0.2), moves="in0 in1 in2 out0"),
    *(
        case(op, data, opposite(data), moves="in0 in1", outputs="b")
        for op in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal")
        for data in [computed(4, 4)]
    ),
    *(
        case(op, computed(4, 4), moves=PINNED)
        for op in ("Sigmoid", "Tanh", "Erf", "HardSigmoid", "Atan", "Exp")
    ),
    *(case(op, computed(4, 4), moves=PINNED) for op in ("Sin", "Cos", "Tan", "Round")),
    *(case(op, computed(4, 4), moves=PINNED) for op in ("Softplus", "Elu", "Selu", "Celu", "HardSwish")),
    case("Mish", computed(4, 4), moves=PINNED, opset=18),
    case("Swish", computed(4, 4), moves=PINNED, opset=24),
    case("PRelu", computed(3, 4, 5), computed(4, 1), moves="in0 out0"),
    case("ThresholdedRelu", computed(4, 4), moves="in0 out0"),
    case("ThresholdedRelu", computed(4, 4), moves="in0 out0", alpha=0.3),
    case("Where", flags(True, False, False, True), computed(3, 4), computed(4), moves="in1 in2 out0"),
    case("Clip", computed(4, 4), moves="in0 out0"),
    case("Clip", computed(4, 4), number(-0.3), moves="in0 in1 out0"),
    case("Clip", computed(4, 4), None, number(0.7), moves="in0 in2 out0"),
    case("Clip", computed(4, 4), number(-0.3), number(0.7), moves="in0 in1 in2 out0"),
    case("Clip", computed(4, 4), moves="in0 out0", opset=10, min=-0.3, max=0.7),
    case("Clip", computed(4, 4), moves="in0 out0", opset=10),
    case("Div", computed(4, 4), positive(4), moves="in0 in1 out0"),
    case("Div", constant([7, 8]), constant([2, 3]), moves=PINNED, outputs="i"),
    case("Pow", computed(4, 4), number(2), moves="in0 out0"),
    case("Pow", computed(4, 4), number(3), moves="in0 out0"),
    case("Pow", computed(4, 4), floats(2), moves="in0 out0"),
    case("Pow", computed(4, 4), constant(2), moves="in0 out0"),
    case("Pow", positive(60, 60), number(0.5), moves="in0 out0"),
    case("Pow", positive(60, 60), number(-1), moves="in0 out0"),
    case("Pow", positive(60, 60), number(-0.5), moves="in0 out0"),
    case("Pow", positive(60, 60), number(1.5), moves="in0 out0"),
    case("Pow", positive(60, 60), number(4), moves="in0 out0"),
    case("Pow", positive(4, 4), number(0.3), moves=PINNED),
    case("Pow", positive(4, 4), number(0), moves=PINNED),
    case("Pow", positive(2, 2), floats(1, 2), moves=PINNED),
    case("Sqrt", positive(60, 60), moves="in0 out0"),
    case("Reciprocal", positive(4, 4), moves="in0 out0"),
    case("Log", positive(4, 4), moves=PINNED),
    case("Sign", computed(4, 4), moves="in0"),
    case("Hardmax", computed(4, 4), moves="in0"),
    case("Gelu", computed(4, 4), moves=PINNED, opset=20),
    case("Gelu", computed(4, 4), moves=PINNED, opset=20, approximate="tanh"),
    case("Cast", computed(4, 4), moves="in0 out0", to=TensorProto.FLOAT),
    case("Cast", computed(4, 4), moves=PINNED, to=TensorProto.INT64, outputs="i"),
    case("Cast", constant([3, 4]), moves=PINNED, to=TensorProto.FLOAT),
    case("CastLike", computed(4, 4), computed(1), moves="in0 out0"),
]

LINEAR = [
    case("Mul", computed(3, 5), computed(5), moves="in0 in1 out0"),
    case("MatMul", computed(2, 3, 17), computed(17, 5), moves="in0 in1 out0"),
    case("Conv", computed(*IMAGE), computed(3, 4, 3, 3), moves="in0 in1 out0"),
    case("Conv", computed(*IMAGE), computed(4, 2, 3, 3), computed(4), moves="in0 in1 in2 out0", group=2),
    case("ConvTranspose", computed(*IMAGE), computed(4, 3, 3, 3), moves="in0 in1 out0", strides=[2, 2]),
    case("ConvTranspose", computed(*IMAGE), computed(4, 3, 2, 2), computed(3), moves="in0 in1 in2 out0"),
    case("DeformConv", computed(1, 2, 4, 4), computed(3, 2, 2, 2), computed(1, 8, 3, 3), moves="in0 in1 out0",
         opset=19),
    case("DeformConv", computed(1, 2, 4, 4), computed(3, 2, 2, 2), computed(1, 8, 3, 3), computed(3),
         computed(1, 4, 3, 3), moves="in0 in1 in3 out0", opset=19),
    case("Gemm", computed(3, 17), computed(17, 5), moves="in0 in1 out0"),
    case("Gemm", computed(3, 17), computed(17, 5), computed(5), moves="in0 in1 in2 out0"),
    case("Gemm", computed(17, 3), computed(5, 17), computed(5), moves="in0 in1 in2 out0", transA=1, transB=1,
         alpha=0.3, beta=1.7),
    case("Einsum", computed(3, 4), computed(4, 5), moves="in0 in1 out0", equation="ij,jk->ik"),
    case("Einsum", computed(3, 4), moves="in0 out0", equation="ij->ji"),
    case("Einsum", computed(3, 4), computed(4, 5), computed(5), moves="in0 in1 in2 out0",
         equation="ij,jk,k->i"),
    case("LSTM", computed(3, 2, 5), computed(1, 16, 5), computed(1, 16, 4), moves="in0 in1", outputs="fff",
         hidden_size=4),
    case("LSTM", computed(3, 2, 5), computed(1, 16, 5), computed(1, 16, 4), computed(1, 32), None,
         computed(1, 2, 4), computed(1, 2, 4), computed(1, 12), moves="in0 in1", hidden_size=4),
    case("GRU", computed(3, 2, 5), computed(1, 12, 5), computed(1, 12, 4), computed(1, 24), moves="in0 in1",
         outputs="ff", hidden_size=4, linear_before_reset=1),
    case("GRU", computed(3, 2, 5), computed(2, 12, 5), computed(2, 12, 4), moves="in0 in1", outputs="_f",
         hidden_size=4, direction="bidirectional"),
    case("RNN", computed(3, 2, 5), computed(1, 4, 5), computed(1, 4, 4), computed(1, 8), moves="in0 in1",
         hidden_size=4),
    case("QuantizeLinear", computed(4, 4), number(0.013), constant(128, np.uint8), moves="in0 in1",
         outputs="u"),
    case("QuantizeLinear", computed(4, 4), positive(4), constant([100] * 4, np.uint8), moves="in0 in1",
         outputs="u", axis=1),
    case("DequantizeLinear", constant([[3, 200]], np.uint8), number(0.013), constant(128, np.uint8),
         moves="in1 out0"),
    case("DequantizeLinear", constant([[-3, 20000]], np.int32), number(0.013), moves="in1 out0"),
]  # fmt: skip
ATTENTION = [
    case("Attention", *(computed(1, 2, 5, 8) for _ in range(3)), moves="in2 out0", opset=23),
    case("Attention", *(computed(1, 2, 5, 8) for _ in range(3)), moves="in0 in1 in2 out0", opset=23, scale=0.3),
    case("Attention", *(computed(1, 2, 5, 8) for _ in range(3)), moves="in0 in1 in2 out0", opset=23, scale=0.3,
         softcap=2.0, is_causal=1),
    case("Attention", *(computed(1, 2, 5, 8) for _ in range(3)), computed(5, 5), moves="in2 out0", opset=23,
         scale=0.3),
    case("Attention", *(computed(1, 2, 5, 8) for _ in range(3)), None, computed(1, 2, 3, 8),
         computed(1, 2, 3, 8), moves=PINNED, opset=23, outputs="fff"),
]  # fmt: skip

REDUCTION = [
    *(
        case(op, computed(3, 4, 5), moves="in0 out0", axes=[1])
        for op in ("ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceMean", "ReduceSumSquare")
    ),
    *(
        case(op, computed(3, 4, 5), constant([-1]), moves="in0 out0", opset=18, keepdims=0)
        for op in ("ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceMean", "ReduceSumSquare")
    ),
    case("ReduceSum", computed(3, 4, 5), constant([1, 2]), moves="in0 out0"),
    case("ReduceSum", computed(3, 4, 5), moves="in0 out0"),
    case("ReduceLogSum", positive(3, 4, 5), moves=PINNED, axes=[1]),
    case("CumSum", computed(3, 4), constant(1), moves="in0 out0"),
    case("CumSum", computed(3, 4), constant(0), moves="in0 out0", exclusive=1, reverse=1),
    *(case(op, computed(3, 4), moves="in0", outputs="i", axis=1) for op in ("ArgMax", "ArgMin")),
    case("TopK", computed(3, 8), constant([3]), moves="in0 out0", outputs="fi"),
    *(
        case(op, computed(*IMAGE), moves="in0 out0", kernel_shape=[2, 2], pads=[0, 0, 1, 1])
        for op in ("MaxPool", "AveragePool", "LpPool")
    ),
    case("MaxPool", computed(*IMAGE), moves="in0 out0", outputs="fi", kernel_shape=[3, 3]),
    *(
        case("LpPool", computed(*IMAGE), moves=moves, kernel_shape=[2, 2], p=p)
        for p, moves in ((1, "in0 out0"), (2, "in0 out0"), (3, PINNED), (4, "in0 out0"))
    ),
    *(case(op, computed(*IMAGE), moves="in0 out0") for op in ("GlobalMaxPool", "GlobalAveragePool")),
    *(
        case("GlobalLpPool", computed(*IMAGE), moves=moves, p=p)
        for p, moves in ((1, "in0 out0"), (2, "in0 out0"), (3, PINNED))
    ),
    case("LRN", computed(2, 4, 20, 20), moves="in0 out0", size=3),
    case("LRN", computed(2, 4, 20, 20), moves="in0 out0", size=3, alpha=0.3, beta=0.6, bias=2.0),
]

SHAPE = [
    *(case(op, computed(3, 4), moves="in0", outputs="i") for op in ("Shape", "Size")),
    case("Reshape", computed(3, 4), constant([2, 6]), moves="in0 out0"),
    case("Transpose", computed(3, 4), moves="in0 out0"),
    case("Squeeze", computed(3, 1, 4), constant([1]), moves="in0 out0"),
    case("Squeeze", computed(3, 1, 4), moves="in0 out0"),
    case("Unsqueeze", computed(3, 4), constant([0]), moves="in0 out0"),
    case("Flatten", computed(3, 4, 2), moves="in0 out0"),
    case("Expand", computed(3, 1), constant([3, 4]), moves="in0 out0"),
    case("Tile", computed(3, 2), constant([1, 2]), moves="in0 out0"),
    case("Slice", computed(5, 4), constant([1]), constant([4]), constant([0]), constant([2]),
         moves="in0 out0"),
    case("Gather", computed(5, 4), constant([1, 3]), moves="in0 out0"),
    case("GatherElements", computed(2, 2), constant([[0, 1], [1, 1]]), moves="in0 out0"),
    case("GatherND", computed(2, 2), constant([[0, 1], [1, 1]]), moves="in0 out0"),
    case("Compress", computed(4, 2), flags(True, False, True, True), moves="in0 out0", axis=0),
    case("DepthToSpace", computed(1, 8, 2, 2), moves="in0 out0", blocksize=2),
    case("SpaceToDepth", computed(1, 2, 4, 4), moves="in0 out0", blocksize=2),
    case("Col2Im", computed(1, 8, 4), constant([4, 4]), constant([2, 2]), moves="in0 out0", opset=18,
         strides=[2, 2]),
    case("Trilu", computed(4, 4), moves="in0 out0", upper=0),
    case("ReverseSequence", computed(4, 3), constant([4, 2, 3]), moves="in0 out0"),
    case("CenterCropPad", computed(4, 4), constant([6, 2]), moves="in0 out0", opset=18),
    case("MaxRoiPool", computed(1, 2, 8, 8), floats([0, 1, 1, 6, 6]), moves="in0 out0",
         pooled_shape=[2, 2]),
    case("RoiAlign", computed(1, 2, 8, 8), floats([1, 1, 6.5, 6.2]), constant([0]), moves="in0 out0",
         output_height=2, output_width=2),
    case("Upsample", computed(1, 1, 3, 3), floats(1, 1, 2, 2), moves="in0 out0", opset=9, mode="linear"),
    case("Unique", Data(np.array([3, 1, 3, 0.1], F32)), moves="in0 out0", outputs="fiii"),
    case("Scatter", computed(3, 2), constant([[0, 1]]), computed(1, 2), moves="in0 in2 out0", opset=10),
    case("ScatterElements", computed(3, 2), constant([[0, 1]]), computed(1, 2), moves="in0 in2 out0"),
    *(
        case(op, computed(3, 2), constant([[0, 1]]), computed(*update), moves=moves, opset=18,
             reduction=reduction)
        for op, update in (("ScatterElements", (1, 2)), ("ScatterND", (1,)))
        for reduction, moves in (("add", "in0 in2 out0"), ("max", "in0 in2 out0"), ("mul", PINNED))
    ),
    case("ScatterND", computed(3, 2), constant([[0, 1]]), computed(1), moves="in0 in2 out0"),
    *(
        case("Resize", computed(1, 1, 3, 3), None, floats(1, 1, 2, 1.5), moves="in0 out0", mode=mode)
        for mode in ("nearest", "linear", "cubic")
    ),
    case("Resize", computed(1, 1, 3, 3), None, None, constant([1, 1, 5, 4]), moves="in0 out0",
         mode="linear"),
    case("Resize", computed(1, 1, 3, 3), floats(0, 0, -0.5, 0, 1, 1, 1.5, 1), floats(1, 1, 2, 2),
         moves="in0 out0", mode="linear", coordinate_transformation_mode="tf_crop_and_resize"),
    case("Resize", computed(1, 1, 3, 3), floats(0, 0, -0.5, 0, 1, 1, 1.5, 1), floats(1, 1, 2, 2),
         moves=PINNED, mode="linear", coordinate_transformation_mode="tf_crop_and_resize",
         extrapolation_value=0.7),
    case("Split", computed(6, 2), moves="in0 out0 out1", outputs="ff"),
    case("Split", computed(6, 2), constant([1, 2, 3]), moves="in0 out0 out1 out2", outputs="fff"),
    case("Concat", computed(3, 2), computed(3, 1), computed(3, 1), moves="in0 in1 in2 out0", axis=1),
    case("Concat", computed(3, 2), moves="in0 out0", axis=1),
    case("Pad", computed(2, 2), constant([0, 1, 1, 0]), moves="in0 out0"),
    case("Pad", computed(2, 2), constant([0, 1, 1, 0]), number(0.7), moves="in0 in2 out0"),
    case("Pad", computed(4, 4), constant([0, 1, 1, 0]), moves="in0 out0", mode="reflect"),
    case("Pad", computed(2, 2), moves="in0 out0", opset=10, pads=[0, 1, 1, 0]),
    case("Pad", computed(2, 2), moves=PINNED, opset=10, pads=[0, 1, 1, 0], value=0.7),
    case("OneHot", constant([1, 0]), constant(3), floats(0.3, 0.7), moves="in2 out0"),
    case("OneHot", floats(1, 0), number(3), floats(0.3, 0.7), moves="in2 out0"),
    case("MaxUnpool", computed(1, 1, 2, 2), constant([[[[0, 2], [8, 15]]]]), constant([1, 1, 4, 4]), moves="in0 out0",
         kernel_shape=[2, 2], strides=[2, 2]),
    case("RotaryEmbedding", computed(1, 2, 3, 8), computed(1, 3, 4), computed(1, 3, 4), moves="in0 out0", opset=23),
    case("TensorScatter", computed(1, 2, 4, 8), computed(1, 2, 1, 8), constant([2]), moves="in0 in1 out0", opset=24),
    case("GridSample", computed(1, 2, 4, 4), Data(np.linspace(-1.2, 1.2, 18, dtype=F32).reshape(1, 3, 3, 2)),
         moves="in0 out0"),
]  # fmt: skip

NORMALIZATION = [
    case("LayerNormalization", computed(3, 16), computed(16), moves="in0 in1 out0"),
    case("LayerNormalization", computed(3, 16), computed(16), computed(16), moves="in0 in1 in2 out0",
         epsilon=0.3),
    case("LayerNormalization", computed(3, 16), computed(16), moves=PINNED, outputs="fff"),
    case("GroupNormalization", computed(2, 4, 9), computed(4), computed(4), moves="in0 in1 in2 out0",
         opset=21, num_groups=2, epsilon=0.3),
    case("GroupNormalization", computed(2, 4, 9), computed(4), computed(4), moves="in0 in1 in2 out0",
         opset=21, num_groups=2),
    case("RMSNormalization", computed(3, 16), computed(16), moves="in0 in1 out0", opset=23),
    case("RMSNormalization", computed(3, 16), computed(16), moves="in0 in1 out0", opset=23, epsilon=0.3),
    case("InstanceNormalization", computed(2, 3, 9), computed(3), computed(3), moves="in0 in1 in2 out0"),
    case("InstanceNormalization", computed(1, 3, 9), computed(3), computed(3), moves="in0 in1 in2 out0",
         epsilon=0.3),
    case("BatchNormalization", computed(2, 3, 9), computed(3), computed(3), computed(3), positive(3),
         moves="in0 in1 in2 in3 in4 out0"),
    case("BatchNormalization", computed(2, 3, 9), computed(3), computed(3), computed(3), positive(3),
         moves="in0 in1 in2 in3 in4 out0", epsilon=0.3, opset=9),
    case("BatchNormalization", computed(2, 3, 9), computed(3), computed(3), computed(3), positive(3),
         moves=PINNED, outputs="fff", training_mode=1),
    case("LpNormalization", computed(3, 4), moves="in0"),
    case("LpNormalization", computed(3, 4), moves="in0", p=1, axis=0),
]  # fmt: skip

FUSED = [
    case("SimplifiedLayerNormalization", computed(3, 8), computed(8), moves="in0 in1 out0", epsilon=1e-5),
    case("SimplifiedLayerNormalization", computed(3, 8), computed(8), moves=PINNED, outputs="ff"),
    case("LayerNormalization", computed(3, 8), computed(8), computed(8), moves="in0 in1 in2 out0", opset=14),
    case("com.microsoft.SkipLayerNormalization", computed(2, 3, 8), computed(2, 3, 8), computed(8), computed(8),
        moves="in0 in1 in2 in3 out0", epsilon=1e-5),
    case("com.microsoft.SkipLayerNormalization", computed(2, 3, 8), computed(2, 3, 8), computed(8), computed(8),
        computed(8), moves="in0 in1 in2 in3 in4 out0 out3", outputs="f__f", epsilon=1e-5),
    case("com.microsoft.SkipLayerNormalization", computed(2, 3, 8), computed(2, 3, 8), computed(8), computed(8),
        moves="in0 in1 in2 in3 out0"),
    case("com.microsoft.SkipSimplifiedLayerNormalization", computed(2, 3, 8), computed(2, 3, 8), computed(8),
        computed(8), moves="in0 in1 in2 in3 out0 out3", outputs="f__f", epsilon=1e-5),
    case("com.microsoft.EmbedLayerNormalization", constant([[1, 2, 0]], np.int32), None, computed(4, 8),
        computed(5, 8), None, computed(8), computed(8), moves="in2 in3 in5 in6 out0", outputs="fw", epsilon=1e-5),
    *(case(f"com.microsoft.{op}", computed(3, 8), computed(8), moves=PINNED) for op in ("BiasGelu", "FastGelu")),
    *(case(f"com.microsoft.{op}", computed(3, 8), moves=PINNED) for op in ("QuickGelu", "Gelu")),
    case("com.microsoft.FusedMatMul", computed(3, 8), computed(5, 8), moves="in0 in1 out0", alpha=0.3, transB=1),
    case("com.microsoft.FusedGemm", computed(3, 8), computed(8, 5), computed(5), moves="in0 in1 in2 out0",
        activation="Relu"),
    case("com.microsoft.FusedConv", computed(1, 4, 6, 6), computed(4, 4, 3, 3), computed(4),
        moves="in0 in1 in2 out0", activation="LeakyRelu", activation_params=[0.1]),
    case("com.microsoft.FusedConv", computed(1, 4, 6, 6), computed(4, 4, 3, 3), computed(4), moves="in0 in1",
        activation="Sigmoid"),
    case("com.microsoft.Attention", computed(1, 3, 8), computed(8, 24), computed(24), moves="in0 in1",
        num_heads=2),
    case("com.microsoft.MultiHeadAttention", computed(1, 3, 8), computed(1, 3, 8), computed(1, 3, 8),
        moves="in2 out0", num_heads=2),
    case("com.microsoft.MultiHeadAttention", computed(1, 3, 8), computed(1, 3, 8), computed(1, 3, 8),
        computed(24), moves=PINNED, num_heads=2),
    case("com.microsoft.RotaryEmbedding", computed(1, 3, 8), constant([[0, 1, 2]]), computed(5, 4), computed(5, 4),
        moves="in0 out0"),
]  # fmt: skip
"""Ops of ONNX Runtime's own, in CASES too."""

CASES: list[Case] = [
    one
    for family in (ELEMENTWISE, LINEAR, ATTENTION, REDUCTION, SHAPE, NORMALIZATION, FUSED)
    for forms in family
    for one in forms
]
