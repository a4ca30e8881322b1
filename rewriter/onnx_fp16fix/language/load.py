"""Rule files: from paths and pack names to rules, with every problem of every file in one error."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from onnx_fp16fix import __version__
from onnx_fp16fix.errors import Problem, RuleFileError
from onnx_fp16fix.language.build_rule import build_rule
from onnx_fp16fix.language.fields import Fields
from onnx_fp16fix.language.operations import closest
from onnx_fp16fix.language.rule import Rule
from onnx_fp16fix.language.sources import Sources
from onnx_fp16fix.language.yaml_source import Branch, Items, Place, Scalar, Tree, read_yaml

__all__ = ["LANGUAGE", "load_rules", "select_rules", "shipped_rules"]

LANGUAGE = "fp16fix/1"
"""Language version a file must name in its first key."""
_CASES = re.compile(r"^( +)tests:\n(?:\1 .*\n|\n)*", re.MULTILINE)


def load_rules(sources: Sequence[str | Path]) -> tuple[Rule, ...]:
    """Rules of files, folders (searched below), and packs (``pack:norm`` is a shipped family, ``pack:all`` all of them,
    any other name that of an installed pack).

    A text may hold several sources with commas between. A rule reached twice counts once. Raises RuleFileError with
    all problems of all files.
    """
    problems: list[Problem] = []
    loader = _Loader(problems)
    for source in sources:
        parts = source.split(",") if isinstance(source, str) and not Path(source).exists() else [str(source)]
        for part in filter(None, (part.strip() for part in parts)):
            loader.sources.named(part)
    loader.check_after()
    if problems:
        raise RuleFileError(problems)
    return tuple(loader.rules)


@cache
def shipped_rules() -> tuple[Rule, ...]:
    """All shipped rules, read when first asked for; without their cases, which nobody needs who only uses them."""
    loader = _shipped()
    loader.check_after()
    if loader.problems:
        raise RuleFileError(loader.problems)
    return tuple(loader.rules)


def select_rules(rules: Iterable[Rule], select: Sequence[str]) -> tuple[Rule, ...]:
    """Rules whose id starts with one of the prefixes (``NORM``, ``NORM001``) or that have that name.

    Raises RuleFileError for a selector that fits no rule.
    """
    rules = tuple(rules)
    problems = []
    chosen: set[str] = set()
    for wanted in select:
        found = [rule.id for rule in rules if rule.id.startswith(wanted) or rule.name == wanted]
        if not found or not wanted:
            known = sorted({name for rule in rules for name in (rule.id, rule.name, rule.family)})
            problems.append(
                Problem(
                    "RULE-UNKNOWN", f"no rule is called '{wanted}'", hint=closest(wanted, known) or _LISTED
                )
            )
        chosen.update(found)
    if problems:
        raise RuleFileError(problems)
    return tuple(rule for rule in rules if rule.id in chosen)


def _other_schema(schema: Scalar) -> Problem:
    message, hint = f"unknown language version '{schema.text}'", f"this program reads {LANGUAGE}"
    if schema.text.startswith("fp16fix-lock/"):
        message = "this is the lock file of a fix, not a rule file"
        hint = "give it to apply, alone: onnx-fp16fix apply LOCK MODEL"
    return schema.place.problem("RULE-SCHEMA", message, hint)


_LISTED = "'onnx-fp16fix rules list' shows all of them"


class _Loader:
    """``cases``: with the cases that prove the rules, whose text is not even read otherwise."""

    def __init__(self, problems: list[Problem], *, cases: bool = True) -> None:
        self.problems, self.cases = problems, cases
        self.rules: list[Rule] = []
        self.sources = Sources(problems, self._document)
        self.claimed: dict[str, Place] = {}
        self.after: list[Scalar] = []

    def _document(self, text: str, shown: str, path: Path) -> None:
        tree = read_yaml(text if self.cases else _without_cases(text), shown, self.problems)
        if tree is None:
            return
        if not isinstance(tree, Branch):
            message = "a rule file must be a mapping with 'schema' and 'rules'"
            self.problems.append(tree.place.problem("RULE-TYPE", message))
            return
        if (other := tree.get("schema")) is not None and isinstance(other, Scalar) and other.text != LANGUAGE:
            self.problems.append(_other_schema(other))  # its keys mean other things, or nothing
            return
        fields = Fields(tree, "a rule file", ("schema", "requires", "use", "rules"), self.problems)
        schema = fields.scalar("schema", required=True)
        if schema is not None and tree.entries[0][0].text != "schema":
            fields.report(schema.place, "'schema' must be the first key", code="RULE-SCHEMA")
        _check_version(fields)
        if all(fields.tree(key) is None and not fields.is_meant(key) for key in ("rules", "use")):
            fields.report(tree.place, "a rule file needs the key 'rules' or 'use'")
        for item in fields.scalars("use"):
            self.sources.used(item.text, path, item.place)
        for entry in fields.items("rules"):
            self._claim(entry)
            rule = build_rule(entry, self.problems)
            if rule is not None:
                self.rules.append(rule)

    def check_after(self) -> None:
        """``after`` names rules that are there (or shipped); one that has problems of its own is there too."""
        for wanted in self.after:
            if wanted.text not in self.claimed and wanted.text not in {rule.id for rule in _shipped().rules}:
                message = f"'after' names the unknown rule '{wanted.text}'"
                hint = closest(wanted.text, self.claimed)
                self.problems.append(wanted.place.problem("RULE-UNKNOWN", message, hint))

    def _claim(self, entry: Tree) -> None:
        """Ids and names are unique over all files, whatever else is wrong with a rule."""
        after = entry.get("after") if isinstance(entry, Branch) else None
        named = after.values if isinstance(after, Items) else (after,)
        self.after += [value for value in named if isinstance(value, Scalar)]
        for key in ("id", "name"):
            value = entry.get(key) if isinstance(entry, Branch) else None
            if not isinstance(value, Scalar):
                continue
            first = self.claimed.setdefault(value.text, entry.place)
            if first is not entry.place:
                message = f"'{value.text}' is already used in {first.file}:{first.line}"
                self.problems.append(entry.place.problem("RULE-DUPLICATE", message))


def _check_version(fields: Fields) -> None:
    """``requires: onnx-fp16fix>=0.4`` against the version that is running."""
    wanted = fields.scalar("requires")
    if wanted is None:
        return
    form = re.fullmatch(r"onnx-fp16fix\s*>=\s*(\d+(?:\.\d+)*)", wanted.text.strip())
    if form is None:
        fields.report(wanted.place, "'requires' must read like onnx-fp16fix>=0.4", code="RULE-TYPE")
    elif _numbers(form.group(1)) > _numbers(__version__):
        fields.report(
            wanted.place, f"needs onnx-fp16fix {form.group(1)}, this is {__version__}", code="RULE-SCHEMA"
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d{1,9}", version))


def _shipped() -> _Loader:
    loader = _Loader([], cases=False)
    loader.sources.named("pack:all")
    return loader


def _without_cases(text: str) -> str:
    """The text with blank lines in place of ``tests`` and what is indented below it."""
    return _CASES.sub(lambda found: "\n" * found[0].count("\n"), text)
