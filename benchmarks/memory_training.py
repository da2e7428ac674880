"""Memory in training: what fits, found and kept to (05), and recomputation instead of keeping (23).

    python benchmarks/memory_training.py [--rounds 10] [--threads 2] [--size full] [--parts search ...] [--add]

Three parts, each beside its peer; every figure of memory comes from a fresh process with
MALLOC_MMAP_THRESHOLD_=65536 (or the C allocator hides what is freed), above its level after the imports.

- search: the largest batch of a BERT-like encoder within a budget, by `fulldeck.largest_batch`, by
  `accelerate.find_executable_batch_size`, and by the search behind Lightning's BatchSizeFinder (binsearch,
  one step a trial, no margin). All call the same training step, which fails like torch does as
  soon as the process holds more than the budget. The truth is found by bisection. After the search 20 steps
  of the TrainingLoop run within the budget, and their losses are compared with those of whole batches.
- blocks: peak memory and seconds of a step of a Hugging Face BERT (random weights, dropout on): as it is,
  with `checkpoint_blocks`, with `keep="products"`, and with `gradient_checkpointing_enable`; the gradients
  of one step are compared with those of the plain model.
- four_times: batch B as it is, against 4 x B with the batch scheduled, blocks recomputed and the rate scaled
  (08 + 05 + 23); peak memory, and seconds a sample.

With --add, parts that are not asked for stay as the result has them.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from machine import RESULTS, describe, write_result
from rounds import interleaved, median, ratio
from torch import Tensor, nn

from fulldeck.instructions.training.dynamic_batch_scheduler import DynamicBatchScheduler, largest_batch
from fulldeck.instructions.training.gradient_checkpointing import GradientCheckpointing, checkpoint_blocks
from fulldeck.instructions.training.lr_scheduler import LrScheduler
from fulldeck.machine import recent_peak, reset_peak
from fulldeck.memory import give_back, memory_in_use, spoken_bytes
from fulldeck.training.loop import TrainingLoop

CPU = torch.device("cpu")
SIZES: dict[str, dict[str, int]] = {
    "full": {"layers": 8, "width": 256, "length": 128, "batch": 16, "steps": 4, "room": 2**30, "start": 256},
    "tiny": {"layers": 4, "width": 64, "length": 64, "batch": 16, "steps": 2, "room": 2**26, "start": 256},
}
LATER_STEPS = 20
SEARCHES = ("fulldeck", "accelerate", "lightning")
BLOCKS = ("plain", "fulldeck", "fulldeck_products", "hugging_face")
FOUR = ("plain", "plain_4x", "fulldeck_4x")
GOALS = {
    "search": "within 3 % of the largest batch in at most 3 probes, at least 5 times as fast, no later OOM",
    "blocks": "no more memory and time than gradient_checkpointing_enable, equal gradients",
    "four_times": "memory at most 1.05 times, time a sample at most 1.3 times",
}


class OutOfMemory(RuntimeError):
    """Worded as torch does it on a CPU, which is what Accelerate looks for."""

    def __init__(self) -> None:
        super().__init__("[enforce fail] DefaultCPUAllocator: can't allocate memory: over the budget")


class Bert(nn.Module):
    """A BERT of transformers with random weights: N x T ids to N x 2 logits."""

    def __init__(self, size: dict[str, int], dropout: float) -> None:
        from transformers import BertConfig, BertForSequenceClassification

        super().__init__()
        config = BertConfig(
            vocab_size=1000,
            hidden_size=size["width"],
            num_hidden_layers=size["layers"],
            num_attention_heads=4,
            intermediate_size=4 * size["width"],
            max_position_embeddings=size["length"],
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            attn_implementation="eager",
        )
        self.model = BertForSequenceClassification(config)

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(input_ids=ids).logits


def bert(size: dict[str, int], dropout: float = 0.1) -> Bert:
    torch.manual_seed(0)
    return Bert(size, dropout).train()


def batch_of(size: dict[str, int], samples: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1000, (samples, size["length"]), generator=generator)
    return ids, (ids.sum(1) % 2).long()


# Search ---------------------------------------------------------------------------------------------------


class LimitedStep:
    """A training step of so many samples that fails where the process comes to hold more than `budget`."""

    def __init__(self, size: dict[str, int], budget: int) -> None:
        self.size, self.budget = size, budget
        self.model = bert(size)
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.asked: list[int] = []
        for layer in self.model.modules():
            layer.register_forward_hook(lambda *_: self.look())

    def look(self) -> None:
        if memory_in_use(CPU) > self.budget:
            raise OutOfMemory

    def __call__(self, samples: int) -> int:
        self.asked.append(samples)
        ids, targets = batch_of(self.size, samples)
        reset_peak(CPU)
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(ids), targets).backward()
        self.optimizer.step()
        if recent_peak(CPU) > self.budget:
            raise OutOfMemory
        return samples

    def fits(self, samples: int) -> bool:
        try:
            return bool(self(samples))
        except OutOfMemory:
            return False
        finally:
            gc.collect()
            give_back(CPU)


def search(size: dict[str, int], arm: str) -> dict[str, Any]:
    """In this process: what one arm finds, in which time, by which probes."""
    # Imports and first allocations belong to nobody.
    if arm in SEARCHES[1:]:
        importlib.import_module(
            {"accelerate": "accelerate.utils", "lightning": "lightning.pytorch.tuner"}[arm]
        )
    LimitedStep(size, 2**60)(2)
    gc.collect()
    give_back(CPU)
    budget = memory_in_use(CPU) + size["room"]
    step = LimitedStep(size, budget)
    begin = time.perf_counter()
    if arm == "fulldeck":
        found = largest_batch(step, budget)
    elif arm == "accelerate":
        from accelerate.utils import find_executable_batch_size

        found = find_executable_batch_size(lambda batch_size: step(batch_size), size["start"])()
    elif arm == "lightning":
        found = lightning_search(step)
    else:
        low, high = 1, size["start"]
        while step.fits(high):
            low, high = high, 2 * high
        while high - low > max(low // 200, 1):
            middle = (low + high) // 2
            low, high = (middle, high) if step.fits(middle) else (low, middle)
        found = low
    return {"found": found, "seconds": time.perf_counter() - begin, "probes": step.asked}


def lightning_search(step: LimitedStep) -> int:
    """What Lightning's search finds."""
    import tempfile

    import lightning.pytorch as lightning
    from lightning.pytorch.tuner import Tuner

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.batch_size = 2
            self.counted = nn.Parameter(torch.zeros(()))

        def training_step(self, batch: Tensor, number: int) -> Tensor:
            step(self.batch_size)
            return 0 * self.counted  # Lightning counts the steps of its own optimizer

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD([self.counted], lr=0.0)

        def train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(torch.zeros(8192), batch_size=self.batch_size)

    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(
            accelerator="cpu",
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        found = Tuner(trainer).scale_batch_size(Module(), mode="binsearch", steps_per_trial=1, margin=0.0)
    assert found is not None
    return found


def keep_to(size: dict[str, int]) -> dict[str, Any]:
    """In this process: LATER_STEPS of the loop within the budget, beside whole batches; no dropout."""
    batches = [batch_of(size, 4 * size["batch"], seed=seed) for seed in range(LATER_STEPS)]

    def losses(*instructions: Any) -> tuple[list[float], TrainingLoop]:
        loop = TrainingLoop(
            bert(size, dropout=0.0),
            batches,
            nn.functional.cross_entropy,
            instructions=instructions,
            optimizer=partial(torch.optim.SGD, lr=0.01),
            device="cpu",
        )
        found: list[float] = []
        loop.on("step_end", lambda batch: found.append(loop.last_loss.item()))
        loop.fit()
        return found, loop

    whole, _ = losses()
    gc.collect()
    give_back(CPU)
    budget = memory_in_use(CPU) + size["room"] // 2
    parts, loop = losses(DynamicBatchScheduler(budget=spoken_bytes(budget), high=1.0))
    return {
        "budget": budget,
        "reported": loop.reported["dynamic_batch_scheduler"],
        "largest_loss_difference": max(abs(one - other) for one, other in zip(whole, parts, strict=True)),
    }


# Blocks ---------------------------------------------------------------------------------------------------


def prepared(size: dict[str, int], arm: str) -> Bert:
    model = bert(size)
    if arm == "hugging_face":
        model.model.gradient_checkpointing_enable({"use_reentrant": False})
    elif arm != "plain":
        checkpoint_blocks(model, keep="products" if arm == "fulldeck_products" else "nothing")
    return model


def train_blocks(size: dict[str, int], arm: str, steps: int) -> tuple[list[float], list[Tensor]]:
    """Seconds of each step, and the gradients of the first one."""
    model = prepared(size, arm)
    optimizer = torch.optim.AdamW(model.parameters())
    ids, targets = batch_of(size, 2 * size["batch"])
    seconds, first = [], []
    torch.manual_seed(1)
    for step in range(steps):
        begin = time.perf_counter()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(ids), targets).backward()
        if step == 0:
            first = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        optimizer.step()
        seconds.append(time.perf_counter() - begin)
    return seconds, first


