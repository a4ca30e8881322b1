"""``rules list``, ``show``, ``schema`` and ``new``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from onnx_fp16fix.cli.rules import rules_document

if TYPE_CHECKING:
    from onnx_fp16fix.language import Rule

__all__ = ["list_command", "show_command"]

_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
_from = click.option(
    "--rules",
    "files",
    multiple=True,
    metavar="FILE",
    help="Files, folders or packs instead of all shipped rules.",
)


@click.command("list")
@click.argument("files", nargs=-1)
@_json
def list_command(files: tuple[str, ...], as_json: bool) -> tuple[int, str]:
    """List the rules of FILES (files, folders, packs; all shipped ones without)."""
    from onnx_fp16fix.language import load_rules

    rules = sorted(load_rules(list(files) or ["pack:all"]), key=lambda rule: rule.id)
    if as_json:
        return 0, rules_document("list", 0, rules=[_entry(rule) for rule in rules])
    rows = [("id", "name", "equal", "family", "summary")]
    rows += [(rule.id, rule.name, rule.equal, rule.family, rule.summary) for rule in rules]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return 0, "\n".join(_row(row, widths) for row in rows)


def _row(row: tuple[str, ...], widths: list[int]) -> str:
    return "  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[-1]])


def _entry(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "name": rule.name,
        "equal": rule.equal,
        "family": rule.family,
        "status": rule.status,
        "summary": rule.summary,
        "targets": list(rule.targets),
        "assumes": list(rule.assumes),
        "references": list(rule.references),
        "cases": len(rule.cases),
        "file": rule.place.file,
        "line": rule.place.line,
    }


@click.command("show")
@click.argument("rule")
@_from
@_json
def show_command(rule: str, files: tuple[str, ...], as_json: bool) -> tuple[int, str]:
    """Show the page of RULE, an id or a name: why, when, what it does, a graph before and after."""
    from onnx_fp16fix.language import load_rules, select_rules
    from onnx_fp16fix.proof.page import rule_page

    chosen = select_rules(load_rules(list(files) or ["pack:all"]), [rule])
    if as_json:
        entries = [{**_entry(entry), "why": entry.why, "page": rule_page(entry)} for entry in chosen]
        return 0, rules_document("show", 0, rules=entries)
    return 0, "\n".join(rule_page(entry) for entry in chosen).rstrip()
