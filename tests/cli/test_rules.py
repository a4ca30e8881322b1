"""``onnx-fp16fix rules``, and what ``apply`` does with a rule whose proof fails."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from language._models import case
from onnx_fp16fix.cli.main import main
from onnx_fp16fix.proof import scaffold

SOUND = scaffold("TEST001", "test-rule")
WRONG = SOUND.replace("a * value(c), b", "a * (2 * value(c)), b")


@pytest.fixture
def files(tmp_path):
    (tmp_path / "sound.yaml").write_text(SOUND)
    (tmp_path / "wrong.yaml").write_text(WRONG)
    model = case("p = MatMul(a, b)\np * 0.125", a="float [4, 64]", b="float [64, 8]")
    onnx.save(model, tmp_path / "model.onnx")
    rng = np.random.default_rng(0)
    data = {"a": rng.uniform(100, 500, (4, 64)), "b": rng.uniform(10, 50, (64, 8))}
    np.savez(tmp_path / "data.npz", **{name: value.astype(np.float32) for name, value in data.items()})
    return tmp_path


def test_test_tells_a_sound_rule_from_a_wrong_one(files, capsys):
    assert main(["rules", "test", "--fast", str(files / "sound.yaml")]) == 0
    assert main(["rules", "test", "--fast", str(files / "wrong.yaml")]) == 5
    text = capsys.readouterr().err
    assert "equality" in text
    assert "- hit: |" in text


def test_json_documents(files, capsys):
    assert main(["rules", "test", "--fast", "--json", str(files / "wrong.yaml")]) == 5
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "fp16fix-rules/1"
    assert not document["rules"][0]["passed"]
    for words in (["list"], ["show", "NORM001"], ["lint", str(files / "sound.yaml")]):
        assert main(["rules", *words, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["command"] == f"rules {words[0]}"


def test_show_and_schema_print_on_stdout(capsys):
    assert main(["rules", "show", "rms-square-overflow"]) == 0
    assert capsys.readouterr().out.startswith("# NORM001")
    assert main(["rules", "schema"]) == 0
    assert json.loads(capsys.readouterr().out)["required"] == ["schema"]


def test_new_writes_once(files, capsys):
    path = files / "new.yaml"
    assert main(["rules", "new", "MINE001", "-o", str(path)]) == 0
    assert main(["rules", "new", "MINE001", "-o", str(path)]) == 2
    assert main(["rules", "new", "mine"]) == 2
    assert "RULE-WRITE" in capsys.readouterr().err
    assert main(["rules", "test", "--fast", "-q", str(path)]) == 0


@pytest.mark.parametrize(
    "words", [["test", "no.yaml"], ["lint", "no.yaml"], ["show", "NO999"], ["list", "no.yaml"]]
)
def test_bad_input_is_one_message(words, capsys):
    assert main(["rules", *words]) == 2
    assert "error: " in capsys.readouterr().err


def test_apply_refuses_a_rule_whose_proof_fails(files, capsys):
    words = [str(files / "model.onnx"), "--data", str(files / "data.npz"), "--tensorrt", "off", "-q"]
    assert main(["apply", str(files / "sound.yaml"), *words]) in (
        0,
        1,
    )  # 1: the rest of FP16 is not its business
    assert (files / "model.fixed.onnx").exists()
    assert main(["apply", str(files / "wrong.yaml"), *words, "-o", str(files / "out.onnx")]) == 2
    assert "RULE-PROOF" in capsys.readouterr().err
    assert not (files / "out.onnx").exists()
    # trusted, it runs, and verification refuses what it does
    assert (
        main(["apply", str(files / "wrong.yaml"), *words, "--trust-rules", "-o", str(files / "out.onnx")])
        == 4
    )


def test_fix_refuses_it_with_the_same_words(files, capsys):
    words = [str(files / "model.onnx"), "--data", str(files / "data.npz"), "--tensorrt", "off", "-q"]
    said = []
    for command in (["apply", str(files / "wrong.yaml")], ["fix", "--rules", str(files / "wrong.yaml")]):
        assert main([*command, *words, "-o", str(files / "refused.onnx")]) == 2
        said.append(capsys.readouterr().err)
    assert said[0] == said[1]
    assert "--trust-rules" in said[0]
    assert not (files / "refused.onnx").exists()
    trusted = ["fix", "--rules", str(files / "wrong.yaml"), "--trust-rules", *words]
    assert main([*trusted, "-o", str(files / "trusted.onnx")]) == 0


def test_rules_that_are_shipped_are_not_proven_again(files, monkeypatch):
    def proven(*_):
        raise AssertionError("proven again")

    monkeypatch.setattr("onnx_fp16fix.proof.prove", proven)
    shipped = Path(__file__).parents[2] / "rules" / "norm"
    words = [str(files / "model.onnx"), "--data", str(files / "data.npz"), "--tensorrt", "off", "-q"]
    assert main(["fix", "--rules", str(shipped), *words, "-o", str(files / "shipped.onnx")]) == 0
    own = ["fix", "--rules", str(files / "sound.yaml"), *words, "-o", str(files / "own.onnx")]
    assert main(own) == 70  # what the patched proof raises


def test_rules_alone_shows_its_help(capsys):
    assert main(["rules"]) == 0
    assert capsys.readouterr().out.startswith("Usage: onnx-fp16fix rules")


def test_the_rule_of_the_readme_has_no_lint(capsys):
    assert main(["rules", "lint", str(Path(__file__).parents[2] / "samples" / "rules.yaml")]) == 0
    assert "1 rule, 0 findings" in capsys.readouterr().err
