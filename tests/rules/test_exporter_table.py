"""docs/failure-patterns.md says which rules are tested on what which exporter writes: it is what these tests try.

``python tests/rules/test_exporter_table.py`` prints the rows.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import onnx
import pytest

from onnx_fp16fix.language import load_rules

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "failure-patterns.md"
HEAD = (
    "| family | PyTorch, both exporters | PyTorch, TorchScript | tf2onnx | paddle2onnx | written cases only |"
)


def by_exporter() -> dict[str, set[str]]:
    """Rules that each exporter's tests expect to apply."""
    sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE / "exporters")]
    from cases import INPUTS
    from test_exported import CASES
    from test_exported_sums_and_positions import CASES as MORE
    from test_exported_sums_and_positions import DYNAMO
    from test_other_exporters import ANOTHER

    found = defaultdict(set)
    found["legacy"] = {rule for rule, *_ in CASES} | {rule for case in MORE for rule in case[0].split()}
    found["dynamo"] = {rule for rule, *_ in CASES} | {rule for case in DYNAMO for rule in case.split()}
    for exporter in ("tf2onnx", "paddle2onnx"):
        graph = onnx.load(HERE / "exporters" / f"{exporter}.onnx").graph
        names = {value.name.split("/")[0] for value in graph.input}
        for case in names.intersection(INPUTS):
            other = ANOTHER[exporter].get(case) or ANOTHER["both"].get(case)
            found[exporter].add(other or case.rstrip("abc"))
    return found


def rows() -> list[str]:
    """One line a family."""
    found, families = by_exporter(), defaultdict(list)
    for rule in load_rules(["pack:all"]):
        families[rule.place.file.split("/")[-2]].append(rule.id)
    lines = []
    for family, rules in sorted(families.items()):
        both = found["legacy"] & found["dynamo"]
        tested = set().union(*found.values())
        groups = (both, found["legacy"] - both, found["tf2onnx"], found["paddle2onnx"], set(rules) - tested)
        cells = [" ".join(rule for rule in sorted(rules) if rule in group) or "-" for group in groups]
        lines.append(f"| {family} | {' | '.join(cells)} |")
    return lines


def test_the_page_lists_what_is_tested():
    pytest.importorskip("torch")
    text = PAGE.read_text()
    table = text[text.index(HEAD) :].split("\n\n")[0].splitlines()[2:]
    assert table == rows()


if __name__ == "__main__":
    print("\n".join([HEAD, "|---" * 6 + "|", *rows()]))