# Four times the batch -------------------------------------------------------------------------------------


def train_four(size: dict[str, int], arm: str, budget: int | None = None) -> float:
    """Seconds a sample, the fastest step after the first two."""
    batch = size["batch"] * (1 if arm == "plain" else 4)
    instructions: Sequence[Any] = ()
    if arm == "fulldeck_4x":
        instructions = [
            LrScheduler(warmup=0.0),
            DynamicBatchScheduler(budget=None if budget is None else spoken_bytes(budget), high=1.0),
            GradientCheckpointing(),
        ]
    seconds: list[float] = []
    loop = TrainingLoop(
        bert(size),
        [batch_of(size, batch)] * (size["steps"] + 2),
        nn.functional.cross_entropy,
        instructions=instructions,
        device="cpu",
    )
    loop.on("batch_start", lambda batch: seconds.append(time.perf_counter()))
    loop.on("step_end", lambda batch: seconds.append(time.perf_counter() - seconds.pop()))
    loop.fit()
    return min(seconds[2:]) / batch


# Processes ------------------------------------------------------------------------------------------------


def child(part: str, arm: str, size: dict[str, int], extra: int | None) -> dict[str, Any]:
    """What a fresh process measures."""
    if part == "search":
        return search(size, arm) if arm != "keep_to" else keep_to(size)
    # What is imported in the first step, and first allocations, belong to nobody.
    smallest = size | {"batch": 1, "steps": 1}
    train_blocks(smallest, "fulldeck", 1)
    train_four(smallest, arm)
    gc.collect()
    give_back(CPU)
    reset_peak(CPU)
    before = memory_in_use(CPU)
    if part == "blocks":
        seconds = min(train_blocks(size, arm, size["steps"])[0][1:])
    else:
        seconds = train_four(size, arm, None if extra is None else before + extra)
    return {"seconds": seconds, "peak_bytes": recent_peak(CPU) - before}


