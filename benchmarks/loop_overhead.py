"""What the training loop, the import and the command line cost.

    python benchmarks/loop_overhead.py [--rounds 30]

The same small model, optimizer and batches go through a bare PyTorch loop, fulldeck's TrainingLoop with
nothing attached and with ten instructions whose handlers do nothing, Accelerate and Lightning (without
logging, progress bar and checkpoints), in one process, on one thread, interleaved, each after a warm-up.
The bare loop runs twice in each round: the second is the control (A/A). Two measurements:

- paired: the loader times the gap between two requests for a batch, and takes one step of a bare loop of
  its own in between, so that every step has its reference beside it; the median over the steps of a
  round, then over rounds. It holds on a busy machine too.
- slope: the wall time between two numbers of steps, so that set-up does not count.
"""

from __future__ import annotations

import argparse
import logging
import resource
import shutil
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from machine import describe, write_result
from rounds import difference, interleaved, median, ratio
from torch import Tensor, nn

from fulldeck.training.loop import TrainingLoop

FEW, MANY = 100, 600
EVENTS = ("batch_start", "part_start", "after_forward", "after_backward", "before_step", "step_end")
GOAL_US, GOAL_IMPORT_MS, GOAL_HELP_MS, GOAL_LIST_MS = 10, 30, 200, 250


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(layer for _ in range(4) for layer in (nn.Linear(64, 64), nn.ReLU())), nn.Linear(64, 10)
    )


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-3, fused=True)


