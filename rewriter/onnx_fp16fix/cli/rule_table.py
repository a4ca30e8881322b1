"""Rules of a run as tables: how close those came that changed nothing, and what each cost."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from onnx_fp16fix.document import MissEntry, RuleEntry, RunDocument
from onnx_fp16fix.wording import counted

__all__ = ["rule_lines"]


def rule_lines(run: RunDocument, timings: bool) -> Iterator[RenderableType]:
    """The table of misses where they were asked for, and that of ``timings``."""
    if run.misses:
        yield _misses(run.misses)
    if timings and run.rules:
        yield _timings(run.rules)


def _misses(misses: list[MissEntry]) -> Table:
    table = Table(
        title=f"{counted(len(misses), 'rule')} changed nothing; where each came closest", title_justify="left"
    )
    for heading in ("rule", "fitted", "where", "what failed"):
        table.add_column(heading, overflow="fold")
    for miss in sorted(misses, key=lambda miss: (-(miss.fitted / (miss.size or 1)), miss.rule)):
        rule = f"{miss.rule} {miss.name}"
        failed = f"{miss.clause}: {miss.reason}"
        table.add_row(escape(rule), f"{miss.fitted} of {miss.size}", escape(miss.node or "-"), escape(failed))
    return table


def _timings(rules: list[RuleEntry]) -> Table:
    table = Table(title=f"rules: {sum(rule.seconds for rule in rules):.2f} s CPU", title_justify="left")
    table.add_column("rule", overflow="fold")
    for heading in ("tries", "hits", "applied", "ms"):
        table.add_column(heading, justify="right")
    for rule in sorted(rules, key=lambda rule: -rule.seconds):
        counts = (f"{count:,}" for count in (rule.tried, rule.matched, rule.applied))
        table.add_row(escape(f"{rule.id} {rule.name}"), *counts, f"{1000 * rule.seconds:.1f}")
    return table
