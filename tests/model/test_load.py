"""Loading: every way a file can be wrong has its code and its place; external data stay on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibrate.small_models import model as parsed
from onnx_fp16fix.errors import ModelError
from onnx_fp16fix.model import load_model, wrap_model
from onnx_fp16fix.model.tensors import read_tensor
from onnx_fp16fix.runtime import open_session

CHAIN = "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { h = Mul(x, w)  y = Relu(h) }"


def refused(source: str | Path | onnx.ModelProto) -> ModelError:
    with pytest.raises(ModelError) as caught:
        load_model(source)
    return caught.value


def external_model(folder: Path, location: str = "w.bin", elements: int = 4, **info: int) -> Path:
    """A model whose weight ``w`` lies in ``location``; the data file is not written."""
    proto = parsed(f"g (float[{elements}] x) => (float[{elements}] y) {{ y = Mul(x, w) }}")
    weight = proto.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=[elements])
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **info}.items():
        weight.external_data.add(key=key, value=str(value))
    path = folder / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_a_model_from_a_file_knows_its_place(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(parsed(CHAIN).SerializeToString())
    model = load_model(path)
    assert (model.path, model.base_dir, model.pristine) == (path, tmp_path, True)
    assert model.proto == parsed(CHAIN)
    assert model.opset == 17


def test_a_model_from_memory_is_taken_as_it_is() -> None:
    proto = parsed(CHAIN)
    model = load_model(proto)
    assert model.proto is proto
    assert (model.path, model.base_dir, model.pristine) == (None, None, False)
    assert proto == parsed(CHAIN)


def test_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "none.onnx"
    assert str(refused(path)) == f"{path}: there is no such file [MODEL-MISSING]"


def test_a_folder(tmp_path: Path) -> None:
    assert str(refused(tmp_path)) == f"{tmp_path}: this is a folder, not an ONNX file [MODEL-READ]"


@pytest.mark.parametrize(
    "content",
    [b"", b"hello, world\n", b"\x89PNG\r\n\x1a\n", b"{}", bytes(64), bytes(range(256))],
    ids=["empty", "text", "PNG", "JSON", "zeros", "every byte"],
)
@pytest.mark.parametrize("name", ["m.onnx", "m.txt", "m.json", "m.onnxtxt", "m.textproto"])
def test_a_file_of_another_kind(tmp_path: Path, content: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    (problem,) = refused(path).problems
    assert (problem.code, problem.file) == ("MODEL-READ", str(path))
    assert problem.hint == "was the download or export completed?"


def test_a_file_cut_off_anywhere(tmp_path: Path) -> None:
    whole = parsed(CHAIN).SerializeToString()
    path = tmp_path / "m.onnx"
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        (problem,) = refused(path).problems
        assert (problem.code, problem.file) == ("MODEL-READ", str(path)), f"after {size} bytes"


def test_what_the_checker_refuses(tmp_path: Path) -> None:
    proto = parsed(CHAIN)
    proto.graph.node[1].input[0] = "nowhere"
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    (problem,) = refused(path).problems
    assert (problem.code, problem.file) == ("MODEL-INVALID", str(path))
    assert "nowhere" in problem.message
    assert refused(proto).problems[0].file is None


@pytest.mark.parametrize("raw", [True, False])
def test_an_initializer_with_too_few_values(raw: bool) -> None:
    proto = parsed(CHAIN)
    weight = proto.graph.initializer[0]
    weight.CopyFrom(numpy_helper.from_array(np.ones(2, np.float32), "w"))
    if not raw:
        weight.CopyFrom(helper.make_tensor("w", TensorProto.FLOAT, [2], [1, 2]))
    weight.dims[0] = 3
    (problem,) = refused(proto).problems
    assert (problem.code, problem.tensor) == ("MODEL-READ", "w")


@pytest.mark.parametrize("data_type", [TensorProto.UNDEFINED, 99])
def test_an_initializer_of_no_known_type(data_type: int) -> None:
    proto = parsed(CHAIN)
    proto.graph.initializer[0].data_type = data_type
    assert refused(proto).problems[0].code == "MODEL-INVALID"


def test_all_damaged_initializers_are_named_at_once() -> None:
    proto = parsed(CHAIN)
    for name in ("a", "b"):
        damaged = numpy_helper.from_array(np.ones(2, np.float32), name)
        damaged.dims[0] = 5
        proto.graph.initializer.append(damaged)
    assert [problem.tensor for problem in refused(proto).problems] == ["a", "b"]


def test_external_data_that_are_missing(tmp_path: Path) -> None:
    (problem,) = refused(external_model(tmp_path)).problems
    assert problem.code == "MODEL-EXTERNAL"
    assert problem.message == "initializer 'w' needs the external data file 'w.bin', which is missing"
    assert (problem.file, problem.tensor) == (str(tmp_path / "m.onnx"), "w")


@pytest.mark.parametrize("location", ["../w.bin", "/etc/hostname", "a/../../w.bin"])
def test_external_data_outside_the_folder(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(16))
    (problem,) = refused(external_model(folder, location)).problems
    assert problem.code == "MODEL-EXTERNAL"
    assert problem.message == f"initializer 'w' points outside the model's folder: '{location}'"


def test_external_data_behind_a_link_that_leads_outside(tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(16))
    (folder / "w.bin").symlink_to(tmp_path / "secret")
    (problem,) = refused(external_model(folder)).problems
    assert (problem.code, problem.file) == ("MODEL-EXTERNAL", str(folder / "m.onnx"))
    assert "needs 'w.bin', a link that leads out of the model's folder" in problem.message


def cached(tmp_path: Path, location: str = "w.bin") -> Path:
    """A model and its data as links out of their folder into one that holds both under other names."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    external_model(tmp_path, location).rename(tmp_path / "blobs" / "hash1")
    (tmp_path / "blobs" / "hash2").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    (tmp_path / "snapshot" / "m.onnx").symlink_to("../blobs/hash1")
    (tmp_path / "snapshot" / "w.bin").symlink_to("../blobs/hash2")
    return tmp_path / "snapshot" / "m.onnx"


