"""Inputs of the exported formulas: what numbers each of them is tried with.

A case is named after the rule that must find it, with a letter behind where a formula has several spellings. Both the
export scripts and the tests read this table; it needs numpy alone.
"""

from __future__ import annotations

import numpy as np

Ramp = tuple[float, float, tuple[int, ...]]

WIDE: Ramp = (-600.0, 600.0, (4, 64))
IMAGE: Ramp = (-600.0, 600.0, (2, 8, 8, 4))
SCORES: Ramp = (-30.0, 30.0, (4, 64))
COLUMNS: Ramp = (0.0, 1.0, (1, 64))
"""Half of the columns are masked, no row as a whole."""

INPUTS: dict[str, tuple[Ramp, ...]] = {
    "NORM001": (WIDE,),
    "NORM001b": (WIDE,),
    "NORM002": (WIDE,),
    "NORM002b": (IMAGE,),
    "NORM002c": (WIDE,),
    "NORM003": (WIDE,),
    "NORM003b": (WIDE,),
    "NORM005": (IMAGE,),
    "NORM006": (WIDE,),
    "NORM010": (WIDE,),
    "NORM011": ((-6000.0, 6000.0, (4, 64)),),
    "NORM012": ((-600.0, 600.0, (3, 3, 8, 4)),),
    "NORM013": (IMAGE,),
    "NORM014": (WIDE, (600.0, -500.0, (4, 64))),
    "NORM015": (IMAGE,),
    "NORM016": (IMAGE,),
    "NORM017": (WIDE,),
    "NORM018": ((-6000.0, 6000.0, (4, 64)),),
    "ATTN001": ((-80.0, 80.0, (2, 8, 64)), (80.0, -70.0, (2, 8, 64))),
    "ATTN002": ((-80.0, 80.0, (2, 8, 64)), (80.0, -70.0, (2, 8, 64))),
    "ATTN003": ((-1.0, 1.0, (1, 8, 256)), (1.0, 40.0, (1, 256, 8)), (1.0, 40.0, (1, 8, 256))),
    "ATTN004": ((1.0, 40.0, (1, 256, 8)), (-1.0, 1.0, (1, 256, 8)), (1.0, 40.0, (1, 256, 8))),
    "ATTN005": (SCORES,),
    "ATTN006": (SCORES,),
    "ACT001": (SCORES,),
    "ACT002": (SCORES,),
    "ACT003": (SCORES,),
    "ACT004": (WIDE,),
    "ACT006": (SCORES,),
    "ACT007": ((-600.0, 600.0, (1, 64, 4)),),
    "ACT008": ((-3.0, 15.0, (4, 64)),),
    "MASK001": (SCORES, COLUMNS),
    "MASK002": (SCORES, COLUMNS),
    "MASK003": (SCORES, COLUMNS),
    "MASK004": ((-30.0, 30.0, (64, 64)),),
    "MASK005": (SCORES, COLUMNS, COLUMNS),
    "MASK006": (SCORES, COLUMNS),
    "MASK007": (SCORES, COLUMNS),
    "MASK008": (SCORES, COLUMNS),
    "MASK009": (SCORES, COLUMNS),
    "EPS001": ((-2.0, 2.0, (65,)),),
    "EPS002": ((-2.0, 2.0, (65,)),),
    "EPS003": ((0.0, 2.0, (64,)),),
    "EPS004": ((0.0, 2.0, (64,)),),
    "EPS005": ((0.0, 2.0, (64,)),),
    "EPS006": ((0.0, 1.0, (64,)),),
    "EPS007": ((1e-9, 1e-3, (64,)), (1e-9, 1.0, (64,))),
    "POS001": ((0.0, 8000.0, (1, 64)),),
    "POS002": ((0.3, 999.3, (16,)),),
    "POS004": ((1.0, 1.0, (1, 5000)),),
    "POS005": ((0.0137, 0.0137, (1, 5000)),),
    "POS006": ((0.0, 1.0, (1, 24000)),),
    "POS009": ((-4.0, 4.0, (1, 125, 2)),),
    "POS010": ((-4.0, 11.5, (1, 64, 2)),),
    "POS011": ((1.0, 200.0, (16, 4)), (9.0, 250.0, (16, 4))),
    "POS014": ((0.9, 0.9999, (1, 64)),),
    "SUM001": ((190.0, 210.0, (1, 16, 64)),),
    "SUM002": ((190.0, 210.0, (1, 32, 32, 4)),),
    "SUM003": ((190.0, 210.0, (1, 32, 32, 4)),),
    "SUM004": ((-900.0, 900.0, (4, 16)),),
    "SUM005": ((-900.0, 900.0, (4, 16)),),
    "SUM006": (WIDE,),
    "SUM007": ((100.0, 108.0, (4, 16)),),
    "SUM008": ((-400.0, 400.0, (2, 512)), (-350.0, 350.0, (2, 512))),
    "WEIGHT001": ((-1e-3, 1e-3, (4, 16)),),
    "WEIGHT003": ((-3.0, 3.0, (4, 16)),),
    "WEIGHT004": ((-1e-3, 1e-3, (4, 16)),),
    "RES002": ((-3.0, 3.0, (4, 16)),),
}


def values(case: str) -> list[np.ndarray]:
    """The inputs of one case, FP32."""
    return [
        np.linspace(low, high, int(np.prod(shape))).reshape(shape).astype(np.float32)
        for low, high, shape in INPUTS[case]
    ]
