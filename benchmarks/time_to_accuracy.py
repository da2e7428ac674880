"""Time to an accuracy: a plain PyTorch script, Lightning and fulldeck's fastest recipe train the same net.

    python benchmarks/time_to_accuracy.py --data DIR [--tasks fashion_mnist cifar10] [--rounds 3] [--add]

DIR holds `fashion_mnist.npz` and `cifar10.parquet` (a JPEG copy: do not compare with published figures). The net is
that of the workload `images`. The clock runs from the decoded images to the first look at the test images that
finds the target, looks not counted; every arm looks after the same numbers of images, first after 19,200. Figures are
wall time and CPU time, which others on the machine change less, as long as there is one thread.

- plain: Adam at 1e-3, batches of 128 from a DataLoader, float32: what a first script has.
- plain, AdamW: the same with AdamW at the rate and decay that are the defaults of the workload `images`. Neither
  script has a schedule: that is what the recipe adds.
- lightning: plain, in Lightning's Trainer, without logging, progress bar and checkpoints.
- fulldeck: `recipes/fast_images.yaml`, of which only the data and the length (`train.max_steps`) differ.

Rounds are interleaved; a round has a seed of its own in all arms. The recipe was chosen on a part of the training
images and with another seed. Each task has a result of its own; --add goes on with the rounds that it has, --seconds
ends it early.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import random
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from machine import RESULTS, describe, write_result
from pictures import Batches, Pictures, accuracy, read_pictures
from rounds import median, ratio
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from fulldeck.recipe.reader import read_recipe
from fulldeck.training.loop import TrainingLoop
from fulldeck.workloads.images import Images

RECIPE = Path(__file__).parents[1] / "recipes" / "fast_images.yaml"
TASKS: dict[str, dict[str, Any]] = {
    "fashion_mnist": {"target": 0.90, "look_every": 4_800, "images": 43_200, "stem_stride": 2},
    "cifar10": {"target": 0.65, "look_every": 4_800, "images": 28_800, "stem_stride": 2},
}
"""Accuracy, images between two looks, and how many the recipe's whole schedule takes."""
FIGURES = ("seconds", "cpu_seconds", "images")
GOAL = "at least 4 times as fast as the plain script"
BATCH, MOST_EPOCHS, FIRST_LOOK = 128, 12, 19_200
FIRST_SEED = 0


class Clock:
    """Seconds of training; looks at the test images stop it, until one finds the target."""

    def __init__(self, task: str, pictures: Pictures) -> None:
        self.target, self.every = TASKS[task]["target"], TASKS[task]["look_every"]
        self.test = pictures.test
        self.images, self.next_look = 0, FIRST_LOOK
        self.wall = self.cpu = 0.0
        self.curve: list[tuple[int, float]] = []
        self.since = now()

    def looks_after(self, images: int) -> bool:
        """Whether the look is due when so many more have been trained on."""
        return self.images + images >= self.next_look

    def count(self, images: int, model: nn.Module) -> bool:
        """So many more have been trained on. Whether the target is reached."""
        due = self.looks_after(images)
        self.images += images
        if not due:
            return False
        self.next_look += self.every
        (wall, cpu), since = now(), self.since
        self.wall, self.cpu = self.wall + wall - since[0], self.cpu + cpu - since[1]
        training = model.training
        found = accuracy(model.eval(), self.test)
        model.train(training)
        self.curve.append((self.images, found))
        self.since = now()
        return found >= self.target

    def result(self, reached: bool) -> dict[str, Any]:
        """Seconds to the target, or None."""
        return {
            "seconds": self.wall if reached else None,
            "cpu_seconds": self.cpu if reached else None,
            "images": self.images,
            "curve": self.curve,
        }


def now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def loader(pictures: Pictures, seed: int) -> DataLoader[tuple[Tensor, ...]]:
    images, labels = pictures.train
    return DataLoader(
        TensorDataset(images.float() / 255, labels),
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
        generator=torch.Generator().manual_seed(seed),
    )


def net(task: str, pictures: Pictures, seed: int) -> nn.Module:
    return pictures.net(seed, stem_stride=TASKS[task]["stem_stride"])


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-3)


def plain(task: str, pictures: Pictures, seed: int, build: Callable[..., Any] = adam) -> dict[str, Any]:
    clock, model = Clock(task, pictures), net(task, pictures, seed)
    optimizer, batches = build(model.parameters()), loader(pictures, seed)
    model.train()
    for _ in range(MOST_EPOCHS):
        for inputs, targets in batches:
            optimizer.zero_grad()
            cross_entropy(model(inputs), targets).backward()
            optimizer.step()
            if clock.count(len(targets), model):
                return clock.result(True)
    return clock.result(False)


