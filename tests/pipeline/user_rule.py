"""A rule of a user's own, of a kind that may change bits."""

RULE = """
schema: fp16fix/1
rules:
  - id: USER001
    name: exp-log
    equal: real
    summary: Log undoes Exp
    match: Log(Exp(x))
    vars: {x: tensor}
    replace:
      - with: x * 1.0
"""
