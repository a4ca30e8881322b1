"""How far new samples may go, judged by those at hand."""

import numpy as np
import pytest

from onnx_fp16fix.calibrate.ranges import RangeTable
from onnx_fp16fix.calibrate.spread import expected_growth
from onnx_fp16fix.calibrate.statistics import measure_array


def table_of(arrays):
    table = RangeTable({}, 0)
    for number, array in enumerate(arrays):
        table = table.and_sample({"x": measure_array(array, sample=number)}, False)
    return table


def growth(arrays):
    table = table_of(arrays)
    return expected_growth(table.tensors["x"], table.samples)


@pytest.mark.parametrize("samples", [3, 8, 64])
def test_the_largest_of_a_thousand_samples_is_foreseen(samples):
    rng = np.random.default_rng(samples)

    held, with_margin = [], []
    for _ in range(40):
        seen = [np.exp(rng.normal(0, 2)) * rng.uniform(0.5, 1, 64).astype(np.float32) for _ in range(samples)]
        largest, later = max(map(np.max, seen)), np.exp(rng.normal(0, 2, 1000)).max()
        held.append(growth(seen) * largest >= later)
        with_margin.append(2 * largest >= later)
    # three samples happen to be alike now and then, and know no better
    assert np.mean(held) >= 0.3
    assert np.mean(held) >= np.mean(with_margin) + 0.2


@pytest.mark.parametrize("size", [1, 4, 64, 4096])
def test_normal_data_need_no_more_than_the_margin(size):
    rng = np.random.default_rng(size)
    factors = [growth([rng.standard_normal(size).astype(np.float32) for _ in range(3)]) for _ in range(50)]
    assert np.median(factors) < 2
    assert np.mean(np.array(factors) > 4) <= 0.1


def test_what_is_not_known_of_each_sample_says_nothing():
    ones = measure_array(np.ones(4, np.float32))
    assert expected_growth(ones, 3) == 1
    assert growth([np.ones(4, np.float32)]) == 1
    assert growth([np.zeros(64, np.float32), np.ones(64, np.float32)]) == 1


def test_the_calmest_sample_is_the_same_however_tables_are_merged():
    arrays = [np.full(3, value, np.float32) for value in (5, 2, 0, 7)]
    whole = table_of(arrays)
    assert whole.tensors["x"].calmest == 2
    assert table_of(arrays[:2]).merge(table_of(arrays[2:])) == whole
