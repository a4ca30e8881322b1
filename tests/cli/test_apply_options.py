"""``apply`` tells what rules did and did not do: --explain-misses, --timings, --allow, shadowed matches."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_fp16fix import cli
from onnx_text import model

RULES = """schema: fp16fix/1
rules:
  - id: FAST001
    name: exp-as-power
    summary: Exp as a power
    equal: real
    match: Exp(x)
    where: [vmax(x) > 1]
    replace: [{with: "Pow(2.718281828459045, x)"}]
  - id: LATE001
    name: exp-in-parts
    summary: Exp in two parts
    equal: real
    after: FAST001
    match: Exp(x)
    replace: [{with: Exp(x * 0.25) * Exp(x * 0.75)}]
  - id: NEVER001
    name: constant-multiple
    summary: A constant multiple
    equal: real
    match: x * c
    vars: {c: const scalar}
    replace: [{with: c * x}]
"""


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    text = "(float[4] x, float[4] w) => (float[4] y) { m = Mul(x, w) e = Exp(m) y = Tanh(e) }"
    onnx.save(model(text), tmp_path / "m.onnx")
    (tmp_path / "r.yaml").write_text(RULES)
    x = np.linspace(-2, 2, 4, dtype=np.float32)
    np.savez(tmp_path / "d.npz", x=x, w=x)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def apply(*options: str) -> int:
    return cli.main(
        ["apply", "r.yaml", "m.onnx", "--data", "d.npz", "--tensorrt", "off", "--trust-rules", *options]
    )


def test_each_rule_that_changed_nothing_says_how_close_it_came(workplace: Path, capsys) -> None:
    assert apply("--explain-misses", "--json") == 0
    run = json.loads(capsys.readouterr().out)
    assert {rule["id"]: (rule["applied"], rule["matched"]) for rule in run["rules"]}["FAST001"] == (1, 1)
    misses = {miss["rule"]: miss for miss in run["misses"]}
    assert misses.keys() == {"LATE001", "NEVER001"}
    never = misses["NEVER001"]
    assert (never["clause"], never["fitted"], never["size"]) == ("vars.c", 1, 1)
    assert "expected a constant with one element" in never["reason"]
    capsys.readouterr()
    assert apply("--explain-misses", "-o", "again.onnx") == 0
    shown = capsys.readouterr().err
    assert "2 rules changed nothing" in shown
    assert "expected a constant" in shown


def test_a_class_that_is_not_allowed_changes_nothing_and_says_where_it_would(workplace: Path, capsys) -> None:
    assert apply("--allow", "exact", "--json") == 0
    run = json.loads(capsys.readouterr().out)
    assert [rule["applied"] for rule in run["rules"]] == [0, 0, 0]
    said = [finding for finding in run["findings"] if finding["rule"] == "FAST001"]
    assert [finding["message"] for finding in said] == ["equal: real is not allowed here"]
    assert (workplace / "m.fixed.onnx").read_bytes() == (workplace / "m.onnx").read_bytes()
    assert apply("--allow", "exactly") == 2


def test_timings_show_every_rule_with_its_tries(workplace: Path, capsys) -> None:
    assert apply("--timings") == 0
    lines = [line.split("│") for line in capsys.readouterr().err.splitlines() if "│" in line]
    rows = {cells[1].split()[0]: [cell.strip() for cell in cells[2:-1]] for cells in lines if len(cells) == 7}
    assert {"FAST001", "LATE001", "NEVER001"} <= rows.keys()
    tries, hits, applied, milliseconds = rows["FAST001"]
    assert int(tries) >= int(hits) >= int(applied) == 1
    assert float(milliseconds) >= 0
