"""``apply``: the rules a user names, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnx_fp16fix.cli import options
from onnx_fp16fix.cli.execute import execute
from onnx_fp16fix.cli.files import choose_target, refuse_overwriting
from onnx_fp16fix.errors import Problem, UsageError

if TYPE_CHECKING:
    from onnx_fp16fix.outcome import Outcome
    from onnx_fp16fix.progress import Progress

__all__ = ["command"]


@click.command("apply")
@click.argument("rules")
@click.argument("model", type=options.PATH)
@options.output
@options.data
@options.ranges
@options.types_of_apply
@options.made_for
@options.tolerance_by_type
@options.margin
@options.allow
@click.option(
    "--explain-misses",
    is_flag=True,
    help="Say of each rule applied nowhere how close it came, and what failed.",
)
@click.option("--timings", is_flag=True, help="Show tries, matches and CPU time of each rule.")
@options.no_verify
@options.kernels
@options.tensorrt
@options.trust_rules
@options.common
def command(
    rules: str,
    model: Path,
    output: Path | None,
    in_place: bool,
    timings: bool,
    as_json: bool,
    quiet: bool,
    **apply_options: Any,
) -> tuple[int, str | None]:
    """Apply RULES to MODEL, verify, write.

    RULES is a file, a folder or pack:NAME, several with commas, or the lock file of a fix, which says itself what to
    write. The result goes to MODEL.fixed.onnx beside the input unless -o says otherwise; where no rule matches it is
    the input, byte for byte.
    """
    if rules.endswith(".onnx"):
        hint = "RULES comes first, then MODEL"
        raise UsageError(Problem("USAGE", "a model is no rule file", file=rules, hint=hint))
    target = choose_target(model, output, in_place, ".fixed")
    refuse_overwriting(
        target.path, apply_options["data"], apply_options["ranges"], *options.split_rules(rules)
    )

    def job(progress: Progress) -> Outcome:
        with progress.step("starting"):
            from onnx_fp16fix import pipeline
        chosen = options.split_rules(rules)
        data = apply_options.pop("data")
        verify = not apply_options.pop("no_verify")
        return pipeline.apply(model, chosen, data, verify=verify, progress=progress, **apply_options)

    return execute(job, model, target=target, as_json=as_json, quiet=quiet, timings=timings)
