"""Rule files made to run code, eat memory or hang. Each is refused with a message; none may take noticeable time."""

from __future__ import annotations

import os

import onnx
import pytest

from onnx_fp16fix.errors import RuleFileError
from onnx_fp16fix.graph import build_view
from onnx_fp16fix.language import apply_rules, load_rules
from onnx_fp16fix.model import Model
from onnx_fp16fix.proof import prove

RULE = """schema: fp16fix/1
rules:
  - id: TEST001
    name: test-rule
    summary: A test
    equal: exact
    match: "{match}"
    where: ["{where}"]
    replace: [{{with: "{template}"}}]
"""


def refused(text: str | bytes, folder) -> str:
    file = folder / "hostile.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RuleFileError) as caught:
        load_rules([file])
    return str(caught.value)


def rule(match: str = "Exp(x)", where: str = "vmax(x) > 1", template: str = "Exp(x)") -> str:
    return RULE.format(match=match, where=where, template=template)


CODE = [
    "__import__('os').system('true')",
    "().__class__.__bases__[0].__subclasses__()",
    "x.__class__",
    "(lambda: 1)()",
    "[i for i in [1]]",
    "eval('1')",
    "open('/etc/hostname')",
    "getattr(x, 'name')",
    "f'{x}'",
    "(y := 3)",
    "{1: 2}",
    "x if x else x",
    "import os",
    "exec('1')",
    "value(x)(x)",
    "print(x)",
]


@pytest.mark.parametrize("text", CODE)
def test_code_is_refused_in_every_place(text, tmp_path):
    for place in ("match", "where", "template"):
        assert "hostile.yaml:" in refused(rule(**{place: text}), tmp_path)


@pytest.mark.parametrize("number", ["9**9**9", "9**9**9**9**9", "2**99999", "1e308*10", "10**400", "1" * 400])
def test_towers_of_powers_are_numbers_too_large(number, tmp_path):
    assert "RULE-NUMBER" in refused(rule(where=f"vmax(x) > {number}"), tmp_path) or number == "1" * 400
    refused(rule(where=f"vmax(x) > {number} ** {number}"), tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 900 + "x" + ")" * 900,
        "-" * 3000 + "x",
        "not " * 900 + "x",
        "Exp(" * 300 + "x" + ")" * 300,
        "x" + " + x" * 900,
        "x" + " ** x" * 900,
        "[" * 500,
        "x" * 5000,
        "x\\0y",
    ],
)
def test_deep_and_long_expressions_are_refused(text, tmp_path):
    for place in ("match", "where", "template"):
        refused(rule(**{place: text}), tmp_path)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("[" * 5000, "RULE-LIMIT"),
        ("- " * 5000, "RULE-LIMIT"),
        ("{a: " * 5000, "RULE-LIMIT"),
        ("a: &a [x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n", "RULE-YAML"),
        ("<<: {a: 1}\n", "RULE-KEY"),
        ("!!python/object/apply:os.system ['true']", "RULE-YAML"),
        ("a: [" + "x, " * 30_000 + "]", "RULE-LIMIT"),
        ("x" * ((1 << 20) + 1), "RULE-LIMIT"),
        (b"\xff\xfe\x00", "RULE-READ"),
        ("\x00", "RULE-YAML"),
        ("%YAML 9.9\n---\na: 1", "RULE-YAML"),
    ],
)
def test_hostile_yaml_is_refused(text, code, tmp_path):
    assert f"[{code}]" in refused(text, tmp_path)


def test_files_that_use_each_other_end(tmp_path):
    (tmp_path / "a.yaml").write_text("schema: fp16fix/1\nuse: [./b.yaml]\n")
    (tmp_path / "b.yaml").write_text("schema: fp16fix/1\nuse: [./a.yaml]\n")
    assert load_rules([tmp_path / "a.yaml"]) == ()


def test_a_folder_in_place_of_a_file_and_a_device_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RuleFileError, match="holds no rule files"):
        load_rules([tmp_path / "empty"])


@pytest.mark.parametrize(
    "named",
    [
        "../outside.yaml",
        "/etc/passwd",
        "~/x.yaml",
        "a/../../outside.yaml",
        "/proc/self/environ",
        "notes.txt",
        "**/*.yaml",
    ],
)
def test_use_reads_nothing_outside_the_files_folder(named, tmp_path):
    (tmp_path / "outside.yaml").write_text("secret: 1\n")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("secret: 1\n")
    text = refused(f"schema: fp16fix/1\nuse: ['{named}']\n", tmp_path / "in")
    assert "hostile.yaml:2:7: " in text
    assert "secret" not in text


