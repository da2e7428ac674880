"""kernel_fusion: elementwise chains as they are and compiled, and what the instruction makes of the built-in networks.

    python benchmarks/kernel_fusion.py [--quick]

Chains of a bias, an activation and a shortcut on tensors from 4 KiB to 16 MiB take turns with themselves compiled.
Then the instruction is given each network, untrained, with batch-norm statistics of random images: the forms are
raced at 1 and 32 rows, and the one that it takes is named, with its time over the model's as it came. Results:
`benchmarks/results/kernel_fusion.json`.
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


def gelu_scale(x: Tensor, bias: Tensor, shortcut: Tensor) -> Tensor:
    """What follows a product in a feed-forward net, with a gate."""
    return torch.nn.functional.gelu(x + bias) * torch.sigmoid(shortcut)


def chains(rounds: int) -> list[dict[str, Any]]:
    """Eager time over compiled time by chain and size."""
    found = []
    for chain in (silu_shortcut, gelu_scale):
        for exponent in (10, 14, 18, 22):
            x, shortcut, bias = (
                torch.randn(2**exponent // 64, 64),
                torch.randn(2**exponent // 64, 64),
                torch.randn(64),
            )
            compiled = torch.compile(chain, dynamic=False)
            assert torch.allclose(compiled(x, bias, shortcut), chain(x, bias, shortcut), atol=1e-5)
            times = in_turns(
                {
                    "eager": partial(chain, x, bias, shortcut),
                    "compiled": partial(compiled, x, bias, shortcut),
                },
                rounds,
            )
            one = {
                "chain": chain.__name__,
                "elements": 2**exponent,
                "faster": times["eager"] / times["compiled"],
                "eager_us": 1e6 * times["eager"],
            }
            print(one, flush=True)
            found.append(one)
    return found


def candidate(name: str, folder: Path) -> Candidate:
    """A network with statistics of random inputs, and rows to judge it by."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    targets = np.arange(64) % 10
    if name == "mlp":
        inputs = random.random((64, 30), dtype=np.float32)
        model: nn.Module = Mlp(30, 10)
        rows = Examples(inputs, targets)
        data = Data(name, "tensor", "classification", rows, rows, rows, (), TensorEncoder((30,)))
        return Candidate(name, model.eval(), data, folder)
    images = random.integers(0, 255, (64, 3, 32, 32), dtype=np.uint8)
    model = ResidualNet(3, 10) if name == "residual_net" else MobileNet(3, 10)
    with torch.no_grad():
        model.train()(torch.from_numpy(images).float() / 255)
    rows = Examples(images, targets)
    data = Data(name, "image", "classification", rows, rows, rows, (), ImageEncoder(3, 32, 32))
    return Candidate(name, model.eval(), data, folder)


def instruction(name: str, looks: tuple[int, ...]) -> dict[str, Any]:
    """What the instruction takes for one network, and its time over that of the network as it came, in a new race."""
    with tempfile.TemporaryDirectory() as folder:
        before = candidate(name, Path(folder))
        after = KernelFusion().optimise(before)
        ratios = {}
        for rows in (1, 32):
            inputs = before.example(rows)
            engines = {"plain": PyTorchEngine(before.module), "taken": after._engine}
            timed = fastest(engines, inputs, looks=looks)
            ratios[str(rows)] = timed["taken"].latency.estimate / timed["plain"].latency.estimate
        found = {"network": name, "time_ratio_by_rows": ratios, "notes": list(after.notes)}
        print(found, flush=True)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and no mobile net")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    names = ("mlp", "residual_net") if options.quick else ("mlp", "residual_net", "mobile_net")
    result = {
        "machine": describe(),
        "chains": chains(9 if options.quick else 31),
        "instruction": [instruction(name, (15,) if options.quick else (15, 30)) for name in names],
    }
    print(write_result("kernel_fusion", result))


if __name__ == "__main__":
    main()
