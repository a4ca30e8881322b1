"""A model run part by part: every tensor can be looked at, each node runs once, and memory stays flat.

Fetching every tensor in one run keeps them all in memory. So the model is cut into parts, one for each group of
wanted tensors, each a session of its own. A part is fed what earlier parts made; such values are kept until the last
part that reads them. A tensor whose type is not known (a sequence, a helper of the rounded graph) is not handed on
but computed again where it is needed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from onnx_fp16fix.runtime import Session, node_reads, open_session

__all__ = ["PartedModel"]


@dataclass(slots=True)
class _Part:
    """``nodes``: positions in the graph. ``wanted``: the group's tensors made here. ``kept``: those made here that
    later parts read.

    ``given``: what is fed, with element types. ``spent``: what no later part asks for.
    """

    nodes: set[int] = field(default_factory=set)
    wanted: list[str] = field(default_factory=list)
    kept: set[str] = field(default_factory=set)
    given: dict[str, int] = field(default_factory=dict)
    spent: set[str] = field(default_factory=set)


class PartedModel:
    """Sessions of all parts, open together: weights are held once, each by the part that reads it."""

    def __init__(
        self,
        proto: onnx.ModelProto,
        base_dir: Path | None,
        groups: Sequence[Sequence[str]],
        types: Mapping[str, int],
    ) -> None:
        """``groups``: tensors to look at together. ``types``: element types of tensors that may be handed on."""
        self._groups = groups
        nodes = list(proto.graph.node)
        self._parts = _plan(nodes, groups, types)
        self._sessions = [self._open(proto, base_dir, nodes, part) for part in self._parts]

    def _open(
        self, proto: onnx.ModelProto, base_dir: Path | None, nodes: Sequence[onnx.NodeProto], part: _Part
    ) -> Session | None:
        outputs = list(dict.fromkeys([*part.wanted, *sorted(part.kept)]))
        if not outputs:
            return None
        several = len(self._parts) > 1  # their arenas would add up to all that one run fetches
        needed = [nodes[index] for index in sorted(part.nodes)]
        return open_session(
            proto, base_dir, outputs=outputs, given=part.given, nodes=needed, arena=not several, prepack=False
        )

    def run(self, feed: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The values of one group after the other. Raises ModelError (MODEL-RUN)."""
        live: dict[str, Any] = {}
        for group, part, session in zip(self._groups, self._parts, self._sessions, strict=True):
            if session is not None:
                live.update(session.run({**feed, **{name: live[name] for name in part.given}}))
            yield _take(live, group, part.spent)


def _take(live: dict[str, Any], group: Sequence[str], spent: Collection[str]) -> dict[str, Any]:
    values = {name: live[name] for name in group}
    for name in spent:
        live.pop(name, None)
    return values


def _plan(
    nodes: Sequence[onnx.NodeProto], groups: Sequence[Sequence[str]], types: Mapping[str, int]
) -> list[_Part]:
    producer = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    made: dict[str, int] = {}
    parts: list[_Part] = []
    last: dict[str, int] = {}
    for index, group in enumerate(groups):
        part = _Part()
        parts.append(part)
        for name in _closure(group, nodes, producer, made, types, part):
            made.setdefault(name, index)
        for name in (*group, *part.given):
            last[name] = index
            if made[name] == index:
                part.wanted.append(name)
            else:
                parts[made[name]].kept.add(name)
    for name, index in last.items():
        parts[index].spent.add(name)
    return parts


def _closure(
    group: Sequence[str],
    nodes: Sequence[onnx.NodeProto],
    producer: Mapping[str, int],
    made: Mapping[str, int],
    types: Mapping[str, int],
    part: _Part,
) -> set[str]:
    """Names computed in the part that looks at ``group``; its nodes and what it reads of earlier parts are noted."""
    pending = [name for name in group if name not in made]
    here: set[str] = set()
    while pending:
        name = pending.pop()
        if name not in producer or name in here or name in part.given:
            continue
        if name in made and types.get(name):
            part.given[name] = types[name]
            continue
        node = nodes[producer[name]]
        part.nodes.add(producer[name])
        here.update(filter(None, node.output))
        pending += node_reads(node)
    for name in here.intersection(part.given):
        del part.given[name]  # made again anyway, beside another output of its node
    return here