class Batches:
    """An iterable of `steps` batches. Not a list: Lightning takes a list for several loaders."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        generator = torch.Generator().manual_seed(0)
        self.some = [
            (torch.randn(32, 64, generator=generator), torch.randint(10, (32,), generator=generator))
            for _ in range(50)
        ]

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (self.some[step % 50] for step in range(self.steps))


Train = Callable[[Batches], None]


class PairedBatches(Batches):
    """Times each step of whoever reads it, and a step of a bare loop beside it."""

    def __init__(self, steps: int) -> None:
        super().__init__(steps)
        self.gaps: list[float] = []
        self.references: list[float] = []
        self.step = bare_step()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        now = time.perf_counter
        for inputs, targets in super().__iter__():
            start = now()
            self.step(inputs, targets)
            self.references.append(now() - start)
            start = now()
            yield inputs, targets
            self.gaps.append(now() - start)

    def microseconds(self) -> float:
        """The median over the steps of what a step costs above the bare one; the first ones warm up."""
        pairs = list(zip(self.gaps, self.references, strict=False))[20:]
        return statistics.median(gap - reference for gap, reference in pairs) * 1e6


def bare_step() -> Callable[[Tensor, Tensor], None]:
    model = network()
    optimizer = adam(model.parameters())
    model.train()

    def step(inputs: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()

    return step


def bare(batches: Batches) -> None:
    model = network()
    optimizer = adam(model.parameters())
    model.train()
    for inputs, targets in batches:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()


class Nothing:
    """Ten of these stand for ten instructions whose handlers do nothing."""

    def __init__(self, event: str) -> None:
        self.event = event

    def attach(self, loop: TrainingLoop) -> None:
        loop.on(self.event, self.handle)

    def handle(self, argument: Any) -> None:
        pass


def fulldeck(batches: Batches, instructions: int = 0) -> None:
    loop = TrainingLoop(network(), batches, nn.functional.cross_entropy, optimizer=adam, device="cpu")
    for number in range(instructions):
        Nothing(EVENTS[number % len(EVENTS)]).attach(loop)
    loop.fit()


def with_accelerate(batches: Batches) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = network()
    model, optimizer = accelerator.prepare(model, adam(model.parameters()))
    model.train()
    for inputs, targets in batches:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        accelerator.backward(loss)
        optimizer.step()


def lightning_arm() -> Train:
    import lightning

    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = network()

        def training_step(self, batch: Any, index: int) -> Tensor:
            inputs, targets = batch
            return nn.functional.cross_entropy(self.model(inputs), targets)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return adam(self.parameters())

    def run(batches: Batches) -> None:
        trainer = lightning.Trainer(
            accelerator="cpu",
            max_epochs=1,
            logger=False,
            enable_progress_bar=False,
            enable_checkpointing=False,
            enable_model_summary=False,
        )
        trainer.fit(Module(), batches)

    return run


def slope(train: Train) -> float:
    """Wall microseconds of a step."""
    seconds = []
    for steps in (FEW, MANY):
        batches = Batches(steps)
        start = time.perf_counter()
        train(batches)
        seconds.append(time.perf_counter() - start)
    return (seconds[1] - seconds[0]) / (MANY - FEW) * 1e6


def paired(train: Train) -> float:
    """Microseconds of a step above a bare one."""
    batches = PairedBatches(MANY)
    train(batches)
    return batches.microseconds()


def arms() -> dict[str, Train]:
    found: dict[str, Train] = {
        "bare": bare,
        "bare_again": bare,
        "fulldeck": fulldeck,
        "fulldeck_with_ten": lambda batches: fulldeck(batches, 10),
    }
    try:
        import accelerate  # noqa: F401

        found["accelerate"] = with_accelerate
        found["lightning"] = lightning_arm()
    except ModuleNotFoundError as error:
        print(f"left out: {error.name} is not installed (pip install lightning accelerate)")
    return found


def loop_cost(rounds: int) -> dict[str, Any]:
    trains = arms()
    for train in trains.values():
        train(Batches(FEW))
    pairs = interleaved({name: partial(paired, train) for name, train in trains.items()}, rounds)
    slopes = interleaved({name: partial(slope, train) for name, train in trains.items()}, rounds)
    return {
        name: {
            "paired_over_bare_us": difference(pairs[name], pairs["bare_again"]),
            "step_us": median(slopes[name]),
            "slope_over_bare_us": difference(slopes[name], slopes["bare"]),
            "ratio": ratio(slopes[name], slopes["bare"]),
            "raw": {"paired_us": pairs[name], "slope_us": slopes[name]},
        }
        for name in trains
    }


def cpu_milliseconds(command: list[str]) -> Callable[[], float]:
    """User plus system time of a process and its children."""

    def measure() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=Path(__file__).parent)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return 1000 * (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)

    return measure


def start_cost(rounds: int) -> dict[str, Any]:
    commands = {
        "python": [sys.executable, "-c", "pass"],
        "import": [sys.executable, "-c", "import fulldeck"],
    }
    script = shutil.which("fulldeck", path=str(Path(sys.executable).parent))
    if script is not None:
        commands |= {"help": [script, "--help"], "list": [script, "list"]}
    for command in commands.values():
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    figures = interleaved({name: cpu_milliseconds(command) for name, command in commands.items()}, rounds)
    result = {name: {"cpu_ms": median(values), "raw_ms": values} for name, values in figures.items()}
    result["import"]["over_python_ms"] = difference(figures["import"], figures["python"])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    result = {"machine": describe(), "rounds": rounds, "start": start_cost(rounds), "loop": loop_cost(rounds)}
    result["load_after"] = describe()["load"]
    show(result)
    print(write_result("loop_overhead", result))


def show(result: dict[str, Any]) -> None:
    print(
        f"{'microseconds a step':<20}{'over bare, paired (95 %)':>28}{'by slope':>10}{'step':>8}{'ratio':>8}"
    )
    for name, arm in result["loop"].items():
        over = arm["paired_over_bare_us"]
        low, high = over["interval"]
        goal = f"  (goal: at most {GOAL_US} over bare)" if name == "fulldeck_with_ten" else ""
        paired_text = f"{over['median']:.1f} ({low:.1f} to {high:.1f})"
        print(
            f"{name:<20}{paired_text:>28}{arm['slope_over_bare_us']['median']:>10.1f}"
            f"{arm['step_us']['median']:>8.0f}{arm['ratio']['median']:>8.2f}{goal}"
        )
    start = result["start"]
    print(f"import fulldeck: {start['import']['over_python_ms']['median']:.0f} ms (goal: {GOAL_IMPORT_MS})")
    for name, goal in (("help", GOAL_HELP_MS), ("list", GOAL_LIST_MS)):
        if name in start:
            print(f"fulldeck {name}: {start[name]['cpu_ms']['median']:.0f} ms of CPU (goal: {goal})")


if __name__ == "__main__":
    main()
