"""What kernels keep in FP16 inside: each fact of the table as measured, and nothing of it in other modes."""

import numpy as np
import pytest

from calibrate.small_models import model
from onnx_fp16fix.runtime import open_session
from onnx_fp16fix.simulate import rounded_graph
from onnx_fp16fix.simulate.kernels import KERNELS, MODES, kernels_of


def run(proto, mode, **feeds):
    wide = {name: np.asarray(value, np.float32) for name, value in feeds.items()}
    return open_session(rounded_graph(proto, assume_fp16=True, mode=mode)).run(wide)["y"]


def half(values):
    return np.asarray(values, np.float32).astype(np.float16).astype(np.float32)


def test_the_table_has_one_entry_per_op_and_target():
    keys = [(kernel.op, kernel.target) for kernel in KERNELS]
    assert len(set(keys)) == len(keys)
    assert all(kernel.inside and kernel.source for kernel in KERNELS)


def test_modes_grow():
    default, cuda, worst = (set(kernels_of(mode)) for mode in ("default", "cuda", "pessimistic"))
    assert default == {"Attention", "ReduceMean", "Softplus"}
    assert default - cuda == {"Attention"}, "the CUDA provider has its scores in FP32"
    assert default < worst
    assert cuda < worst
    assert set(MODES) == {"default", "cuda", "pessimistic"}


def test_a_mean_over_more_elements_than_fp16_counts_is_zero():
    mean = model("g (float[2,n] x) => (float[2] y) { y = ReduceMean<axes = [1], keepdims = 0>(x) }")
    np.testing.assert_array_equal(run(mean, "default", x=np.full((2, 60000), 0.5)), [0.5, 0.5])
    np.testing.assert_array_equal(run(mean, "default", x=np.full((2, 70000), 0.5)), [0, 0])


def test_softplus_keeps_no_more_than_one_plus_exp_does():
    softplus = model("g (float[n] x) => (float[n] y) { y = Softplus(x) }")
    x = half([-9, -7, 0, 7, 60000])
    expected = [0, np.log(half(1 + np.exp(-7.0))), np.log(2), 7 + np.log(half(1 + np.exp(-7.0))), 60000]
    np.testing.assert_array_equal(run(softplus, "default", x=x), half(expected))


ATTENTION = "g ({0}[1,2,4,8] x{1}) => ({0}[1,2,4,8] y{2}) {{ {3} }}"


def test_scores_of_an_attention_beyond_fp16_are_not_a_number_as_in_onnx_runtime():
    """Its own FP16 kernel for CPUs says the same."""
    plain = "y = Attention(x, x, x)"
    proto = model(ATTENTION.format("float", "", "", plain), opset=23)
    typed = open_session(model(ATTENTION.format("float16", "", "", plain), opset=23))
    wave = np.random.default_rng(0).standard_normal((1, 2, 4, 8))
    for size, finite in ((60, True), (600, False)):
        x = half(wave * size)
        simulated, kernel = run(proto, "default", x=x), typed.run({"x": x})["y"]
        assert np.isfinite(simulated).all() == np.isfinite(kernel).all() == finite
        if finite:
            np.testing.assert_allclose(simulated, kernel, rtol=2**-9, atol=2**-7)


def test_an_attention_with_a_cache_hands_it_on():
    inputs, outputs = ", float[1,2,3,8] k, float[1,2,3,8] v", ", float[1,2,7,8] nk, float[1,2,7,8] nv"
    proto = model(
        ATTENTION.format("float", inputs, outputs, "y, nk, nv = Attention(x, x, x, , k, v)"), opset=23
    )
    rng = np.random.default_rng(0)
    feeds = {"x": half(rng.standard_normal((1, 2, 4, 8)))} | {
        name: half(rng.standard_normal((1, 2, 3, 8))) for name in "kv"
    }
    rounded = open_session(rounded_graph(proto, assume_fp16=True)).run(feeds)
    exact = open_session(proto).run(feeds)
    for name in ("y", "nk", "nv"):
        np.testing.assert_array_equal(rounded[name], half(exact[name]))


NORM = model(
    "g (float[n,2,64] x, float[2] s, float[2] b) => (float[n,2,64] y) { y = InstanceNormalization(x, s, b) }"
)
SPREAD = np.tile(np.array([3000, -3000], np.float32), (2, 2, 32))
SCALE, BIAS = np.array([1, 2]), np.array([0, 0.5])


