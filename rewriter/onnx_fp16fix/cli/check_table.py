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

_MOST_FINDINGS, _MOST_OUTPUTS, _MOST_WEIGHTS = 20, 5, 5
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
        yield from _weight_lines(entry.weights)


def _weight_lines(weights: WeightsEntry) -> Iterator[RenderableType]:
    share = weights.below_normal / weights.elements
    yield (
        f"[bold]weights:[/] {counted(weights.elements, 'element')}, of these beyond FP16: {weights.beyond:,}, "
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
    """The findings, which come worst first, with what repairs each."""
    if not findings:
        return
    kinds = Counter(finding.kind for finding in findings)
    title = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    table = Table(
        title=f"{counted(len(findings), 'finding')}: {title}", title_justify="left", show_lines=True
    )
    table.add_column("kind\nrepair", overflow="fold", max_width=14)
    table.add_column("where\nwhat", overflow="fold")
    for finding in findings[:_MOST_FINDINGS]:
        table.add_row(*_row(finding))
    if len(findings) > _MOST_FINDINGS:
        table.caption = f"and {len(findings) - _MOST_FINDINGS} more (--json has all)"
    yield table


def _row(finding: Finding) -> tuple[str, str]:
    """Two columns of two lines: at 80 columns a name and a sentence each get a line of their own."""
    where = finding.node or finding.tensor or ""
    if finding.scope:
        where = f"{where} in {finding.scope}"
    at = [
        f"{word} {finding.facts[word]}" for word in ("sample", "run") if finding.facts.get(word) is not None
    ]
    what = finding.message + (f" ({', '.join(at)})" if at else "")
    kind = f"[{_COLOURS[finding.severity]}]{finding.kind}[/]\n{escape(_repair(finding))}"
    return kind, f"[bold]{escape(where)}[/]\n{escape(what)}"


def _repair(finding: Finding) -> str:
    if finding.repaired_by:
        return ", ".join(finding.repaired_by)
    if finding.rule:
        return finding.rule
    if finding.name == "fp32-nonfinite":
        return "-"
    return {"available": "fix", "left": "-", "skipped": "not needed", "fixed": "done"}[finding.status]


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"relative error {value:.2e}"
