"""Engines on a GPU: eager, torch.compile, fulldeck's compiled torch and TensorRT (where it is installed), in turns.

    PYTHONPATH=src python benchmarks/gpu/inference.py [--out inference.json] [--seconds 480]
    PYTHONPATH=src python benchmarks/gpu/inference.py --device cpu --tiny

ResNet-50 and a transformer of BERT-base's size (length 128) with random weights, batch 1, 8 and 64: latency from
NumPy arrays to NumPy arrays, and numerical parity with fp32. Needs torch and NumPy, and TensorRT if it is to be an
arm. The result is JSON, written after every case; no case is begun after --seconds.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fulldeck.engines import why_not
from fulldeck.engines.pytorch import PyTorchEngine, in_precision
from fulldeck.engines.shapes import shapes_of
from fulldeck.engines.source import Settings, Source
from fulldeck.networks import build
from fulldeck.parity import parity

MODELS = ("bert-base-like", "resnet-50")
BATCHES = (1, 8, 64)
ROUNDS, SHARE_SECONDS = 15, 0.05
GOAL = 0.95
"""Of TensorRT's speed."""


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1, added to the input (He et al. 2015, arXiv:1512.03385)."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        after = 4 * width
        self.body = nn.Sequential(
            *(nn.Conv2d(before, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.Conv2d(width, after, 1, bias=False), nn.BatchNorm2d(after)),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class ResNet50(nn.Module):
    """The usual one; `depths` and `width` make it smaller."""

    def __init__(self, depths: tuple[int, ...] = (3, 4, 6, 3), width: int = 64, outputs: int = 1000) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        blocks, before = [], width
        for stage, depth in enumerate(depths):
            for block in range(depth):
                blocks.append(Bottleneck(before, width << stage, 2 if stage and not block else 1))
                before = 4 * (width << stage)
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(before, outputs)

    def forward(self, input: Tensor) -> Tensor:
        result: Tensor = self.head(self.blocks(self.stem(input)).mean(dim=(2, 3)))
        return result


def model_of(name: str, tiny: bool) -> tuple[nn.Module, dict[str, Any]]:
    """The module with random weights, and 64 rows of its input."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    if name == "resnet-50":
        side = 32 if tiny else 224
        module: nn.Module = ResNet50((1, 1), 8, 10) if tiny else ResNet50()
        return module.eval(), {"input": rng.normal(size=(64, 3, side, side)).astype(np.float32)}
    sizes = {"width": 32, "layers": 1, "heads": 2} if tiny else {"width": 768, "layers": 12, "heads": 12}
    arguments = {"vocabulary": 30_522, "length": 16 if tiny else 128, "outputs": 8, **sizes}
    module = build({"network": "text_transformer", "arguments": arguments})
    return module.eval(), {"input": rng.integers(1, 30_000, (64, arguments["length"]), dtype=np.int64)}


def arms_of(
    module: nn.Module, rows: dict[str, Any], folder: Path, device: torch.device
) -> dict[str, Callable[[], Callable[[Mapping[str, Any]], Any]]]:
    """Each arm's name to what prepares it."""
    module = module.to(device)
    example = {key: value[:8] for key, value in rows.items()}
    source = Source(example, shapes_of(example, ["1:8:64"]), {"fp32": module})

    def engine(loaded: Any) -> Callable[[Mapping[str, Any]], Any]:
        return lambda inputs: next(iter(loaded.run(inputs).values()))

    def eager(precision: str) -> Callable[[], Any]:
        return lambda: engine(PyTorchEngine(in_precision(module, precision)))

    def compiled(precision: str, mode: str | None) -> Callable[[], Any]:
        return lambda: engine(
            PyTorchEngine(Called(torch.compile(in_precision(module, precision), mode=mode)))
        )

    def ahead(precision: str) -> Callable[[], Any]:
        def make() -> Any:
            from fulldeck.engines import torch_compiled

            path = torch_compiled.convert(source, precision, folder, Settings())
            return engine(torch_compiled.load(path, precision=precision, threads=0))

        return make

    def tensorrt() -> Any:
        from fulldeck.engines import tensorrt as trt

        precision = "fp16"
        low = in_precision(module, precision)
        path = folder / "model.fp16.onnx"
        tensors = torch.from_numpy(example["input"]).to(device)
        batch = {0: torch.export.Dim("batch")}
        torch.onnx.export(
            *(low, (tensors,), str(path)),
            input_names=["input"],
            output_names=["output"],
            dynamic_shapes=((batch,),),
            dynamo=True,
            verbose=False,
        )
        typed = Source(example, source.shapes, onnx={precision: path, "fp32": path})
        return engine(
            trt.load(trt.convert(typed, precision, folder, Settings()), precision=precision, threads=0)
        )

    arms: dict[str, Callable[[], Any]] = {
        "torch eager fp32": eager("fp32"),
        "torch eager bf16": eager("bf16"),
        "torch.compile bf16": compiled("bf16", None),
        "fulldeck torch_compiled bf16": ahead("bf16"),
    }
    if device.type == "cuda":
        arms["torch eager fp16"] = eager("fp16")
        arms["torch.compile fp16, max-autotune"] = compiled("fp16", "max-autotune-no-cudagraphs")
        arms["fulldeck torch_compiled fp16"] = ahead("fp16")
        if why_not("tensorrt") is None:
            arms["fulldeck tensorrt fp16"] = tensorrt
    return arms


class Called(nn.Module):
    """What torch.compile returns, with parameters that tell the device."""

    def __init__(self, compiled: Any) -> None:
        super().__init__()
        self.compiled = compiled

    def forward(self, input: Tensor) -> Tensor:
        result: Tensor = self.compiled(input)
        return result


def measure(
    arms: Mapping[str, Callable[[Mapping[str, Any]], Any]], inputs: Mapping[str, Any], rounds: int
) -> Any:
    """Milliseconds of a call, an entry a round, by arm."""
    order, calls = random.Random(0), {}
    for name, arm in arms.items():
        for _ in range(3):
            arm(inputs)
        calls[name] = max(1, min(200, int(SHARE_SECONDS / max(seconds(arm, inputs, 1), 1e-6))))
    times: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name in order.sample(list(arms), len(arms)):
            times[name].append(1000 * seconds(arms[name], inputs, calls[name]))
    return times


def seconds(arm: Callable[[Mapping[str, Any]], Any], inputs: Mapping[str, Any], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        arm(inputs)  # returns arrays of the host, so the device has finished
    return (time.perf_counter() - start) / calls


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("inference.json"))
    parser.add_argument("--seconds", type=float, default=480.0)
    options = parser.parse_args()
    device, started = torch.device(options.device), time.monotonic()
    rounds = 3 if options.tiny else ROUNDS
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "tensorrt": why_not("tensorrt") or "installed",
        "weights": "random",
        "goal": f">= {GOAL} of TensorRT's speed",
        "cases": [],
        "left_out": [],
    }
    for name in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            module, rows = model_of(name, options.tiny)
            ready, failed, build_s = {}, {}, {}
            for label, prepare in arms_of(module, rows, Path(folder), device).items():
                if time.monotonic() - started > options.seconds * (0.5 if name == MODELS[0] else 0.9):
                    failed[label] = "left out: no time was left to compile it"
                    continue
                begun = time.perf_counter()
                try:
                    arm = prepare()
                    arm({key: value[:8] for key, value in rows.items()})
                except Exception as error:  # one arm fewer, with the reason
                    failed[label] = f"{type(error).__name__}: {str(error)[:300]}"
                    continue
                ready[label] = arm
                build_s[label] = round(time.perf_counter() - begun, 1)
                print(f"{name} {label}: ready in {build_s[label]} s", file=sys.stderr, flush=True)
            for batch in BATCHES[:2] if options.tiny else BATCHES:
                if time.monotonic() - started > options.seconds:
                    result["left_out"].append(f"{name} at batch {batch}")
                    continue
                inputs = {key: np.ascontiguousarray(value[:batch]) for key, value in rows.items()}
                expected = ready["torch eager fp32"](inputs)
                times = measure(ready, inputs, rounds)
                result["cases"].append(
                    {
                        "model": name,
                        "batch": batch,
                        "failed": failed,
                        "build_s": build_s,
                        "arms": {
                            label: {"ms": statistics.median(values), "rounds": values}
                            | dict(parity(expected, ready[label](inputs)))
                            for label, values in times.items()
                        },
                    }
                )
                show(result["cases"][-1])
                result["seconds"] = round(time.monotonic() - started, 1)
                options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(options.out)


def show(case: Mapping[str, Any]) -> None:
    print(f"{case['model']} batch {case['batch']}")
    for label, figure in sorted(case["arms"].items(), key=lambda item: item[1]["ms"]):
        print(f"  {label:<36}{figure['ms']:9.3f} ms  cosine {figure['cosine']:.5f}")
    for label, reason in case["failed"].items():
        print(f"  {label}: {reason}")


if __name__ == "__main__":
    main()
