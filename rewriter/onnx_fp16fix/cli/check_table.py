"""The report of ``check`` for a person: what plain FP16 does, findings worst first, weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from onnx_fp16fix.document import CheckEntry, Finding, WeightEntry, WeightsEntry
from onnx_fp16fix.wording import counted

__all__ = ["check_lines", "finding_lines"]

_MOST_ROWS, _MOST_NAMES, _MOST_OUTPUTS, _MOST_WEIGHTS = 20, 6, 5, 5
"""Rows; the JSON document has all."""
_COLOURS = {"error": "red", "warning": "yellow", "info": "dim"}


def check_lines(entry: CheckEntry) -> Iterator[RenderableType]:
    """What plain FP16 or BF16 does to outputs and weights."""
    if entry.naive is not None:
        yield f"[bold]plain {entry.as_type.upper()}, simulated:[/]"
        outputs = sorted(entry.naive.outputs, key=lambda o: -1.0 if o.rel_l2 is None else 1 / (1 + o.rel_l2))
        for output in outputs[:_MOST_OUTPUTS]:
            wrong = output.rel_l2 is None or output.rel_l2 > entry.tolerance
            error = (
                f"{counted(output.nonfinite, 'element')} not finite"
                if output.nonfinite
                else _number(output.rel_l2)
            )
            yield f"  output {escape(output.name)}: [{'red' if wrong else 'green'}]{error}[/]"
        if len(outputs) > _MOST_OUTPUTS:
            yield f"  and {counted(len(outputs) - _MOST_OUTPUTS, 'more output')}"
        if entry.naive.first_nonfinite:
            harmless = f", {entry.harmless_overflows} harmless" if entry.harmless_overflows else ""
            yield (
                f"  first tensor not finite: {escape(entry.naive.first_nonfinite)} "
                f"({entry.nonfinite_tensors} in all{harmless})"
            )
        if entry.first_inaccurate:
            yield f"  first tensor off by more than {entry.tolerance:g}: {escape(entry.first_inaccurate)}"
    if entry.weights.beyond or entry.weights.vanishing:
        yield from _weight_lines(entry.weights, entry.as_type.upper())


def _weight_lines(weights: WeightsEntry, name: str) -> Iterator[RenderableType]:
    share = weights.below_normal / weights.elements
    yield (
        f"[bold]weights:[/] {counted(weights.elements, 'element')}, of these beyond {name}: {weights.beyond:,}, "
        f"with bits lost: {weights.below_normal:,} ({share:.1%}), vanishing: {weights.vanishing:,}"
    )
    for entry in weights.worst[:_MOST_WEIGHTS]:
        yield f"  {escape(entry.name)}: {_counts(entry)}"
    if len(weights.worst) > _MOST_WEIGHTS:
        yield f"  and {len(weights.worst) - _MOST_WEIGHTS} more (--json has them)"


def _counts(entry: WeightEntry) -> str:
    counts = ((entry.beyond, "beyond"), (entry.below_normal, "lose bits"), (entry.vanishing, "vanish"))
    text = ", ".join(f"{count:,} {what}" for count, what in counts if count)
    return f"{text} of {entry.elements:,}, up to {entry.absmax:.3g}"


def finding_lines(findings: list[Finding]) -> Iterator[RenderableType]:
    """The findings, which come worst first, a row for each cause, with what repairs it."""
    if not findings:
        return
    kinds = Counter(finding.kind for finding in findings)
    groups = _by_cause(findings)
    title = counted(len(findings), "finding")
    if causes := {finding.cause for finding in findings if finding.cause is not None}:
        title += f", {counted(len(causes), 'cause')}"
    title += f": {', '.join(f'{count} {kind}' for kind, count in kinds.most_common())}"
    table = Table(title=title, title_justify="left", show_lines=True)
    table.add_column("kind\nrepair", overflow="fold", max_width=14)
    table.add_column("where\nwhat", overflow="fold")
    for group in groups[:_MOST_ROWS]:
        table.add_row(*_row(group))
    if len(groups) > _MOST_ROWS:
        table.caption = f"and {len(groups) - _MOST_ROWS} more (--json has all)"
    yield table


def _by_cause(findings: list[Finding]) -> list[list[Finding]]:
    """The findings of each cause, that of the place where it begins first; all wrong outputs, and what does no harm,
    are told together."""
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for index, finding in enumerate(findings):
        if finding.name.endswith("-output") or finding.severity == "info":
            key: tuple[str, ...] = (finding.kind, finding.name, finding.status)
        else:
            key = (finding.cause if finding.cause is not None else f"#{index}",)
        groups.setdefault(key, []).append(finding)
    return [sorted(group, key=lambda finding: finding.place() != finding.cause) for group in groups.values()]


def _row(group: list[Finding]) -> tuple[str, str]:
    """Two columns of a few lines: at 80 columns a name and a sentence each get a line of their own."""
    first = group[0]
    at = [f"{word} {first.facts[word]}" for word in ("sample", "run") if first.facts.get(word) is not None]
    what = first.message + (f" ({', '.join(at)})" if at else "")
    worst = min((finding.severity for finding in group), key=list(_COLOURS).index)
    repair = dict.fromkeys(part for finding in group for part in _repair(finding))
    kind = f"[{_COLOURS[worst]}]{first.kind}[/]\n{escape(', '.join(repair))}"
    lines = [f"[bold]{escape(_where(first))}[/]", escape(what)]
    others = [name for name in dict.fromkeys(map(_where, group)) if name != _where(first)]
    if others:
        more = f" and {len(others) - _MOST_NAMES} more" if len(others) > _MOST_NAMES else ""
        lines.append(f"[dim]also at {escape(', '.join(others[:_MOST_NAMES]))}{more}[/]")
    return kind, "\n".join(lines)


def _where(finding: Finding) -> str:
    where = finding.node or finding.tensor or ""
    return f"{where} in {finding.scope}" if finding.scope else where


def _repair(finding: Finding) -> list[str]:
    if finding.repaired_by:
        return finding.repaired_by
    if finding.rule:
        return [finding.rule]
    if finding.name == "fp32-nonfinite":
        return ["-"]
    return [{"available": "fix", "left": "-", "skipped": "not needed", "fixed": "done"}[finding.status]]


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"relative error {value:.2e}"
