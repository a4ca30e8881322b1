"""A user's own judge: any command that looks at a model file and ends with status 0 when it is good.

As in ``polygraphy debug``: the command may build an engine and compare its outputs, or run a whole evaluation.
"""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from pathlib import Path

from onnx_fp16fix.blame.cache import TrialCache
from onnx_fp16fix.blame.places import Places
from onnx_fp16fix.emit import convert
from onnx_fp16fix.errors import Problem, UsageError
from onnx_fp16fix.half import FP16, FloatType
from onnx_fp16fix.model import save_model

__all__ = ["CheckCommand"]

_PLACE = "{model}"
_CANNOT_RUN = (126, 127)
"""How a shell says that a command is not executable or not there."""


class CheckCommand:
    """Writes the typed model for a set of FP32 nodes to a temporary file and runs the command on it.

    ``text`` is split like a shell does it, but no shell runs it: ``sh -c '...'`` asks for one. Raises UsageError
    (BISECT-CHECK) where it has no ``{model}``, or cannot be run.
    """

    def __init__(self, text: str, places: Places, cache: TrialCache, half: FloatType = FP16) -> None:
        try:
            self._words = shlex.split(text)
        except ValueError as error:
            raise _unusable(text, f"cannot be read: {str(error).lower()}") from None
        if not any(_PLACE in word for word in self._words):
            raise _unusable(text, "does not say where the model goes")
        self._text, self._places, self._cache, self._half = text, places, cache, half
        self.last_words = ""
        """Last line of what the command printed to stderr when it last refused a model."""

    def passes(self, fp32: frozenset[int]) -> bool:
        """Whether the command accepts the model with these nodes in FP32 and all others in FP16."""
        nodes = [self._places.names[index] for index in sorted(fp32)]
        known = self._cache.get(f"check {self._text}", nodes)
        if known is None:
            known = 0.0 if self._run(fp32) else float("inf")
            self._cache.put(f"check {self._text}", nodes, known)
        return known == 0.0

    def _run(self, fp32: frozenset[int]) -> bool:
        main, bodies = self._places.by_scope(fp32)
        typed = convert(self._places.main, main, half=self._half, bodies=bodies).model
        with tempfile.TemporaryDirectory(prefix="fp16fix-bisect-") as folder:
            path = Path(folder) / "candidate.onnx"
            save_model(typed, path)
            command = [word.replace(_PLACE, str(path)) for word in self._words]
            try:
                # what it prints would run into our tables; only its status counts
                done = subprocess.run(command, check=False, capture_output=True, stdin=subprocess.DEVNULL)
            except OSError as error:
                raise _unusable(self._text, f"cannot be run: {(error.strerror or '').lower()}") from None
        said = done.stderr.decode(errors="replace").strip().splitlines()
        if done.returncode in _CANNOT_RUN:
            raise _unusable(self._text, f"cannot be run: {said[-1] if said else 'status 127'}")
        if done.returncode != 0:
            self.last_words = said[-1] if said else ""
        return done.returncode == 0


def _unusable(text: str, why: str) -> UsageError:
    hint = f"a program with its arguments, {_PLACE} for the model file; status 0 means good"
    return UsageError(Problem("BISECT-CHECK", f"the check command '{text}' {why}", hint=hint))
