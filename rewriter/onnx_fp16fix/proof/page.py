"""The page of a rule, in Markdown: what ``rules show`` prints and ``docs/rules/`` holds."""

from __future__ import annotations

from onnx_fp16fix.language import Rule
from onnx_fp16fix.language.rule import Case, Variant
from onnx_fp16fix.proof.graph_text import graph_text
from onnx_fp16fix.proof.text import expression_text, suite_text
from onnx_fp16fix.proof.trial import Trial, try_rule

__all__ = ["pictures", "rule_page"]

_EQUAL = {
    "exact": "exact: the same bits in FP32, unless something under- or overflows",
    "real": "real: equal over the reals; rounding differs",
    "context": "context: equal under the assumptions below",
    "lossy": "lossy: changes values beyond rounding; never applied unless named",
}


def rule_page(rule: Rule, level: int = 1) -> str:
    """The page; ``level`` of its heading."""
    lines = [f"{'#' * level} {rule.id} {rule.name}", "", f"{rule.summary}.".replace("..", "."), ""]
    lines += [rule.why.strip(), ""] if rule.why else []
    lines += [f"* Equality: {_EQUAL[rule.equal]}" + (f" (`tol` {rule.tol:.3g})" if rule.tol else "")]
    lines += [f"* Assumes: {text}" for text in rule.assumes]
    lines += [f"* Status: {rule.status}"] if rule.status != "stable" else []
    if rule.opset.low > 1 or rule.opset.high < 1 << 20:
        high = f" to {rule.opset.high}" if rule.opset.high < 1 << 20 else " and later"
        lines.append(f"* Opsets: {rule.opset.low}{high}")
    lines += [f"* Targets: {', '.join(rule.targets)}"] if rule.targets else []
    lines += [f"* After: {', '.join(rule.after)}"] if rule.after else []
    lines += [f"* Applies where `{expression_text(guard)}`" for guard in rule.where]
    lines += [f"* Does: {_variant(variant)}" for variant in rule.variants]
    lines += [f"* See {link}" for link in rule.references]
    shown = pictures(rule)
    if shown is not None:
        before, after = shown
        lines += ["", "```text", "before", *_indented(before), "after", *_indented(after), "```"]
    return "\n".join(lines) + "\n"


def pictures(rule: Rule) -> tuple[str, str] | None:
    """Text graphs of the first hit that the rule rewrites, else of the first it sends to the planner; None without."""
    asked = None
    for case in rule.cases:
        trial = _trial(rule, case)
        if trial is None:
            continue
        if trial.rewritten:
            return graph_text(trial.before), graph_text(trial.after)
        asked = asked or (graph_text(trial.before), _asked(trial))
    return asked


def _trial(rule: Rule, case: Case) -> Trial | None:
    if not case.hit or case.todo is not None:
        return None
    try:
        trial = try_rule(rule, case)
    except ValueError:
        return None
    return trial if trial.applied else None


def _asked(trial: Trial) -> str:
    kept = [
        trial.before.graph.node[index].op_type
        for request in trial.requests
        for scope, index in request.fp32_nodes
        if not scope
    ]
    if kept:
        return f"the same with {', '.join(dict.fromkeys(kept))} in FP32"
    return "the same with the matched values brought into range by the planner"


def _variant(variant: Variant) -> str:
    when = f" when `{expression_text(variant.when)}`" if variant.when is not None else ""
    if variant.action is not None:
        return f"action {variant.action.name}{when}"
    if variant.settings:
        return (
            f"sets {', '.join(f'`{name}: {expression_text(expr)}`' for name, expr in variant.settings)}{when}"
        )
    assert variant.template is not None
    return f"writes `{'; '.join(suite_text(variant.template).splitlines())}`{when}"


def _indented(text: str) -> list[str]:
    return [f"    {line}" for line in text.splitlines()]
