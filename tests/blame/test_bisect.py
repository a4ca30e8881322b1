"""``bisect`` as a whole: planted culprits, the rule file, resuming, and what users get wrong."""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import onnx_fp16fix
from blame.planted_models import FAULTS, planted
from blame.square import BIG, entry_of, refused, square
from calibrate.small_models import model
from onnx_fp16fix.blame import node_names, simulated
from onnx_fp16fix.errors import DataError, ModelError, UsageError
from onnx_fp16fix.graph import build_view
from onnx_fp16fix.model import wrap_model
from onnx_fp16fix.pipeline import culprits
from onnx_fp16fix.progress import Silent


def test_names_are_those_of_nodes_or_first_outputs() -> None:
    entry = entry_of(square(), BIG)
    assert entry.fp32_nodes == ["square", "m", "r"]
    assert entry.ranking[0].node == "square"
    assert entry.error_fp16 > 0.5
    assert entry.error < 1e-2
    assert entry.minimal


def test_a_name_that_two_nodes_share_is_not_used() -> None:
    proto = square()
    for node in proto.graph.node[1:3]:
        node.name = "layer"
    proto.graph.node[4].name = "a"  # which is what the first node makes
    names = node_names(build_view(wrap_model(proto)).main)
    assert list(names.values()) == ["a", "b", "m", "r", "d", "y"]


@pytest.mark.parametrize(("seed", "fault"), list(itertools.product(range(4), FAULTS)))
def test_a_planted_culprit_is_named(seed: int, fault: str) -> None:
    plant = planted(60, (fault,), seed)
    entry = entry_of(plant.model, plant.data)
    culprit = plant.culprits[fault]
    assert culprit in entry.fp32_nodes
    # the set is the fault itself, and nothing else
    assert all(f"/{fault}/" in name for name in entry.fp32_nodes)
    assert f"/{fault}/" in entry.ranking[0].node


@pytest.mark.parametrize(("seed", "fault"), list(enumerate(FAULTS)))
def test_a_culprit_planted_in_a_loop_is_named(seed: int, fault: str) -> None:
    plant = planted(40, (fault,), seed, inside=True)
    entry = entry_of(plant.model, plant.data)
    assert plant.culprits[fault] in entry.fp32_nodes
    assert all("0:body:0::layer" in name and f"/{fault}/" in name for name in entry.fp32_nodes)


@pytest.mark.parametrize("seed", range(4))
def test_all_planted_culprits_are_named_at_once(seed: int) -> None:
    plant = planted(100, FAULTS, seed)
    entry = entry_of(plant.model, plant.data)
    assert set(plant.culprits.values()) <= set(entry.fp32_nodes)
    assert all(any(f"/{fault}/" in name for fault in FAULTS) for name in entry.fp32_nodes)


def test_no_node_of_the_set_can_go(tmp_path: Path) -> None:
    plant = planted(60, FAULTS, 1)
    entry = entry_of(plant.model, plant.data)
    for left_out in entry.fp32_nodes:
        rest = [name for name in entry.fp32_nodes if name != left_out]
        assert entry_of(plant.model, plant.data, keep=rest).error_fp16 > entry.tolerance


def test_the_rule_file_gives_the_same_islands_and_error(tmp_path: Path) -> None:
    plant = planted(60, FAULTS, 2)
    entry = entry_of(plant.model, plant.data)
    assert entry.rules is not None
    rules = tmp_path / "keep.yaml"
    rules.write_text(entry.rules)
    applied = onnx_fp16fix.apply(plant.model, rules, plant.data, precision="fp16", tensorrt="off")
    assert applied.run.status in ("ok", "findings")
    assert applied.plan is not None
    assert applied.plan.fp32_nodes == entry.fp32_nodes
    assert applied.verification is not None
    assert applied.verification.fp16_sim is not None
    # the same bits, but for how the two sum up squares (test_switches.py compares bits)
    assert applied.verification.fp16_sim.outputs[0].rel_l2 == pytest.approx(entry.error, rel=1e-6)