def fresh(part: str, arm: str, chosen: argparse.Namespace, extra: int | None = None) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", part, arm, "--size", chosen.size]
    command += ["--threads", str(chosen.threads), *([] if extra is None else ["--extra", str(extra)])]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment).stdout
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def measure_search(chosen: argparse.Namespace) -> dict[str, Any]:
    truth = fresh("search", "bisection", chosen)["found"]
    arms: dict[str, Callable[[], dict[str, Any]]] = {
        arm: partial(fresh, "search", arm, chosen) for arm in SEARCHES
    }
    found = interleaved(arms, chosen.rounds)
    seconds = {arm: [one["seconds"] for one in runs] for arm, runs in found.items()}
    later = fresh("search", "keep_to", chosen)
    return {
        "largest": truth,
        "speed_up": {peer: ratio(seconds[peer], seconds["fulldeck"]) for peer in SEARCHES[1:]},
        "later": later,
        "arms": {
            arm: {
                "seconds": median(seconds[arm]),
                "of_largest": median([one["found"] / truth for one in runs]),
                "probes": runs[0]["probes"],
                "raw": runs,
            }
            for arm, runs in found.items()
        },
    }


def measure_blocks(chosen: argparse.Namespace) -> dict[str, Any]:
    size = SIZES[chosen.size]
    runs = interleaved({arm: partial(fresh, "blocks", arm, chosen) for arm in BLOCKS}, chosen.rounds)
    gradients = {arm: train_blocks(size, arm, 1)[1] for arm in BLOCKS}
    equal = {
        arm: all(torch.equal(one, other) for one, other in zip(found, gradients["plain"], strict=True))
        for arm, found in gradients.items()
    }
    return {arm: figures | {"gradients_equal": equal[arm]} for arm, figures in beside_plain(runs).items()}


