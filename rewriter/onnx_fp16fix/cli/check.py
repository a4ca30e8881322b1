"""``check``: what would break in FP16, and what would repair it; changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnx_fp16fix.cli import options
from onnx_fp16fix.cli.execute import execute

if TYPE_CHECKING:
    from onnx_fp16fix.outcome import Outcome
    from onnx_fp16fix.progress import Progress

__all__ = ["command"]


@click.command("check", short_help="Report what FP16 would break and what would repair it.")
@click.argument("model", type=options.PATH)
@options.data
@options.ranges
@options.margin
@options.tolerance_by_type
@options.kernels
@options.as_type
@options.rules
@click.option(
    "--no-simulate",
    is_flag=True,
    help="Faster: judge by ranges and weights, without running the model in FP16.",
)
@options.common
def command(
    model: Path,
    data: str | None,
    rules: str | None,
    no_simulate: bool,
    as_json: bool,
    quiet: bool,
    **check_options: Any,
) -> tuple[int, str | None]:
    """Report what in MODEL would break in FP16 and what would repair it.

    Plain FP16 is simulated to show which outputs go wrong and where that begins. Exit code 1 means that something
    was found. No file is written.
    """

    def job(progress: Progress) -> Outcome:
        with progress.step("starting"):
            from onnx_fp16fix import pipeline
        chosen = options.split_rules(rules) if rules else None
        return pipeline.check(
            model, data, chosen, simulate=not no_simulate, progress=progress, **check_options
        )

    return execute(job, model, as_json=as_json, quiet=quiet)
