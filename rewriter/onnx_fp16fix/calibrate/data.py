"""Feeds for a model: from files, mappings, iterables or callables, or seeded random numbers; one at a time.

Every feed is checked against the model's real inputs (graph inputs that no initializer fills) before it is used,
and all that is wrong with a feed is told at once. An input that an initializer fills is refused, not fed: every stage
runs with the model's own value, so that what is calibrated, planned, verified and shipped is one and the same model.
"""

from __future__ import annotations

import difflib
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnx

from onnx_fp16fix.calibrate.inputs import Input, filled_inputs, model_inputs, random_feed
from onnx_fp16fix.calibrate.loaders import Placed, data_error, read_polygraphy, run_script, split_script
from onnx_fp16fix.errors import DataError, Problem
from onnx_fp16fix.wording import counted

__all__ = ["Dataset", "Feed", "Source", "open_data"]

Array = npt.NDArray[Any]
Feed = dict[str, Array]
Source = (
    str
    | Path
    | Mapping[str, Any]
    | Iterable[Mapping[str, Any]]
    | Callable[[], Iterable[Mapping[str, Any]]]
    | None
)


@dataclass(frozen=True)
class Dataset:
    """Samples for a model, read again at each iteration and never held together.

    ``source`` says where they come from; ``random`` is true when they are made up. Iterating raises DataError.
    """

    inputs: tuple[Input, ...]
    source: str
    random: bool
    length: int | None
    _open: Callable[[], Iterator[Placed]]
    filled: frozenset[str] = frozenset()
    """Inputs that the model's own initializers fill."""

    def __iter__(self) -> Iterator[Feed]:
        seen = 0
        for place, feed in self._open():
            yield check_feed(feed, self.inputs, place, self.filled)
            seen += 1
        if not seen:
            raise data_error("DATA-EMPTY", "holds no sample", self.source, hint="give at least one sample")

    def __len__(self) -> int:
        """Number of samples; TypeError where only reading would tell (``length`` is None)."""
        if self.length is None:
            raise TypeError("the number of samples is not known before they are read")
        return self.length


def open_data(source: Source, proto: onnx.ModelProto, *, seed: int = 0, samples: int = 4) -> Dataset:
    """Open a data source for a model.

    ``source``: None (``samples`` seeded random feeds), a .npz (one array per input name), a folder of .npz (one per
    sample, sorted by name), a .npy (model with one input), a Polygraphy inputs .json, ``script.py:function`` (the
    function, ``load_data`` if not named, yields feeds), a mapping of input name to array, a re-iterable of such
    mappings, or a callable without arguments that returns an iterator of them. Raises DataError; what is wrong with
    a sample shows when it is read.
    """
    inputs = model_inputs(proto)
    if source is None:
        return Dataset(inputs, f"random (seed {seed})", True, samples, _random(proto, inputs, seed, samples))
    return replace(_given(source, inputs), filled=filled_inputs(proto))


def _given(source: Source, inputs: tuple[Input, ...]) -> Dataset:
    if isinstance(source, (str, Path)) and (script := split_script(str(source))) is not None:
        return Dataset(inputs, str(source), False, None, lambda: run_script(*script))
    if isinstance(source, (str, Path)):
        return _from_path(Path(source), inputs)
    if isinstance(source, Mapping):
        return Dataset(inputs, "mapping", False, 1, lambda: iter([("mapping", source)]))
    if callable(source):
        return Dataset(inputs, "callable", False, None, lambda: _numbered("callable", source()))
    if isinstance(source, Iterator):
        raise data_error(
            "DATA-ONCE", "can be read only once, and the samples are needed several times", type(source).__name__,
            hint="give a list, or the function that makes the iterator",
        )  # fmt: skip
    if isinstance(source, Iterable):
        length = len(source) if isinstance(source, Sequence) else None
        return Dataset(inputs, "iterable", False, length, lambda: _numbered("iterable", source))
    raise data_error(
        "DATA-SOURCE", f"cannot be data: it is of type {type(source).__name__}", "data", hint=_SOURCES
    )


_SOURCES = (
    "give a .npz, a folder of .npz, a .npy for a single input, a Polygraphy inputs .json, script.py:function, "
    "or arrays by input name"
)


def _random(
    proto: onnx.ModelProto, inputs: tuple[Input, ...], seed: int, samples: int
) -> Callable[[], Iterator[Placed]]:
    def feeds() -> Iterator[Placed]:
        rng = np.random.default_rng(seed)
        for index in range(samples):
            yield f"random sample {index}", random_feed(proto, inputs, rng)

    return feeds


def _numbered(kind: str, feeds: Iterable[Mapping[str, Any]]) -> Iterator[Placed]:
    for index, feed in enumerate(feeds):
        yield f"{kind}, sample {index}", feed


def _from_path(path: Path, inputs: tuple[Input, ...]) -> Dataset:
    if path.is_dir():
        files = sorted(path.glob("*.npz"))
        if not files:
            raise data_error(
                "DATA-EMPTY", "folder without .npz files", str(path), hint="put one .npz per sample there"
            )
        return _from_files(str(path), files, inputs)
    if not path.is_file():
        raise data_error("DATA-READ", "no such file or folder", str(path), hint="check the path")
    if path.suffix == ".npy" and len(inputs) != 1:
        names = ", ".join(item.name for item in inputs) or "none"
        raise data_error(
            "DATA-NPY", f"a .npy holds one array, but the model has {len(inputs)} inputs: {names}", str(path),
            hint="save a .npz with one array per input name",
        )  # fmt: skip
    if path.suffix == ".json":
        return Dataset(inputs, str(path), False, None, lambda: read_polygraphy(path))
    if path.suffix not in _READERS:
        raise data_error("DATA-FORMAT", f"unknown kind of data '{path.suffix}'", str(path), hint=_SOURCES)
    return _from_files(str(path), [path], inputs)