def test_a_linked_model_may_have_linked_data_in_the_same_folder(tmp_path: Path) -> None:
    model = load_model(cached(tmp_path))
    assert read_tensor(model.proto.graph.initializer[0], model.base_dir).tolist() == [0, 1, 2, 3]
    x = np.ones(4, np.float32)
    assert open_session(model.proto, model.base_dir).run({"x": x})["y"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("location", ["../blobs/hash2", "../secret", "../snapshot/../secret"])
def test_a_linked_model_opens_no_other_place(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(16))
    assert "points outside the model's folder" in refused(cached(tmp_path, location)).problems[0].message


def test_a_linked_model_opens_no_link_to_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(16))
    path = cached(tmp_path)
    path.with_name("w.bin").unlink()
    path.with_name("w.bin").symlink_to("../secret")
    assert refused(path).problems[0].code == "MODEL-EXTERNAL"


@pytest.mark.parametrize(
    ("written", "info"), [(15, {}), (16, {"offset": 4}), (16, {"offset": 8, "length": 16}), (0, {})]
)
def test_external_data_that_are_too_short(tmp_path: Path, written: int, info: dict[str, int]) -> None:
    path = external_model(tmp_path, **info)
    (tmp_path / "w.bin").write_bytes(bytes(written))
    (problem,) = refused(path).problems
    assert problem.message == "initializer 'w' reaches beyond the end of 'w.bin'"


@pytest.mark.parametrize("info", [{"offset": "abc"}, {"offset": -4}, {"length": "abc"}, {"length": 8}])
def test_external_data_with_a_place_that_makes_no_sense(tmp_path: Path, info: dict[str, int]) -> None:
    path = external_model(tmp_path, **info)
    (tmp_path / "w.bin").write_bytes(bytes(16))
    (problem,) = refused(path).problems
    assert (problem.code, problem.tensor) == ("MODEL-EXTERNAL", "w")


def test_external_data_of_a_model_from_memory_need_a_folder(tmp_path: Path) -> None:
    proto = onnx.load(external_model(tmp_path), load_external_data=False)
    np.arange(4, dtype=np.float32).tofile(tmp_path / "w.bin")
    assert "no folder to look in" in str(refused(proto))
    (weight,) = wrap_model(proto, tmp_path).proto.graph.initializer
    np.testing.assert_array_equal(read_tensor(weight, tmp_path), np.arange(4, dtype=np.float32))


def test_external_data_are_not_read(tmp_path: Path) -> None:
    elements = 3 << 28  # 3 GiB that exist only as a hole in the file
    path = external_model(tmp_path, elements=elements)
    with (tmp_path / "w.bin").open("wb") as stream:
        stream.truncate(4 * elements)
    model = load_model(path)
    assert model.proto.ByteSize() < 1000
    values = read_tensor(model.proto.graph.initializer[0], model.base_dir)
    mapped = isinstance(values, np.memmap)
    assert mapped  # a failing assertion would print the values
    assert (values.shape, values[-1]) == ((elements,), 0)


BODIES = """g (float[2] x, bool c) => (float[2] y) {{
    y = If (c) <then_branch = t () => ({}[2] p) {{ p = Neg(x) }},
                else_branch = e () => (float[2] q) {{ q = Abs(x) }}> }}"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("g (float[2] x) => (int64[2] y) { y = Neg(x) }", "'y' is declared as INT64, but Neg makes FLOAT"),
        (
            "g (float[2] x) => (float[2] y) <float16[2] h> { h = Neg(x)  y = Abs(h) }",
            "'h' is declared as FLOAT16",
        ),
        (BODIES.format("float16"), "'p' is declared as FLOAT16, but Neg makes FLOAT"),
    ],
    ids=["output", "between", "body"],
)
def test_a_wrong_type_is_no_model_that_anything_loads(text: str, words: str) -> None:
    assert words in refused(parsed(text)).problems[0].message
    assert wrap_model(parsed(BODIES.format("float"))).opset == 17


def test_a_wrong_type_is_found_beside_an_op_that_nobody_knows() -> None:
    """Strict inference passes over errors in such a graph."""
    text = "g (float[2] x) => (int64[2] y) { h = vendor.Op(x)  y = Neg(x) }"
    assert "'y' is declared as INT64" in refused(parsed(text, domains=', "vendor" : 1')).problems[0].message


def test_a_type_that_inference_cannot_tell_is_believed() -> None:
    proto = parsed(
        "g (float[2] x) => (int64[2] y) { h = vendor.Op(x)  y = Cast<to = 7>(h) }", domains=', "vendor" : 1'
    )
    proto.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.DOUBLE, None))
    assert wrap_model(proto).proto is proto
