"""The rule files in docs/rule-language.md and docs/deconv.md load, and their cases hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from language._models import load_text
from onnx_fp16fix.language.cases import run_cases
from onnx_fp16fix.language.guard import FACTS, MATH

DOCS = Path(__file__).parents[2] / "docs"
GUIDE = "\n".join((DOCS / name).read_text(encoding="utf-8") for name in ("rule-language.md", "deconv.md"))
BLOCKS = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_a_rule_file_of_the_guide_works(block, tmp_path):
    for rule in load_text(block, tmp_path):
        assert all(result.passed or result.known_gap for result in run_cases(rule)), run_cases(rule)


def test_the_guide_names_every_function():
    assert [name for name in (*FACTS, *MATH) if not re.search(rf"[` ]{name}[(` ]", GUIDE)] == []
