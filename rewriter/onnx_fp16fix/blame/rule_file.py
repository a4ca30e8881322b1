"""The result of a search as a rule file that ``apply`` takes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

__all__ = ["rule_file"]


def rule_file(
    nodes: Sequence[str], *, model: str, judge: str, errors: str, minimal: bool, precision: str = "fp16"
) -> str:
    """YAML text (``fp16fix/1``) of one rule that keeps the named nodes in FP32; the rest goes into comments.

    The id follows from the nodes, so that files of different searches can be used together.
    """
    digest = hashlib.sha256("\n".join(nodes).encode()).hexdigest()
    comments = (
        # a command may have line breaks, a comment may not
        f"Found by onnx-fp16fix bisect for {' '.join(model.split())}, judged by: {' '.join(judge.split())}",
        f"Error of the outputs: {errors}.",
        "Minimal: each node is needed." if minimal else "Not minimal: the trials ran out.",
        f"Use: onnx-fp16fix apply THIS MODEL --precision {precision}",
    )
    lines = [
        "schema: fp16fix/1",
        *(f"# {line}" for line in comments),
        "rules:",
        f"  - id: KEEP{int(digest, 16) % 1000:03d}",
        f"    name: bisected-{digest[:8]}",
        "    summary: Nodes that bisect found must stay in FP32",
        "    equal: exact",
        "    action:",
        "      name: keep-fp32",
        "      nodes:",
        # JSON strings are YAML strings, whatever characters a name has
        *(f"        - {json.dumps(name)}" for name in nodes),
    ]
    return "\n".join(lines) + "\n"
