"""Random ops that draw the same numbers in every session: without that, two models could not be compared."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator

import onnx
from onnx import AttributeProto

__all__ = ["DRAWING", "draw_alike", "may_draw", "random_nodes"]

_SEEDS = {
    **dict.fromkeys(
        ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"), AttributeProto.FLOAT
    ),
    **dict.fromkeys(("Bernoulli", "Multinomial"), AttributeProto.FLOAT),
    "Dropout": AttributeProto.INT,
}
DRAWING = frozenset(_SEEDS) - {"Dropout"}
"""Ops whose results are drawn; what a Dropout makes is its input, in part. With a seed they draw alike in every
session, but other numbers at each run of one."""
_WITH_BODIES = frozenset({"If", "Loop", "Scan", "SequenceMap"})
_WORDS = tuple(name.encode() for name in ("Random", "Bernoulli", "Multinomial", "Dropout"))
_OURS = re.compile(r"/fp16fix/|\.wide\b|\.rounded\b")
"""What emission and simulation put behind the name of a tensor that they make in another type."""


def random_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Nodes that draw other numbers in every session, those in bodies included."""
    return [node for node in _nodes(graph.node) if _draws(node)]


def may_draw(ops: Iterable[tuple[str, str]]) -> bool:
    """Whether ``random_nodes`` may find anything in a model of these ops (domains and types)."""
    return any(not domain and op in _SEEDS for domain, op in ops)


def draw_alike(model: onnx.ModelProto, serialized: bytes) -> bytes:
    """The serialized model, with a seed at each node that has none: by the name of what it makes, so that a node has
    the same one in the rewritten model. ``model`` is ``serialized``, and is changed."""
    if not any(word in serialized for word in _WORDS):
        return serialized
    functions = (node for function in model.functions for node in _nodes(function.node))
    drawing = [*random_nodes(model.graph), *filter(_draws, functions)]
    for node in drawing:
        seed = zlib.crc32(_OURS.split(node.output[0])[0].encode()) % (1 << 20)
        kind = _SEEDS[node.op_type]
        node.attribute.add(name="seed", type=kind, **{"i" if kind == AttributeProto.INT else "f": seed})
    return model.SerializeToString() if drawing else serialized


def _draws(node: onnx.NodeProto) -> bool:
    if node.op_type not in _SEEDS or node.domain or any(item.name == "seed" for item in node.attribute):
        return False
    return node.op_type != "Dropout" or len(node.input) > 2  # without its third input it hands on


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute if node.op_type in _WITH_BODIES else ():
            for body in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                yield from _nodes(body.node)