@pytest.mark.parametrize("mode", ["default", "cuda", "pessimistic"])
def test_a_variance_beyond_fp16_leaves_the_bias_at_batch_two_only(mode):
    expected = SPREAD[:1] / 3000 * SCALE[:, None] + BIAS[:, None]
    np.testing.assert_allclose(run(NORM, mode, x=SPREAD[:1], s=SCALE, b=BIAS), expected, rtol=2**-10)
    two = run(NORM, mode, x=SPREAD, s=SCALE, b=BIAS)
    if mode != "default":
        expected = np.broadcast_to(BIAS[:, None], (2, 64))
    np.testing.assert_allclose(two, np.broadcast_to(expected, (2, 2, 64)), rtol=2**-10)


def test_a_small_variance_changes_nothing_but_rounding():
    x = np.random.default_rng(0).standard_normal((3, 2, 64))
    default, cuda = (run(NORM, mode, x=x, s=SCALE, b=BIAS) for mode in ("default", "cuda"))
    np.testing.assert_allclose(cuda, default, rtol=2**-9, atol=2**-10)


def test_gelu_in_its_tanh_form_is_not_trusted_with_large_inputs():
    proto = model('g (float[n] x) => (float[n] y) { y = Gelu<approximate = "tanh">(x) }', opset=20)
    x = [-60000, -41, -40, 1, 40, 41, 60000]
    default, cuda = (run(proto, mode, x=x) for mode in ("default", "cuda"))
    assert np.isfinite(default).all()
    np.testing.assert_array_equal(np.isnan(cuda), [True, True, False, False, False, True, True])
    np.testing.assert_array_equal(cuda[2:5], default[2:5])
    exact = model("g (float[n] x) => (float[n] y) { y = Gelu(x) }", opset=20)
    np.testing.assert_array_equal(run(exact, "cuda", x=x), run(exact, "default", x=x))


def cumsum(flags="", axis=0, shape="n,m"):
    return model(
        f"g (float[{shape}] x) => (float[{shape}] y) <int64 axis = {{{axis}}}> {{ y = CumSum{flags}(x, axis) }}"
    )


def test_a_running_sum_of_ones_stops_at_2048():
    x = np.ones((3000, 1))
    assert run(cumsum(), "default", x=x)[-1] == 3000
    y = run(cumsum(), "cuda", x=x).reshape(-1)
    np.testing.assert_array_equal(y, np.minimum(np.arange(1, 3001), 2048))


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("shape", [(3, 4), (1, 1), (0, 2)])
def test_running_sums_of_small_integers_are_exact(axis, reverse, exclusive, shape):
    proto = cumsum(f"<reverse: int = {reverse}, exclusive: int = {exclusive}>", axis)
    x = np.arange(np.prod(shape)).reshape(shape)
    np.testing.assert_array_equal(run(proto, "cuda", x=x), run(proto, "default", x=x))


def test_an_axis_that_is_computed_leaves_the_result_rounded():
    proto = model("""g (float[n] x, int64 k) => (float[n] y) { y = CumSum(x, k) }""")
    session = open_session(rounded_graph(proto, assume_fp16=True, mode="pessimistic"))
    assert session.run({"x": np.ones(2049, np.float32), "k": np.array(0)})["y"][-1] == 2048


SUMS = [
    pytest.param("(x, axes)", "<int64[1] axes = {-1}>", 17, id="last axis"),
    pytest.param("(x, axes)", "<int64[2] axes = {1, 0}>", 17, id="two axes"),
    pytest.param("<keepdims: int = 0>(x, axes)", "<int64[2] axes = {-1, -2}>", 17, id="from the end"),
    pytest.param("(x, axes)", "<int64[2] axes = {0, -1}>", 17, id="from both ends"),
    pytest.param("<keepdims: int = 0>(x)", "", 17, id="all"),
    pytest.param("<axes: ints = [0]>(x)", "", 11, id="attribute"),
    pytest.param("<noop_with_empty_axes: int = 1>(x)", "", 17, id="none"),
]


@pytest.mark.parametrize(("text", "initializer", "opset"), SUMS)
def test_sums_that_stay_small_are_the_same_in_every_mode(text, initializer, opset):
    proto = model(f"g (float[2,n,5] x) => (float[] y) {initializer} {{ y = ReduceSum{text} }}", opset=opset)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    x = np.arange(30).reshape(2, 3, 5)
    np.testing.assert_array_equal(run(proto, "pessimistic", x=x), run(proto, "default", x=x))


def test_a_sum_of_nothing_is_zero():
    proto = model("g (float[n,2] x) => (float[m,2] y) <int64[1] axes = {0}> { y = ReduceSum(x, axes) }")
    np.testing.assert_array_equal(run(proto, "pessimistic", x=np.ones((0, 2))), [[0, 0]])


