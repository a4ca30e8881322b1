"""``bisect``: which nodes cause the error of FP16, and the rule file that keeps them in FP32."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnx_fp16fix.cli import options
from onnx_fp16fix.cli.execute import execute
from onnx_fp16fix.cli.files import beside, refuse_overwriting, refuse_place, write_text
from onnx_fp16fix.errors import UsageError

if TYPE_CHECKING:
    from onnx_fp16fix.outcome import Outcome
    from onnx_fp16fix.progress import Progress

__all__ = ["command"]


@click.command("bisect", short_help="Find the nodes that cause the error in FP16.")
@click.argument("model", type=options.PATH)
@click.option("-o", "--output", type=options.PATH, metavar="RULES.yaml", help="Where to write the rule.")
@options.data
@options.tolerance_by_type
@options.kernels
@options.as_type
@click.option(
    "--check",
    metavar="CMD",
    help="Judge by this command instead of by simulation: {model} stands for the model file, status 0 is good.",
)
@click.option(
    "--keep", multiple=True, metavar="NODE", help="A node that stays in FP32 in any case; may be repeated."
)
@click.option(
    "--cache",
    type=options.PATH,
    metavar="FILE",
    help="Keep trials here; an interrupted run goes on from them.",
)
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    default=4000,
    show_default=True,
    help="Most sets of nodes to try; the best one so far comes out.",
)
@options.common
def command(
    model: Path, output: Path | None, data: str | None, as_json: bool, quiet: bool, **bisect_options: Any
) -> tuple[int, str | None]:
    """Find the nodes of MODEL that cause its error in FP16 or BF16, by measurement.

    They are ranked by the error that each makes alone. The smallest set to keep in FP32 goes to MODEL.keep.yaml
    beside the input unless -o says otherwise, as a rule for 'apply --precision fp16' (or bf16). Exit code 1 means that
    the trials ran out before that set was minimal. Where the type is good already no file is written.
    """
    path = output or beside(model, ".keep.yaml")
    refuse_overwriting(path, model, data)

    def job(progress: Progress) -> Outcome:
        with progress.step("starting"):
            from onnx_fp16fix import pipeline
        if model.exists():
            refuse_place(path, "BISECT-WRITE", UsageError)
        outcome = pipeline.bisect(model, data, progress=progress, **bisect_options)
        entry = outcome.run.bisect
        if entry is not None and entry.rules is not None:
            write_text(path, entry.rules)
            outcome.run.summary = {"rules": str(path), "fp32_nodes": len(entry.fp32_nodes)}
        return outcome

    return execute(job, model, as_json=as_json, quiet=quiet)
