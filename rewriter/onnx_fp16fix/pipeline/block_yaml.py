"""YAML as lock files have it: blocks of mappings and lists, written in one go.

PyYAML's own writer passes each scalar through a dozen states; that took longer than all that ``fix`` does besides
planning. This one looks the same but for long texts, which are not folded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

__all__ = ["block_yaml"]

_KEY = 120
"""Longer keys get a line of their own, as YAML demands of very long ones."""
_BROKEN = re.compile(r": | #|:$|^ | $|^[-?:] |^(---|\.\.\.)|^[#,\[\]{}&*!|>'\"%@`]|^[-?:]$")
"""Text that is no plain scalar."""
_TYPED: Mapping[Any, Any] = yaml.SafeDumper.yaml_implicit_resolvers
"""What a plain scalar must not match, lest it be read as a number, a date or a truth value; by first character."""


def block_yaml(document: Mapping[str, Any]) -> str:
    """Text of a mapping, which is not empty: strings as keys, and as values mappings, lists, strings, numbers, None."""
    return "".join(f"{line}\n" for line in _mapping(document, "", {}))


def _mapping(entries: Mapping[str, Any], indent: str, known: dict[str, str]) -> Iterator[str]:
    for key, value in entries.items():
        name = _text(key, known)
        if len(name) > _KEY:
            yield f"{indent}? {name}"
            name = ""
        if value and isinstance(value, dict):
            yield f"{indent}{name}:"
            yield from _mapping(value, indent + "  ", known)
        elif value and isinstance(value, list):
            yield f"{indent}{name}:"
            yield from _items(value, indent, known)
        else:
            yield f"{indent}{name}: {_scalar(value, known)}"


def _items(values: list[Any], indent: str, known: dict[str, str]) -> Iterator[str]:
    for value in values:
        if value and isinstance(value, dict):
            first, *rest = _mapping(value, indent + "  ", known)
            yield f"{indent}- {first[len(indent) + 2 :]}"
            yield from rest
        elif value and isinstance(value, list):
            yield f"{indent}-"
            yield from _items(value, indent + "  ", known)
        else:
            yield f"{indent}- {_scalar(value, known)}"


def _scalar(value: Any, known: dict[str, str]) -> str:
    if isinstance(value, str):
        return _text(value, known)
    if isinstance(value, (bool, float)) or value is None or not isinstance(value, int):
        return yaml.safe_dump(value, default_flow_style=True).splitlines()[0]
    return str(int(value))


def _text(text: str, known: dict[str, str]) -> str:
    if (written := known.get(text)) is None:
        written = known[text] = _written(text)
    return written


def _written(text: str) -> str:
    if not text.isprintable():
        return '"' + "".join(map(_escaped, text)) + '"'
    typed = (*_TYPED.get(text[:1], ()), *_TYPED.get(None, ()))
    if not text or _BROKEN.search(text) or any(pattern.match(text) for _, pattern in typed):
        return "'" + text.replace("'", "''") + "'"
    return text


def _escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    return character if character.isprintable() else f"\\U{ord(character):08x}"
