"""Tables: merging is exact and associative, files give back what was written, and wrong files are refused."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from onnx_fp16fix.calibrate import exponents, statistics
from onnx_fp16fix.calibrate.ranges import RangeTable, TensorRange, tensor_key
from onnx_fp16fix.calibrate.statistics import measure_array
from onnx_fp16fix.errors import DataError
from onnx_fp16fix.range_file import load_ranges, write_ranges

SHA = "ab" * 32
SHAPES = arrays.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=5)
FLOATS = arrays.arrays(np.float32, SHAPES, elements=st.floats(width=32))
SAMPLES = st.lists(FLOATS, min_size=1, max_size=3)


def table_of(samples, histogram=True):
    found = RangeTable({}, 0)
    for values in samples:
        entry = measure_array(values, histogram=histogram, sample=0)
        found = found.merge(RangeTable({"x": entry}, 1))
    return found


@given(SAMPLES, SAMPLES, SAMPLES)
def test_merging_is_associative(one, two, three):
    a, b, c = table_of(one), table_of(two), table_of(three)
    assert a.merge(b).merge(c) == a.merge(b.merge(c))
    assert a.merge(b).merge(c) == table_of([*one, *two, *three])


@given(FLOATS)
def test_an_empty_table_is_neutral(values):
    table = table_of([values])
    assert RangeTable({}, 0).merge(table) == table
    assert table.merge(RangeTable({}, 0)) == table


@given(SAMPLES, st.booleans())
def test_every_number_is_what_it_says(samples, histogram):
    check_numbers(table_of(samples, histogram).get("x"), samples, histogram)


def check_numbers(entry, samples, histogram):
    """Compare with the same numbers taken the plain way."""
    flat = np.concatenate([values.reshape(-1) for values in samples])
    finite = flat[np.isfinite(flat)].astype(np.float64)
    magnitude = np.abs(finite)
    nonzero = magnitude[magnitude > 0]
    assert (entry.count, entry.nonfinite, entry.nan) == (
        finite.size,
        flat.size - finite.size,
        np.isnan(flat).sum(),
    )
    assert entry.minimum == finite.min(initial=math.inf)
    assert entry.maximum == finite.max(initial=-math.inf)
    assert entry.smallest == nonzero.min(initial=math.inf)
    assert entry.below_normal == np.count_nonzero(nonzero < 2**-14)
    assert entry.below_subnormal == np.count_nonzero(nonzero < 2**-24)
    large = magnitude[magnitude > 2048]
    assert (entry.beyond_2048, entry.integers) == (large.size, np.count_nonzero(large == np.trunc(large)))
    assert entry.mean_abs == pytest.approx(magnitude.mean() if finite.size else 0.0, rel=1e-5)
    exponents = np.maximum(np.frexp(nonzero)[1] - 1, -127)
    counts = {int(e): int(np.sum(exponents == e)) for e in np.unique(exponents)}
    assert entry.histogram == (counts if histogram else None)


@given(SAMPLES)
def test_the_sample_of_an_extreme_holds_it(samples):
    entry = table_of(samples).get("x")
    if entry.count:
        assert np.nanmin(samples[entry.minimum_sample]) == entry.minimum or entry.nonfinite
        assert (samples[entry.maximum_sample] == np.float32(entry.maximum)).any()
        assert (np.abs(samples[entry.absmax_sample]) == np.float32(entry.absmax)).any()
        assert not any(
            (values == np.float32(entry.maximum)).any() for values in samples[: entry.maximum_sample]
        )
    if entry.nonfinite:
        assert not np.isfinite(samples[entry.nonfinite_sample]).all()
        assert all(np.isfinite(values).all() for values in samples[: entry.nonfinite_sample])


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_types(dtype):
    values = np.array([6e-8, 1e-5, -3001, 0, 2500.5, np.inf], dtype)
    entry = measure_array(values, histogram=True)
    assert entry.smallest == float(values[0])
    assert (entry.below_normal, entry.below_subnormal) == (2, 0)
    assert (entry.beyond_2048, entry.nonfinite, entry.nan) == (2, 1, 0)
    assert sum(entry.histogram.values()) == 4


@pytest.mark.parametrize("histogram", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        lambda x: x,
        lambda x: np.maximum(x, 0),
        lambda x: -np.maximum(x, 0),
        lambda x: np.abs(x) + 1,
        lambda x: x * 5000,
        lambda x: x * 700,
        lambda x: x * np.float32(1e-42),
        lambda x: np.where(x < 1, x, np.float32(np.nan)),
    ],
    ids=["any sign", "not negative", "not positive", "positive", "large", "few large", "tiny", "with NaN"],
)
def test_large_arrays_go_block_by_block(monkeypatch, change, histogram):
    monkeypatch.setattr(statistics, "_BLOCK", 600)
    monkeypatch.setattr(statistics, "_ROW", 64)
    for name, size in (("_SPAN", 2001), ("_BLOCK", 700), ("_FEW", 100)):
        monkeypatch.setattr(exponents, name, size)
    values = change(np.random.default_rng(0).standard_normal((99, 101), dtype=np.float32))
    entry = measure_array(values, histogram=histogram)
    check_numbers(entry, [values], histogram)
    assert entry.shape == (99, 101)


def test_means_are_exact_however_far_apart():
    tiny, huge = (
        TensorRange(0, 2.0**-1074, mean_abs=2.0**-1074, count=1),
        TensorRange(0, 1e308, mean_abs=1e308, count=3),
    )
    merged = tiny.merge(huge).merge(huge)
    assert merged.exact_sum == 1 + 6 * huge.merge(TensorRange(math.inf, -math.inf)).exact_sum // 3
    assert merged.mean_abs == pytest.approx(1e308 / 7 * 6)


def test_a_missing_histogram_is_not_taken_for_an_empty_one():
    with_one, without = (
        measure_array(np.ones(2, np.float32), histogram=True),
        measure_array(np.ones(2, np.float32)),
    )
    assert with_one.merge(without).histogram is None


def test_keys():
    assert tensor_key((), "h") == "h"
    assert tensor_key(("4:body:0", "2:then_branch:0"), "h") == "4:body:0/2:then_branch:0::h"


@given(SAMPLES, st.booleans())
def test_a_file_gives_back_the_table(tmp_path_factory, samples, histogram):
    path = tmp_path_factory.mktemp("ranges") / "r.json"
    table = table_of(samples, histogram)
    table = RangeTable(table.tensors, table.samples, True, {"w": measure_array(samples[0])}, "d.npz", False)
    write_ranges(table, path, model_sha256=SHA)
    assert load_ranges(path, SHA) == table
    assert [item.name for item in path.parent.iterdir()] == ["r.json"]


def test_a_file_of_an_earlier_version_is_read(tmp_path):
    entry = {
        "minimum": -1.0,
        "maximum": 2.0,
        "smallest": None,
        "mean_abs": 0.5,
        "count": 4,
        "nonfinite": 0,
        "shape": [4],
    }
    document = {"schema": "fp16fix-ranges/1", "model_sha256": SHA, "samples": 1, "random": False}
    (tmp_path / "r.json").write_text(
        json.dumps({**document, "tensors": {"x": {**entry, "new": 1}}, "later": 2})
    )
    table = load_ranges(tmp_path / "r.json", SHA)
    assert table.get("x") == TensorRange(-1.0, 2.0, math.inf, 0.5, 4, 0, (4,))


GOOD = {
    "schema": "fp16fix-ranges/1", "model_sha256": SHA, "samples": 1, "random": False,
    "tensors": {"x": {"minimum": 0, "maximum": 1}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        (None, "RANGES-READ", "No such file"),
        ("{", "RANGES-READ", "no JSON"),
        ("[1]", "RANGES-FORMAT", "list"),
        ('{"schema": "other/1"}', "RANGES-FORMAT", "'other/1', expected 'fp16fix-ranges/1'"),
        (json.dumps({**GOOD, "samples": -1}), "RANGES-FORMAT", "damaged"),
        (json.dumps({**GOOD, "random": "no"}), "RANGES-FORMAT", "'random' is 'no'"),
        (json.dumps({key: GOOD[key] for key in GOOD if key != "samples"}), "RANGES-FORMAT", "'samples' is missing"),
        (json.dumps({**GOOD, "tensors": {"x": {"minimum": 0}}}), "RANGES-FORMAT", "tensor 'x' has no 'maximum'"),
        (json.dumps({**GOOD, "tensors": {"x": {"minimum": "0", "maximum": 1}}}), "RANGES-FORMAT", "'minimum' of"),
        (json.dumps({**GOOD, "tensors": {"x": 3}}), "RANGES-FORMAT", "damaged"),
        (json.dumps({**GOOD, "tensors": []}), "RANGES-FORMAT", "damaged"),
        (json.dumps(GOOD).replace('"maximum": 1', '"maximum": NaN'), "RANGES-READ", "NaN is no JSON"),
        (json.dumps({**GOOD, "model_sha256": "cd" * 32}), "RANGES-MODEL", "another model"),
    ],
)  # fmt: skip
def test_wrong_files_are_refused(tmp_path, text, code, words):
    path = tmp_path / "r.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError) as caught:
        load_ranges(path, SHA)
    (problem,) = caught.value.problems
    assert (problem.code, problem.file) == (code, str(path))
    assert words in problem.message
