"""Every mistake a user can make, as one exception type per exit code.

A message says what was found, where, what was expected and what to do. A stage collects all its
problems before it raises, so that a user sees them in one go. Anything that is not a ``UserError``
is a bug of ours and keeps its traceback (exit code 70).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "DataError",
    "ModelError",
    "Problem",
    "RuleFileError",
    "StoppedError",
    "UsageError",
    "UserError",
    "VerificationError",
    "require_file",
]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, with its place.

    ``code`` is stable (``RULE-YAML``, ``MODEL-READ``, ...): programs may match on it.
    ``line`` and ``column`` count from 1.
    """

    code: str
    message: str
    file: str | None = None
    line: int | None = None
    column: int | None = None
    node: str | None = None
    tensor: str | None = None
    hint: str | None = None

    def place(self) -> str:
        """``file:line:column``, or the node and tensor, or an empty string."""
        parts = [str(part) for part in (self.file, self.line, self.column) if part is not None]
        graph = [f"{kind} '{name}'" for kind, name in (("node", self.node), ("tensor", self.tensor)) if name]
        return ", ".join(filter(None, [":".join(parts), *graph]))

    def __str__(self) -> str:
        place = self.place()
        text = f"{place}: {self.message} [{self.code}]" if place else f"{self.message} [{self.code}]"
        return f"{text}\n  hint: {self.hint}" if self.hint else text


class UserError(Exception):
    """Base of all errors that users can cause and mend. ``exit_code`` is the command's exit status."""

    exit_code = 2

    def __init__(self, problems: Problem | Sequence[Problem]) -> None:
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class UsageError(UserError):
    """Wrong arguments, or a part that is not installed."""

    exit_code = 2


class RuleFileError(UserError):
    """A rule file that cannot be used."""

    exit_code = 2


class ModelError(UserError):
    """A model that cannot be read, is not valid, or does not run."""

    exit_code = 3


class DataError(UserError):
    """Calibration data that cannot be read or do not fit the model."""

    exit_code = 3


class StoppedError(UserError):
    """The user interrupted a run that left something to go on with."""

    exit_code = 130


class VerificationError(UserError):
    """The result did not pass verification; nothing was written."""

    exit_code = 4


def require_file(path: Path) -> None:
    """Raise ModelError where a model is not there, or is a folder; commands ask before they load anything."""
    if not path.exists():
        raise ModelError(Problem("MODEL-MISSING", "there is no such file", file=str(path)))
    if path.is_dir():
        raise ModelError(Problem("MODEL-READ", "this is a folder, not an ONNX file", file=str(path)))
