"""What a repaired model takes on a GPU: ONNX Runtime's CUDA provider, beside FP32, plain FP16 and AutoCast.

python -m benchmarks.gpu make DIR [NAME ...]    torch; each model, what fix makes of it, and what others do where
                                                installed: onnxconverter-common (all of it in FP16: wrong, but the
                                                speed to reach) and modelopt (AutoCast)
python -m benchmarks.gpu run DIR                a GPU, onnxruntime-gpu and numpy; milliseconds per call

``make`` needs no GPU. Shapes are dynamic: models are repaired on small inputs and timed on large ones (``SHAPES``).
Files carry no weights: kernels take as long for one number as for another, so ``run`` draws them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, HEADS, LAYERS = 1024, 16, 8
SHAPES: dict[str, tuple[list[int], list[int]]] = {
    "decoder": ([1, 16, WIDTH], [8, 1024, WIDTH]),
    "encoder": ([1, 16, WIDTH], [8, 1024, WIDTH]),
    "vae": ([1, 4, 8, 8], [4, 4, 64, 64]),
}
"""Shape of the sample that repairs a model, and of the input that it is timed on."""
OPSET = 17
SMALL = 1024
"""Bytes up to which a constant stays in the file: scalars, axes and biases decide what can be fused."""


def modules() -> dict[str, Callable[[], Any]]:  # noqa: C901  one small class after the other
    """Models with the overflows that the field meets, in sizes in which arithmetic decides."""
    import torch
    from torch import nn

    class RmsNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(WIDTH) + 0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight

    class Attention(nn.Module):
        def __init__(self, causal: bool) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
            self.causal = causal

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            batch, length, _ = x.shape
            q, k, v = self.qkv(x).reshape(batch, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
            scores = q @ k.transpose(-1, -2) * (WIDTH // HEADS) ** -0.5
            if self.causal:
                scores = scores + torch.full((length, length), -1e9).triu(1)
            mixed = scores.softmax(-1) @ v
            return self.out(mixed.transpose(1, 2).reshape(batch, length, WIDTH))

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.up = (nn.Linear(WIDTH, 3 * WIDTH, bias=False) for _ in range(2))
            self.down = nn.Linear(3 * WIDTH, WIDTH, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.down(nn.functional.silu(self.gate(x)) * self.up(x))

    class Wide(nn.Module):
        """A feed-forward part without gate whose result passes 65504, as in T5."""

        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = (
                nn.Linear(WIDTH, 4 * WIDTH, bias=False),
                nn.Linear(4 * WIDTH, WIDTH, bias=False),
            )
            self.up.weight.data *= 300
            self.down.weight.data *= 300

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.down(torch.relu(self.up(x)))

    class Transformer(nn.Module):
        def __init__(self, inner: Callable[[], nn.Module], causal: bool, gain: float) -> None:
            super().__init__()
            self.enter = nn.Linear(WIDTH, WIDTH, bias=False)
            self.enter.weight.data *= gain
            parts: list[tuple[nn.Module, nn.Module]] = []
            for _ in range(LAYERS):
                parts += [(RmsNorm(), Attention(causal)), (RmsNorm(), inner())]
            self.norms, self.parts = (nn.ModuleList(column) for column in zip(*parts, strict=True))
            self.norm, self.head = RmsNorm(), nn.Linear(WIDTH, WIDTH, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.enter(x)
            for norm, part in zip(self.norms, self.parts, strict=True):
                x = x + part(norm(x))
            return self.head(self.norm(x))

    class Residual(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.norms = nn.ModuleList(nn.GroupNorm(32, channels) for _ in range(2))
            self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x
            for norm, conv in zip(self.norms, self.convs, strict=True):
                y = conv(nn.functional.silu(norm(y)))
            return x + y

    def vae() -> nn.Module:
        """The decoder of an image autoencoder: residuals that pass 65504 between group norms, as in SDXL's."""
        layers: list[nn.Module] = [nn.Conv2d(4, 512, 3, padding=1)]
        for width, narrower in ((512, 512), (512, 256), (256, 128)):
            layers += [
                Residual(width),
                Residual(width),
                nn.Upsample(scale_factor=2.0),
                nn.Conv2d(width, narrower, 3, padding=1),
            ]
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                layer.weight.data *= 40
            if isinstance(layer, Residual):
                layer.convs[1].weight.data *= 1e5
        layers += [Residual(128), nn.GroupNorm(32, 128), nn.SiLU(), nn.Conv2d(128, 3, 3, padding=1)]
        return nn.Sequential(*layers)

    return {
        "decoder": lambda: Transformer(Gated, causal=True, gain=3e3),
        "encoder": lambda: Transformer(Wide, causal=False, gain=1.0),
        "vae": vae,
    }


