"""Nodes that have the same around them are matched once: what is found is what matching each of them finds."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper

from language._models import absmax, graph_model, load_text, patched, rule_text, view
from onnx_fp16fix.language import Rule, RuleRun, apply_rules, finder, load_rules


@pytest.fixture(scope="module")
def shipped() -> list[Rule]:
    return load_rules(["pack:all"])


def found(model: onnx.ModelProto, rules: list[Rule], fewest: int, monkeypatch, ranges=None) -> RuleRun:
    monkeypatch.setattr(finder, "FEWEST", fewest)
    run = apply_rules(view(model), rules, ranges)
    return replace(run, stats=tuple(replace(stats, seconds=0.0) for stats in run.stats))


OPS = (
    "Mul",
    "Mul",
    "Add",
    "Add",
    "Sub",
    "Div",
    "Sqrt",
    "Pow",
    "Neg",
    "ReduceMean",
    "Softmax",
    "Erf",
    "Exp",
    "Relu",
)
SHAPE = [2, 4]


def repeated(seed: int, blocks: int = 12) -> onnx.ModelProto:
    """Blocks of the same random nodes; in some of them an operand, a constant or an attribute is another one."""
    pick = random.Random(seed)
    numbers = (1.0, 0.5, 2.0, 1e-6, -1.0, 3.0)
    constants = {f"c{i}": np.float32(number) for i, number in enumerate(numbers)}
    constants |= {f"row{i}": np.full(4, i + 1.5, np.float32) for i in range(3)}
    plan = [
        (pick.choice(OPS), pick.random(), pick.random(), pick.random()) for _ in range(pick.randint(5, 12))
    ]
    nodes, stream = [], "x"
    for block in range(blocks):
        near, changed = [stream, "z", *constants], pick.randrange(3 * len(plan))
        for place, (op, first, second, kind) in enumerate(plan):
            if place == changed:
                first, second = pick.random(), pick.random()
            ahead = near[: len(near) - len(constants)]
            inputs = [ahead[int(first * len(ahead))]]
            if op in ("Mul", "Add", "Sub", "Div"):
                inputs.append(near[int(second * len(near))])
                inputs = inputs[::-1] if kind < 0.3 else inputs
            elif op == "Pow":
                inputs.append("c2")
            attributes = {"axes": [-1]} if op == "ReduceMean" else {"axis": -1} if op == "Softmax" else {}
            output = f"b{block}n{place}"
            nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
            near.insert(len(near) - len(constants), output)
        stream = nodes[-1].output[0]
    used = {name for node in nodes for name in node.input}
    ends = [node.output[0] for node in nodes if node.output[0] not in used]
    some = pick.sample(nodes, 3)
    outputs = dict.fromkeys([*ends, *(node.output[0] for node in some)], SHAPE)
    return graph_model(nodes, {"x": SHAPE, "z": SHAPE}, outputs, **constants)


@pytest.mark.parametrize("seed", range(8))
def test_sharing_finds_what_matching_each_node_finds(seed, shipped, monkeypatch):
    model = repeated(seed)
    ranges = absmax(**{node.output[0]: 10.0 ** (i % 7) for i, node in enumerate(model.graph.node)})
    alone = found(model, shipped, 10**9, monkeypatch, ranges)
    assert found(model, shipped, 1, monkeypatch, ranges) == alone
    assert found(model, shipped, 4, monkeypatch, ranges) == alone


def norms(change: str, blocks: int = 40) -> onnx.ModelProto:
    """RMS norms, each of the Tanh of the one before, the 7th and the 23rd changed."""
    constants = {"eps": np.float32(1e-6), "same": np.float32(1e-6), "large": np.float32(1e-2)}
    nodes, outputs, x = [], {}, "x"
    for block in range(blocks):
        at = {name: f"{name}{block}" for name in ("sq", "mean", "sum", "root", "y")}
        apart = block in (7, 23)
        other = "x" if apart and change == "operand" else x
        eps = {"epsilon": "large", "equal epsilon": "same"}.get(change, "eps") if apart else "eps"
        axes = [0] if apart and change == "axis" else [-1]
        nodes += [
            helper.make_node("Mul", [x, other], [at["sq"]]),
            helper.make_node("ReduceMean", [at["sq"]], [at["mean"]], axes=axes),
            helper.make_node("Add", [at["mean"], eps], [at["sum"]]),
            helper.make_node("Sqrt", [at["sum"]], [at["root"]]),
            helper.make_node("Div", [x, at["root"]], [at["y"]]),
        ]
        nodes.append(helper.make_node("Tanh", [at["y"]], [f"next{block}"]))
        if apart and change == "reader":
            nodes.append(helper.make_node("Exp", [at["sum"]], [f"further{block}"]))
            outputs[f"further{block}"] = None
        if apart and change == "output":
            outputs[at["mean"]] = None
        x = f"next{block}"
    return graph_model(nodes, {"x": [2, 4]}, {**outputs, x: None}, **constants)


@pytest.mark.parametrize(
    ("change", "fewer"),
    [
        ("none", 0),
        ("equal epsilon", 0),
        ("operand", 2),
        ("axis", 2),
        ("epsilon", 2),
        ("reader", 2),
        ("output", 2),
    ],
)
def test_a_block_that_differs_is_matched_for_itself(change, fewer, tmp_path):
    pattern = "x / Sqrt(ReduceMean(x ** 2, axes=[1], keepdims=1) + 1e-6)"
    rule = load_text(rule_text(pattern, "action: {name: rescale}"), tmp_path)
    run = apply_rules(view(norms(change)), rule, None)
    assert run.stats[0].applied == 40 - fewer
    inside = [record.node for record in run.records]
    assert len(set(inside)) == len(inside)


def test_nodes_are_tried_once_for_all_that_look_alike(tmp_path, monkeypatch):
    tried = []
    at = finder.Matcher.at
    monkeypatch.setattr(finder.Matcher, "at", lambda self, *args: tried.append(args) or at(self, *args))
    pattern = "x / Sqrt(ReduceMean(x ** 2, axes=[1], keepdims=1) + 1e-6)"
    rule = load_text(rule_text(pattern, "action: {name: rescale}"), tmp_path)
    assert apply_rules(view(norms("none", 200)), rule, None).stats[0].matched == 200
    assert len(tried) < 20  # the first blocks, and one for the rest


def test_values_of_constants_count_where_they_were_compared(tmp_path):
    """``c`` twice is one constant: equal vectors are, whatever tensors hold them."""
    nodes, constants, x = [], {}, "x"
    for block in range(80):
        twin = 2.0 if block % 2 else 3.0
        constants |= {f"a{block}": np.full(4, 2, np.float32), f"b{block}": np.full(4, twin, np.float32)}
        nodes += [
            helper.make_node("Mul", [x, f"a{block}"], [f"m{block}"]),
            helper.make_node("Exp", [f"m{block}"], [f"e{block}"]),
            helper.make_node("Mul", [f"e{block}", f"b{block}"], [f"y{block}"]),
            helper.make_node("Tanh", [f"y{block}"], [f"t{block}"]),
        ]
        x = f"t{block}"
    model = graph_model(nodes, {"x": [2, 4]}, {x: [2, 4]}, **constants)
    rule = load_text(rule_text("Exp(x * c) * c", "action: {name: rescale}", vars="{c: const}"), tmp_path)
    records = apply_rules(view(model), rule, None).records
    assert [record.node for record in records] == [f"y{block}" for block in range(1, 80, 2)]


@pytest.mark.parametrize("phase", range(3))  # which block is looked at for the others
def test_equal_looks_are_not_the_same_tensor(phase, tmp_path):
    """Two streams that look alike: ``a / Sqrt(mean(a * a))`` in one block, ``a / Sqrt(mean(a * b))`` in another."""
    nodes, a, b = [], "x", "z"
    for block in range(60):
        own = (block + phase) % 3 > 0
        for side, value, other in (("a", a, b), ("b", b, a)):
            at = {name: f"{side}{block}{name}" for name in ("sq", "mean", "root", "y", "t")}
            nodes += [
                helper.make_node("Mul", [value, value if own else other], [at["sq"]]),
                helper.make_node("ReduceMean", [at["sq"]], [at["mean"]], axes=[-1]),
                helper.make_node("Sqrt", [at["mean"]], [at["root"]]),
                helper.make_node("Div", [value, at["root"]], [at["y"]]),
                helper.make_node("Tanh", [at["y"]], [at["t"]]),
            ]
        a, b = f"a{block}t", f"b{block}t"
    model = graph_model(nodes, {"x": [2, 4], "z": [2, 4]}, {a: None, b: None})
    pattern = "x / Sqrt(ReduceMean(x ** 2, axes=[1], keepdims=1))"
    rule = load_text(rule_text(pattern, "action: {name: rescale}"), tmp_path)
    records = apply_rules(view(model), rule, None).records
    own_blocks = [block for block in range(60) if (block + phase) % 3]
    assert [record.node for record in records] == [f"{side}{i}y" for i in own_blocks for side in "ab"]


@pytest.mark.parametrize(("op", "number"), [("Add", "two"), ("Mul", "one"), ("Add", "free")])
@pytest.mark.parametrize("phase", range(2))
def test_what_lies_far_above_counts_as_far_as_the_pattern_reaches(op, number, phase, tmp_path):
    nodes, x, chain = [], "x", ("Tanh", "Erf") * 5
    for block in range(80):
        other = block % 2 == phase
        nodes.append(helper.make_node(op if other else "Add", [x, number if other else "one"], [f"s{block}"]))
        x = f"s{block}"
        for place, link in enumerate(chain):
            nodes.append(helper.make_node(link, [x], [f"v{block}_{place}"]))
            x = f"v{block}_{place}"
    inputs = {"x": [4], "free": []}
    model = graph_model(nodes, inputs, {x: [4]}, one=np.float32(0.5), two=np.ones(2, np.float32))
    pattern = "x + c"
    for link in chain:
        pattern = f"{link}({pattern})"
    rule = load_text(rule_text(pattern, "action: {name: rescale}", vars="{c: const scalar}"), tmp_path)
    records = apply_rules(view(model), rule, None).records
    assert [record.node for record in records] == [f"v{block}_9" for block in range(80) if block % 2 != phase]


EDITS = {
    "further inputs": (
        "Tanh(Concat(x, *rest, axis=1))",
        "replace: [{with: 'Concat(Tanh(x), *rest, axis=1)'}]",
        "{}",
    ),
    "an attribute": ("Elu(x, alpha=a)", "replace: [{set: {a: a * 0.5}}]", "{a: attr}"),
    "what is left over": ("Exp(x) * Tanh(y)", "replace: [{with: 'Tanh(y) * Exp(x - 1.0)'}]", "{}"),
    "an operand": ("Exp(x * c)", "replace: [{set: {c: c * 0.5}}]", "{c: const scalar}"),
}


@pytest.mark.parametrize("kind", EDITS)
def test_edits_are_those_of_matching_each_node(kind, tmp_path, monkeypatch):
    nodes, x = [], "x"
    for block in range(12):
        steps = (
            ("Concat", [x, "z", x], "joined", {"axis": 1}),
            ("Tanh", ["joined"], "tanh", {}),
            ("Elu", ["tanh"], "elu", {"alpha": 0.5}),
            ("MatMul", ["elu", "weight"], "back", {}),
            ("Mul", ["back", "half"], "scaled", {}),
            ("Exp", ["scaled"], "exp", {}),
            ("Tanh", ["back"], "other", {}),
            ("Mul", [x, "exp"], "first", {}),
            ("Mul", ["first", "other"], "end", {}),
        )
        own = {output: f"{output}{block}" for _, _, output, _ in steps}
        nodes += [
            helper.make_node(op, [own.get(name, name) for name in inputs], [own[output]], **attributes)
            for op, inputs, output, attributes in steps
        ]
        x = own["end"]
    shape, weight = [2, 4], np.full((12, 4), 0.1, np.float32)
    model = graph_model(nodes, {"x": shape, "z": shape}, {x: shape}, weight=weight, half=np.float32(0.5))
    pattern, action, variables = EDITS[kind]
    rules = load_text(rule_text(pattern, action, vars=variables, equal="lossy"), tmp_path)
    monkeypatch.setattr(finder, "FEWEST", 10**9)
    alone = apply_rules(view(model), rules, None, allow=("lossy",))
    assert alone.stats[0].applied == 12
    monkeypatch.setattr(finder, "FEWEST", 1)
    shared = apply_rules(view(model), rules, None, allow=("lossy",))
    assert (shared.records, shared.patches) == (alone.records, alone.patches)
    patched(model, shared)
