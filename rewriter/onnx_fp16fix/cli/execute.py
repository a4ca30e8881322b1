"""What every command does around its one call into the pipeline: progress, writing, tables, the document."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnx_fp16fix.cli.files import Target, lock_path, write_text
from onnx_fp16fix.cli.progress import TerminalProgress
from onnx_fp16fix.errors import Problem, require_file

if TYPE_CHECKING:
    from onnx_fp16fix.outcome import Outcome
    from onnx_fp16fix.progress import Progress

__all__ = ["execute"]


def execute(
    job: Callable[[Progress], Outcome],
    *models: Path,
    target: Target | None = None,
    as_json: bool,
    quiet: bool,
    lock: bool = False,
    sidecar: Path | None = None,
    timings: bool = False,
) -> tuple[int, str | None]:
    """Run ``job``, write its model to ``target`` unless rejected; exit code and, with ``as_json``, the document.

    ``models`` are read by the job; one that is not there is told at once, before anything is imported for them.
    ``lock``: write the lock file beside the model. ``sidecar``: folder of sidecar files, the model's own if None.
    ``timings``: show what each rule cost.
    """
    for model in models:
        require_file(model)
    progress = TerminalProgress(quiet=quiet)
    outcome = job(progress)
    if target is not None and outcome.result is not None and outcome.run.status != "rejected":
        with progress.step("writing"):
            text = outcome.lock() if lock and outcome.make_lock is not None else None
            outcome.save(target.path, in_place=target.in_place)
            if text is not None and outcome.run.output is not None:
                written_lock = write_text(lock_path(target.path), text)
                outcome.run.output.lock = str(written_lock)
                if target.in_place:
                    _warn(
                        outcome,
                        progress,
                        f"{written_lock} fits the model as it was before: apply needs a copy of that",
                    )
            if outcome.sidecars and outcome.run.output is not None:
                folder = target.path.parent if sidecar is None else sidecar
                written = [
                    write_text(folder / f"{target.path.name}{ending}", content)
                    for ending, content in outcome.sidecars.items()
                ]
                outcome.run.output.sidecars = list(map(str, written))
    if not quiet:
        from onnx_fp16fix.cli.tables import show

        show(outcome.run, timings=timings)
    elif outcome.run.status == "rejected" and outcome.verification is not None:
        for failure in outcome.verification.failures:  # why there is no file is an error, and no talk
            click.echo(f"error: {Problem('VERIFY-FAILED', failure)}", err=True)
    return outcome.run.exit_code, outcome.run.to_json() if as_json else None


def _warn(outcome: Outcome, progress: TerminalProgress, message: str) -> None:
    progress.warn(message)
    outcome.run.warnings.append(message)
