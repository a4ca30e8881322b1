"""The text of lock files is read back as it was, whatever names a model has."""

import math

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_fp16fix.pipeline.block_yaml import block_yaml

_PLAIN = {
    "schema": "a/1",
    "empty": {},
    "none": [],
    "plan": {"exponents": {"conv1": 10, "/block/Add_output_0": -3}, "operands": [{"node": 1, "name": "x y"}]},
    "numbers": [0, -1, 0.01, 1e-5, 1e17, True, False, None],
    "why": "Sigmoid needs the true value of 'conv1'",
    "quoted": ["1", "1e5", "1.5", "yes", "null", "2020-01-01", "a: b", "a #b", "- a", "'a'", "", " a", "{}"],
}
_TEXTS = st.text() | st.text(st.sampled_from("-?:,[]{}#&*!|>'\"%@`~=<. 0e1_yn\n\t"), max_size=6)


def test_simple_documents_look_as_pyyaml_writes_them() -> None:
    assert block_yaml(_PLAIN) == yaml.safe_dump(_PLAIN, sort_keys=False)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        _TEXTS, _TEXTS | st.lists(_TEXTS | st.lists(_TEXTS, max_size=2), max_size=3), min_size=1, max_size=4
    )
)
def test_any_text_is_read_back(document: dict[str, object]) -> None:
    assert yaml.safe_load(block_yaml(document)) == document


@pytest.mark.parametrize("length", [100, 200, 1100])
def test_long_names_are_keys_too(length: int) -> None:
    document = {"n" * length: 1, "inside": {"n" * length: {"why": "w " * length + "w"}}}
    assert yaml.safe_load(block_yaml(document)) == document


def test_infinities() -> None:
    assert yaml.safe_load(block_yaml({"at": [math.inf, -math.inf]})) == {"at": [math.inf, -math.inf]}
