"""What ONNX Runtime says of a model that it cannot load or run, as an error of ours."""

from __future__ import annotations

import re

from onnx_fp16fix.errors import ModelError, Problem

__all__ = ["failure"]

_MESSAGE_LENGTH = 400
_SIGNATURE = re.compile(
    r"(?:(?:const )?[\w:]+[&*]? )?onnxruntime::[\w:~]+\((?:[^()]|\([^()]*\))*\)(?: const)? ?"
)
"""The C++ function that complains, with its arguments: in the text it stands between the source file and the reason."""


def failure(code: str, what: str, error: Exception) -> ModelError:
    """ONNX Runtime's message without its source places and signatures, shortened."""
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"(?:/[\w.+-]+)+/([\w.-]+\.(?:cc|h)):\d+ ?", r"\1: ", text)
    text = _SIGNATURE.sub("", text)
    if len(text) > _MESSAGE_LENGTH:
        text = f"{text[:_MESSAGE_LENGTH]}..."
    return ModelError(Problem(code, f"{what}: {text}", node=_named_node(text)))


def _named_node(text: str) -> str | None:
    found = re.search(r"Name:'([^']+)'|In Node, \(\"([^\"]+)\"", text)
    return next(filter(None, found.groups()), None) if found else None
