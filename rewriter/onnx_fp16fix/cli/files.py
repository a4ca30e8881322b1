"""The files of a command: where its output goes, whether it can be written there, and text beside models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onnx_fp16fix.errors import ModelError, Problem, UsageError, UserError
from onnx_fp16fix.staging import check_place, staged

__all__ = [
    "Target",
    "beside",
    "choose_target",
    "lock_path",
    "refuse_overwriting",
    "refuse_place",
    "write_text",
]


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


def lock_path(output: Path) -> Path:
    """Where the lock file of a written model goes."""
    return output.with_name(f"{output.name}.fp16fix.yaml")


def beside(model: Path, ending: str) -> Path:
    """A file name derived from the model's. Raises ModelError for a folder, which has none."""
    if model.is_dir() or not model.name:
        raise ModelError(Problem("MODEL-READ", "this is a folder, not an ONNX file", file=str(model)))
    return model.with_name(f"{model.stem}{ending}")


def refuse_overwriting(output: Path, *inputs: str | Path | None) -> None:
    """Raise UsageError when the output is one of the files the command reads (also through a link)."""
    for source in inputs:
        if source is not None and output.exists() and Path(source).exists() and output.samefile(source):
            raise UsageError(
                Problem(
                    "USAGE", "the output is one of the inputs", file=str(output), hint="choose another -o"
                )
            )


@dataclass(frozen=True, slots=True)
class Target:
    """Where the result goes."""

    path: Path
    in_place: bool = False


def choose_target(model: Path, output: Path | None, in_place: bool, suffix: str) -> Target:
    """The output file, checked before any work is done.

    Raises UsageError when both or neither way to overwrite the input is asked for, ModelError when the output cannot
    be written there.
    """
    if in_place and output:
        raise UsageError(Problem("USAGE", "--in-place and --output exclude each other"))
    if str(output) == "-":
        raise UsageError(
            Problem("USAGE", "a model goes to a file, not to stdout", hint="give it a name: -o OUT.onnx")
        )
    path = model if in_place else output or beside(model, f"{suffix}{model.suffix or '.onnx'}")
    if not in_place and path.exists() and model.exists() and path.samefile(model):
        raise UsageError(
            Problem("USAGE", "the output is the input", file=str(path), hint="--in-place allows it")
        )
    if model.exists():
        refuse_place(path, "MODEL-WRITE", ModelError)
    return Target(path, in_place)