@pytest.mark.parametrize("named", ["link.yaml", "folder", "*.yaml"])
def test_use_follows_no_link_out_of_the_folder(named, tmp_path):
    (tmp_path / "outside.yaml").write_text("secret: 1\n")
    inside = tmp_path / "in"
    (inside / "folder").mkdir(parents=True)
    (inside / "link.yaml").symlink_to(tmp_path / "outside.yaml")
    (inside / "folder" / "link.yaml").symlink_to(tmp_path / "outside.yaml")
    text = refused(f"schema: fp16fix/1\nuse: ['{named}']\n", inside)
    assert "[RULE-USE]" in text
    assert "secret" not in text


def test_a_chain_of_files_has_an_end(tmp_path):
    for number in range(30):
        (tmp_path / f"{number}.yaml").write_text(f"schema: fp16fix/1\nuse: ./{number + 1}.yaml\n")
    with pytest.raises(RuleFileError, match="more than 8 deep"):
        load_rules([tmp_path / "0.yaml"])


def test_what_is_no_plain_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    for source in (tmp_path / "pipe.yaml", "/dev/zero"):
        with pytest.raises(RuleFileError, match="no plain file"):
            load_rules([source])
    assert "no plain file" in refused("schema: fp16fix/1\nuse: ./pipe.yaml\n", tmp_path)
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    with pytest.raises(RuleFileError):
        load_rules([tmp_path / "loop.yaml"])


PATTERNS = [
    " * ".join(f"Exp(a{i})" for i in range(30)),  # many operands that fit each other
    " + ".join(f"(a{i} + b{i}) * c{i}" for i in range(12)),
    "Exp(moved(moved(moved(moved(moved(Exp(x)))))))",
    " | ".join(f"Exp({'Exp(' * i}x{')' * i})" for i in range(1, 12)),
    "Exp(x) ** 3 * Exp(y) ** 3 * Exp(z) ** 3",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_made_to_try_everything_are_given_up(pattern, tmp_path):
    """Products and sums of equal parts have factorially many assignments; a try ends after its steps all the same."""
    file = tmp_path / "hostile.yaml"
    text = "schema: fp16fix/1\nrules:\n  - {id: TEST001, name: a, summary: b, equal: real, action: {name: rescale}"
    file.write_text(text + f', match: "{pattern}"}}\n')
    nodes, last = [], "x"
    for index in range(60):
        nodes.append(onnx.helper.make_node("Exp", [last], [f"e{index}"]))
        nodes.append(onnx.helper.make_node(("Mul", "Add")[index % 2], [f"e{index}", last], [f"m{index}"]))
        last = f"m{index}"
    x, y = (onnx.helper.make_tensor_value_info(name, 1, [2]) for name in ("x", last))
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [x], [y]))
    (stats,) = apply_rules(build_view(Model(model)), load_rules([file]), None).stats
    assert stats.tried <= 120
    assert stats.seconds < 60


CASE = """schema: fp16fix/1
rules:
  - id: TEST001
    name: test-rule
    summary: A test
    equal: exact
    match: Exp(x)
    action: {{name: rescale}}
    tests: [{{hit: "{hit}", given: {{x: "{given}"}}, opset: {opset}}}]
"""


@pytest.mark.parametrize("opset", ["1e999", "nan", "-inf", "x", 10**9, -1])
def test_numbers_without_a_value_are_refused(opset, tmp_path):
    assert "'opset' must " in refused(CASE.format(hit="Exp(x)", given="float [4]", opset=opset), tmp_path)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("float [100000, 100000] absmax=3", "has more than 16777216 elements"),
        ("float [100000, 100000] all=1", "has more than 16777216 elements"),
        ("float [4] absmax=1e999", "'absmax=1e999' is no FP32 number"),
    ],
)
def test_a_given_too_large_for_memory_or_fp32_is_refused_at_load(given, found, tmp_path):
    message = refused(CASE.format(hit="Exp(x)", given=given, opset=17), tmp_path)
    assert found in message
    assert "[RULE-TYPE]" in message


@pytest.mark.parametrize(
    ("hit", "given", "opset"),
    [
        ("Exp(x)", "float [" + "9" * 5000 + "] all=1", 17),
        ("Exp(x)", "float [²] fill=1", 17),
        ("Exp(x @ Transpose(x))", "float [1000000, 1] absmax=3", 17),
        ("Exp(Tile(x, [1000000, 1000000]))", "float [4, 4] absmax=3", 17),
    ],
)
def test_a_case_that_would_eat_memory_fails_as_a_case(hit, given, opset, tmp_path):
    file = tmp_path / "hostile.yaml"
    file.write_text(CASE.format(hit=hit, given=given, opset=opset))
    (proof,) = prove(load_rules([file]), "quick")
    assert not proof.passed
    assert {failure.step for failure in proof.failures} == {"cases"}
