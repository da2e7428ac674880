"""kernel_fusion: elementwise chains as they are and compiled, and what the instruction makes of the built-in networks.

    python benchmarks/kernel_fusion.py [--quick] [--device cuda]

Chains of a bias, an activation and a shortcut on tensors from 4 KiB to 16 MiB (on a GPU to 256 MiB) take turns with
themselves compiled, and on a GPU with the Triton kernel of the same steps. Then the instruction is given each network,
untrained, with batch-norm statistics of random images: the forms are raced at 1 and 32 rows, and the one that it takes
is named, with its time over the model's as it came. Results: `benchmarks/results/kernel_fusion.json`, of a GPU
`kernel_fusion-gpu.json`.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe, write_result
from torch import Tensor, nn

from fulldeck.candidate import Candidate
from fulldeck.data import Data, Examples
from fulldeck.encoders.image import ImageEncoder
from fulldeck.encoders.tensor import TensorEncoder
from fulldeck.engines.choice import fastest
from fulldeck.engines.pytorch import PyTorchEngine
from fulldeck.instructions.inference.kernel_fusion import KernelFusion
from fulldeck.instructions.inference.kernel_fusion.regions import in_turns
from fulldeck.networks.mlp import Mlp
from fulldeck.networks.mobile_net import MobileNet
from fulldeck.networks.residual_net import ResidualNet


def silu_shortcut(x: Tensor, bias: Tensor, shortcut: Tensor) -> Tensor:
    """What follows a convolution in a residual block, with SiLU."""
    return torch.nn.functional.silu(x + bias) + shortcut


def gelu_gate(x: Tensor, bias: Tensor, gate: Tensor) -> Tensor:
    """What follows a product in a gated feed-forward net."""
    return torch.nn.functional.gelu(x + bias) * gate


STEPS = {
    silu_shortcut: ["add_first", "silu", "add_second"],
    gelu_gate: ["add_first", "gelu", "mul_second"],
}
"""The same in the words of the Triton kernel."""


def chains(rounds: int, device: torch.device) -> dict[str, Any]:
    """Eager time over that of each way of fusing, by chain and size."""
    found: dict[str, Any] = {}
    for chain, steps in STEPS.items():
        for exponent in (10, 14, 18, 22) if device.type == "cpu" else (14, 18, 22, 26):
            rows = 2**exponent // 64
            x, second = torch.randn(rows, 64, device=device), torch.randn(rows, 64, device=device)
            bias = torch.randn(64, device=device)
            ways = {
                "eager": partial(chain, x, bias, second),
                "compiled": partial(torch.compile(chain, dynamic=False), x, bias, second),
            }
            if device.type != "cpu":
                from fulldeck.instructions.inference.kernel_fusion.triton_kernels import pointwise_chain

                ways["triton"] = partial(pointwise_chain, x, steps, bias, second)
            for way in ways.values():
                assert torch.allclose(way(), ways["eager"](), atol=1e-5)
            times = in_turns(ways, rounds)
            name = f"{chain.__name__} of {2**exponent:,} elements"
            found[name] = {
                "faster": {way: times["eager"] / times[way] for way in ways if way != "eager"},
                "eager_us": 1e6 * times["eager"],
            }
            print(name, found[name], flush=True)
    return found


def candidate(name: str, folder: Path, device: torch.device) -> Candidate:
    """A network with statistics of random inputs, and rows to judge it by."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    targets = np.arange(64) % 10
    if name == "mlp":
        inputs = random.random((64, 30), dtype=np.float32)
        model: nn.Module = Mlp(30, 10)
        rows = Examples(inputs, targets)
        data = Data(name, "tensor", "classification", rows, rows, rows, (), TensorEncoder((30,)))
        return Candidate(name, model.eval().to(device), data, folder)
    images = random.integers(0, 255, (64, 3, 32, 32), dtype=np.uint8)
    model = ResidualNet(3, 10) if name == "residual_net" else MobileNet(3, 10)
    with torch.no_grad():
        model.train()(torch.from_numpy(images).float() / 255)
    rows = Examples(images, targets)
    data = Data(name, "image", "classification", rows, rows, rows, (), ImageEncoder(3, 32, 32))
    return Candidate(name, model.eval().to(device), data, folder)


def instruction(name: str, looks: tuple[int, ...], device: torch.device) -> dict[str, Any]:
    """What the instruction takes for one network, and its time over that of the network as it came, in a new race."""
    with tempfile.TemporaryDirectory() as folder:
        before = candidate(name, Path(folder), device)
        after = KernelFusion().optimise(before)
        ratios: dict[str, float] = {}
        for rows in (1, 32):
            inputs = before.example(rows)
            engines = {"plain": PyTorchEngine(before.module), "taken": after._engine}
            timed = fastest(engines, inputs, looks=looks)
            ratios[f"time_ratio_at_{rows}_rows"] = (
                timed["taken"].latency.estimate / timed["plain"].latency.estimate
            )
        found = {**ratios, "notes": list(after.notes)}
        print(name, found, flush=True)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and no mobile net")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    names = ("mlp", "residual_net") if options.quick else ("mlp", "residual_net", "mobile_net")
    result = {
        "machine": describe(),
        "chains": chains(9 if options.quick else 31, options.device),
        "instruction": {
            name: instruction(name, (15,) if options.quick else (15, 30), options.device) for name in names
        },
    }
    print(write_result("kernel_fusion" if options.device.type == "cpu" else "kernel_fusion-gpu", result))


if __name__ == "__main__":
    main()
