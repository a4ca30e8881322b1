"""Graph outputs kept from calibration: all of them, or none."""

from __future__ import annotations

import numpy as np
import pytest

from language._models import case
from onnx_fp16fix.calibrate import KeptOutputs, calibrate, open_data

SAMPLES = [{"x": np.full(256, value, np.float32)} for value in (1.0, 2.0, 3.0)]


def kept(model, **limit):
    outputs = KeptOutputs([info.name for info in model.graph.output], **limit)
    calibrate(model, open_data(SAMPLES, model), outputs=outputs)
    return outputs.samples()


def test_outputs_of_all_samples_are_kept():
    model = case("y = x * 3.0\nExp(y) * 0.0 + y", x="float [256]")
    (name,) = [info.name for info in model.graph.output]
    assert [float(sample[name][7]) for sample in kept(model)] == [3.0, 6.0, 9.0]


@pytest.mark.parametrize(("limit", "fits"), [(3 * 1024, True), (3 * 1024 - 1, False), (0, False)])
def test_outputs_that_take_too_much_are_not_kept(limit, fits):
    assert (kept(case("x * 3.0", x="float [256]"), limit=limit) is not None) == fits


def test_outputs_without_a_float_type_are_not_kept():
    assert kept(case("ArgMax(x, axis=0)", x="float [256]")) is None
