"""docs/failure-patterns.md says of each pattern what plain FP16 does and what ``fix`` makes of it; measured."""

from __future__ import annotations

from pathlib import Path

import pytest

import onnx_fp16fix
from onnx_fp16fix.language import load_rules
from rules.field_patterns import PATTERNS, merged

PAGE = Path(__file__).parents[2] / "docs" / "failure-patterns.md"
EQUAL = {rule.id: rule.equal for rule in load_rules(["pack:all"])}
APART = ("log-mel",)
"""What needs measured islands is fixed alone: every measurement plans and runs the whole model."""
WRONG, RIGHT = 0.02, 0.01


def rows() -> dict[str, list[str]]:
    """Cells after the key of each row of the first table."""
    lines = (
        PAGE.read_text(encoding="utf-8").split("<!-- measured -->")[1].split("<!-- end -->")[0].splitlines()
    )
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")
    ]
    return {first.strip("`"): rest for first, *rest in cells}


ROWS = rows()


@pytest.fixture(scope="module")
def results():
    """Error of each pattern's output in plain FP16 and after ``fix``, and the nodes that ``fix`` leaves in FP32."""
    plain, mended, islands = {}, {}, []
    for keys in ([key for key in PATTERNS if key not in APART], APART):
        model, data = merged(keys)
        check = onnx_fp16fix.check(model, data=data).run.check
        outcome = onnx_fp16fix.fix(model, data=data, tensorrt="off", tolerance=RIGHT)
        assert outcome.run.status == "ok"
        plain |= {entry.name.split("/")[0]: entry.rel_l2 for entry in check.naive.outputs}
        mended |= {entry.name.split("/")[0]: entry.rel_l2 for entry in outcome.verification.fp16_sim.outputs}
        islands += [name.split("/")[0] for name in outcome.plan.fp32_nodes]
    return plain, mended, islands


def test_the_page_has_a_row_for_every_pattern():
    assert list(ROWS) == list(PATTERNS)


@pytest.mark.parametrize("key", PATTERNS)
def test_a_pattern_fails_and_is_mended_as_the_page_says(key, results):
    plain, mended, islands = results
    _, fp16, rules, equal, left = ROWS[key]
    wrong = plain[key] is None or plain[key] > WRONG  # None: not finite
    assert wrong == (fp16 == "wrong")
    assert mended[key] is not None
    assert mended[key] <= RIGHT
    assert (key in islands) == (left == "island")
    assert {EQUAL[rule] for rule in rules.split(", ")} == set(equal.split(", "))
