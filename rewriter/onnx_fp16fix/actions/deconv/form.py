"""What all rewrites of a ConvTranspose have in common, and how one becomes an action that a rule can call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict

from onnx_fp16fix.actions.deconv.draft import Draft
from onnx_fp16fix.actions.deconv.operation import Deconv, read_deconv
from onnx_fp16fix.language.emitter import Emitter
from onnx_fp16fix.language.registry import Call, NotPossible, Rewritten, Site

__all__ = ["Form", "FormAction", "NoParameters", "Write", "open_draft", "plain"]

Write = Callable[[Draft, str, Deconv], str]
"""Writes what is left of the operation, reading this value, and gives the name of the result."""


def plain(draft: Draft, x: str, deconv: Deconv) -> str:
    """The operation as it is."""
    return draft.deconv(x, deconv)


class NoParameters(BaseModel):
    """No parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Form(Protocol):
    """One exact rewrite."""

    name: str
    parameters: type[BaseModel]

    def write(self, draft: Draft, x: str, deconv: Deconv, rest: Write, parameters: Any) -> str:
        """Write the rewrite into the draft. Raises NotPossible, with whatever was drafted to be thrown away."""


class FormAction:
    """A form as an action: rewrites the ConvTranspose a rule has matched."""

    guards: tuple[str, ...] = ()

    def __init__(self, form: Form) -> None:
        self.form, self.name, self.parameters = form, form.name, form.parameters

    def rewrite(self, site: Site, call: Call, emitter: Emitter) -> Rewritten:
        """Raises NotPossible where the form does not fit."""
        draft, x, deconv = open_draft(site)
        result = self.form.write(draft, x, deconv, plain, call.parameters)
        return Rewritten(draft.emit(emitter, result), f"rewritten by {self.name}")


def open_draft(site: Site) -> tuple[Draft, str, Deconv]:
    """An empty draft for the matched ConvTranspose, the name of its input, and what it computes."""
    root, scope = site.match.root, site.match.scope
    deconv = read_deconv(scope, root)
    if scope.model.opset < 9:
        raise NotPossible("the rewrites are written for opset 9 and later")
    x = str(root.inputs[0].name)
    draft = Draft(scope.model.opset, np.dtype(deconv.weights.dtype), {x: (deconv.channels[0], *deconv.sizes)})
    return draft, x, deconv
