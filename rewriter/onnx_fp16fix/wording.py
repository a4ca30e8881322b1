"""Words that depend on how many there are, and on whether library or command is spoken to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["counted", "options_spelled", "spelled"]

_ON_COMMAND_LINE: ContextVar[bool] = ContextVar("on_command_line", default=False)
_OPTIONS = {"limits": "limit", "as_type": "as"}
"""Options that are not the library's keyword with other punctuation."""


def counted(count: int, one: str, many: str = "") -> str:
    """``1 node``, ``1,200 nodes``; ``many`` where the plural takes more than an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def spelled(keyword: str, value: object = None) -> str:
    """A keyword of the library in the user's own spelling: ``keep_fp32``, on the command line ``--keep-fp32``.

    With a value: ``as_type='bf16'`` or ``--as bf16``, ``verify=False`` or ``--no-verify``.
    """
    if not _ON_COMMAND_LINE.get():
        return keyword if value is None else f"{keyword}={value!r}"
    option = "--" + _OPTIONS.get(keyword, keyword.replace("_", "-"))
    if value is None or value is True:
        return option
    return option.replace("--", "--no-") if value is False else f"{option} {value}"


@contextmanager
def options_spelled() -> Iterator[None]:
    """While this lasts, messages name options of the command line."""
    token = _ON_COMMAND_LINE.set(True)
    try:
        yield
    finally:
        _ON_COMMAND_LINE.reset(token)
