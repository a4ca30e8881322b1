"""Named actions: where a rule file meets Python, by registered name only. They ask the planner, or write nodes.

The language knows the protocol, not the actions. Modules listed in ``PROVIDERS`` are imported when a rule first names
an action; importing them registers what they offer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final, Protocol, TypeGuard

import onnx_graphsurgeon as gs
from pydantic import BaseModel

from onnx_fp16fix.graph import GraphView
from onnx_fp16fix.language.emitter import Emitter
from onnx_fp16fix.language.expression import Expr
from onnx_fp16fix.language.match import Match
from onnx_fp16fix.language.request import PlanRequest
from onnx_fp16fix.language.target import Target
from onnx_fp16fix.language.yaml_source import Place

__all__ = [
    "PROVIDERS",
    "Action",
    "ModelAction",
    "ModelSite",
    "NotPossible",
    "RewriteAction",
    "Rewritten",
    "Site",
    "action_names",
    "find_action",
    "is_for_model",
    "is_rewrite",
    "register",
]

PROVIDERS: Final = ["onnx_fp16fix.actions"]
"""Modules whose import registers actions."""


class NotPossible(Exception):
    """The action cannot serve this match; the text says why and the match is recorded as skipped."""


class Site(Protocol):
    """The match an action is called for."""

    @property
    def rule(self) -> str:
        """Id of the rule."""

    @property
    def view(self) -> GraphView:
        """The whole model."""

    @property
    def match(self) -> Match:
        """The match."""

    @property
    def target(self) -> Target | None:
        """What the model is made for, as far as the rule names it."""

    def evaluate(self, expr: Expr, out: gs.Tensor) -> Any:
        """Value of a guard in which ``out`` is this tensor; Unknown if a fact is missing."""


@dataclass(frozen=True, slots=True)
class Call:
    """Parameters of one call: the checked model, and guards as parsed expressions."""

    parameters: Any
    expressions: Mapping[str, Expr]


class Action(Protocol):
    """A named action. ``guards`` lists the parameters that are guard expressions over ``out`` and the rule's names."""

    name: str
    parameters: type[BaseModel]
    guards: tuple[str, ...]

    def request(self, site: Site, call: Call) -> PlanRequest:
        """What to ask of the planner. Raises NotPossible."""


@dataclass(frozen=True, slots=True)
class Rewritten:
    """The tensor that takes the place of the root's output, and what was done, in words."""

    output: str
    reason: str


class RewriteAction(Protocol):
    """A named action that writes other nodes for a match, as ``with`` does, where a formula cannot say them."""

    name: str
    parameters: type[BaseModel]
    guards: tuple[str, ...]

    def rewrite(self, site: Site, call: Call, emitter: Emitter) -> Rewritten:
        """Write nodes into the emitter; they become part of the scope's Patch. Raises NotPossible."""


@dataclass(frozen=True, slots=True)
class ModelSite:
    """The model an action is called for: id and place of the rule, and the view of all scopes."""

    rule: str
    place: Place
    view: GraphView


class ModelAction(Protocol):
    """A named action of a rule without ``match``: it is called once per model and finds its nodes itself."""

    name: str
    parameters: type[BaseModel]
    guards: tuple[str, ...]

    def request_model(self, site: ModelSite, call: Call) -> PlanRequest:
        """What to ask of the planner. Raises RuleFileError where the model is not the one the rule was written for."""


AnyAction = Action | RewriteAction | ModelAction

_ACTIONS: dict[str, AnyAction] = {}
_loaded: set[str] = set()


def register(action: AnyAction) -> None:
    """Make an action known by its name. Raises ValueError if the name is taken by another one."""
    if _ACTIONS.get(action.name, action) is not action:
        raise ValueError(f"an action named '{action.name}' is registered already")
    _ACTIONS[action.name] = action


def find_action(name: str) -> AnyAction | None:
    """The registered action, or None."""
    _load()
    return _ACTIONS.get(name)


def is_rewrite(action: AnyAction) -> TypeGuard[RewriteAction]:
    """Whether the action writes nodes. By the method it has: ``isinstance`` with a protocol takes ten times as long."""
    return hasattr(action, "rewrite")


def is_for_model(action: AnyAction | None) -> TypeGuard[ModelAction]:
    """Whether the action is called once per model."""
    return hasattr(action, "request_model")


def action_names() -> list[str]:
    """All registered names."""
    _load()
    return sorted(_ACTIONS)


def _load() -> None:
    for module in PROVIDERS:
        if module not in _loaded:
            _loaded.add(module)
            import_module(module)
