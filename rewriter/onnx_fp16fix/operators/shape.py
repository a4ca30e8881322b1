"""Ops that move, select or interpolate elements, and ops that make new tensors."""

from __future__ import annotations

from onnx_fp16fix.operators.relation import SAME, NodeFacts, Operand, Relation, RelationOf, equal, inp, out

__all__ = ["OPS"]


def _data(node: NodeFacts) -> Relation:
    """Only the first input is data; sizes, scales and indices are not."""
    return SAME


def _split(node: NodeFacts) -> Relation:
    return Relation(equal(node, [inp(0), *(out(slot) for slot in range(node.count("out")))]))


def _concat(node: NodeFacts) -> Relation:
    return Relation(equal(node, [out(), *(inp(slot) for slot in range(node.count("in")))]))


def _pad(node: NodeFacts) -> Relation:
    """The fill value is scaled like the data; an absent one is 0 and needs nothing."""
    if node.opset < 11 and node.attrs.get("value", 0.0) != 0.0:
        return Relation()
    return Relation(equal(node, (out(), inp(0), inp(2))))


def _scatter(node: NodeFacts) -> Relation:
    if node.attrs.get("reduction", b"none") == b"mul":
        return Relation()
    return Relation(equal(node, (out(), inp(0), inp(2))))


def _tensor_scatter(node: NodeFacts) -> Relation:
    return Relation(equal(node, (out(), inp(0), inp(1))))


def _resize(node: NodeFacts) -> Relation:
    cropped = node.attrs.get("coordinate_transformation_mode") == b"tf_crop_and_resize"
    if cropped and node.attrs.get("extrapolation_value", 0.0) != 0.0:
        return Relation()
    return _data(node)


def _one_hot(node: NodeFacts) -> Relation:
    operands: list[Operand] = [out(), inp(2)]
    return Relation(equal(node, operands))


def _grid_sample(node: NodeFacts) -> Relation:
    """Pixel positions need more than FP16's 11 bits on images beyond about 512 pixels."""
    return Relation((((out(), 1), (inp(0), -1)),), precise=frozenset({1}))


def _any_scale(node: NodeFacts) -> Relation:
    """Only the shape is read."""
    return Relation(free=frozenset({inp(0)}))


OPS: dict[str, RelationOf] = {
    **dict.fromkeys(("Shape", "Size"), _any_scale),
    **dict.fromkeys(
        (
            "Reshape",
            "Transpose",
            "Squeeze",
            "Unsqueeze",
            "Flatten",
            "Expand",
            "Tile",
            "Slice",
            "Gather",
            "GatherElements",
            "GatherND",
            "Compress",
            "DepthToSpace",
            "SpaceToDepth",
            "Col2Im",
            "Trilu",
            "ReverseSequence",
            "CenterCropPad",
            "MaxRoiPool",
            "RoiAlign",
            "MaxUnpool",
            "RotaryEmbedding",
            "Upsample",
            "Unique",
        ),
        _data,
    ),
    **dict.fromkeys(("Scatter", "ScatterElements", "ScatterND"), _scatter),
    "Resize": _resize,
    "TensorScatter": _tensor_scatter,
    "Split": _split,
    "Concat": _concat,
    "Pad": _pad,
    "OneHot": _one_hot,
    "GridSample": _grid_sample,
}
