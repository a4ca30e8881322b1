"""What one match changed in a scope."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Edit"]


@dataclass(frozen=True, slots=True)
class Edit:
    """Nodes taken (removed or replaced), nodes copied, names of nodes removed, added, changed.

    A copied node stays as it is, but other rules must leave it alone too: the copy reads what it reads.
    """

    taken: frozenset[int]
    copied: frozenset[int]
    removed: tuple[str, ...]
    added: tuple[str, ...]
    changed: tuple[str, ...] = ()
