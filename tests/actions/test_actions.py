"""Actions that ask the planner; they never edit an FP32 model."""

from __future__ import annotations

import pytest

from language._models import absmax, case, load_text, record, rule_text, view
from onnx_fp16fix.calibrate.ranges import RangeTable, TensorRange
from onnx_fp16fix.language import PlanRequest, apply_rules
from onnx_fp16fix.language.registry import action_names, find_action, register

ISLAND = "action: {name: fp32-island, until: vmax(out) <= FP16.max / 2, max_nodes: MOST}"
SOFTPLUS = "e = Exp(x)\na = e + 1.0\nl = Log(a)\nl * 2.0"


def island(tmp_path, most: int, ranges: RangeTable | None, text: str = SOFTPLUS):
    rule = load_text(rule_text("Exp(x)", ISLAND.replace("MOST", str(most))), tmp_path)
    return apply_rules(view(case(text, x="float [4]")), rule, ranges)


def ranges(**highest: float) -> RangeTable:
    return RangeTable({name: TensorRange(0, value, count=1) for name, value in highest.items()}, 1)


def test_an_island_grows_until_the_value_fits(tmp_path):
    found = island(tmp_path, 8, ranges(e=1e9, a=1e9, l=21))
    assert found.patches == ()
    assert found.requests == (
        PlanRequest(
            "TEST001", (((), 0), ((), 1), ((), 2)), (), "kept in FP32: 'case/Exp', 'case/Add', 'case/Log'"
        ),
    )
    assert record(found).action == "fp32-island"


def test_an_island_that_fits_at_once_is_its_match(tmp_path):
    assert island(tmp_path, 8, ranges(e=10)).requests[0].fp32_nodes == (((), 0),)


def test_an_island_that_grows_too_large_is_given_up(tmp_path):
    found = island(tmp_path, 2, ranges(e=1e9, a=1e9, l=21))
    assert record(found).reason == "the values do not fit FP16 again within 2 nodes"
    assert found.requests == ()


def test_an_island_without_facts_is_skipped_and_says_so(tmp_path):
    assert record(island(tmp_path, 8, None)).reason == (
        "'until' is unknown: vmax(out) unknown (no calibration for 'e')"
    )


def test_an_island_cannot_swallow_a_graph_output(tmp_path):
    found = island(tmp_path, 8, ranges(**{"case/Exp": 1e9}), "Exp(x)")
    assert record(found).reason == "'case/Exp' leaves its graph without fitting FP16"


UPSTREAM = "f = Cast(i, to=1)\na = f * w\nc = Concat(a, a, axis=0)\ny = Cos(c)\nIdentity(y)"


def upstream(tmp_path, options: str, text: str = UPSTREAM, table: RangeTable | None = None, **given: str):
    rule = load_text(rule_text("Cos(x)", f"action: {{name: fp32-upstream{options}}}"), tmp_path)
    given = given or {"i": "int64 [4]", "w": "float [4]"}
    return apply_rules(view(case(text, **given)), rule, table)


def test_an_upstream_island_goes_back_to_integers_and_inputs(tmp_path):
    assert upstream(tmp_path, "").requests[0].fp32_nodes == (((), 0), ((), 1), ((), 2), ((), 3))


def test_an_upstream_island_ends_where_values_fit(tmp_path):
    found = upstream(tmp_path, ", until: absmax(out) <= 8", table=absmax(c=100, a=8, f=100))
    assert found.requests[0].fp32_nodes == (((), 2), ((), 3))


def test_an_upstream_island_leaves_costly_ops_alone(tmp_path):
    found = upstream(tmp_path, "", "Cos(MatMul(p, q) * 2.0)", p="float [4, 4]", q="float [4, 4]")
    assert found.requests[0].fp32_nodes == (((), 1), ((), 2))


def test_an_upstream_island_is_bounded_and_needs_its_facts(tmp_path):
    assert record(upstream(tmp_path, ", max_nodes: 2")).reason == (
        "no value that FP16 holds is reached within 2 nodes"
    )
    assert "'until' is unknown" in record(upstream(tmp_path, ", until: absmax(out) <= 8")).reason
    assert record(upstream(tmp_path, ", of: [z]")).reason == "'z' is not bound in this alternative"


def test_rescale_names_captured_and_made_tensors(tmp_path):
    rule = load_text(rule_text("p = MatMul(q, k)\np * 2", "action: {name: rescale}"), tmp_path)
    found = apply_rules(
        view(case("p = MatMul(q, k)\np * 2.0", q="float [4, 4]", k="float [4, 4]")), rule, absmax(p=1)
    )
    assert found.requests[0].rescale_tensors == ("q", "k", "p", "case/Mul")


def test_actions_are_found_by_name_only():
    planned = ["fp32-island", "fp32-upstream", "keep-fp32", "rescale"]
    assert [name for name in action_names() if not name.startswith("deconv-")] == planned
    assert find_action("os.system") is None


def test_a_name_is_registered_once():
    class Other:
        name = "rescale"

    with pytest.raises(ValueError, match="registered already"):
        register(Other())  # type: ignore[arg-type]
