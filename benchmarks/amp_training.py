"""Mixed precision: a training step in bfloat16 against float32, its memory, its losses.

    python benchmarks/amp_training.py [--rounds 10] [--models resnet bert] [--threads 2]

A ResNet-18 (224 x 224, batch 16) and a BERT-like encoder (4 layers, 512 wide, length 128, batch 16) on
random data go through fulldeck's TrainingLoop in float32 and with amp_optimizer, as it is and with the
option that suits the model (channels_last; plain attention), and through Accelerate in bfloat16:
interleaved, in one process. The time of a step is taken between two requests for a batch. Memory is the
peak of a fresh process above its level after imports. Parity compares the losses of the same batches.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from machine import describe, write_result
from rounds import interleaved, median, ratio
from torch import Tensor, nn

from fulldeck.instructions.training.amp_optimizer import AmpOptimizer
from fulldeck.training.loop import TrainingLoop

BATCH, CLASSES, VOCABULARY, LENGTH = 16, 10, 30522, 128
TIMED_STEPS, MEMORY_STEPS, PARITY_STEPS = 4, 3, 12
GOALS = {"resnet": 1.9, "bert": 1.4}
LOW_PRECISION_GOAL = 0.92


class Block(nn.Module):
    """The basic residual block (He et al. 2015)."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or width_in != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first_norm(self.first(x)))
        return torch.relu(self.second_norm(self.second(y)) + self.shortcut(x))


