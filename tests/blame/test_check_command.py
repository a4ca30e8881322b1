"""A command of the user's judges which nodes may be FP16."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import onnx_fp16fix
from blame.square import BIG, entry_of, refused, square
from onnx_fp16fix.errors import UsageError

JUDGE = """import sys, onnx
types = {}
graph = onnx.load(sys.argv[1]).graph
made = {name: node for node in graph.node for name in node.output}
halves = {name for node in graph.node if node.op_type == "Cast" and node.attribute[0].i == 10 for name in node.output}
square = next(node for node in graph.node if node.name == "square")
sys.exit(1 if set(square.input) & halves else 0)
"""


def command(folder: Path, text: str = JUDGE) -> str:
    script = folder / "judge.py"
    script.write_text(text)
    return f"'{sys.executable}' '{script}' {{model}}"


def test_a_check_command_judges(tmp_path: Path) -> None:
    entry = entry_of(square(), BIG, check=command(tmp_path))
    assert entry.fp32_nodes == ["square"]  # all that this command looks at
    assert entry.judge.endswith("{model}")
    assert entry.minimal


def test_verdicts_of_a_check_command_are_remembered(tmp_path: Path) -> None:
    judge = command(tmp_path)
    first = entry_of(square(), BIG, check=judge, cache=tmp_path / "trials")
    (tmp_path / "judge.py").write_text("raise SystemExit(1)")
    again = entry_of(square(), BIG, check=judge, cache=tmp_path / "trials")
    assert again.fp32_nodes == first.fp32_nodes


def test_a_command_that_always_passes_leaves_nothing_to_do(tmp_path: Path) -> None:
    outcome = onnx_fp16fix.bisect(square(), BIG, check=command(tmp_path, ""))
    assert outcome.run.status == "ok"
    assert outcome.run.bisect is not None
    assert outcome.run.bisect.fp32_nodes == []
    assert "yet the check command accepts the model" in outcome.warnings[-1]


def test_a_command_that_always_fails_cannot_judge(tmp_path: Path) -> None:
    judge = command(tmp_path, "raise SystemExit('no engine for you')")
    words = "fails with every node in FP32 too"
    refused(UsageError, "BISECT-CHECK", "(it said: no engine for you)", square(), BIG, check=judge)
    refused(UsageError, "BISECT-CHECK", words, square(), BIG, check=judge)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no-such-program-here {model}", "cannot be run: no such file or directory"),
        ("sh -c 'no-such-program-here {model}'", "cannot be run: "),
        ("compare --engine", "does not say where the model goes"),
        ("compare '{model}", "cannot be read: no closing quotation"),
        ("", "does not say where the model goes"),
    ],
)
def test_a_command_that_cannot_run(text: str, words: str) -> None:
    refused(UsageError, "BISECT-CHECK", words, square(), BIG, check=text)


# Bad input
