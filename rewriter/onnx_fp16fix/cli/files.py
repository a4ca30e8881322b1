"""Files that commands write: text beside models, and whether a place can be written at all."""

from __future__ import annotations

from pathlib import Path

from onnx_fp16fix.errors import ModelError, Problem, UserError
from onnx_fp16fix.staging import check_place, staged

__all__ = ["refuse_place", "write_text"]


def refuse_place(path: Path, code: str, kind: type[UserError]) -> None:
    """Raise an error of this kind where ``path`` cannot be written: known before the work, not after it."""
    try:
        check_place(path)
    except OSError as error:
        raise kind(Problem(code, f"cannot be written: {error.strerror}", file=str(path))) from error


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
