"""Wishes about nodes, carried over to a rewritten model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from onnx_fp16fix.graph import GraphView
from onnx_fp16fix.model import ScopePath
from onnx_fp16fix.pipeline.state import State
from onnx_fp16fix.plan import Place

__all__ = ["follow", "node_names"]


def follow(before: State, after: State) -> State | None:
    """The wishes at the places of their nodes in a rewritten model; None where one of the nodes is gone."""
    if not (before.wished or before.half):
        return after
    places = {name: place for place, name in node_names(after.view).items()}
    names = node_names(before.view)

    def moved(wishes: Mapping[Place, str]) -> dict[Place, str]:
        return {places[names[place]]: why for place, why in wishes.items()}

    try:
        return replace(
            after, wished=moved(before.wished), half=moved(before.half), obeyed=moved(before.obeyed)
        )
    except KeyError:
        return None


def node_names(view: GraphView) -> dict[Place, tuple[str, ...]]:
    """Each node by its first output, after those of the nodes around it and which of their bodies it is in."""
    around: dict[ScopePath, tuple[str, ...]] = {(): ()}
    found: dict[Place, tuple[str, ...]] = {}
    for scope in (view.main, *view.main.inside()):
        names = around[scope.path]
        found |= {(scope.path, node.index): (*names, node.outputs[0].name) for node in scope.nodes}
        for index, bodies in scope.bodies.items():
            around |= {body.path: (*found[scope.path, index], element) for element, body in bodies.items()}
    return found