def test_the_rank_of_what_is_summed_may_be_unknown():
    proto = model("""g (float[n] x, float[m] s) => (float[] y) <int64[1] axes = {-1}>
        { to = Cast<to: int = 7>(s)  r = Reshape(x, to)  y = ReduceSum(r, axes) }""")
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    np.testing.assert_array_equal(run(proto, "pessimistic", x=np.arange(6), s=[2, 3]), [[3], [12]])


def test_a_sum_may_stop_growing():
    proto = model("g (float[n] x) => (float[] y) { y = ReduceSum<keepdims: int = 0>(x) }")
    assert run(proto, "cuda", x=np.ones(4096)) == 4096
    assert run(proto, "pessimistic", x=np.ones(4096)) == 2048


def integers(*shape):
    """Products and sums of sixteen of them are exact in FP32, sums of forty need more than FP16's 11 bits."""
    return np.random.default_rng(0).integers(-60, 60, shape).astype(np.float32)


def by_blocks(a, b):
    total = np.zeros((*a.shape[:-1], b.shape[-1]), np.float32)
    for start in range(0, a.shape[-1], 16):
        block = slice(start, start + 16)
        total = half(total + a[..., block] @ b[..., block, :])
    return total


@pytest.mark.parametrize("inner", [1, 16, 40])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_a_matmul_accumulates_in_blocks(inner, batch):
    dims = "".join(f"{size}," for size in batch)
    proto = model(
        f"g (float[{dims}3,{inner}] a, float[{inner},4] b) => (float[{dims}3,4] y) {{ y = MatMul(a, b) }}"
    )
    a, b = integers(*batch, 3, inner), integers(inner, 4)
    np.testing.assert_array_equal(run(proto, "pessimistic", a=a, b=b), by_blocks(a, b))


def test_partial_sums_of_a_matmul_may_overflow():
    proto = model("g (float[2,32] a, float[32] b) => (float[2] y) { y = MatMul(a, b) }")
    a = np.repeat([[60000.0, -60000.0]], 2, 0).repeat(16, 1)
    assert (run(proto, "cuda", a=a, b=np.ones(32)) == 0).all()
    assert not np.isfinite(run(proto, "pessimistic", a=a, b=np.ones(32))).any()


def test_a_gemm_accumulates_in_blocks_and_then_scales():
    proto = model("""g (float[40,3] a, float[4,40] b, float[4] c) => (float[3,4] y)
        { y = Gemm<transA: int = 1, transB: int = 1, alpha: float = 0.5, beta: float = 2.0>(a, b, c) }""")
    a, b, c = integers(40, 3), integers(4, 40), integers(4)
    expected = half(0.5 * by_blocks(a.T, b.T) + 2 * c)
    np.testing.assert_array_equal(run(proto, "pessimistic", a=a, b=b, c=c), expected)


def test_facts_hold_in_bodies_too():
    proto = model("""g (bool c, float[3000] x) => (float[3000] y) <int64 axis = {0}> {
        y = If (c) <then_branch = t () => (float[3000] a) <int64 inner = {0}> { a = CumSum(x, inner) },
                    else_branch = e () => (float[3000] b) { b = Neg(x) }> }""")
    session = open_session(rounded_graph(proto, assume_fp16=True, mode="cuda"))
    assert session.run({"c": np.array(True), "x": np.ones(3000, np.float32)})["y"][-1] == 2048


def rounded_sum(parts):
    total = np.zeros((), np.float32)
    for part in parts:
        total = half(total + part)
    return total


def conv(text, weights, **options):
    """``y = {text}(x, w, b)`` in plain FP32; ``b`` may be left out."""
    names = [f"float[{','.join(map(str, value.shape))}] {name}" for name, value in weights.items()]
    return model(f"g ({', '.join(names)}) => (float[] y) {{ y = {text}({', '.join(weights)}) }}", **options)


def exact(proto, **feeds):
    return open_session(proto).run({name: np.asarray(value, np.float32) for name, value in feeds.items()})[
        "y"
    ]


CONVS = [
    ("Conv", (2, 5, 6, 6), (3, 5, 2, 2), 4, 1),
    (
        "Conv<strides: ints = [2, 1], pads: ints = [1, 1, 0, 2], dilations: ints = [1, 2]>",
        (2, 3, 7, 8),
        (4, 3, 3, 3),
        1,
        1,
    ),
    ("Conv<group: int = 2>", (2, 20, 9), (6, 10, 3), 5, 2),
    ("Conv", (1, 2, 60), (3, 2, 40), 1, 1),
    (
        "ConvTranspose<strides: ints = [2, 2], output_padding: ints = [1, 0]>",
        (2, 12, 3, 4),
        (12, 5, 2, 2),
        4,
        1,
    ),
    ("ConvTranspose<group: int = 2, pads: ints = [1, 1]>", (2, 20, 9), (20, 3, 3), 5, 2),
]


