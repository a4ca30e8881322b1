"""Every op, typed FP16 and BF16: the types ONNX infers are those that ``convert`` believes in, and ONNX Runtime loads
what is FP16 (its CPU provider has few BF16 kernels)."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from emit.typing_checks import converted
from onnx_fp16fix.half import BF16
from onnx_fp16fix.model.contrib import is_contrib
from operators.cases import CASES, number
from operators.one_node import Case, Data, case, computed, constant, positive

CODES = constant([[3, 200]], np.uint8)
ZERO = constant(128, np.uint8)
CHANCES = Data(np.float32([[0.5, 0.3]]))
QKV = [computed(1, 2, 5, 8) for _ in range(3)]
FLOAT = TensorProto.FLOAT

WITHOUT_RELATION = [
    *(case(op, constant(8), moves="") for op in ("HannWindow", "HammingWindow", "BlackmanWindow")),
    case("HannWindow", constant(8), moves="", output_datatype=FLOAT),
    case("EyeLike", computed(3, 3), moves=""),
    case("EyeLike", constant([[1, 2], [3, 4]]), moves="", dtype=FLOAT),
    *(case(op, computed(3, 3), moves="") for op in ("RandomNormalLike", "RandomUniformLike")),
    case("RandomNormalLike", constant([1, 2]), moves="", dtype=FLOAT),
    *(case(op, moves="", shape=[2]) for op in ("RandomNormal", "RandomUniform")),
    case("Bernoulli", CHANCES, moves=""),
    case("Bernoulli", CHANCES, moves="", dtype=FLOAT),
    case("ConstantOfShape", constant([2, 3]), moves=""),
    case("Range", number(0), number(4), number(1), moves=""),
    case("DequantizeLinear", CODES, number(0.013), ZERO, moves="", opset=21),
    case("DequantizeLinear", CODES, number(0.013), ZERO, moves="", opset=23),
    case("DequantizeLinear", CODES, number(0.013), ZERO, moves="", opset=23, output_dtype=FLOAT),
    *(
        case("QuantizeLinear", computed(4, 4), number(0.013), ZERO, moves="", opset=opset, outputs="u")
        for opset in (21, 23)
    ),
    case("DynamicQuantizeLinear", computed(4, 4), moves="", outputs="ufu"),
    *(case(op, computed(3, 4), moves="") for op in ("Softmax", "LogSoftmax", "Hardmax", "Floor", "Ceil")),
    *(case(op, computed(3, 4), moves="") for op in ("ReduceLogSumExp", "ReduceProd", "Shrink")),
    *(case(op, computed(3, 4), moves="", outputs="b") for op in ("IsNaN", "IsInf")),
    case("Mod", computed(3, 4), positive(4), moves="", fmod=1),
    case("MaxUnpool", computed(1, 1, 2, 2), constant([[[[0, 2], [8, 10]]]]), moves="", kernel_shape=[2, 2],
         strides=[2, 2]),
    case("NonMaxSuppression", computed(1, 3, 4), computed(1, 1, 3), constant([1]), moves="", outputs="i"),
    case("SoftmaxCrossEntropyLoss", computed(3, 4), constant([1, 0, 2]), moves=""),
    case("NegativeLogLikelihoodLoss", computed(3, 4), constant([1, 0, 2]), moves=""),
    case("AffineGrid", computed(1, 2, 3), constant([1, 1, 3, 3]), moves="", opset=20),
    case("GridSample", computed(1, 2, 4, 4), computed(1, 3, 3, 2), moves="", opset=20),
    case("Det", computed(3, 3), moves=""),
    case("DFT", computed(1, 8, 1), moves="", axis=1),
    case("MelWeightMatrix", constant(8), constant(16), constant(8192), number(0), number(4096), moves=""),
    case("Multinomial", computed(1, 3), moves="", outputs="w"),
    case("CastLike", constant([1, 2]), computed(1), moves=""),
    case("OptionalHasElement", computed(3), moves="", outputs="b", opset=18),
    case("Upsample", computed(1, 1, 3, 3), moves="", opset=8, scales=[1.0, 1.0, 2.0, 2.0]),
    case("RotaryEmbedding", computed(1, 2, 3, 8), computed(8, 4), computed(8, 4), constant([[0, 1, 2]]),
         moves="", opset=23),
    case("TensorScatter", computed(1, 1, 4, 2), computed(1, 1, 1, 2), constant([0]), moves="", opset=24),
    case("Attention", *QKV, computed(5, 5), computed(1, 2, 0, 8), computed(1, 2, 0, 8), moves="", opset=23,
         outputs="fff"),
    case("Attention", *QKV, computed(5, 5), moves="", opset=23, outputs="f__f"),
]  # fmt: skip
ALL = [*CASES, *(one for forms in WITHOUT_RELATION for one in forms)]


def shaped(one: Case) -> onnx.ModelProto:
    """The checker wants shapes of graph outputs."""
    proto = one.model()
    for info, value in zip(proto.graph.output, one.run().values(), strict=True):
        shape = info.type.tensor_type.shape
        shape.SetInParent()
        for size in value.shape:
            shape.dim.add(dim_value=size)
    return proto


@pytest.mark.parametrize("one", ALL, ids=str)
def test_every_op_is_typed_as_onnx_infers_it(one: Case) -> None:
    proto = shaped(one)
    domain, _, op = one.op.rpartition(".")
    known = not is_contrib(domain, op, one.opset)
    for io in ("fp32", "fp16"):
        converted(proto, io=io, known=known)
        converted(proto, fp32={0}, io=io, known=known)
    for io in ("fp32", "bf16") if one.opset >= 13 else ():
        converted(proto, io=io, half=BF16, load=False, known=known)
