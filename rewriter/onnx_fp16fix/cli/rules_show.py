"""``rules list``, ``show``, ``schema`` and ``new``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnx_fp16fix.cli import options
from onnx_fp16fix.cli.rules import rules_document

if TYPE_CHECKING:
    from onnx_fp16fix.language import Rule

__all__ = ["list_command", "new_command", "schema_command", "show_command"]

_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
_from = click.option(
    "--rules",
    "files",
    multiple=True,
    metavar="FILE",
    help="Files, folders or packs instead of all shipped rules.",
)


@click.command("list", short_help="List rules and packs.")
@click.argument("files", nargs=-1)
@_json
def list_command(files: tuple[str, ...], as_json: bool) -> tuple[int, str]:
    """List the rules of FILES (files, folders, packs; all shipped ones and the installed packs without)."""
    from onnx_fp16fix.language import installed_packs, load_rules, packs

    rules = sorted(load_rules(list(files) or ["pack:all"]), key=lambda rule: rule.id)
    offered = installed_packs()
    if as_json:
        entries = [
            {"name": pack.name, "distribution": pack.origin, "problem": pack.problem} for pack in offered
        ]
        named = {"packs": packs(), "installed_packs": entries}
        return 0, rules_document("list", 0, rules=[_entry(rule) for rule in rules], **named)
    rows = [("id", "name", "equal", "family", "summary")]
    rows += [(rule.id, rule.name, rule.equal, _folder(rule), rule.summary) for rule in rules]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [_row(row, widths) for row in rows]
    if not files:
        lines += ["", f"packs: {', '.join(packs())}"]
    for pack in offered if not files else ():
        state = f"cannot be loaded: {pack.problem}" if pack.problem else "installed, not listed above"
        lines.append(f"pack:{pack.name} of {pack.origin}: {state}")
    return 0, "\n".join(lines)


def _folder(rule: Rule) -> str:
    """The folder the rule lies in, which for shipped rules is its family."""
    return Path(rule.place.file).parent.name or "-"


def _row(row: tuple[str, ...], widths: list[int]) -> str:
    return "  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[-1]])


def _entry(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "name": rule.name,
        "equal": rule.equal,
        "family": rule.family,
        "folder": _folder(rule),
        "status": rule.status,
        "summary": rule.summary,
        "targets": list(rule.targets),
        "assumes": list(rule.assumes),
        "references": list(rule.references),
        "cases": len(rule.cases),
        "file": rule.place.file,
        "line": rule.place.line,
    }


@click.command("show", short_help="Show the page of a rule.")
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


@click.command("schema", short_help="Print the JSON Schema of rule files.")
@_json
def schema_command(as_json: bool) -> tuple[int, str]:
    """Print the JSON Schema of rule files, for editors (with or without --json)."""
    import json

    from onnx_fp16fix.proof import rule_file_schema

    return 0, json.dumps(rule_file_schema(), indent=2)


@click.command("new", short_help="Begin a rule file.")
@click.argument("rule_id", metavar="ID")
@click.option("--name", help="Name of the problem, such as product-overflow.")
@click.option(
    "-o", "--output", type=options.PATH, metavar="FILE", help="Where to write it.  [default: NAME.yaml]"
)
@_json
def new_command(rule_id: str, name: str | None, output: Path | None, as_json: bool) -> tuple[int, str | None]:
    """Begin a rule file with the rule ID: an example that loads and whose proof holds, to be changed step by step."""
    from onnx_fp16fix.errors import Problem, UsageError
    from onnx_fp16fix.proof import scaffold

    text = scaffold(rule_id, name)
    path = output or Path(f"{name or f'{rule_id.lower()}-overflow'}.yaml")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(Problem("RULE-WRITE", "the file exists already", file=str(path))) from None
    except OSError as error:
        raise UsageError(
            Problem("RULE-WRITE", f"cannot be written: {error.strerror}", file=str(path))
        ) from None
    click.echo(f"{path} is a rule that works; 'onnx-fp16fix rules test {path}' proves it", err=True)
    return 0, rules_document("new", 0, file=str(path)) if as_json else None
