"""``rules test`` and ``rules lint``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from onnx_fp16fix.cli import options
from onnx_fp16fix.cli.rules import rules_document
from onnx_fp16fix.wording import counted

if TYPE_CHECKING:
    from onnx_fp16fix.proof import RuleProof

__all__ = ["lint_command", "test_command"]

FAILED = 5


@click.command("test", short_help="Prove rules.")
@click.argument("files", nargs=-1)
@click.option(
    "--select", multiple=True, metavar="RULE", help="Only rules with this id, prefix of ids or name."
)
@click.option("--fast", is_flag=True, help="Fewer spellings, opsets and inputs.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the inputs.")
@options.common
def test_command(
    files: tuple[str, ...], select: tuple[str, ...], fast: bool, seed: int, as_json: bool, quiet: bool
) -> tuple[int, str | None]:
    """Prove the rules of FILES (files, folders, packs; all shipped ones without).

    Each rule is held to its own cases, and to what follows from each hit unasked: spellings, other readers, numbers,
    FP16 in simulation, a second application, opsets, and every guard taken away once. What fails is shown as an entry
    of 'tests:' to paste. Exit code 5 means that something failed.
    """
    from onnx_fp16fix.language import load_rules, select_rules
    from onnx_fp16fix.proof import prove

    rules = load_rules(list(files) or ["pack:all"])
    if select:
        rules = select_rules(rules, select)

    def show(proof: RuleProof) -> None:
        if not quiet:
            click.echo(_line(proof), err=True)
        for text in () if as_json else _details(proof):
            click.echo(text, err=True)

    proofs = prove(rules, "fast" if fast else "full", seed=seed, advance=show)
    code = 0 if all(proof.passed for proof in proofs) else FAILED
    if not quiet:
        broken = sum(not proof.passed for proof in proofs)
        click.echo(
            f"{counted(len(proofs), 'rule')} {f'tested, {broken} failed' if broken else 'proven'}", err=True
        )
    if not as_json:
        return code, None
    entries = [{**asdict(proof), "passed": proof.passed} for proof in proofs]
    return code, rules_document("test", code, seed=seed, rules=entries)


def _line(proof: RuleProof) -> str:
    checks = sum(proof.checks.values())
    gaps = f", {counted(len(proof.gaps), 'known gap')}" if proof.gaps else ""
    mark = "ok    " if proof.passed else "FAILED"
    return f"{mark} {proof.rule} {proof.name}: {counted(checks, 'check')}{gaps}, {proof.seconds:.1f} s"


def _details(proof: RuleProof) -> list[str]:
    lines = []
    for failure in proof.failures:
        lines.append(f"  {failure.place}: {failure.step}: {failure.message}")
        lines += [f"      {line}" for line in failure.case.splitlines()]
    return lines + [f"  note: {text}" for text in proof.warnings]


@click.command("lint", short_help="Check rule files without running their rules.")
@click.argument("files", nargs=-1)
@options.common
def lint_command(files: tuple[str, ...], as_json: bool, quiet: bool) -> tuple[int, str | None]:
    """Check the rules of FILES (files, folders, packs; all shipped ones without) without running them.

    Reports captures that are dropped, variants that are never reached, missing documentation, names that an
    alternative does not bind, rules with the same pattern, and guards and variants that no case names. Exit code 1
    means that there are findings.
    """
    from onnx_fp16fix.language import load_rules
    from onnx_fp16fix.proof import lint

    rules = load_rules(list(files) or ["pack:all"])
    found = lint(rules)
    code = 1 if found else 0
    if as_json:
        return code, rules_document("lint", code, findings=[asdict(problem) for problem in found])
    for problem in found:
        click.echo(str(problem), err=True)
    if not quiet:
        click.echo(f"{counted(len(rules), 'rule')}, {counted(len(found), 'finding')}", err=True)
    return code, None
