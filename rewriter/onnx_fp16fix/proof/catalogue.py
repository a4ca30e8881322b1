"""The catalogue of the shipped rules, made from their files: ``python -m onnx_fp16fix.proof.catalogue docs/rules``."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from onnx_fp16fix.language import Rule, load_rules
from onnx_fp16fix.proof.page import pictures, rule_page

__all__ = ["catalogue", "outdated"]

_MADE = "<!-- made by `make catalogue` from the rule files; edit those -->"


def catalogue() -> dict[str, str]:
    """Markdown by file name: an index, and one page a family with all its rules."""
    families: dict[str, list[Rule]] = {}
    for rule in sorted(load_rules(["pack:all"]), key=lambda rule: rule.id):
        families.setdefault(_folder(rule), []).append(rule)
    pages = {f"{family}.md": _family(family, rules) for family, rules in sorted(families.items())}
    return {"README.md": _index(families), **pages}


def outdated(folder: Path) -> list[str]:
    """Names of pages in a folder that differ from what the rule files say, are missing, or are left over."""
    wanted = catalogue()
    there = {file.name: file.read_text(encoding="utf-8") for file in folder.glob("*.md")}
    return sorted(name for name in {*wanted, *there} if wanted.get(name) != there.get(name))


def _folder(rule: Rule) -> str:
    return rule.place.file.split("/")[-2]


def _index(families: dict[str, list[Rule]]) -> str:
    count = sum(map(len, families.values()))
    lines = [
        _MADE,
        "# Rules",
        "",
        f"{count} shipped rules in {len(families)} families; `onnx-fp16fix rules show ID` prints a page.",
        "[failure-patterns.md](../failure-patterns.md) goes the other way: from what breaks to the rules that know it.",
    ]
    for family, rules in sorted(families.items()):
        lines += [
            "",
            f"## [{family}]({family}.md)",
            "",
            "| id | name | equal | summary |",
            "|---|---|---|---|",
        ]
        for rule in rules:
            anchor = f"{rule.id} {rule.name}".lower().replace(" ", "-")
            summary = rule.summary.replace("|", "\\|")
            lines.append(f"| [{rule.id}]({family}.md#{anchor}) | {rule.name} | {rule.equal} | {summary} |")
        picture = next(filter(None, map(pictures, rules)), None)
        if picture is not None:
            lines += ["", "```text", *picture[0].splitlines(), "    becomes", *picture[1].splitlines(), "```"]
    return "\n".join(lines) + "\n"


def _family(family: str, rules: Iterable[Rule]) -> str:
    return "\n".join([_MADE, f"# Rules: {family}", "", *(rule_page(rule, 2) for rule in rules)])


def main(folder: str) -> None:
    """Write the pages, and remove those of families that are gone."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    pages = catalogue()
    for file in target.glob("*.md"):
        if file.name not in pages:
            file.unlink()
    for name, text in pages.items():
        (target / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "docs/rules")
