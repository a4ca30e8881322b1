"""Samples from Polygraphy's inputs JSON and from data-loader scripts, one at a time."""

from __future__ import annotations

import base64
import binascii
import importlib.util
import io
import json
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onnx_fp16fix.errors import DataError, Problem

__all__ = ["Placed", "data_error", "read_polygraphy", "run_script", "split_script"]

Placed = tuple[str, Mapping[str, Any]]
"""Where a feed stands, for messages, and the feed."""

_CLASS = "polygraphy_class"
_FUNCTION = "load_data"


def data_error(code: str, found: str, place: str, *, hint: str | None = None) -> DataError:
    """One problem with data."""
    return DataError(Problem(code, found, file=place, hint=hint))


def read_polygraphy(path: Path) -> Iterator[Placed]:
    """Feeds of a file that ``polygraphy.json.save_json`` wrote: a list of mappings from input name to array.

    Polygraphy itself is not needed: an array is the base64 form of a .npy file. The document is parsed as a whole,
    arrays are decoded one feed at a time. Raises DataError.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise data_error("DATA-READ", f"is no JSON document: {error}", str(path), hint=_SAVE) from None
    if not isinstance(document, list):
        kind = document.get(_CLASS) if isinstance(document, dict) else None
        found = f"holds {kind or type(document).__name__}, expected a list of feeds"
        raise data_error("DATA-FORMAT", found, str(path), hint=_SAVE)
    for index, feed in enumerate(document):
        place = f"{path}, sample {index}"
        if not isinstance(feed, dict) or _CLASS in feed:
            raise data_error("DATA-FORMAT", "is no mapping of input names to arrays", place, hint=_SAVE)
        yield place, {name: _decoded(value, name, place) for name, value in feed.items()}


_SAVE = "write it with polygraphy.json.save_json: a list of mappings from input name to numpy array"


def _decoded(value: Any, name: str, place: str) -> Any:
    kind = value.get(_CLASS) or "object" if isinstance(value, dict) else type(value).__name__
    if kind != "ndarray":
        found = f"input '{name}' is of type {kind}, expected a numpy array"
        raise data_error("DATA-FORMAT", found, place, hint="convert tensors with .numpy() before saving")
    try:
        return np.load(io.BytesIO(base64.b64decode(value["array"], validate=True)), allow_pickle=False)
    except (KeyError, TypeError, ValueError, OSError, EOFError, binascii.Error) as error:
        found = f"input '{name}' is damaged: {error}"
        raise data_error("DATA-READ", found, place, hint=_SAVE) from None


def split_script(source: str) -> tuple[Path, str] | None:
    """Path and function name of ``script.py`` or ``script.py:function``; None for anything else."""
    found = re.fullmatch(r"(.+\.py)(?::(\w+))?", source)
    return (Path(found[1]), found[2] or _FUNCTION) if found else None


def run_script(path: Path, function: str) -> Iterator[Placed]:
    """Feeds that a function of a Python file returns or yields; it is called without arguments.

    The file's folder is importable while it runs. Whatever the script raises becomes a DataError (DATA-SCRIPT) with
    the line.
    """
    place = f"{path}:{function}"
    if not path.is_file():
        raise data_error("DATA-READ", "no such file", str(path), hint="check the path")
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        feeds = _guarded(path, lambda: _function(path, function)())
        if not isinstance(feeds, Iterable) or isinstance(feeds, Mapping | str):
            found = f"returned a {type(feeds).__name__}, expected an iterable of feeds"
            raise data_error(
                "DATA-SCRIPT", found, place, hint="yield one mapping of name to array per sample"
            )
        iterator, index, end = iter(feeds), 0, object()
        while (feed := _guarded(path, lambda: next(iterator, end))) is not end:
            yield f"{place}, sample {index}", feed
            index += 1
    finally:
        sys.path.remove(str(path.parent.resolve()))


def _function(path: Path, name: str) -> Callable[[], Any]:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = getattr(module, name, None)
    if not callable(found):
        defined = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        hint = f"it defines {', '.join(defined)}" if defined else "it defines no function"
        raise data_error("DATA-SCRIPT", f"has no function '{name}'", str(path), hint=hint)
    function: Callable[[], Any] = found
    return function


def _guarded(path: Path, step: Callable[[], Any]) -> Any:
    """Run a piece of the user's script; its exceptions become messages, ours and interrupts pass."""
    try:
        return step()
    except (DataError, KeyboardInterrupt):
        raise
    except (Exception, SystemExit) as error:
        lines = [
            item.lineno for item in traceback.extract_tb(error.__traceback__) if item.filename == str(path)
        ]
        line = error.lineno if isinstance(error, SyntaxError) else next(reversed(lines), None)
        found = f"raised {type(error).__name__}: {error}"
        raise DataError(Problem("DATA-SCRIPT", found, file=str(path), line=line)) from error