def measure_four(chosen: argparse.Namespace) -> dict[str, Any]:
    # What the plain batch took, and the process below it, is all that the four times larger one may have.
    limit = int(1.05 * fresh("four_times", "plain", chosen)["peak_bytes"])
    return beside_plain(
        interleaved({arm: partial(fresh, "four_times", arm, chosen, limit) for arm in FOUR}, chosen.rounds)
    )


def beside_plain(runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Seconds (of a step, or a sample) and peak memory of each arm, and their ratios to the plain one."""
    columns = {
        arm: {name: [one[name] for one in found] for name in ("seconds", "peak_bytes")}
        for arm, found in runs.items()
    }
    return {
        arm: {
            "seconds": median(column["seconds"]),
            "time_ratio": ratio(column["seconds"], columns["plain"]["seconds"]),
            "peak_mb": median([peak / 1e6 for peak in column["peak_bytes"]]),
            "memory_ratio": ratio(column["peak_bytes"], columns["plain"]["peak_bytes"]),
            "raw": column,
        }
        for arm, column in columns.items()
    }


PARTS = {"search": measure_search, "blocks": measure_blocks, "four_times": measure_four}


def show(part: str, result: dict[str, Any]) -> None:
    print(f"\n{part} (goal: {GOALS[part]})")
    if part == "search":
        times = ", ".join(f"{one['median']:.1f} times {peer}" for peer, one in result["speed_up"].items())
        print(f"largest batch {result['largest']}; fulldeck is as fast as {times}")
        for arm, one in result["arms"].items():
            print(
                f"{arm:<18}{one['seconds']['median']:>8.2f} s  {one['of_largest']['median']:>7.1%} of the largest  "
                f"{len(one['probes'])} probes"
            )
        later = result["later"]
        print(
            f"{LATER_STEPS} later steps: {later['reported']}, losses differ by {later['largest_loss_difference']:.1e}"
        )
        return
    print(f"{'arm':<18}{'seconds':>10}{'x':>7}{'MB':>8}{'x':>7}")
    for arm, one in result.items():
        print(
            f"{arm:<18}{one['seconds']['median']:>10.4f}{one['time_ratio']['median']:>7.2f}"
            f"{one['peak_mb']['median']:>8.0f}{one['memory_ratio']['median']:>7.2f}"
            f"{'' if one.get('gradients_equal', True) else '  other gradients'}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", choices=SIZES, default="full", help="tiny only shows that it runs")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--add", action="store_true", help="keep the other parts of the result that there is")
    parser.add_argument("--child", nargs=2, metavar=("PART", "ARM"), help=argparse.SUPPRESS)
    parser.add_argument("--extra", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.child:
        print(json.dumps(child(*chosen.child, SIZES[chosen.size], chosen.extra)))
        return
    result: dict[str, Any] = {
        "machine": describe(),
        "rounds": chosen.rounds,
        "size": chosen.size,
        "parts": {},
    }
    path = RESULTS / "memory_training.json"
    if chosen.add and path.exists():
        result["parts"] = json.loads(path.read_bytes())["parts"]
    for part in chosen.parts:
        result["parts"][part] = PARTS[part](chosen)
        show(part, result["parts"][part])
        result["load_after"] = describe()["load"]
        if chosen.size == "full":
            print(write_result("memory_training", result))


if __name__ == "__main__":
    main()
