"""The process's own stdin, stdout and stderr, for the command as a program of its own.

stdout belongs to the one document or text that is asked for. Libraries write to file descriptor 1 past Python (HiGHS,
TensorRT, loggers of C++), some only when the process ends; so the descriptor leads to stderr for good, and what is to
be printed goes through a copy of the real one.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import Any

__all__ = ["take_streams"]


class _Forgiving(io.TextIOWrapper):
    """stderr that nobody reads, or on a full disk, is no reason to stop, nor for another exit code."""

    def write(self, text: str, /) -> int:
        with suppress(OSError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


def take_streams() -> None:
    """Replace ``sys.stdout`` and ``sys.stderr``, and lead descriptor 1 to stderr. Meant for the start of a process."""
    closed = [_is_closed(number) for number in range(3)]
    for number in range(3):
        if closed[number]:  # the next file that is opened would get its number, and all that is printed
            os.open(os.devnull, os.O_RDWR)
    # A document for nobody is an error; a descriptor that cannot be written says so.
    real = os.open(os.devnull, os.O_RDONLY) if closed[1] else os.dup(1)
    os.dup2(2, 1)
    # Names of files that are no text have surrogates; their escapes are valid in JSON too.
    how: Any = {"encoding": getattr(sys.stdout, "encoding", None) or "utf-8", "errors": "backslashreplace"}
    sys.stdout = os.fdopen(real, "w", **how)
    sys.stderr = _Forgiving(os.fdopen(2, "wb", closefd=False), **how, line_buffering=True)


def _is_closed(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return True
    return False
