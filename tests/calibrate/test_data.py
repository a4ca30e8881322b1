"""Feeds: every source, and one clear error for each way they can be wrong."""

import base64
import io
import json
import sys

import numpy as np
import pytest

import onnx_fp16fix
from calibrate.small_models import model
from onnx_fp16fix.calibrate import open_data
from onnx_fp16fix.errors import DataError

TWO = model("g (float[batch,3] image, int64[batch] token) => (float[batch,3] y) { y = Relu(image) }")
ONE = model("g (float[2,3] x) => (float[2,3] y) { y = Relu(x) }")
X = np.arange(6, dtype=np.float32).reshape(2, 3)
GOOD = {"image": X, "token": np.array([1, 2])}


def codes(source, proto=TWO):
    with pytest.raises(DataError) as caught:
        list(open_data(source, proto))
    return [problem.code for problem in caught.value.problems], caught.value.problems


def test_every_source_gives_the_same_feeds(tmp_path):
    np.savez(tmp_path / "a.npz", **GOOD)
    sources = [GOOD, [GOOD], lambda: iter([GOOD]), tmp_path / "a.npz", str(tmp_path), (GOOD,)]
    for source in sources:
        data = open_data(source, TWO)
        for _ in range(2):  # read again at each iteration
            (feed,) = data
            assert feed["image"].dtype == np.float32
            np.testing.assert_array_equal(feed["image"], X)
            np.testing.assert_array_equal(feed["token"], [1, 2])
        assert not data.random


def test_folder_is_read_sorted_and_counted(tmp_path):
    for index in (2, 0, 1):
        np.savez(tmp_path / f"{index}.npz", x=X + index)
    data = open_data(tmp_path, ONE)
    assert len(data) == 3
    assert [feed["x"][0, 0] for feed in data] == [0, 1, 2]
    assert data.source == str(tmp_path)


def test_npy_feeds_a_single_input(tmp_path):
    np.save(tmp_path / "x.npy", X)
    (feed,) = open_data(tmp_path / "x.npy", ONE)
    np.testing.assert_array_equal(feed["x"], X)
    assert codes(tmp_path / "x.npy", TWO)[0] == ["DATA-NPY"]


def test_callable_has_no_length():
    data = open_data(lambda: iter([GOOD]), TWO)
    assert data.length is None
    with pytest.raises(TypeError, match="not known"):
        len(data)


def test_random_feeds_are_seeded_and_share_symbolic_sizes():
    proto = model(
        "g (float[n, seq, 4] a, float[n, seq] b, int64[n, seq] ids, bool[seq] m, "
        "float[1, 3, height, width] im, float s)"
        "=> (float[n, seq, 4] y) { y = Relu(a) }"
    )
    data = open_data(None, proto, seed=3, samples=2)
    first, again = list(data), list(open_data(None, proto, seed=3, samples=2))
    assert data.random
    assert len(first) == len(data) == 2
    for one, other in zip(first, again, strict=True):
        for name, value in one.items():
            np.testing.assert_array_equal(value, other[name])
    feed = first[0]
    assert feed["a"].shape[:2] == feed["b"].shape == feed["ids"].shape
    assert feed["m"].dtype == np.bool_
    assert feed["im"].shape == (1, 3, 64, 64)
    assert feed["s"].shape == ()
    assert not np.array_equal(first[0]["a"], first[1]["a"])


def test_random_integers_stay_inside_the_table_they_look_up():
    proto = model("""g (int64[50] ids) => (float[50,2] y)
        <float[3,2] table = {0,1,2,3,4,5}> { y = Gather(table, ids) }""")
    (feed,) = open_data(None, proto, samples=1)
    assert set(feed["ids"]) == {0, 1, 2}


def test_sums_of_symbols_add_up():
    proto = model(
        "g (float[past] a, float[seq] b, float[past + seq] c) => (float[past] y) { y = Relu(a) }".replace(
            "past + seq", "total"
        )
    )
    proto.graph.input[2].type.tensor_type.shape.dim[0].dim_param = "past + seq"
    (feed,) = open_data(None, proto, samples=1)
    assert feed["c"].size == feed["a"].size + feed["b"].size


def test_all_problems_of_a_feed_come_at_once():
    found, problems = codes({"imag": X, "token": np.array([1.5, 2]), "other": X})
    assert found == ["DATA-UNKNOWN", "DATA-UNKNOWN", "DATA-MISSING", "DATA-DTYPE"]
    assert problems[0].hint == "did you mean 'image'?"
    assert problems[2].message == "no array for input 'image' (float32 [batch, 3])"


