"""Rule packs: the shipped families, and folders of rule files that installed distributions offer by entry point.

A distribution offers a pack with an entry point of the group ``onnx_fp16fix.rules``: its name is the pack's name, its
value the package that holds the rule files, with a folder after a colon if they lie deeper (``acme_fp16:rules``).
Nothing of that package is imported: a pack is data, and only its place is looked up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from onnx_fp16fix import shipped

__all__ = ["GROUP", "Pack", "find_pack", "installed_packs", "packs"]

GROUP = "onnx_fp16fix.rules"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Pack:
    """A pack by name; ``problem`` says why it cannot be used, and then there is no folder.

    ``origin`` is the distribution with its version, "" for shipped packs; ``shown`` begins the names of its files in
    messages.
    """

    name: str
    folder: Path | None
    origin: str = ""
    problem: str = ""

    @property
    def shown(self) -> str:
        """How messages call the folder."""
        return f"pack:{self.name}" if self.origin else "rules"


def packs() -> list[str]:
    """Names of the shipped packs."""
    return ["all", *sorted(folder.name for folder in shipped.rules_dir().iterdir() if folder.is_dir())]


def installed_packs() -> list[Pack]:
    """Packs of installed distributions by name; those that cannot be used too, with the reason."""
    offers: dict[str, dict[tuple[str, str], None]] = {}
    for point in metadata.entry_points(group=GROUP):
        origin = f"{point.dist.name} {point.dist.version}" if point.dist is not None else "a distribution"
        offers.setdefault(point.name, {})[origin, point.value] = None
    return [_installed(name, sorted(offers[name])) for name in sorted(offers)]


def find_pack(name: str) -> Pack | None:
    """The shipped pack of this name, else the installed one, else None."""
    if name in packs():
        root = shipped.rules_dir()
        return Pack(name, root if name == "all" else root / name)
    return next((pack for pack in installed_packs() if pack.name == name), None)


def _installed(name: str, offers: Iterable[tuple[str, str]]) -> Pack:
    (origin, value), *others = offers
    if not _NAME.fullmatch(name):
        return Pack(name, None, origin, f"'{name}' is no name for a pack")
    if name in packs():
        return Pack(name, None, origin, f"a shipped pack has the name '{name}'")
    if others:
        return Pack(
            name, None, origin, f"{' and '.join([origin, *(other for other, _ in others)])} both offer it"
        )
    folder = _folder(value)
    return Pack(name, folder, origin) if isinstance(folder, Path) else Pack(name, None, origin, folder)


def _folder(value: str) -> Path | str:
    """The folder an entry point's value names, or what is wrong with it."""
    module, _, inside = value.partition(":")
    top, *deeper = module.strip().split(".")
    parts = [*deeper, *filter(None, inside.strip().split("."))]
    if not all(part.isidentifier() for part in (top, *parts)):
        return f"its entry point '{value}' does not read like package:folder"
    try:
        spec = find_spec(top)  # of a top-level name: nothing is imported for it
    except (ImportError, ValueError, AttributeError):
        spec = None
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not places:
        return f"there is no package '{top}'"
    for place in places:
        folder = Path(place).joinpath(*parts)
        if folder.is_dir():
            return folder
    return f"the package '{top}' has no folder '{'/'.join(parts)}'"
