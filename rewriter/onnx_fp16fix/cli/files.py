"""Text files that commands write beside models."""

from __future__ import annotations

import os
from pathlib import Path

from onnx_fp16fix.errors import ModelError, Problem

__all__ = ["write_text"]


def write_text(path: Path, text: str) -> Path:
    """A text file, whole or not at all. Raises ModelError when it cannot be written."""
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(exist_ok=True)
        staged.write_text(text, encoding="utf-8")
        staged.replace(path)
    except OSError as error:
        raise ModelError(
            Problem("MODEL-WRITE", f"cannot be written: {error.strerror}", file=str(path))
        ) from error
    finally:
        staged.unlink(missing_ok=True)
    return path