@pytest.mark.parametrize(
    ("value", "code", "text"),
    [
        (X.T, "DATA-SHAPE", "has shape [3, 2], expected [2, 3]"),
        (X[0], "DATA-SHAPE", "has shape [3], expected [2, 3]"),
        (np.array([[np.nan, 1, 2], [3, 4, np.inf]], np.float32), "DATA-NONFINITE", "2 NaN or Inf of 6"),
        (X.astype(np.int32), "DATA-DTYPE", "is int32, expected float32"),
        (X.astype(np.float64) + 0.1, "DATA-DTYPE", "is float64, expected float32"),
        (X.astype(np.float64) + 1e300, "DATA-DTYPE", "is float64, expected float32"),
    ],
)
def test_what_does_not_fit_is_refused(value, code, text):
    found, problems = codes({"x": value}, ONE)
    assert found == [code]
    assert text in problems[0].message
    assert problems[0].tensor == "x"
    assert problems[0].file == "mapping"


def test_lossless_casts_are_silent():
    (feed,) = open_data({"image": X.astype(np.float64), "token": np.array([1, 2], np.int32)}, TWO)
    assert (feed["image"].dtype, feed["token"].dtype) == (np.float32, np.int64)


def test_unreadable_and_empty_sources(tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"PK no zip")
    np.savez(tmp_path / "none.npz")
    np.savez(tmp_path / "pickled.npz", x=np.array([{}], dtype=object))
    (tmp_path / "empty").mkdir()
    (tmp_path / "data.csv").write_text("1,2")
    assert codes(tmp_path / "bad.npz")[0] == ["DATA-READ"]
    assert codes(tmp_path / "none.npz")[0] == ["DATA-EMPTY"]
    found, problems = codes(tmp_path / "pickled.npz", ONE)
    assert found == ["DATA-READ"]
    assert problems[0].message == "cannot be read: it holds Python objects"
    assert codes(tmp_path / "empty")[0] == ["DATA-EMPTY"]
    assert codes(tmp_path / "missing.npz")[0] == ["DATA-READ"]
    assert codes(tmp_path / "data.csv")[0] == ["DATA-FORMAT"]
    assert codes([])[0] == ["DATA-EMPTY"]
    assert codes(lambda: iter([]))[0] == ["DATA-EMPTY"]
    assert codes([X])[0] == ["DATA-SOURCE"]
    assert codes(7)[0] == ["DATA-SOURCE"]


def test_an_iterator_that_ends_is_refused():
    assert codes(iter([GOOD]))[0] == ["DATA-ONCE"]


def test_string_inputs_are_refused():
    proto = model("g (string[1] s, float[1] x) => (float[1] y) { y = Relu(x) }")
    found, problems = codes(None, proto)
    assert found == ["DATA-STRING"]
    assert problems[0].tensor == "s"


@pytest.mark.parametrize("kind", ["bfloat16", "float8e4m3fn", "complex64"])
def test_inputs_of_types_that_numpy_or_onnx_runtime_lack_are_refused(kind):
    proto = model(f"g ({kind}[1] s, float[1] x) => (float[1] y) {{ y = Relu(x) }}")
    found, problems = codes(None, proto)
    assert found == ["DATA-TYPE"]
    assert problems[0].tensor == "s"
    assert kind.upper() in problems[0].message


def test_inputs_with_initializers_need_no_feed():
    proto = model("g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }")
    (feed,) = open_data({"x": np.ones(2, np.float32)}, proto)
    assert set(feed) == {"x"}


@pytest.mark.parametrize("run", ["calibrate", "check", "verify", "fix"])
@pytest.mark.parametrize("ir_version", [3, 8])
def test_data_for_an_input_that_an_initializer_fills_are_refused(run, ir_version):
    """Silently running with the other value would measure a model that the user does not run."""
    proto = model("g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }")
    proto.ir_version = ir_version
    data = {"x": np.ones(2, np.float32), "w": np.full(2, 5, np.float32)}
    models = [proto, proto] if run == "verify" else [proto]
    with pytest.raises(DataError) as caught:
        getattr(onnx_fp16fix, run)(*models, data)
    (problem,) = caught.value.problems
    assert (problem.code, problem.tensor) == ("DATA-FILLED", "w")
    assert "leave it out" in problem.hint


