"""What ``bisect`` found, for a person: the nodes ranked by the error they make."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from onnx_fp16fix.document import BisectEntry, BlamedNode
from onnx_fp16fix.wording import counted

__all__ = ["bisect_lines"]

_MOST = 20
"""Rows; the JSON document has all."""


def bisect_lines(entry: BisectEntry) -> Iterator[RenderableType]:
    """Table and sentences, in order."""
    yield (
        f"output error with {_all(entry.nodes)} in {entry.as_type.upper()}: [bold]{_number(entry.error_fp16)}[/], "
        f"tolerance {entry.tolerance:g}"
    )
    if not entry.ranking:
        yield f"[green]{entry.as_type.upper()} is good already: nothing to bisect[/]"
        return
    yield _table(entry)
    if entry.cleared:
        stay, their = ("stays", "its") if entry.cleared == 1 else ("stay", "their")
        cleared = counted(entry.cleared, "other node")
        yield f"{cleared} {stay} below {entry.negligible:.1g} together with {their} neighbours"
    kept = len(entry.fp32_nodes)
    tried = f"{counted(entry.trials, 'set')} tried, {counted(entry.recalled, 'measurement')} from the cache"
    many = "" if entry.minimal else "; [yellow]the trials ran out, it may be smaller[/]"
    yield (
        f"[bold]{counted(kept, 'node')}[/] in FP32 {'brings' if kept == 1 else 'bring'} the error to "
        f"[bold]{_number(entry.error)}[/] ({tried}){many}"
    )
    hidden = [blamed for blamed in entry.ranking[_MOST:] if blamed.kept]
    if hidden:
        yield f"kept as well: {escape(', '.join(blamed.node for blamed in hidden[:_MOST]))}"


def _all(nodes: int) -> str:
    return f"all of {nodes:,} nodes" if nodes > 1 else "its only node" if nodes else "no node"


def _table(entry: BisectEntry) -> Table:
    table = Table(title="nodes by the output error they cause", title_justify="left")
    table.add_column("node", overflow="fold", ratio=1)
    table.add_column("op", overflow="fold")
    table.add_column(f"only it {entry.as_type.upper()}", justify="right")
    table.add_column("only it FP32", justify="right")
    table.add_column("keep")
    for blamed in entry.ranking[:_MOST]:
        table.add_row(*_row(blamed))
    if len(entry.ranking) > _MOST:
        table.caption = f"and {len(entry.ranking) - _MOST} more (--json has all)"
    return table


def _row(blamed: BlamedNode) -> tuple[str, str, str, str, str]:
    others = _number(blamed.others) if blamed.others_measured else ""
    return (
        escape(blamed.node),
        blamed.op,
        _number(blamed.alone),
        others,
        "[red]FP32[/]" if blamed.kept else "",
    )


def _number(value: float | None) -> str:
    return f"{value:.2e}" if value is not None and math.isfinite(value) else "not finite"