def test_bf16_has_culprits_of_its_own_and_the_same_islands(tmp_path: Path) -> None:
    proto = model(
        "g (float[8] x) => (float[8] y) <float[1] c = {100.3}> { [far] a = Add(x, c) [near] b = Sub(a, c) y = Tanh(b) }"
    )
    data = {"x": np.linspace(-2, 2, 8, dtype=np.float32)}
    assert entry_of(proto, data, tolerance=0.05).rules is None  # FP16 has bits enough
    cache = tmp_path / "trials"
    entry = entry_of(proto, data, as_type="bf16", cache=cache)
    assert (entry.as_type, entry.tolerance, entry.fp32_nodes) == ("bf16", 0.08, ["far", "near"])
    assert entry.rules is not None
    assert "--precision bf16" in entry.rules
    (tmp_path / "keep.yaml").write_text(entry.rules)
    applied = onnx_fp16fix.apply(proto, tmp_path / "keep.yaml", data, precision="bf16", tensorrt="off")
    assert applied.verification is not None
    assert applied.verification.fp16_sim is not None
    assert applied.verification.fp16_sim.outputs[0].rel_l2 == pytest.approx(entry.error, rel=1e-6)
    again = entry_of(proto, data, as_type="bf16", cache=cache)
    assert (again.recalled > 0, again.error) == (True, entry.error)
    assert entry_of(proto, data, cache=cache).recalled == 0


def test_nodes_to_keep_are_not_searched() -> None:
    entry = entry_of(square(), BIG, keep=["square", "divide"])
    assert set(entry.fp32_nodes) == {"square", "m", "r", "divide"}
    assert {blamed.node for blamed in entry.ranking if blamed.kept} == {"m", "r"}


def test_a_sample_that_the_search_did_not_look_at_joins_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(culprits, "_HELD", 1)
    proto = model("""g (float[2] x) => (float[2] y) {
        a = Exp(x)  b = Log(a)  c = Mul(x, x)  d = Sqrt(c)  y = Add(b, d) }""")
    exp_only = {"x": np.array([20, 20], np.float32)}
    square_only = {"x": np.array([-300, -300], np.float32)}
    tame = {"x": np.array([1, 2], np.float32)}
    entry = entry_of(proto, [tame, exp_only, square_only, tame])
    assert {"a", "c"} <= set(entry.fp32_nodes)
    assert entry.error <= entry.tolerance


def test_good_models_need_nothing() -> None:
    outcome = onnx_fp16fix.bisect(square(), {"x": np.ones((1, 4), np.float32)})
    entry = outcome.run.bisect
    assert outcome.run.status == "ok"
    assert entry is not None
    assert (entry.fp32_nodes, entry.rules, entry.ranking) == ([], None, [])


def test_integer_outputs_count_places_that_differ() -> None:
    proto = model("g (float[n,4] x) => (int64[n,1] y) { b = Mul(x, x)  y = ArgMax <axis = 1> (b) }")
    assert entry_of(proto, {"x": np.array([[1, 300, 400, 2]], np.float32)}).error_fp16 == 1.0


def test_too_few_trials_give_the_best_set_so_far() -> None:
    plant = planted(60, FAULTS, 0)
    outcome = onnx_fp16fix.bisect(plant.model, plant.data, trials=6)
    entry = outcome.run.bisect
    assert entry is not None
    assert (outcome.run.status, outcome.run.exit_code, entry.minimal) == ("findings", 1, False)
    assert entry.error <= entry.tolerance
    assert set(plant.culprits.values()) <= set(entry.fp32_nodes)
    assert len(entry.fp32_nodes) < len(plant.model.graph.node)


def test_local_functions_are_inlined_and_it_is_said() -> None:
    proto = model(
        "g (float[2] x) => (float[2] y) { y = own.Square(x) }",
        functions='<domain: "own", opset_import: ["" : 17]> Square (a) => (c) { b = Mul(a, a)  c = Sqrt(b) }',
        domains=', "own" : 1',
    )
    outcome = onnx_fp16fix.bisect(proto, {"x": np.array([300, 400], np.float32)})
    assert outcome.run.bisect is not None
    assert len(outcome.run.bisect.fp32_nodes) == 2
    assert any("after inlining" in text for text in outcome.warnings)


