"""Bodies and local functions: run here as ONNX Runtime runs them, and every tensor inside measured."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from calibrate.small_models import model
from onnx_fp16fix.calibrate import calibrate, measure, open_data
from onnx_fp16fix.calibrate.observer import Observer
from onnx_fp16fix.calibrate.origin import inline, inlined_keys
from onnx_fp16fix.calibrate.runner import Runner, Setting
from onnx_fp16fix.calibrate.steps import Budget
from onnx_fp16fix.runtime import as_value, open_session


@pytest.fixture(params=["at once", "node by node"], autouse=True)
def way(request, monkeypatch):
    if request.param == "node by node":
        monkeypatch.setattr(measure, "Budget", lambda: Budget(part=0))


def ranges(proto, *feeds, **options):
    return calibrate(proto, open_data(list(feeds), proto), **options)


def check_results(proto, feed):
    """Every graph output as ONNX Runtime gives it, bit for bit."""
    names = [info.name for info in proto.graph.output]
    runner = Runner(Setting(proto, None, inline(proto), Budget(), Observer()), proto.graph, (), names)
    ours = runner.run({name: as_value(value) for name, value in feed.items()})
    for name, value in open_session(proto).run(feed).items():
        np.testing.assert_array_equal(ours[name].numpy(), value)
        assert ours[name].numpy().dtype == value.dtype


BRANCHES = model("""g (bool c, float[2] x) => (float[2] y) <float[2] w = {10, 20}> { h = Neg(x)
    y = If (c) <then_branch = t () => (float[2] a) { p = Mul(h, w)  a = Abs(p) },
                else_branch = e () => (float[2] b) <float[1] k = {3}> { b = Add(x, k) }> }""")
X = np.array([1, -2], np.float32)


def test_both_branches_of_an_if():
    table = ranges(BRANCHES, {"c": np.array(True), "x": X}, {"c": np.array(False), "x": X})
    assert list(table) == ["x", "h", "1:then_branch:0::p", "1:then_branch:0::a", "y", "1:else_branch:0::b"]
    inner = table.get("1:then_branch:0::p")
    assert (inner.minimum, inner.maximum, inner.count, inner.maximum_sample) == (-10, 40, 2, 0)
    other = table.get("1:else_branch:0::b")
    assert (other.minimum, other.maximum, other.minimum_sample) == (1, 4, 1)
    assert (table.get("y").count, table.get("y").maximum) == (4, 40)


@pytest.mark.parametrize("condition", [True, False])
def test_if_gives_what_onnx_runtime_gives(condition):
    check_results(BRANCHES, {"c": np.array(condition), "x": X})


def loop(trips, keep):
    """Doubles ``s`` while it stays below 100, adding an outer tensor; a nested If inside."""
    return model(f"""g (float[2] x) => (float[2] last, float[n, 2] all) <int64 m = {{{trips}}}, bool go = {{{keep}}}>
    {{ h = Abs(x)
      last, all = Loop (m, go, h) <body = b (int64 i, bool c, float[2] s) => (bool cc, float[2] next, float[2] out)
        <float[1] two = {{2}}, float[1] hundred = {{100}}>
        {{ d = Mul(s, two)  next = Add(d, h)  top = ReduceMax<keepdims: int = 0>(next)  wide = Less(top, hundred)
          one = Squeeze(wide)  cc = Identity(one)
          out = If (one) <then_branch = t () => (float[2] u) {{ u = Neg(next) }},
                          else_branch = e () => (float[2] v) {{ v = Identity(next) }}> }}> }}""")


@pytest.mark.parametrize(("trips", "keep"), [(3, 1), (50, 1), (0, 1), (5, 0)])
def test_loop_gives_what_onnx_runtime_gives(trips, keep):
    check_results(loop(trips, keep), {"x": X})


def test_loops_are_measured_over_all_iterations():
    table = ranges(loop(3, 1), {"x": X})
    body = "1:body:0"
    assert (table.get(f"{body}::s").minimum, table.get(f"{body}::s").maximum) == (1, 14)
    assert (table.get(f"{body}::d").count, table.get(f"{body}::d").maximum) == (6, 28)
    assert table.get(f"{body}/6:then_branch:0::u").minimum == -30
    assert table.get(f"{body}/6:else_branch:0::v") is None
    assert table.get("all").shape == (3, 2)


@pytest.mark.parametrize("backwards", [0, 1])
def test_scan(backwards):
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "e"], ["t"]), helper.make_node("Neg", ["t"], ["o"])],
        "body",
        [info("s", TensorProto.FLOAT, [2]), info("e", TensorProto.FLOAT, [2])],
        [info("t", TensorProto.FLOAT, [2]), info("o", TensorProto.FLOAT, [2])],
    )
    node = helper.make_node(
        "Scan", ["s0", "x"], ["final", "y"], body=body, num_scan_inputs=1, scan_input_axes=[1],
        scan_input_directions=[backwards], scan_output_axes=[1], scan_output_directions=[backwards],
    )  # fmt: skip
    graph = helper.make_graph(
        [node],
        "g",
        [info("s0", TensorProto.FLOAT, [2]), info("x", TensorProto.FLOAT, [2, 3])],
        [info("final", TensorProto.FLOAT, [2]), info("y", TensorProto.FLOAT, [2, 3])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    feed = {"s0": np.zeros(2, np.float32), "x": np.arange(6, dtype=np.float32).reshape(2, 3)}
    check_results(proto, feed)
    table = ranges(proto, feed)
    assert (table.get("0:body:0::t").maximum, table.get("0:body:0::o").minimum) == (12, -12)
    assert table.get("0:body:0::e").maximum == 5


FUNCTIONS = model(
    """g (float[2] x, bool c) => (float[2] y) { a = local.outer(x)  b = Neg(a)
       y = If (c) <then_branch = t () => (float[2] r) { r = local.outer(b) },
                   else_branch = e () => (float[2] s) { s = Neg(b) }> }""",
    functions="""<domain: "local", opset_import: ["" : 17, "local" : 1]>
        outer (p) => (q) { h = Add(p, p)  q = local.inner(h) }
        <domain: "local", opset_import: ["" : 17]> inner (m) => (n) { h = Mul(m, m)  n = Sqrt(h) }""",
    domains=', "local" : 1',
)


def test_functions_are_measured_over_all_calls():
    table = ranges(FUNCTIONS, {"x": X, "c": np.array(True)})
    outer, inner = table.get("function:0::h"), table.get("function:1::h")
    assert (outer.count, outer.minimum, outer.maximum) == (4, -8, 2)
    assert (inner.count, inner.minimum, inner.maximum) == (4, 4, 64)
    assert table.get("function:1::n").maximum == 8
    assert table.get("a").maximum == 4
    assert table.get("2:then_branch:0::r").maximum == 8
    assert table.get("y").maximum == 8


def test_inlined_names_lead_to_the_functions_entries():
    names = {
        name for node in onnx.inliner.inline_local_functions(FUNCTIONS).graph.node for name in node.output
    }
    keys = inlined_keys(FUNCTIONS)
    assert set(keys) <= names
    assert sorted(keys.values()) == ["function:0::h", "function:1::h"]


def test_a_loop_over_sequences_runs_and_stays_closed():
    proto = model("""g (float[2] x) => (float[m] y) <int64 n = {2}, bool go = {1}> { h = Neg(x)
        empty = SequenceEmpty()
        parts = Loop (n, go, empty) <body = b (int64 i, bool c, seq(float[2]) s) => (bool cc, seq(float[2]) t)
            { cc = Identity(c)  t = SequenceInsert(s, h) }>
        y = ConcatFromSequence<axis = 0>(parts) }""")
    table = ranges(proto, {"x": X})
    assert list(table) == ["x", "h", "y"]
    assert (table.get("y").count, table.get("y").maximum) == (4, 2)
