"""Text files that commands write beside models."""

from __future__ import annotations

from pathlib import Path

from onnx_fp16fix.errors import ModelError, Problem
from onnx_fp16fix.staging import staged

__all__ = ["write_text"]


def write_text(path: Path, text: str) -> Path:
    """A text file, whole or not at all. Raises ModelError when it cannot be written."""
    try:
        path.parent.mkdir(exist_ok=True)
        with staged(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ModelError(
            Problem("MODEL-WRITE", f"cannot be written: {error.strerror}", file=str(path))
        ) from error
    return path
