"""From what a user or a rule file names to rule files: paths, folders, patterns and packs, within limits.

A user may name any file. A rule file may name packs and files below its own folder, nothing else: it comes from
others, and what it reads must not be a matter of luck.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from onnx_fp16fix.errors import Problem
from onnx_fp16fix.language.operations import closest
from onnx_fp16fix.language.packs import find_pack, installed_packs, packs
from onnx_fp16fix.language.yaml_source import MAX_BYTES, Place

__all__ = ["MAX_FILES", "MAX_USES", "Sources"]

MAX_FILES = 2000
"""Rule files of one run."""
MAX_USES = 8
"""How deep files may use files."""
_MAX_SEEN = 20_000
"""Files looked at in one folder."""
_MAX_TOTAL = 16 * MAX_BYTES
_SUFFIXES = (".yaml", ".yml")


class _Limit(Exception):
    """Too much to look at."""


class Sources:
    """Reads each file once and gives its text to ``document`` with the name for messages and its path."""

    def __init__(self, problems: list[Problem], document: Callable[[str, str, Path], None]) -> None:
        self.problems, self.document = problems, document
        self._seen: set[Path] = set()
        self._bytes = self._depth = 0
        self._within: Path | None = None

    def named(self, text: str) -> None:
        """What a user names: any file, a folder, a pattern, a pack."""
        self._source(text, Path.cwd(), None)

    def used(self, text: str, file: Path, place: Place) -> None:
        """What ``use`` in a file names, relative to that file."""
        if self._depth >= MAX_USES:
            self._report(place, f"files use files more than {MAX_USES} deep", None, "RULE-LIMIT")
            return
        refusal = None if text.startswith("pack:") else _refusal(text, file.parent)
        if refusal is not None:
            hint = "pack:NAME, or a rule file, folder or pattern (ours/*.yaml) below this file's folder"
            self._report(place, f"'use' cannot name '{text}': {refusal}", hint, "RULE-USE")
            return
        before, self._within = self._within, None if text.startswith("pack:") else file.parent.resolve()
        self._depth += 1
        self._source(text, file.parent, place)
        self._depth -= 1
        self._within = before

    def _source(self, text: str, base: Path, place: Place | None) -> None:
        try:
            if text.startswith("pack:"):
                self._pack(text.removeprefix("pack:"), place)
            elif any(symbol in text for symbol in "*?[") and not (base / text).exists():
                self._pattern(text, base, place)
            elif (base / text).is_dir():
                self._folder((base / text).resolve(), text, place)
            else:
                self._file((base / text).resolve(), text, place)
        except (_Limit, ValueError, OSError, RuntimeError) as error:  # a null in a name, a link to itself
            code = "RULE-LIMIT" if isinstance(error, _Limit) else "RULE-READ"
            self._report(place, f"'{text}': {error}", None, code)

    def _folder(self, folder: Path, shown: str, place: Place | None) -> None:
        files = sorted(_files_below(folder))
        if not files:
            self._report(place, f"the folder '{shown}' holds no rule files (*.yaml)", None)
        for file in files:
            self._file(file.resolve(), str(Path(shown) / file.relative_to(folder)), place)

    def _pattern(self, text: str, base: Path, place: Place | None) -> None:
        relative = not Path(text).is_absolute() and "**" not in text
        files = sorted(islice(base.glob(text), _MAX_SEEN)) if relative else []
        if not files:
            self._report(place, f"'{text}' fits no file", "a folder's name stands for all files below it")
        for file in files:
            self._file(file.resolve(), str(file), place)

    def _pack(self, name: str, place: Place | None) -> None:
        pack = find_pack(name)
        if pack is None:
            known = [*packs(), *(other.name for other in installed_packs())]
            hint = closest(name, known) or "packs: " + ", ".join(known)
            self._report(place, f"there is no rule pack '{name}'", hint)
        elif pack.folder is None:
            message = f"the rule pack '{name}' of {pack.origin} cannot be loaded: {pack.problem}"
            self._report(place, message, None, "RULE-PACK")
        else:
            files = sorted(_files_below(pack.folder))
            if not files:
                self._report(
                    place, f"the rule pack '{name}' of {pack.origin} holds no rule files", None, "RULE-PACK"
                )
            root = pack.folder.parent if pack.shown == "rules" and name != "all" else pack.folder
            for file in files:
                self._file(file, f"{pack.shown}/{file.relative_to(root).as_posix()}", place)

    def _file(self, path: Path, shown: str, place: Place | None) -> None:
        if path in self._seen:
            return
        if self._within is not None and not path.is_relative_to(self._within):
            self._report(
                place, f"'use' cannot name '{shown}': it leads out of this file's folder", None, "RULE-USE"
            )
            return
        self._seen.add(path)
        if len(self._seen) > MAX_FILES:
            raise _Limit(f"more than {MAX_FILES} rule files")
        try:
            found = path.stat()
            if not stat.S_ISREG(found.st_mode):
                self._report(place, f"rule file '{shown}': it is no plain file", None)
                return
            self._bytes += found.st_size
            if found.st_size > MAX_BYTES or self._bytes > _MAX_TOTAL:
                most, what = (
                    (MAX_BYTES, "the file has") if found.st_size > MAX_BYTES else (_MAX_TOTAL, "rules have")
                )
                self.problems.append(Problem("RULE-LIMIT", f"{what} more than {most} bytes", file=shown))
                return
            text = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            self.problems.append(Problem("RULE-READ", "the file is not UTF-8 text", file=shown))
        except OSError as error:
            reason = (error.strerror or "it cannot be read").lower()
            self._report(place, f"rule file '{shown}': {reason}", "a file, a folder or pack:NAME is expected")
        else:
            self.document(text, shown, path)

    def _report(self, place: Place | None, message: str, hint: str | None, code: str = "RULE-READ") -> None:
        problem = Problem(code, message, hint=hint) if place is None else place.problem(code, message, hint)
        self.problems.append(problem)


def _refusal(text: str, folder: Path) -> str | None:
    """Why a rule file may not name this."""
    if Path(text).is_absolute() or text.startswith("~") or ".." in Path(text).parts:
        return "it lies outside this file's folder"
    if "\0" in text:
        return "it is no name of a file"
    path = folder / text
    if path.suffix not in _SUFFIXES and not path.is_dir():
        return "it is no rule file (*.yaml)"
    real = os.path.realpath(path)
    if not real.startswith(os.path.realpath(folder) + os.sep):
        return "it lies outside this file's folder"
    return None


def _files_below(folder: Path) -> Iterator[Path]:
    """Rule files in a folder and those inside it; folders that are links are not entered."""
    seen = 0
    for root, folders, files in os.walk(folder):
        seen += len(files) + len(folders)
        if seen > _MAX_SEEN:
            raise _Limit(f"the folder holds more than {_MAX_SEEN} files")
        yield from (Path(root, name) for name in files if name.endswith(_SUFFIXES))
