"""A rule file to start from: it loads, and its proof holds, so every change shows what it does."""

from __future__ import annotations

import re

from onnx_fp16fix.errors import Problem, UsageError

__all__ = ["scaffold"]

_TEXT = """\
schema: fp16fix/1
rules:
  - id: {id}
    name: {name}                     # the problem, not the cure
    status: preview
    summary: A scaled product overflows before it is scaled down   # one line
    why: |
      MatMul(a, b) * c holds the unscaled product in FP16, which passes 65504. The power of two moves to the smaller
      side first, which changes no bit in FP32.
    references:
      - https://example.org/where-this-was-seen
    equal: exact                     # exact, real, context (with 'assumes') or lossy
    match: |                         # one formula finds every spelling; the last line is the value that is mended
      p = MatMul(a, b)
      p * c
    vars: {{a: tensor, b: tensor, c: const scalar}}
    where:                           # all must be true; an unknown fact is not true
      - is_pow2(c) and value(c) < 1
      - absmax(p) > FP16.max
    replace:
      - with: MatMul(a * value(c), b)
    tests:                           # 'onnx-fp16fix rules test FILE' derives the rest from the hits
      - hit: |
          p = MatMul(a, b)
          p * 0.125
        given: {{a: "float [4, 64] absmax=500", b: "float [64, 8] absmax=50", p: "absmax=200000"}}
        uses: replace[0]
      - miss: |
          p = MatMul(a, b)
          p * 0.1
        given: {{a: "float [4, 64] absmax=500", b: "float [64, 8] absmax=50", p: "absmax=200000"}}
        because: where[0]
      - miss: |
          p = MatMul(a, b)
          p * 0.125
        given: {{a: "float [4, 64] absmax=5", b: "float [64, 8] absmax=5", p: "absmax=200"}}
        because: where[1]
      - miss: |
          p = a + b
          p * 0.125
        given: {{a: "float [4, 64] absmax=500", b: "float [4, 64] absmax=50", p: "absmax=200000"}}
        because: match
"""


def scaffold(rule_id: str, name: str | None = None) -> str:
    """The text of the file. Raises UsageError for an id or name that a rule cannot have."""
    name = name or f"{rule_id.lower()}-overflow"
    if not re.fullmatch(r"[A-Z]{2,12}[0-9]{3}", rule_id):
        raise UsageError(
            Problem("USAGE", f"'{rule_id}' is no rule id", hint="capital letters and three digits: MINE001")
        )
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise UsageError(
            Problem("USAGE", f"'{name}' is no rule name", hint="small letters: product-overflow")
        )
    return _TEXT.format(id=rule_id, name=name)