# Resuming


class Interrupting:
    """Lets so many runs of the switched model through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
        self.runs, self.after = 0, after
        real = simulated.output_error

        def counted(*values: Any) -> float:
            self.runs += 1
            if self.runs > self.after:
                raise KeyboardInterrupt
            return real(*values)

        monkeypatch.setattr(simulated, "output_error", counted)


def test_an_interrupted_search_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant = planted(60, FAULTS, 3)
    cache = tmp_path / "trials"
    whole = entry_of(plant.model, plant.data)
    progress = Silent()
    with monkeypatch.context() as patch:
        Interrupting(patch, 50)
        with pytest.raises(KeyboardInterrupt):
            onnx_fp16fix.bisect(plant.model, plant.data, cache=cache, progress=progress)
    assert f"what was measured is in {cache}" in progress.warnings[-1]
    with monkeypatch.context() as patch:
        counter = Interrupting(patch, 10**9)
        resumed = entry_of(plant.model, plant.data, cache=cache)
    assert resumed.recalled >= 50
    assert resumed.model_dump(exclude={"recalled"}) == whole.model_dump(exclude={"recalled"})
    with monkeypatch.context() as patch:
        Interrupting(patch, 0)  # nothing is left to run
        again = entry_of(plant.model, plant.data, cache=cache)
    assert again.fp32_nodes == whole.fp32_nodes
    assert counter.runs > 0


def test_weights_on_disk_are_read_there_and_belong_to_the_trial(tmp_path: Path) -> None:
    plant = planted(40, ("big-square",), 0)
    path, cache = tmp_path / "net.onnx", tmp_path / "trials"
    # saving changes the model it is given
    onnx.save(
        planted(40, ("big-square",), 0).model,
        path,
        save_as_external_data=True,
        location="net.data",
        size_threshold=64,
    )
    expected = entry_of(plant.model, plant.data)
    found = entry_of(path, plant.data, cache=cache)
    assert found.fp32_nodes == expected.fp32_nodes
    assert found.error == expected.error
    assert entry_of(path, plant.data, cache=cache).recalled > 0
    os.utime(tmp_path / "net.data", ns=(1, 1))
    assert entry_of(path, plant.data, cache=cache).recalled == 0


# Check commands


def test_unknown_nodes_are_all_told() -> None:
    words = "no node is called 'sqare' [BISECT-NODE]\n  hint: did you mean 'square'?\nno node is called '#3'"
    refused(UsageError, "BISECT-NODE", words, square(), BIG, keep=["sqare", "square", "#3"])


def test_data_that_do_not_fit() -> None:
    refused(DataError, "DATA-SHAPE", "x", square(), {"x": np.ones((1, 3), np.float32)})


def random_model(body: str) -> onnx.ModelProto:
    return model(f"g (float[64] x) => (float[64] y) <float half = {{0.5}}, bool yes = {{1}}> {{ {body} }}")


@pytest.mark.parametrize("seed", ["", "<seed = 3.0>"])
def test_random_numbers_of_the_main_graph_are_held_fixed(seed: str) -> None:
    proto = random_model(f"r = RandomNormalLike{seed}(x)  a = Mul(r, x)  b = Mul(a, a)  y = Relu(b)")
    outcome = onnx_fp16fix.bisect(proto, {"x": np.linspace(-300, 700, 64, dtype=np.float32)})
    assert outcome.run.status == "ok"
    assert outcome.run.bisect is not None
    assert outcome.run.bisect.fp32_nodes == ["b", "y"]  # a square of up to a million, and what reads it


@pytest.mark.parametrize(
    "body",
    [
        "a = Dropout(x, half, yes)  y = Mul(a, a)",
        """y = If (yes) <
            then_branch = t () => (float[64] b) { r = RandomNormalLike(x)  s = Mul(x, x)  b = Mul(s, r) },
            else_branch = e () => (float[64] c) { c = Neg(x) }>""",
    ],
)
def test_other_random_numbers_cannot_be_blamed_on_a_node(body: str) -> None:
    words = "draws other numbers at each run, so no node can be blamed"
    refused(ModelError, "BISECT-RANDOM", words, random_model(body), {"x": np.full(64, 300, np.float32)})


def test_a_model_that_is_fp16_already_is_refused() -> None:
    proto = model("g (float16[2] x) => (float16[2] y) { a = Mul(x, x)  y = Sqrt(a) }")
    words = "parts that are 16-bit in the model itself give the outputs an error of inf"
    refused(ModelError, "BISECT-TYPED", words, proto, {"x": np.array([300, 1], np.float16)})


LOOPING = """g (float[4] x, int64 n, bool c) => (float[4] y) <float[4] w = {0.5, 0.25, 2, 1}> {
    a = Tanh(x)
    b = Loop (n, c, x) <body = b (int64 i, bool go, float[4] p) => (bool again, float[4] q) {
        again = Identity(go)
        [damp] d = Mul(p, w)
        [square] s = Mul(p, p)
        r = Sqrt(s)
        h = If (go) <then_branch = t () => (float[4] u) { [inner] u = Add(d, r) },
                     else_branch = e () => (float[4] v) { v = Sub(d, r) }>
        [halve] q = Mul(h, half)
    }>
    y = Add(a, b)
}"""
LOOP_FEED = {"x": np.float32([300, -500, 20, 1]), "n": np.array(3), "c": np.array(True)}


def looping() -> onnx.ModelProto:
    proto = model(LOOPING)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0.4), "half"))
    return proto


def test_a_culprit_inside_a_loop_is_named_and_kept(tmp_path: Path) -> None:
    entry = entry_of(looping(), LOOP_FEED)
    assert entry.fp32_nodes == ["1:body:0::square", "1:body:0::r"]
    assert entry.nodes == 8
    assert (entry.ranking[0].node, entry.ranking[0].op, entry.minimal) == ("1:body:0::square", "Mul", True)
    assert entry.error_fp16 == np.inf
    rules = tmp_path / "keep.yaml"
    rules.write_text(entry.rules)
    applied = onnx_fp16fix.apply(looping(), rules, LOOP_FEED, precision="fp16", tensorrt="off")
    assert applied.run.status in ("ok", "findings")
    assert applied.plan.fp32_nodes == entry.fp32_nodes
    assert applied.verification.fp16_sim.outputs[0].rel_l2 == pytest.approx(entry.error, rel=1e-6)
    (loop,) = (node for node in applied.model.graph.node if node.op_type == "Loop")
    casts = [node for node in loop.attribute[0].g.node if node.op_type == "Cast"]
    assert any(node.attribute[0].i == TensorProto.FLOAT16 for node in casts)  # the rest of the body is FP16


def test_a_node_of_a_body_can_be_kept_and_a_command_may_judge(tmp_path: Path) -> None:
    entry = entry_of(looping(), LOOP_FEED, keep=["1:body:0::square"])
    assert entry.fp32_nodes == ["1:body:0::square", "1:body:0::r"]
    script = tmp_path / "judge.py"
    script.write_text(
        """import sys, onnx
body = next(a.g for n in onnx.load(sys.argv[1]).graph.node for a in n.attribute if a.name == "body")
square = next(node for node in body.node if node.name == "square")
sys.exit("float16" in square.input[0])
"""
    )
    judged = entry_of(looping(), LOOP_FEED, check=f"{sys.executable} {script} {{model}}")
    assert judged.fp32_nodes == ["1:body:0::square"]
    with pytest.raises(UsageError, match="1:body:0::squar"):
        entry_of(looping(), LOOP_FEED, keep=["1:body:0::squar"])


def test_integers_have_no_switch() -> None:
    proto = model("""g (float[2] x, int64 n) => (float[2] y) {
        t = Constant <value = bool {1}> ()
        a = Mul(x, x)
        y = Loop (n, t, a) <body = b (int64 i, bool c, float[2] s) => (bool d, float[2] e)
            { d = Identity(c)  e = Sqrt(s) }>
    }""")
    entry = entry_of(proto, {"x": np.array([300, 1], np.float32), "n": np.array(1)})
    assert (entry.fp32_nodes, entry.nodes) == (["a", "2:body:0::e"], 2)