def make(folder: Path, names: list[str]) -> None:
    """Writes ``NAME.KIND.onnx`` without weights and ``NAME.KIND.json``, what ``run`` draws."""
    import onnx
    import torch

    import onnx_fp16fix

    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        torch.manual_seed(0)
        module, small = modules()[name]().eval(), SHAPES[name][0]
        sample = torch.randn(small)
        source = folder / f"{name}.source.onnx"
        axes = {axis: f"d{axis}" for axis in range(len(small)) if axis != (2 if len(small) == 3 else 1)}
        torch.onnx.export(
            module,
            (sample,),
            str(source),
            dynamo=False,
            opset_version=OPSET,
            input_names=["x"],
            dynamic_axes={"x": axes},
        )
        started = time.process_time()
        outcome = onnx_fp16fix.fix(str(source), {"x": sample.numpy()}, io="fp16")
        chosen = outcome.run.plan
        print(
            f"{name}: {time.process_time() - started:.0f} s CPU, {outcome.run.status}, {chosen}", flush=True
        )
        results = {"fp32": onnx.load(source), "fixed": outcome.model}
        for kind, others in (("plain", plain), ("autocast", autocast)):
            made = others(source, sample.numpy())
            if made is not None:
                results[kind] = made
        for kind, model in results.items():
            strip(model, folder / f"{name}.{kind}.onnx")
        source.unlink()


def plain(source: Path, sample: np.ndarray) -> Any | None:
    """All of it in FP16 by onnxconverter-common, or None where that is not installed."""
    import onnx

    try:
        from onnxconverter_common.float16 import convert_float_to_float16
    except ImportError:
        return None
    return convert_float_to_float16(onnx.load(source))


def autocast(source: Path, sample: np.ndarray) -> Any | None:
    """What AutoCast makes of it on the same sample, or None where modelopt is not installed."""
    import onnx

    data, result = source.with_suffix(".npz"), source.with_suffix(".autocast.onnx")
    np.savez(data, x=sample)
    command = [
        sys.executable,
        "-m",
        "modelopt.onnx.autocast",
        "--onnx_path",
        str(source),
        "--output_path",
        str(result),
    ]
    ended = subprocess.run(
        [*command, "--calibration_data", str(data)], capture_output=True, text=True, check=False
    )
    data.unlink()
    if ended.returncode:
        print("AutoCast:", ended.stderr.strip().splitlines()[-1:])
        return None
    model = onnx.load(result)
    result.unlink()
    return model


def strip(model: Any, path: Path) -> None:
    """Moves large initializers into a file that is not written; lists where in it which type lies."""
    import onnx
    from onnx import TensorProto, numpy_helper

    offset, places = 0, []
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.nbytes <= SMALL or array.dtype.kind != "f":
            continue
        tensor.ClearField("raw_data")
        tensor.ClearField("float_data")
        tensor.ClearField("int32_data")
        del tensor.external_data[:]
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", path.stem + ".bin"), ("offset", offset), ("length", array.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        places.append([offset, array.size, array.dtype.name])
        offset += -(-array.nbytes // 4096) * 4096
    onnx.save(model, path)
    path.with_suffix(".json").write_text(json.dumps(places))


def run(folder: Path) -> None:
    """Times each model of ``folder``: the median of 30 calls on tensors that are on the GPU."""
    import onnxruntime as ort

    ort.preload_dlls()
    rng = np.random.default_rng(0)
    print(f"ONNX Runtime {ort.__version__}; ms per call")
    for path in sorted(folder.glob("*.onnx")):
        name, kind = path.stem.split(".")
        weights = path.with_suffix(".bin")
        with weights.open("wb") as file:
            for offset, size, dtype in json.loads(path.with_suffix(".json").read_text()):
                file.seek(offset)
                file.write((rng.standard_normal(size, np.float32) * 0.02).astype(dtype).tobytes())
        for tf32 in (1, 0) if kind == "fp32" else (1,):
            label = "TF32" if kind == "fp32" and tf32 else kind
            print(f"{name:8} {label:8} {_time(path, SHAPES[name][1], tf32):8.2f}", flush=True)
        weights.unlink()


def _time(path: Path, shape: list[int], tf32: int) -> float:
    import onnxruntime as ort

    session = ort.InferenceSession(str(path), providers=[("CUDAExecutionProvider", {"use_tf32": tf32})])
    source, target = session.get_inputs()[0], session.get_outputs()[0]
    dtype = np.float16 if "float16" in source.type else np.float32
    binding = session.io_binding()
    value = np.random.default_rng(1).standard_normal(shape).astype(dtype)
    binding.bind_ortvalue_input(source.name, ort.OrtValue.ortvalue_from_numpy(value, "cuda", 0))
    binding.bind_output(target.name, "cuda")
    taken = []
    for turn in range(35):
        started = time.perf_counter()
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        if turn >= 5:
            taken.append(time.perf_counter() - started)
    return float(np.median(taken)) * 1e3


if __name__ == "__main__":
    task, place, *chosen = sys.argv[1:]
    if task == "make":
        make(Path(place), chosen or list(SHAPES))
    else:
        run(Path(place))