def _from_files(source: str, files: Sequence[Path], inputs: tuple[Input, ...]) -> Dataset:
    def feeds() -> Iterator[Placed]:
        for file in files:
            yield str(file), _READERS[file.suffix](file, inputs)

    return Dataset(inputs, source, False, len(files), feeds)


def _read_npz(path: Path, inputs: tuple[Input, ...]) -> Feed:
    loaded = _load(path)
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        raise data_error("DATA-READ", "is no .npz archive", str(path), hint="write it with numpy.savez")
    with loaded as archive:
        if not archive.files:
            raise data_error("DATA-EMPTY", "holds no array", str(path), hint="save one array per input name")
        try:
            return {name: archive[name] for name in archive.files}
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise _unreadable(path, error) from None


def _read_npy(path: Path, inputs: tuple[Input, ...]) -> Feed:
    loaded = _load(path)
    if not isinstance(loaded, np.ndarray):
        raise data_error("DATA-READ", "is no .npy array", str(path), hint="write it with numpy.save")
    return {inputs[0].name: loaded}


_READERS: Mapping[str, Callable[[Path, tuple[Input, ...]], Feed]] = {".npz": _read_npz, ".npy": _read_npy}


def _load(path: Path) -> object:
    try:
        # Pickles run code: an array of objects is refused, not loaded.
        return cast(object, np.load(path, allow_pickle=False))
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = "it holds Python objects" if "pickle" in str(error) else str(error).split("\n", maxsplit=1)[0]
    return data_error(
        "DATA-READ", f"cannot be read: {reason}", str(path), hint="write it with numpy.savez or numpy.save"
    )


def check_feed(
    feed: Mapping[str, Any], inputs: Sequence[Input], place: str, filled: Collection[str] = ()
) -> Feed:
    """The feed with exact types, or a DataError with everything that is wrong with it.

    ``filled``: inputs that initializers fill, which a feed may not hold.
    """
    if not isinstance(feed, Mapping):
        raise data_error(
            "DATA-SOURCE", f"is of type {type(feed).__name__}, not a mapping", place, hint=_SOURCES
        )
    known = {item.name: item for item in inputs}
    problems = [
        _filled(name, place) if name in filled else _unknown(str(name), known, feed, place)
        for name in feed
        if name not in known
    ]
    problems += [
        Problem("DATA-MISSING", f"no array for input '{item.name}' ({item})", file=place, tensor=item.name)
        for item in inputs
        if item.name not in feed
    ]
    checked = {}
    for name, item in known.items():
        if name in feed:
            value, problem = _fit(feed[name], item, place)
            checked[name] = value
            problems += [problem] if problem else []
    if problems:
        raise DataError(problems)
    if checked and not any(value.size for value in checked.values()):
        raise data_error(
            "DATA-EMPTY", "has no element in any input", place, hint="nothing can be measured on it"
        )
    return checked


def _filled(name: str, place: str) -> Problem:
    return Problem(
        "DATA-FILLED", f"the model fills its input '{name}' from an initializer and is run with that value",
        file=place, tensor=name,
        hint="leave it out of the data, or remove the initializer to make it an input that data give",
    )  # fmt: skip


def _unknown(name: str, known: Mapping[str, Input], feed: Mapping[str, Any], place: str) -> Problem:
    missing = [item for item in known if item not in feed]
    close = difflib.get_close_matches(name, missing or list(known), n=1, cutoff=0.4)
    hint = f"did you mean '{close[0]}'?" if close else f"the model's inputs: {', '.join(known) or 'none'}"
    return Problem("DATA-UNKNOWN", f"the model has no input '{name}'", file=place, tensor=name, hint=hint)


def _fit(given: Any, item: Input, place: str) -> tuple[Array, Problem | None]:
    """The array in the input's type, and what is wrong with it, if anything."""
    ragged = ""
    try:
        value = np.asarray(given)
    except ValueError as error:  # rows of different lengths
        value, ragged = np.empty(0), str(error).split(". ")[0]

    def problem(code: str, found: str, hint: str | None = None) -> tuple[Array, Problem]:
        return value, Problem(code, f"input '{item.name}' {found}", file=place, tensor=item.name, hint=hint)

    if ragged:
        return problem("DATA-SHAPE", f"is no array: {ragged[0].lower()}{ragged[1:]}")
    if not item.accepts(value.shape):
        return problem("DATA-SHAPE", f"has shape {list(value.shape)}, expected {item.shape_text()}")
    if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
        bad = int(value.size - np.count_nonzero(np.isfinite(value)))
        return problem(
            "DATA-NONFINITE",
            f"has {bad:,} NaN or Inf of {counted(value.size, 'element')}",
            "clean the data first",
        )
    cast_value = _lossless(value, item.dtype)
    if cast_value is None:
        return problem(
            "DATA-DTYPE", f"is {value.dtype}, expected {item.dtype}",
            f"convert it with .astype('{item.dtype}') if the loss of digits is meant",
        )  # fmt: skip
    return cast_value, None


def _lossless(value: Array, dtype: np.dtype[Any]) -> Array | None:
    """``value`` in ``dtype`` if both are floats or both integers and nothing is lost."""
    if value.dtype == dtype:
        return value
    families = (np.floating, np.integer)
    if not any(np.issubdtype(value.dtype, kind) and np.issubdtype(dtype, kind) for kind in families):
        return None
    with np.errstate(over="ignore", under="ignore"):
        converted = value.astype(dtype)
        return converted if np.array_equal(converted.astype(value.dtype), value) else None
