"""The run document as tables on stderr."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table

from onnx_fp16fix.cli.bisect_table import bisect_lines
from onnx_fp16fix.cli.check_table import check_lines, finding_lines
from onnx_fp16fix.cli.rule_table import rule_lines
from onnx_fp16fix.document import (
    Finding,
    FindingStatus,
    ModelEntry,
    OrtCheck,
    PlanEntry,
    RunDocument,
    VerificationEntry,
)
from onnx_fp16fix.wording import counted

__all__ = ["show"]

_MOST_FINDINGS = 20
"""Rows of the findings table; the JSON document has all."""
_LONGEST = 100
"""Characters of a message from elsewhere; the JSON document has it whole."""
_COLOURS = {"fixed": "green", "available": "cyan", "skipped": "yellow", "left": "red"}
_ORDER: dict[FindingStatus, int] = {"left": 0, "skipped": 1, "available": 2, "fixed": 3}


def show(run: RunDocument, console: Console | None = None, *, timings: bool = False) -> None:
    """Print what a person wants to know of a run: the model, what was found, what was done, whether it holds.

    ``timings``: also what each rule cost.
    """
    console = console or Console(stderr=True, highlight=False)
    if run.model:
        console.print(_model_line(run.model))
    for part in _found(run):
        console.print(part)
    applied = [f"{rule.id} {rule.name} ({rule.applied}x)" for rule in run.rules if rule.applied]
    if applied:
        console.print(f"rules applied: {escape(', '.join(applied))}")
    for part in rule_lines(run, timings):
        console.print(part)
    if run.plan and any(
        (run.plan.rescaled_tensors, run.plan.inserted_muls, run.plan.fp32_nodes, run.plan.casts)
    ):
        console.print(_plan_line(run.plan))
    if run.verification:
        console.print(_verification_table(run.verification))
        for text in run.verification.failures:
            console.print(f"[red]failed:[/] {escape(text)}")
        for text in run.verification.not_checked:
            console.print(f"[yellow]not checked:[/] {escape(text)}")
    if not run.bisect or run.summary:
        console.print(_closing_line(run))


def _found(run: RunDocument) -> Iterator[RenderableType]:
    if run.bisect:
        yield from bisect_lines(run.bisect)
    elif run.check:
        yield from check_lines(run.check)
        yield from finding_lines(run.findings)
    elif run.findings:
        yield _findings_table(run.findings)


def _model_line(model: ModelEntry) -> str:
    name = escape(model.path or "model from memory")
    weights = _size(model.initializer_bytes)
    return f"[bold]{name}[/]: {counted(model.nodes, 'node')}, opset {model.opset}, {weights} of weights"


def _findings_table(findings: list[Finding]) -> Table:
    counts = Counter(finding.status for finding in findings)
    title = ", ".join(f"{counts[status]} {status}" for status in _ORDER if counts[status])
    table = Table(title=f"{counted(len(findings), 'finding')}: {title}", title_justify="left")
    for heading in ("status", "kind", "where", "what"):
        table.add_column(heading, overflow="fold")
    for finding in sorted(findings, key=lambda finding: _ORDER[finding.status])[:_MOST_FINDINGS]:
        where = finding.node or finding.tensor or finding.scope
        status = f"[{_COLOURS[finding.status]}]{finding.status}[/]"
        table.add_row(status, finding.kind, escape(where), escape(finding.message))
    if len(findings) > _MOST_FINDINGS:
        table.caption = f"and {len(findings) - _MOST_FINDINGS} more (--json has all)"
    return table


def _plan_line(plan: PlanEntry) -> str:
    share = "" if plan.fp32_flops_share is None else f" ({plan.fp32_flops_share:.1%} of the work)"
    parts = (
        f"{counted(plan.rescaled_tensors, 'tensor')} rescaled",
        f"{plan.inserted_muls} Mul added",
        f"{counted(len(plan.fp32_nodes), 'node')} kept in FP32{share}",
        counted(plan.casts, "cast"),
    )
    return f"plan: {', '.join(parts)}"


def _verification_table(verification: VerificationEntry) -> Table:
    table = Table(title="verification", title_justify="left")
    for heading in ("check", "result"):
        table.add_column(heading, overflow="fold")
    for name, text in _checks(verification):
        table.add_row(name, escape(text))
    colour, word = ("green", "passed") if verification.passed else ("red", "failed")
    table.add_row("[bold]all[/]", f"[bold {colour}]{word}[/]")
    return table


def _checks(verification: VerificationEntry) -> list[tuple[str, str]]:
    rows, half = [], (verification.fp16_sim.type if verification.fp16_sim else "fp16").upper()
    if fp32 := verification.fp32:
        worst = "identical bits" if fp32.identical else f"relative L2 error {_number(fp32.rel_l2)}"
        rows.append(("FP32 against FP32", worst))
    if simulation := verification.fp16_sim:
        for output in simulation.outputs:
            bad = f", {counted(output.nonfinite, 'element')} not finite" if output.nonfinite else ""
            rows.append(
                (
                    f"simulated {half}: {output.name}",
                    f"relative L2 error {_number(output.rel_l2)}{bad}",
                )
            )
    if ort := verification.onnxruntime:
        rows.append((f"ONNX Runtime ({ort.provider})", _ort_result(ort, verification.not_checked)))
    if trt := verification.tensorrt:
        share = (
            ""
            if trt.half_layer_share is None
            else f", {trt.half_layer_share:.0%} of {counted(trt.layers, 'layer')} {half}"
        )
        result = f"builds{share}" if trt.built else "; ".join(trt.errors)
        rows.append(
            (
                f"{trt.package} {trt.version}",
                "\n".join([result, *(f"warns: {_cut(w)}" for w in trt.warnings)]),
            )
        )
    return rows


def _ort_result(ort: OrtCheck, not_checked: list[str]) -> str:
    if ort.message and any(ort.message in text for text in not_checked):
        return "not checked, see below"
    return ort.message or ("loads and runs" if ort.loads and ort.runs is not False else "does not load")


def _closing_line(run: RunDocument) -> str:
    if run.status == "rejected":
        return "[bold red]verification failed; nothing was written[/]"
    if run.output:
        also = "".join(f", {path}" for path in (run.output.lock, *run.output.sidecars) if path)
        size = f"{_size(run.output.bytes)}, {counted(run.output.nodes, 'node')}"
        return f"[bold]wrote {escape(run.output.path)}[/] ({size}){escape(also)}"
    if isinstance(rules := run.summary.get("rules"), str):
        return f"[bold]wrote {escape(rules)}[/] ({counted(_count(run, 'fp32_nodes'), 'node')} kept in FP32)"
    if isinstance(ranges := run.summary.get("ranges"), str):
        return f"[bold]wrote {escape(ranges)}[/] ({counted(_count(run, 'tensors'), 'tensor')})"
    if run.command == "verify":
        return "[bold]AFTER agrees with BEFORE[/]"
    return "[bold]something was found[/]" if run.status == "findings" else "[bold]nothing to repair[/]"


def _count(run: RunDocument, name: str) -> int:
    value = run.summary.get(name)
    return value if isinstance(value, int) else 0


def _number(value: float | None) -> str:
    return "not finite" if value is None or value - value != 0 else f"{value:.2e}"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return counted(int(count), "byte") if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