def plain_adamw(task: str, pictures: Pictures, seed: int) -> dict[str, Any]:
    def adamw(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        defaults = Images.defaults
        return torch.optim.AdamW(
            parameters, lr=defaults.learning_rate, weight_decay=defaults.weight_decay, fused=True
        )

    return plain(task, pictures, seed, adamw)


def lightning(task: str, pictures: Pictures, seed: int) -> dict[str, Any]:
    import lightning.pytorch as lightning

    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    reached: list[bool] = []

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net(task, pictures, seed)

        def training_step(self, batch: Any, number: int) -> Tensor:
            return cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return adam(self.parameters())

    class Looks(lightning.Callback):
        def on_train_batch_end(
            self, trainer: Any, module: Any, outputs: Any, batch: Any, number: int
        ) -> None:
            if clock.count(len(batch[1]), module.net):
                reached.append(True)
                trainer.should_stop = True

    clock = Clock(task, pictures)
    trainer = lightning.Trainer(
        max_epochs=MOST_EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Looks()],
    )
    trainer.fit(Module(), loader(pictures, seed))
    return clock.result(bool(reached))


def fulldeck(task: str, pictures: Pictures, seed: int) -> dict[str, Any]:
    """The recipe's training, on the same images."""
    recipe = read_recipe(RECIPE)
    settings = recipe.resolved()["train"]
    steps = TASKS[task]["images"] // settings["batch_size"]
    clock, reached = Clock(task, pictures), []
    loop = TrainingLoop(
        net(task, pictures, seed),
        Batches(pictures.train, settings["batch_size"], seed),
        cross_entropy,
        epochs=MOST_EPOCHS,
        max_steps=steps,
        optimizer=recipe.workload.optimizer(settings["learning_rate"], settings["weight_decay"]),
        device="cpu",
        seed=seed,
    )
    from fulldeck.instruction import Situation
    from fulldeck.planner import make_plan

    for label, one in make_plan(recipe, Situation("image", "classification", "cpu")).acting.items():
        if "attach" in one.doors():
            loop.attach(one, label)

    def look(batch: Any) -> None:
        if not clock.looks_after(len(batch.targets)):
            clock.count(len(batch.targets), loop.model)
            return
        with loop.deployed() as model:
            if clock.count(len(batch.targets), model):
                reached.append(True)
                loop.stop("the target is reached")

    loop.on("step_end", look)
    loop.fit()
    return clock.result(bool(reached))


ARMS: dict[str, Callable[..., dict[str, Any]]] = {
    "plain": plain,
    "plain, AdamW": plain_adamw,
    "lightning": lightning,
    "fulldeck": fulldeck,
}


def summary(rounds: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Seconds of each arm, and how many times as fast as the plain script of the same round it is."""
    result: dict[str, Any] = {}
    for arm in ARMS:
        found = [one[arm] for one in rounds.values() if arm in one]
        if not found:
            continue
        seconds = [one["seconds"] for one in found]
        result[arm] = {"rounds": len(found), "missed": seconds.count(None)}
        if None in seconds:
            continue
        for figure in FIGURES:
            result[arm][figure] = median([one[figure] for one in found])
        pairs = [(one["plain"], one[arm]) for one in rounds.values() if {arm, "plain"} <= set(one)]
        if pairs and all(plain["seconds"] for plain, _ in pairs):
            result[arm]["plain_takes_times"] = {
                figure: ratio(*zip(*((plain[figure], own[figure]) for plain, own in pairs), strict=True))
                for figure in FIGURES
            }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin nothing after so many")
    parser.add_argument("--add", action="store_true", help="go on with the result that there is")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    end = time.monotonic() + chosen.seconds
    for task in chosen.tasks:
        measure(task, chosen, end)


def measure(task: str, chosen: argparse.Namespace, end: float) -> None:
    """Fill in what the result lacks, round by round; it is written after each arm."""
    name = f"time_to_accuracy-{task}"
    path = RESULTS / f"{name}.json"
    result: dict[str, Any] = {
        "machine": describe(),
        "goal": GOAL,
        "target": TASKS[task]["target"],
        "arms": {},
        "raw": {},
    }
    pictures = read_pictures(chosen.data, task)
    if not chosen.add:
        path.unlink(missing_ok=True)
    for number in range(chosen.rounds):
        arms = list(chosen.arms)
        random.Random(number).shuffle(arms)
        for arm in arms:
            result |= kept(path)
            if arm in result["raw"].get(str(number), {}) or time.monotonic() > end:
                continue
            figures = ARMS[arm](task, pictures, FIRST_SEED + number)
            result |= kept(path)  # another call may have added to it
            result["raw"].setdefault(str(number), {})[arm] = figures
            result["arms"] = summary(result["raw"])
            result["load_after"] = describe()["load"]
            write_result(name, result)
            print(f"{task}, round {number}, {arm}: {figures}", flush=True)
    print(f"\n{task}, {result['target']:.0%} ({GOAL})")
    for arm, figures in result["arms"].items():
        print(f"  {arm:<14}{figures}")


def kept(path: Path) -> dict[str, Any]:
    """The result that there is already."""
    return dict(json.loads(path.read_bytes())) if path.exists() else {}


if __name__ == "__main__":
    main()
