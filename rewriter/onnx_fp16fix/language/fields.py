"""Typed access to the keys of a mapping, with a problem for each that is unknown, missing or of the wrong form."""

from __future__ import annotations

import math
from collections.abc import Collection

from onnx_fp16fix.errors import Problem
from onnx_fp16fix.language.operations import closest
from onnx_fp16fix.language.yaml_source import Branch, Items, Place, Scalar, Tree

__all__ = ["Fields"]


class Fields:
    """Reads one mapping. Every accessor returns None (or nothing) after reporting what is wrong."""

    def __init__(self, branch: Branch, what: str, known: Collection[str], problems: list[Problem]) -> None:
        self.branch, self.what, self.problems = branch, what, problems
        cut, self._meant = False, ""
        for key, value in branch.entries:
            if isinstance(value, Scalar) and value.text:
                cut = value.text.count("(") > value.text.count(")")
            elif cut:  # the rest of a text that YAML ended at a comma, which is told where it begins
                continue
            if key.text not in known:
                near = closest(key.text, known) or ""
                self._meant += near
                self.report(
                    key.place, f"{what} has no key '{key.text}'", near or "known keys: " + ", ".join(known)
                )

    def is_meant(self, key: str) -> bool:
        """Whether an unknown key, which has been reported, is this one misspelled."""
        return f"'{key}'" in self._meant

    def report(self, place: Place, message: str, hint: str | None = None, code: str = "RULE-KEY") -> None:
        """Add a problem."""
        self.problems.append(place.problem(code, message, hint))

    def tree(self, key: str) -> Tree | None:
        """The value as it stands."""
        return self.branch.get(key)

    def scalar(self, key: str, required: bool = False) -> Scalar | None:
        """A text."""
        value = self.branch.get(key)
        if value is None:
            if required and not self.is_meant(key):
                self.report(self.branch.place, f"{self.what} needs the key '{key}'")
            return None
        if not isinstance(value, Scalar):
            self.report(value.place, f"'{key}' must be text", code="RULE-TYPE")
            return None
        if not value.text.strip():
            self.report(value.place, f"'{key}' is empty", code="RULE-TYPE")
            return None
        return value

    def text(self, key: str, required: bool = False, choices: Collection[str] = ()) -> str:
        """A text, or an empty string."""
        value = self.scalar(key, required)
        if value is None:
            return ""
        if choices and value.text not in choices:
            hint = closest(value.text, choices) or "one of: " + ", ".join(choices)
            self.report(value.place, f"'{key}' cannot be '{value.text}'", hint, "RULE-TYPE")
            return ""
        return value.text

    def number(self, key: str) -> float | None:
        """A number as Python writes it."""
        value = self.scalar(key)
        if value is None:
            return None
        try:
            number = float(value.text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            self.report(value.place, f"'{key}' must be a number, not '{value.text}'", code="RULE-TYPE")
            return None
        return number

    def items(self, key: str) -> tuple[Tree, ...]:
        """Values of a list; one value without a list counts as a list of one."""
        value = self.branch.get(key)
        if value is None:
            return ()
        return value.values if isinstance(value, Items) else (value,)

    def scalars(self, key: str) -> tuple[Scalar, ...]:
        """A list of texts."""
        found = []
        for item in self.items(key):
            if isinstance(item, Scalar):
                found.append(item)
            else:
                self.report(item.place, f"'{key}' must be a list of texts", code="RULE-TYPE")
        return tuple(found)

    def mapping(self, key: str) -> tuple[tuple[Scalar, Scalar], ...]:
        """A mapping from text to text."""
        value = self.branch.get(key)
        if value is None:
            return ()
        if not isinstance(value, Branch):
            self.report(value.place, f"'{key}' must be a mapping", code="RULE-TYPE")
            return ()
        found = []
        for name, item in value.entries:
            if isinstance(item, Scalar):
                found.append((name, item))
            else:
                self.report(item.place, f"'{key}.{name.text}' must be text", code="RULE-TYPE")
        return tuple(found)