@pytest.mark.parametrize(("text", "x_shape", "w_shape", "together", "groups"), CONVS)
def test_convolutions_accumulate_in_blocks(text, x_shape, w_shape, together, groups):
    x, w = integers(*x_shape), integers(*w_shape)
    bias = integers(w_shape[1] * groups if text.startswith("ConvTranspose") else w_shape[0])
    proto = conv(text, {"x": x, "w": w, "b": bias})
    plain = conv(text, {"x": x, "w": w})
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    plain.graph.output[0].type.tensor_type.ClearField("shape")
    places = int(np.prod(w_shape[2:]))
    parts = []
    # channels of all groups are one after the other: what does not belong to the block is zero
    channel = np.arange(x_shape[1]) % (x_shape[1] // groups)
    for first in range(0, x_shape[1] // groups, together):
        for start in range(0, places, 16):
            mask = (np.arange(places) // 16 == start // 16).reshape(w_shape[2:])
            here = ((channel >= first) & (channel < first + together)).reshape(-1, *[1] * (x.ndim - 2))
            parts.append(exact(plain, x=x * here, w=w * mask))
    expected = half(rounded_sum(parts) + bias.reshape(-1, *[1] * (x.ndim - 2)))
    np.testing.assert_array_equal(run(proto, "pessimistic", x=x, w=w, b=bias), expected)
    np.testing.assert_array_equal(run(proto, "cuda", x=x, w=w, b=bias), half(exact(proto, x=x, w=w, b=bias)))
    assert (run(proto, "pessimistic", x=x, w=w, b=bias) != half(exact(proto, x=x, w=w, b=bias))).any()


def test_partial_sums_of_a_convolution_may_overflow():
    proto = model("g (float[1,32,4] x, float[1,32,1] w) => (float[1,1,4] y) { y = Conv(x, w) }")
    x = np.repeat([60000.0, -60000.0], 16).reshape(1, 32, 1) * np.ones(4)
    assert (run(proto, "cuda", x=x, w=np.ones((1, 32, 1))) == 0).all()
    assert not np.isfinite(run(proto, "pessimistic", x=x, w=np.ones((1, 32, 1)))).any()


EINSUMS = [  # with the axes of the first operand that are summed over, the one cut into sixteens first
    ("bik,bkj->bij", (2, 3, 40), (2, 40, 4), (2,)),
    ("ik,kj", (3, 40), (40, 4), (1,)),
    ("...ck, kj -> ...cj", (2, 3, 40), (40, 4), (2,)),
    ("bhk,bkh->b", (2, 3, 20), (2, 20, 3), (2, 1)),
    ("k...,k->...", (40, 3), (40,), (0,)),
]


@pytest.mark.parametrize(("equation", "a_shape", "b_shape", "axes"), EINSUMS)
def test_einsum_accumulates_in_blocks(equation, a_shape, b_shape, axes):
    a, b = integers(*a_shape), integers(*b_shape)
    proto = conv(f'Einsum<equation: string = "{equation}">', {"a": a, "b": b})
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    blocks = np.zeros(a_shape, int)
    for axis, size in zip(axes, (16, 1), strict=False):
        places = np.arange(a_shape[axis]) // size
        blocks = blocks * (places[-1] + 1) + places.reshape(-1, *[1] * (a.ndim - 1 - axis))
    text = equation.replace(" ", "")
    parts = [np.einsum(text, a * (blocks == block), b) for block in range(blocks.max() + 1)]
    assert len(parts) > 1
    np.testing.assert_array_equal(run(proto, "pessimistic", a=a, b=b), rounded_sum(parts))
    np.testing.assert_array_equal(run(proto, "cuda", a=a, b=b), half(np.einsum(text, a, b)))


@pytest.mark.parametrize("equation", ["ij,ij->ij", "ii,ij->j"])
def test_einsum_without_a_sum_or_along_a_diagonal_is_rounded_at_its_end(equation):
    a, b = integers(4, 4), integers(4, 4)
    proto = conv(f'Einsum<equation: string = "{equation}">', {"a": a, "b": b})
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    np.testing.assert_array_equal(run(proto, "pessimistic", a=a, b=b), half(np.einsum(equation, a, b)))
