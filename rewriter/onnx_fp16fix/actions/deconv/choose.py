"""``deconv-for-target``: the cheapest chain of rewrites after which nothing is known to go wrong on a target.

Whatever the rewrites leave of the operation is looked at again, so one call mends a ConvTranspose that has groups and
an odd padding at once.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from pydantic import BaseModel, ConfigDict, field_validator

from onnx_fp16fix.actions.deconv.channels import PadChannels, PadParameters
from onnx_fp16fix.actions.deconv.draft import Draft, Price
from onnx_fp16fix.actions.deconv.form import Form, NoParameters, open_draft, plain
from onnx_fp16fix.actions.deconv.groups import DenseGroups, SplitGroups
from onnx_fp16fix.actions.deconv.known import KNOWN, known_trouble
from onnx_fp16fix.actions.deconv.one_dimension import OneToTwoDimensions
from onnx_fp16fix.actions.deconv.operation import Deconv
from onnx_fp16fix.actions.deconv.padding import FoldOutputPadding, PadsToSlice
from onnx_fp16fix.actions.deconv.polyphase import KernelIsStride, Polyphase
from onnx_fp16fix.actions.deconv.resize import ToResize
from onnx_fp16fix.language.emitter import Emitter
from onnx_fp16fix.language.registry import Call, NotPossible, Rewritten, Site
from onnx_fp16fix.language.target import Target

__all__ = ["FORMS", "DeconvForTarget"]

FORMS: Final[dict[str, Form]] = {
    form.name: form
    for form in (
        DenseGroups(),
        SplitGroups(),
        PadChannels(),
        KernelIsStride(),
        Polyphase(),
        FoldOutputPadding(),
        PadsToSlice(),
        OneToTwoDimensions(),
        ToResize(),
    )
}
_DEPTH: Final = 4
"""Most rewrites one after the other."""
_ISSUES: Final = sorted({entry.issue for entry in KNOWN})


class TargetParameters(BaseModel):
    """``issue``: the known trouble that is looked for (``known.KNOWN``)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    issue: str

    @field_validator("issue")
    @classmethod
    def is_known(cls, value: str) -> str:
        if value not in _ISSUES:
            raise ValueError(f"one of {', '.join(_ISSUES)} is expected, not '{value}'")
        return value


class DeconvForTarget:
    """Looks up the table, tries every cure, takes the one with the lowest price."""

    name = "deconv-for-target"
    parameters: type[BaseModel] = TargetParameters
    guards: tuple[str, ...] = ()

    def rewrite(self, site: Site, call: Call, emitter: Emitter) -> Rewritten:
        """Raises NotPossible where the target is not known to have this trouble, or no cure fits."""
        if site.target is None:
            raise NotPossible("no target is asked for")
        draft, x, deconv = open_draft(site)
        entry = known_trouble(site.target, deconv, call.parameters.issue)
        if entry is None:
            raise NotPossible(f"nothing of this kind is known of {site.target}")
        before = draft.copy()
        before.deconv(x, deconv)
        names: list[str] = []
        result = _mend(site.target, call.parameters.issue, names, 0, draft, x, deconv)
        added = _added(before.price, draft.price)
        chain = " and ".join(dict.fromkeys(names))
        return Rewritten(draft.emit(emitter, result), f"{site.target}: {entry.what}; {chain} ({added})")


def _mend(
    target: Target, issue: str | None, names: list[str], depth: int, draft: Draft, x: str, deconv: Deconv
) -> str:
    """Write the operation in the cheapest form that works; ``names`` collects the forms."""
    entry = known_trouble(target, deconv, issue)
    if entry is None:
        return plain(draft, x, deconv)
    if depth == _DEPTH:
        raise NotPossible(f"it still has trouble after {_DEPTH} rewrites")
    best: tuple[Draft, str, list[str]] | None = None
    refused: list[str] = []
    for name in entry.cures:
        form, trial, chain = FORMS[name], draft.copy(), [name]
        parameters = PadParameters(multiple=4) if form.parameters is PadParameters else NoParameters()
        rest = partial(_mend, target, None, chain, depth + 1)
        try:
            result = form.write(trial, x, deconv, rest, parameters)
        except NotPossible as reason:
            refused.append(f"{name}: {reason}")
            continue
        if best is None or trial.price.total < best[0].price.total:
            best = trial, result, chain
    if best is None:
        raise NotPossible("; ".join(refused))
    draft.adopt(best[0])
    names += best[2]
    return best[1]


def _added(before: Price, after: Price) -> str:
    """``1.2 MFLOP and 3.4 kB more``, or less."""
    parts = [_amount(after.flops - before.flops, "FLOP"), _amount(after.bytes - before.bytes, "B")]
    return ", ".join(parts) + " for one sample"


def _amount(value: float, unit: str) -> str:
    size, prefix = abs(value), ""
    for prefix in ("", "k", "M", "G", "T"):
        if size < 1000 or prefix == "T":
            break
        size /= 1000
    return f"{'-' if value < 0 else '+'}{size:.3g} {prefix}{unit}"