def resnet() -> nn.Module:
    """ResNet-18."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    for width_in, width in ((64, 64), (64, 128), (128, 256), (256, 512)):
        layers += [Block(width_in, width, 1 if width == 64 else 2), Block(width, width, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, CLASSES))


class EncoderLayer(nn.Module):
    """A post-norm transformer layer (Devlin et al. 2018)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.attention_norm, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        shape = (batch, length, 3, self.heads, width // self.heads)
        query, key, value = self.mix(x).view(shape).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        mixed = self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        x = self.attention_norm(x + self.dropout(mixed))
        return self.norm(x + self.dropout(self.down(nn.functional.gelu(self.up(x)))))


class Bert(nn.Module):
    """BERT-small: 4 layers, 512 wide, 8 heads, with a classifier on the first token."""

    def __init__(self, width: int = 512, layers: int = 4, heads: int = 8) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(VOCABULARY, width), nn.Embedding(512, width)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.Sequential(*(EncoderLayer(width, heads) for _ in range(layers)))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norm(self.words(tokens) + self.places.weight[: tokens.shape[1]])
        return self.head(self.layers(x)[:, 0])


MODELS: dict[str, Callable[[], nn.Module]] = {"resnet": resnet, "bert": Bert}
TUNED = {"resnet": {"channels_last": True}, "bert": {"attention": "plain"}}
ARMS = ("fp32", "bf16", "bf16_tuned", "accelerate_bf16")


class TimedBatches:
    """`steps` batches out of four; notes the time between two requests."""

    def __init__(self, model: str, steps: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.steps = steps
        self.seconds: list[float] = []
        self.some = []
        for _ in range(4):
            targets = torch.randint(CLASSES, (BATCH,), generator=generator)
            if model == "resnet":
                inputs = torch.randn(BATCH, 3, 224, 224, generator=generator)
            else:
                inputs = torch.randint(VOCABULARY, (BATCH, LENGTH), generator=generator)
            self.some.append((inputs, targets))

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(self.steps):
            start = time.perf_counter()
            yield self.some[step % 4]
            self.seconds.append(time.perf_counter() - start)


def optimizer(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-4, fused=True)


def train(model: str, arm: str, steps: int) -> dict[str, Any]:
    """Seconds and loss of each step, and the share of low-precision FLOPs."""
    torch.manual_seed(0)
    network, batches = MODELS[model](), TimedBatches(model, steps)
    if arm == "accelerate_bf16":
        return {"losses": _with_accelerate(network, batches), "seconds": batches.seconds, "share": None}
    instructions = []
    if arm != "fp32":
        instructions.append(AmpOptimizer(dtype="bfloat16", **(TUNED[model] if arm == "bf16_tuned" else {})))
    loop = TrainingLoop(
        network,
        batches,
        nn.functional.cross_entropy,
        instructions=instructions,
        optimizer=optimizer,
        device="cpu",
    )
    losses: list[float] = []
    loop.on("step_end", lambda batch: losses.append(loop.last_loss.item()))
    loop.fit()
    share = loop.reported.get("amp_optimizer", {}).get("low_precision_flops", {}).get("after")
    return {"losses": losses, "seconds": batches.seconds, "share": share}


def _with_accelerate(network: nn.Module, batches: TimedBatches) -> list[float]:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    network, adam = accelerator.prepare(network, optimizer(network.parameters()))
    network.train()
    losses = []
    for inputs, targets in batches:
        adam.zero_grad()
        loss = nn.functional.cross_entropy(network(inputs), targets)
        accelerator.backward(loss)
        adam.step()
        losses.append(loss.item())
    return losses


def step_seconds(model: str, arm: str) -> float:
    """The fastest step after the first, which warms up and counts FLOPs."""
    return min(train(model, arm, TIMED_STEPS)["seconds"][1:])


def peak_megabytes(model: str, arm: str, threads: int) -> float:
    """Peak memory of a few steps in a fresh process, above its level after the imports."""
    command = [sys.executable, __file__, "--memory", model, arm, "--threads", str(threads)]
    # Without it the C allocator keeps what is freed, and hides the difference.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment).stdout
    return float(json.loads(output.splitlines()[-1]))


def print_memory(model: str, arm: str) -> None:
    if arm == "accelerate_bf16":
        import accelerate  # noqa: F401
    before = psutil.Process().memory_info().rss
    train(model, arm, MEMORY_STEPS)
    # Not ru_maxrss: across fork and exec it keeps the peak of the parent.
    status = Path("/proc/self/status").read_text()
    peak = 1024 * int(status.partition("VmHWM:")[2].split()[0])
    print(json.dumps((peak - before) / 1e6))


def measure(model: str, rounds: int, threads: int) -> dict[str, Any]:
    arms = [arm for arm in ARMS if arm != "accelerate_bf16" or _has_accelerate()]
    seconds = interleaved({arm: partial(step_seconds, model, arm) for arm in arms}, rounds)
    runs = {arm: train(model, arm, PARITY_STEPS) for arm in arms}
    memory = {arm: peak_megabytes(model, arm, threads) for arm in arms}
    result = {}
    for arm in arms:
        last = statistics.mean(runs[arm]["losses"][-4:])
        reference = statistics.mean(runs["fp32"]["losses"][-4:])
        result[arm] = {
            "step_seconds": median(seconds[arm]),
            "speed_up": ratio(seconds["fp32"], seconds[arm]),
            "peak_mb": memory[arm],
            "memory_ratio": memory[arm] / memory["fp32"],
            "low_precision_flops": runs[arm]["share"],
            "last_loss": last,
            "last_loss_minus_fp32": last - reference,
            "raw": {"seconds": seconds[arm], "losses": runs[arm]["losses"]},
        }
    return result


def _has_accelerate() -> bool:
    try:
        import accelerate  # noqa: F401
    except ModuleNotFoundError:
        print("left out: accelerate is not installed (pip install accelerate)")
        return False
    return True


def show(model: str, result: dict[str, Any]) -> None:
    print(f"\n{model} (goal: at least {GOALS[model]}x, at least {LOW_PRECISION_GOAL:.0%} of FLOPs)")
    print(
        f"{'arm':<18}{'s/step':>8}{'speed-up':>10}{'(95 %)':>16}{'MB':>7}{'x':>6}{'FLOPs':>8}{'last loss':>11}"
    )
    for arm, figures in result.items():
        low, high = figures["speed_up"]["interval"]
        share = figures["low_precision_flops"]
        print(
            f"{arm:<18}{figures['step_seconds']['median']:>8.3f}{figures['speed_up']['median']:>10.2f}"
            f"{f'({low:.2f} to {high:.2f})':>16}{figures['peak_mb']:>7.0f}{figures['memory_ratio']:>6.2f}"
            f"{'' if share is None else f'{share:.1%}':>8}{figures['last_loss']:>11.4f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", nargs=2, metavar=("MODEL", "ARM"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.memory:
        print_memory(*chosen.memory)
        return
    result: dict[str, Any] = {"machine": describe(), "rounds": chosen.rounds, "models": {}}
    for model in chosen.models:
        result["models"][model] = measure(model, chosen.rounds, chosen.threads)
        show(model, result["models"][model])
    result["load_after"] = describe()["load"]
    print(write_result("amp_training", result))


if __name__ == "__main__":
    main()
