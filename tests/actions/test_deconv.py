"""Every rewrite of a ConvTranspose against the original in ONNX Runtime; whole numbers, so that equal means equal."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from actions.deconv_models import deconv, mend, run, sample
from language._models import patched, record, view
from onnx_fp16fix.actions.deconv.groups import block_diagonal
from onnx_fp16fix.actions.deconv.operation import zero_inserted
from onnx_fp16fix.actions.deconv.polyphase import phase_weights
from onnx_fp16fix.actions.deconv.resize import tent

SPLIT, DENSE = "{name: deconv-split-groups}", "{name: deconv-dense-groups}"
PAD = "{name: deconv-pad-channels, multiple: 8}"
PHASES, NO_OVERLAP = "{name: deconv-polyphase}", "{name: deconv-kernel-is-stride}"
FOLD, SLICE = "{name: deconv-fold-output-padding}", "{name: deconv-pads-to-slice}"
FLAT, RESIZE = "{name: deconv-1d-to-2d}", "{name: deconv-to-resize}"
ALL = (SPLIT, DENSE, PAD, PHASES, NO_OVERLAP, FOLD, SLICE, FLAT, RESIZE)


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def same(model: onnx.ModelProto, action: str, folder: Any) -> onnx.ModelProto:
    """The rewritten model, equal to the last bit on whole numbers; fails where the action does not apply."""
    result, found = mend(model, action, folder)
    assert record(found).status == "applied", record(found).reason
    x = sample(model)
    np.testing.assert_array_equal(run(result, x), run(model, x))
    return result


PADDINGS = [([0, 0, 0, 0], [0, 0]), ([1, 1, 1, 1], [1, 1]), ([0, 3, 2, 0], [0, 1])]


@pytest.mark.parametrize("group", [1, 2, 4, 8])
@pytest.mark.parametrize(("kernel", "stride"), list(itertools.product((2, 3, 4, 16), (2, 3, 8))))
def test_every_rewrite_that_fits_keeps_the_result(group: int, kernel: int, stride: int, tmp_path) -> None:
    done = set()
    for pads, extra in PADDINGS:
        options = {"group": group, "strides": [stride] * 2, "pads": pads, "output_padding": extra}
        model = deconv(8, 16, [kernel] * 2, size=[5, 4], **options)
        want = run(model, sample(model))
        for action in ALL:
            result, found = mend(model, action, tmp_path)
            if record(found).status == "applied":
                done.add(action)
                np.testing.assert_array_equal(run(result, sample(model)), want, err_msg=f"{action} {options}")
    fits = {PHASES, FOLD, SLICE}
    fits |= {SPLIT, DENSE} if group > 1 else set()
    fits |= {PAD} if group > 1 else set()
    fits |= {NO_OVERLAP} if kernel == stride else set()
    assert done == fits


@pytest.mark.parametrize("action", [SPLIT, DENSE, PAD, PHASES, FOLD, SLICE, NO_OVERLAP])
@pytest.mark.parametrize("opset", [9, 11, 13, 18, 22])
def test_opsets_open_sizes_constants_as_nodes(action: str, opset: int, tmp_path) -> None:
    square = action == NO_OVERLAP
    pads, extra = ([0] * 4, [0] * 2) if square else ([1, 0, 0, 1], [1, 1])
    size = [6, "W"] if opset < 11 else ["H", "W"]  # before opset 11 only one size may be open
    model = deconv(
        6,
        4,
        [2, 2] if square else [3, 3],
        size=size,
        as_node=True,
        opset=opset,
        group=2,
        strides=[2, 2],
        pads=pads,
        output_padding=extra,
    )
    result = same(model, action, tmp_path)
    assert "ConvTranspose" not in ops(result) or action not in (PHASES, NO_OVERLAP)
    read = {name for node in result.graph.node for name in node.input}
    assert {name for node in result.graph.node for name in node.output} <= read | {"y"}


@pytest.mark.parametrize("action", [SPLIT, DENSE, PHASES, SLICE, FOLD, FLAT])
@pytest.mark.parametrize("bias", [True, False])
def test_one_and_three_axes(action: str, bias: bool, tmp_path) -> None:
    one = {"group": 2, "strides": [8], "pads": [3, 2], "output_padding": [3]}
    same(deconv(4, 6, [16], bias=bias, size=["H"], **one), action, tmp_path)
    if action != FLAT:
        three = {"group": 2, "strides": [2, 3, 1], "pads": [1, 0, 0, 0, 1, 0], "output_padding": [1, 1, 0]}
        same(deconv(4, 6, [3, 4, 2], bias=bias, **three), action, tmp_path)


@pytest.mark.parametrize("action", [DENSE, PHASES, SLICE, PAD])
@pytest.mark.parametrize(
    "attributes",
    [
        {"dilations": [2, 3], "pads": [1, 0, 2, 1]},
        {"auto_pad": "SAME_UPPER"},
        {"auto_pad": "SAME_LOWER"},
        {"output_shape": [12, 9]},
        {"output_shape": [11, 10], "output_padding": [1, 1]},
    ],
)
def test_dilations_and_paddings_that_must_be_computed(
    action: str, attributes: dict[str, Any], tmp_path
) -> None:
    model = deconv(4, 6, [3, 3], group=2, strides=[2, 2], **attributes)
    same(model, action, tmp_path)


def test_what_runtimes_disagree_about_is_refused(tmp_path) -> None:
    model = deconv(4, 6, [3, 3], strides=[2, 2], auto_pad="SAME_UPPER", output_padding=[1, 0])
    assert "runtimes disagree" in record(mend(model, SLICE, tmp_path)[1]).reason
    model = deconv(4, 6, [1, 1], strides=[2, 2], auto_pad="SAME_UPPER")
    assert "runtimes disagree" in record(mend(model, SLICE, tmp_path)[1]).reason


def test_valid_padding_is_none(tmp_path) -> None:
    same(deconv(4, 6, [3, 3], strides=[2, 2], auto_pad="VALID"), PHASES, tmp_path)


def test_unequal_strides_need_one_known_size(tmp_path) -> None:
    options = {"strides": [2, 3], "pads": [0, 1, 1, 0]}
    assert "Transpose" in ops(same(deconv(2, 3, [3, 4], size=["H", 5], **options), PHASES, tmp_path))
    _, found = mend(deconv(2, 3, [3, 4], size=["H", "W"], **options), PHASES, tmp_path)
    assert "several sizes of its input are open" in record(found).reason


def test_kernel_is_stride_becomes_one_conv_of_one_by_one(tmp_path) -> None:
    result = same(deconv(8, 4, [2, 2], size=["H", "W"], strides=[2, 2]), NO_OVERLAP, tmp_path)
    assert ops(result) == ["Conv", "DepthToSpace"]
    assert [list(tensor.dims) for tensor in result.graph.initializer] == [[16, 8, 1, 1], [16]]


def test_output_padding_within_the_end_pads_costs_no_weight(tmp_path) -> None:
    model = deconv(4, 6, [3, 3], strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1])
    result = same(model, FOLD, tmp_path)
    assert ops(result) == ["ConvTranspose"]
    assert [list(tensor.dims) for tensor in result.graph.initializer] == [[4, 6, 3, 3], [6]]


@pytest.mark.parametrize("multiple", [4, 8, 16, 32])
def test_padded_channels_are_multiples(multiple: int, tmp_path) -> None:
    model = deconv(6, 10, [3, 3], group=2, strides=[2, 2])
    result = same(model, f"{{name: deconv-pad-channels, multiple: {multiple}}}", tmp_path)
    weights = next(tensor for tensor in result.graph.initializer if len(tensor.dims) == 4)
    assert list(weights.dims[:2]) == [2 * multiple, -(-5 // multiple) * multiple]
    one_group = same(deconv(6, 10, [3, 3], strides=[2, 2]), PAD, tmp_path)
    assert ops(one_group) == ["Pad", "ConvTranspose", "Slice"]


def depthwise(kernel: np.ndarray, dense: bool = False, channels: int = 4) -> np.ndarray:
    weights = np.broadcast_to(kernel, (channels, 1, *kernel.shape))
    return block_diagonal(np.ascontiguousarray(weights), channels) if dense else weights


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_ones_are_nearest(dense: bool, bias: bool, tmp_path) -> None:
    group = 1 if dense else 4
    weights = depthwise(np.ones((3, 3)), dense)
    model = deconv(4, 4, [3, 3], weights=weights, bias=bias, size=["H", "W"], group=group, strides=[3, 3])
    assert ops(same(model, RESIZE, tmp_path)) == ["Resize", "Add"] if bias else ["Resize"]


@pytest.mark.parametrize("stride", [2, 4, 8])
@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("opset", [11, 13])
def test_a_tent_is_linear_interpolation_up_to_the_borders(
    stride: int, even: bool, opset: int, tmp_path
) -> None:
    size = 2 * stride - (not even)
    weights = depthwise(np.outer(tent(size, stride), tent(size, stride)))
    for pads in ([0] * 4, [stride // 2] * 4, [1, 0, stride, 1]):
        model = deconv(
            4, 4, [size] * 2, weights=weights, group=4, strides=[stride] * 2, pads=pads, opset=opset
        )
        result, found = mend(model, RESIZE, tmp_path)
        assert record(found).status == "applied", record(found).reason
        assert [op for op in ops(result) if op != "Add"] == ["Pad", "Resize", "Slice"]
        np.testing.assert_allclose(
            run(result, sample(model)), run(model, sample(model)), rtol=1e-6, atol=1e-5
        )


@pytest.mark.parametrize(
    ("kernel", "stride", "attributes", "reason"),
    [
        (np.outer(tent(5, 3), tent(5, 3)), 3, {}, "powers of two"),
        (np.outer(tent(4, 2), tent(4, 2)) * 1.01, 2, {}, "neither all ones nor linear"),
        (np.outer(tent(4, 2), tent(4, 2)), 2, {"output_padding": [1, 1]}, "beyond the border"),
        (np.ones((2, 2)), 2, {"pads": [1, 0, 0, 0]}, "neither all ones nor linear"),
    ],
)
def test_what_no_resize_can_say_is_refused(kernel, stride, attributes, reason, tmp_path) -> None:
    size = list(kernel.shape)
    model = deconv(4, 4, size, weights=depthwise(kernel), group=4, strides=[stride] * 2, **attributes)
    result, found = mend(model, RESIZE, tmp_path)
    assert reason in record(found).reason
    assert result == model


def test_mixed_channels_are_no_upsampling(tmp_path) -> None:
    _, found = mend(deconv(4, 4, [2, 2], strides=[2, 2]), RESIZE, tmp_path)
    assert "no upsampling of each channel" in record(found).reason


@pytest.mark.parametrize("action", ALL)
def test_weights_that_are_computed_are_left_alone(action: str, tmp_path) -> None:
    model = deconv(4, 6, [2, 2], group=2, strides=[2, 2], pads=[1, 0, 0, 0])
    model.graph.initializer[0].name = "w0"
    model.graph.node.insert(0, helper.make_node("Relu", ["w0"], ["w"]))
    result, found = mend(model, action, tmp_path)
    assert record(found).reason == "its weights are computed while the model runs"
    assert result == model


def test_a_parameter_that_is_none_is_an_error_of_the_file(tmp_path) -> None:
    from onnx_fp16fix.errors import RuleFileError

    for action in ("{name: deconv-pad-channels, multiple: 7}", "{name: deconv-for-target, issue: nonsense}"):
        with pytest.raises(RuleFileError, match="RULE-ACTION"):
            mend(deconv(4, 4, [2, 2]), action, tmp_path)


def test_two_nodes_with_the_same_weights_share_the_new_ones(tmp_path) -> None:
    model = deconv(4, 4, [2, 2], group=2, strides=[2, 2])
    twin = onnx.NodeProto()
    twin.CopyFrom(model.graph.node[0])
    twin.output[0], twin.name, model.graph.node[0].output[0] = "y", "up2", "first"
    twin.input[0] = "first"
    model.graph.node.append(twin)
    result = same_chain(model, tmp_path)
    assert len(result.graph.initializer) == 2


def same_chain(model: onnx.ModelProto, folder: Any) -> onnx.ModelProto:
    result, found = mend(model, DENSE, folder)
    assert [entry.status for entry in found.records] == ["applied"] * 2
    np.testing.assert_array_equal(run(result, sample(model)), run(model, sample(model)))
    return result


def test_inside_a_body(tmp_path) -> None:
    inner = deconv(4, 6, [3, 3], group=2, strides=[2, 2]).graph
    branch = helper.make_graph(
        inner.node, "then", [], [helper.make_empty_tensor_value_info("y")], inner.initializer
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["z"], ["y2"])], "else", [], [helper.make_empty_tensor_value_info("y2")]
    )
    outer = helper.make_graph(
        [
            helper.make_node("ConvTranspose", ["x", "w0"], ["z"], strides=[2, 2]),
            helper.make_node("If", ["c"], ["out"], then_branch=branch, else_branch=other),
        ],
        "g",
        [helper.make_tensor_value_info("x", 1, [1, 4, 5, 5])],
        [helper.make_tensor_value_info("out", 1, [None] * 4)],
        [
            numpy_helper.from_array(np.ones((4, 6, 3, 3), np.float32), "w0"),
            numpy_helper.from_array(np.array(True), "c"),
        ],
    )
    model = helper.make_model(outer, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    same_in_body = mend(model, DENSE, tmp_path)[0]
    body = next(a.g for a in same_in_body.graph.node[1].attribute if a.name == "then_branch")
    assert [a.i for a in body.node[0].attribute if a.name == "group"] == [1]
    np.testing.assert_array_equal(run(same_in_body, sample(model)), run(model, sample(model)))


def test_inside_a_function(tmp_path) -> None:
    model = deconv(4, 6, [3, 3], group=2, strides=[2, 2], as_node=True)
    body = helper.make_function("own", "Up", ["x"], ["y"], model.graph.node, [helper.make_opsetid("", 17)])
    del model.graph.node[:]
    model.graph.node.append(helper.make_node("Up", ["x"], ["y"], domain="own"))
    model.functions.append(body)
    model.opset_import.append(helper.make_opsetid("own", 1))
    result = same(model, SPLIT, tmp_path)
    assert [node.op_type for node in result.functions[0].node].count("ConvTranspose") == 2


def test_weight_arithmetic_in_numpy() -> None:
    """The formulas by themselves: a direct transposed convolution in integers."""
    rng = np.random.default_rng(1)
    weights, x = rng.integers(-9, 9, (4, 3, 5)), rng.integers(-9, 9, (4, 7))
    full = np.zeros((6, 6 * 2 + 5), int)
    for i, o, n, t in np.ndindex(4, 3, 7, 5):
        full[(i // 2) * 3 + o, n * 2 + t] += x[i, n] * weights[i, o, t]
    dense = block_diagonal(weights, 2)
    again = np.einsum("in,iot->ont", x, dense)
    assert (sum_at(again, 2) == full).all()
    phases = phase_weights(weights, 2, (2,))
    assert phases.shape == (12, 2, 3)
    padded = np.pad(x.reshape(2, 2, 7), [(0, 0), (0, 0), (2, 2)])
    rows = np.stack(
        [[(padded[row // 6, :, q : q + 3] * phases[row]).sum() for q in range(9)] for row in range(12)]
    )
    assert (rows.reshape(6, 2, 9).transpose(0, 2, 1).reshape(6, 18)[:, :17] == full).all()
    assert zero_inserted(weights, [3]).shape == (4, 3, 13)
    assert (zero_inserted(weights, [3])[..., ::3] == weights).all()


def sum_at(parts: np.ndarray, stride: int) -> np.ndarray:
    """[o, n, t] summed at n * stride + t."""
    total = np.zeros((parts.shape[0], (parts.shape[1] - 1) * stride + parts.shape[2]), parts.dtype)
    for n, t in np.ndindex(*parts.shape[1:]):
        total[:, n * stride + t] += parts[:, n, t]
    return total


def test_the_view_keeps_what_it_was(tmp_path) -> None:
    model = deconv(4, 6, [3, 3], group=2, strides=[2, 2])
    before = model.SerializeToString()
    mend(model, SPLIT, tmp_path)
    assert model.SerializeToString() == before
    assert patched(model, mend(model, FLAT, tmp_path)[1]) == model
    assert view(model).main.nodes[0].op == "ConvTranspose"
