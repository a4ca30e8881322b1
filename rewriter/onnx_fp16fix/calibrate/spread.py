"""How far new samples may go beyond the largest magnitude seen, judged by how much the samples at hand differ.

The largest magnitude of a sample is taken as log-normal over samples: sums and products of many things are, and what an
exponential makes of a normal value is. Of k samples the extremes of a normal variable lie E(k) standard deviations
either side of its mean on average, which gives the deviation from their distance, and with it the largest of very many
samples. E(k) is Blom's approximation (G. Blom, Statistical Estimates and Transformed Beta-Variables, 1958). Few samples
tell little of their deviation: it is taken one k-th larger.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from onnx_fp16fix.calibrate.ranges import TensorRange

__all__ = ["expected_growth"]

_FAR = 3.25
"""Standard deviations to the largest of a thousand samples or so."""
_CHANCE = 5.0
"""Bits by which the maxima of one-element samples differ by chance; of n elements, over sqrt(n)."""
_MOST = 24.0
"""Bits: what differs by more is no log-normal variable."""


def expected_growth(entry: TensorRange, samples: int) -> float:
    """Factor, at least 1, by which the largest of many samples may exceed the largest of ``samples``; 1 where samples
    differ by no more than chance, or nothing is known of each."""
    if samples < 2 or not 0 < entry.calmest < entry.absmax or not entry.count:
        return 1.0
    chance = _CHANCE / math.sqrt(max(1.0, entry.count / samples))
    differ = math.log2(entry.absmax / entry.calmest) - chance
    extreme = NormalDist().inv_cdf((samples - 0.375) / (samples + 0.25))
    bits = differ * (_FAR - extreme) / (2 * extreme) * (1 + 1 / samples)
    return float(2.0 ** min(max(bits, 0.0), _MOST))
