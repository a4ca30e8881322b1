"""Strict YAML with positions: every scalar stays text and knows where each of its characters stands in the file.

YAML guesses types (``1e-6`` is a string, ``no`` a boolean), keeps the last of two equal keys, expands aliases and
folds lines. All of that is an error here, because a rule that is read differently from how it was written is worse
than one that is refused. The tree is built from the event stream, so that limits hold before memory is spent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import yaml

from onnx_fp16fix.errors import Problem

__all__ = ["MAX_BYTES", "MAX_DEPTH", "MAX_ITEMS", "Branch", "Items", "Place", "Scalar", "Tree", "read_yaml"]

MAX_BYTES = 1 << 20
"""A rule file with more bytes is refused before it is parsed."""
MAX_DEPTH = 24
"""Deepest nesting of mappings and lists."""
MAX_ITEMS = 20_000
"""Most scalars, lists and mappings of one file."""


class Place(NamedTuple):  # every name and number has one: a tuple is made in half the time
    """A position in a file; line and column count from 1."""

    file: str
    line: int
    column: int

    def problem(self, code: str, message: str, hint: str | None = None) -> Problem:
        """A Problem at this place."""
        return Problem(code, message, file=self.file, line=self.line, column=self.column, hint=hint)


@dataclass(frozen=True, slots=True)
class Scalar:
    """Text of a plain, quoted or ``|`` scalar; ``origin`` is the place of its first character."""

    text: str
    place: Place
    origin: Place
    block: bool = False

    def at(self, line: int, column: int) -> Place:
        """Place in the file of a position in the text; both count from 0."""
        file, first, indent = self.origin
        return Place(file, first + line if self.block else first, indent + column)


@dataclass(frozen=True, slots=True)
class Branch:
    """A mapping in file order; keys are unique."""

    entries: tuple[tuple[Scalar, Tree], ...]
    place: Place

    def get(self, key: str) -> Tree | None:
        """The value of a key, or None."""
        for name, value in self.entries:
            if name.text == key:
                return value
        return None


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    values: tuple[Tree, ...]
    place: Place


Tree = Scalar | Branch | Items


@dataclass
class _Open:
    """A mapping or list whose end has not been seen yet."""

    place: Place
    mapping: bool
    values: list[Tree] = field(default_factory=list)


def read_yaml(text: str, file: str, problems: list[Problem]) -> Tree | None:
    """The tree of one document, or None when it cannot be built; what is wrong is added to ``problems``."""
    if len(text) > MAX_BYTES:
        message = f"the file has {len(text)} characters, more than {MAX_BYTES}"
        problems.append(Problem("RULE-LIMIT", message, file=file))
        return None
    try:
        return _Builder(text, file, problems).build()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (None, None)
        message = f"not valid YAML: {error.problem or error.context}"
        problems.append(Problem("RULE-YAML", message, file=file, line=line, column=column, hint=_hint(error)))
    except yaml.YAMLError as error:  # characters that YAML forbids
        problems.append(Problem("RULE-YAML", f"not valid YAML: {str(error).splitlines()[0]}", file=file))
    return None


def _hint(error: yaml.MarkedYAMLError) -> str | None:
    if "could not find expected" in str(error.problem) or "mapping values" in str(error.problem):
        return "put text with ':' or '#' into a '|' block or into quotes"
    return None


class _Stop(Exception):
    """The rest of the file is not read."""


class _Builder:
    def __init__(self, text: str, file: str, problems: list[Problem]) -> None:
        self.text, self.lines, self.file, self.problems = text, text.split("\n"), file, problems
        self.items = 0

    def build(self) -> Tree | None:
        known = len(self.problems)
        try:
            tree = self._document(self._events())
        except _Stop:
            return None
        if tree is None and len(self.problems) == known:
            self.problems.append(Problem("RULE-YAML", "the file is empty", file=self.file))
        return tree

    def _events(self) -> Iterator[yaml.Event]:
        """libyaml is ten times faster; where it is absent or finds fault, PyYAML's own parser says what is wrong."""
        if yaml.__with_libyaml__:
            try:
                return iter(list(yaml.parse(self.text, Loader=yaml.CSafeLoader)))
            except yaml.YAMLError:
                pass
        return yaml.parse(self.text, Loader=yaml.SafeLoader)

    def _document(self, events: Iterator[yaml.Event]) -> Tree | None:
        stack: list[_Open] = []
        root: Tree | None = None
        for event in events:
            done: Tree | None = None
            if isinstance(event, yaml.ScalarEvent):
                self._common(event)
                done = self._scalar(event)
            elif isinstance(event, yaml.CollectionStartEvent):
                self._common(event)
                if len(stack) >= MAX_DEPTH:
                    self._stop(event, "RULE-LIMIT", f"nested deeper than {MAX_DEPTH} levels")
                stack.append(_Open(self._place(event), isinstance(event, yaml.MappingStartEvent)))
            elif isinstance(event, yaml.CollectionEndEvent):
                done = self._close(stack.pop())
            elif isinstance(event, yaml.AliasEvent):
                self._stop(
                    event, "RULE-YAML", f"alias '*{event.anchor}': aliases are not allowed in rule files"
                )
            elif isinstance(event, yaml.DocumentStartEvent) and root is not None:
                self._stop(event, "RULE-YAML", "a second document; one file holds one document")
            if done is not None and stack:
                stack[-1].values.append(done)
            elif done is not None:
                root = done
        return root

    def _common(self, event: yaml.NodeEvent) -> None:
        self.items += 1
        if self.items > MAX_ITEMS:
            self._stop(event, "RULE-LIMIT", f"more than {MAX_ITEMS} values in one file")
        if event.anchor is not None:
            self._stop(event, "RULE-YAML", f"anchor '&{event.anchor}': anchors are not allowed in rule files")
        tag = getattr(event, "tag", None)
        if tag is not None:
            hint = "write the expression in quotes if it starts with '!'"
            self._stop(event, "RULE-YAML", f"tag '{tag}': tags are not allowed in rule files", hint)

    def _close(self, opened: _Open) -> Tree:
        if not opened.mapping:
            return Items(tuple(opened.values), opened.place)
        entries: list[tuple[Scalar, Tree]] = []
        seen: dict[str, Place] = {}
        for key, value in zip(opened.values[::2], opened.values[1::2], strict=True):
            if not isinstance(key, Scalar):
                self.problems.append(key.place.problem("RULE-YAML", "a key must be plain text"))
            elif key.text in seen:
                message = f"key '{key.text}' is written twice, first in line {seen[key.text].line}"
                self.problems.append(key.place.problem("RULE-DUPLICATE", message))
            else:
                seen[key.text] = key.place
                entries.append((key, value))
        return Branch(tuple(entries), opened.place)

    def _scalar(self, event: yaml.ScalarEvent) -> Scalar:
        place = self._place(event)
        if event.style == ">":
            hint = "use '|', which keeps lines and columns"
            self.problems.append(place.problem("RULE-YAML", "folded text ('>') is not allowed", hint))
        if event.style == "|":
            return Scalar(event.value.rstrip("\n"), place, self._block_origin(event, place.line), block=True)
        end: Any = event.end_mark
        if event.style != ">" and end.line >= place.line and event.value:
            hint = "use a '|' block for text of several lines"
            self.problems.append(place.problem("RULE-YAML", "text that goes over several lines", hint))
        quoted = event.style in ("'", '"')
        return Scalar(event.value, place, Place(self.file, place.line, place.column + 1) if quoted else place)

    def _block_origin(self, event: yaml.ScalarEvent, first: int) -> Place:
        rows = zip(islice(self.lines, first, None), event.value.split("\n"), strict=False)
        # what the file has before the text that YAML kept, in the first row that is not blank
        indent = next((_leading(row) - _leading(kept) for row, kept in rows if kept.strip()), 0)
        return Place(self.file, first + 1, indent + 1)

    def _place(self, event: yaml.Event) -> Place:
        mark: Any = event.start_mark  # the parser always fills it in
        return Place(self.file, mark.line + 1, mark.column + 1)

    def _stop(self, event: yaml.Event, code: str, message: str, hint: str | None = None) -> None:
        self.problems.append(self._place(event).problem(code, message, hint))
        raise _Stop


def _leading(row: str) -> int:
    return len(row) - len(row.lstrip(" "))