def polygraphy(array):
    """An array as Polygraphy 0.53 writes it."""
    stream = io.BytesIO()
    np.save(stream, array)
    return {"array": base64.b64encode(stream.getvalue()).decode(), "polygraphy_class": "ndarray"}


def test_polygraphy_inputs(tmp_path):
    path = tmp_path / "inputs.json"
    feeds = [{name: polygraphy(value) for name, value in GOOD.items()}] * 2
    path.write_text(json.dumps(feeds))
    data = open_data(path, TWO)
    for _ in range(2):
        first, _ = data
        np.testing.assert_array_equal(first["image"], X)
        assert first["token"].dtype == np.int64
    assert data.source == str(path)


@pytest.mark.parametrize(
    ("document", "code", "words"),
    [
        ("{", "DATA-READ", "is no JSON document"),
        ("[]", "DATA-EMPTY", "holds no sample"),
        ('{"polygraphy_class": "RunResults"}', "DATA-FORMAT", "holds RunResults, expected a list of feeds"),
        ("[[1]]", "DATA-FORMAT", "is no mapping"),
        ('[{"x": [1, 2]}]', "DATA-FORMAT", "input 'x' is of type list, expected a numpy array"),
        (
            '[{"x": {"tensor": "", "polygraphy_class": "Tensor"}}]',
            "DATA-FORMAT",
            "input 'x' is of type Tensor",
        ),
        ('[{"x": {"array": "AAAA", "polygraphy_class": "ndarray"}}]', "DATA-READ", "input 'x' is damaged"),
        ('[{"x": {"array": "?", "polygraphy_class": "ndarray"}}]', "DATA-READ", "input 'x' is damaged"),
        ('[{"x": {"polygraphy_class": "ndarray"}}]', "DATA-READ", "input 'x' is damaged"),
    ],
)
def test_wrong_polygraphy_files(tmp_path, document, code, words):
    (tmp_path / "i.json").write_text(document)
    found, problems = codes(tmp_path / "i.json", ONE)
    assert found == [code]
    assert words in problems[0].message


SCRIPT = """
import numpy as np
import beside

def load_data():
    for index in range(beside.COUNT):
        yield {"x": np.full((2, 3), index, np.float32)}

def as_list():
    return list(load_data())

def breaks():
    yield {"x": np.zeros((2, 3), np.float32)}
    raise ValueError("no more disk")

def nothing():
    pass

def quits():
    raise SystemExit(3)

number = 3
"""


@pytest.fixture
def script(tmp_path):
    (tmp_path / "beside.py").write_text("COUNT = 3")
    path = tmp_path / "loader.py"
    path.write_text(SCRIPT)
    yield path
    sys.modules.pop("beside", None)


@pytest.mark.parametrize("function", ["", ":load_data", ":as_list"])
def test_data_loader_scripts(script, function):
    data = open_data(f"{script}{function}", ONE)
    before = list(sys.path)
    for _ in range(2):
        assert [feed["x"][0, 0] for feed in data] == [0, 1, 2]
    assert sys.path == before
    assert (data.random, data.length) == (False, None)


@pytest.mark.parametrize(
    ("function", "line", "words"),
    [
        ("breaks", 14, "raised ValueError: no more disk"),
        ("nothing", None, "returned a NoneType, expected an iterable of feeds"),
        ("quits", 20, "raised SystemExit: 3"),
        ("number", None, "has no function 'number'"),
        ("other", None, "has no function 'other'"),
    ],
)
def test_scripts_that_fail_are_one_message(script, function, line, words):
    found, problems = codes(f"{script}:{function}", ONE)
    assert found == ["DATA-SCRIPT"]
    assert words in problems[0].message
    assert problems[0].line == line


def test_scripts_that_are_no_python_or_not_there(tmp_path):
    (tmp_path / "bad.py").write_text("def load_data(:\n")
    found, problems = codes(tmp_path / "bad.py", ONE)
    assert (found, problems[0].line) == (["DATA-SCRIPT"], 1)
    assert codes(tmp_path / "none.py", ONE)[0] == ["DATA-READ"]


def test_what_a_script_yields_is_checked(tmp_path):
    (tmp_path / "s.py").write_text("def load_data():\n    return [{'y': 1}]\n")
    found, problems = codes(tmp_path / "s.py", ONE)
    assert found == ["DATA-UNKNOWN", "DATA-MISSING"]
    assert problems[0].file == f"{tmp_path / 's.py'}:load_data, sample 0"
