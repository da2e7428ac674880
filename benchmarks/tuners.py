"""What each tuner spends until it has what random search finds: replayed on the table of `tuner_table.py`.

    python benchmarks/tuners.py [--seeds 100] [--tasks accuracy] [--seconds S] [--add]

Nothing is trained: a tuner asks for a configuration and a number of epochs, and is told the accuracies that were
measured. Its cost is the epochs that it asks for; to go on with a training costs only the further ones, and to ask for
the same trial again nothing, for every tuner alike. The target is the median, over the seeds, of the best accuracy
that random search has after 81 whole trainings (2187 epochs); it is reached by a training of all 27 epochs.

- random: configurations without repetition, 27 epochs each. grid: all in order, the order drawn with the seed.
- optuna: TPE with its defaults, 27 epochs each; with `median` and `hyperband`, its pruners, told every epoch.
- fulldeck: the search of `fulldeck tune` as it is (course, halving, proposals, planner), from its default recipe.

The second task (--tasks), which takes long, is to maximise accuracy with weights of 4 bits: the bits (32, 8 or 4) are
one more decision, which comes after the training. fulldeck knows that and trains once for all three, the others train
anew for each; Optuna's sampler is told the condition (`constraints_func`).

Intervals: of the median over the seeds, from order statistics. Costs are counts, so the machine's speed plays no part.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import optuna
from machine import RESULTS, describe, write_result
from rounds import median
from tuner_table import BATCHES, EPOCHS, OPTIMIZERS, RATES, SCHEDULES, Configuration, configurations

from fulldeck.pipeline.run import situation
from fulldeck.recipe.recipe import make_recipe
from fulldeck.tuning.course import Course
from fulldeck.tuning.goal import aim
from fulldeck.tuning.halving import rungs
from fulldeck.tuning.history import History
from fulldeck.tuning.space import Space, search_space

NAME = "tuners"
WHOLE = 81
"""Trainings after which random search's best is the target."""
MOST = 2 * WHOLE * EPOCHS
"""Epochs after which a search is given up, those of the whole table; it then counts with so many."""
TRIALS = 4 * WHOLE
"""Most that Optuna is asked for: one that has come to ask for the same trial again and again spends nothing more."""
STEPS = 31 * EPOCHS
"""Optimizer steps of the default recipe's training, which decide on the rungs."""
DEFAULT = Configuration(RATES[2], 128, "none", "adamw")
"""The recipe that fulldeck's search begins with."""
BYTES = {32: 1.0, 8: 0.25, 4: 0.125}
GOAL = "random search's best at a fifth of its cost, and half of that of Optuna's defaults"


class Reached(Exception):
    """The target, or the end of what may be spent."""


@dataclass
class Account:
    """What a tuner has spent, and whether it has the target."""

    rows: dict[str, Any]
    target: float
    bits: bool
    most: int = MOST
    spent: int = 0
    trained: dict[str, int] = field(default_factory=dict)
    best: float = 0.0
    reached: int | None = None

    def train(self, one: Configuration, epochs: int, form: int = 0) -> list[float]:
        """The accuracies after each epoch up to `epochs`; a `form` says that another one is another training."""
        key = f"{one.key} {form}"
        self.spent += max(0, epochs - self.trained.get(key, 0))
        self.trained[key] = max(epochs, self.trained.get(key, 0))
        if self.spent >= self.most:
            raise Reached
        curve: list[float] = self.rows[one.key]["accuracy"][:epochs]
        return curve

    def end(self, one: Configuration, bits: int, *, shared: bool = False) -> float:
        """The accuracy of a whole training with weights of so many bits. Raises Reached."""
        self.train(one, EPOCHS, 0 if shared else bits)
        row = self.rows[one.key]
        accuracy: float = row["accuracy"][-1] if bits == 32 else row["rounded"][0 if bits == 8 else 1]
        if not self.bits or bits == 4:
            self.best = max(self.best, accuracy)
        if self.best >= self.target:
            self.reached = self.spent
            raise Reached
        return accuracy


Tuner = Callable[[Account, int], None]


def by_random(account: Account, seed: int) -> None:
    forms = (32, 8, 4) if account.bits else (32,)
    every = [(one, bits) for one in configurations() for bits in forms]
    random.Random(seed).shuffle(every)
    for one, bits in every:
        account.end(one, bits)


def by_grid(account: Account, seed: int) -> None:
    draw = random.Random(seed)
    axes: dict[str, list[Any]] = {
        "rate": list(RATES),
        "batch": list(BATCHES),
        "schedule": list(SCHEDULES),
        "optimizer": list(OPTIMIZERS),
        "bits": [32, 8, 4] if account.bits else [32],
    }
    names = list(axes)
    draw.shuffle(names)
    for values in axes.values():
        draw.shuffle(values)

    def walk(place: int, chosen: dict[str, Any]) -> None:
        if place == len(names):
            one = Configuration(chosen["rate"], chosen["batch"], chosen["schedule"], chosen["optimizer"])
            account.end(one, chosen["bits"])
            return
        for value in axes[names[place]]:
            walk(place + 1, {**chosen, names[place]: value})

    walk(0, {})


def by_optuna(pruner: Callable[[], optuna.pruners.BasePruner] | None) -> Tuner:
    def tune(account: Account, seed: int) -> None:
        def limits(trial: optuna.trial.FrozenTrial) -> list[float]:
            return [BYTES[trial.params.get("bits", 4)] - BYTES[4]]

        # Of 81 trainings it would draw ten at random first, whatever we say: its default.
        sampler = optuna.samplers.TPESampler(seed=seed, constraints_func=limits if account.bits else None)
        study = optuna.create_study(
            direction="maximize", sampler=sampler, pruner=pruner() if pruner else optuna.pruners.NopPruner()
        )

        def objective(trial: optuna.trial.Trial) -> float:
            one = Configuration(
                nearest(trial.suggest_float("rate", RATES[0], RATES[-1], log=True)),
                trial.suggest_categorical("batch", BATCHES),
                trial.suggest_categorical("schedule", SCHEDULES),
                trial.suggest_categorical("optimizer", OPTIMIZERS),
            )
            bits = trial.suggest_categorical("bits", (32, 8, 4)) if account.bits else 32
            if pruner is not None:
                for epoch in range(1, EPOCHS + 1):
                    trial.report(account.train(one, epoch, bits)[-1], epoch)
                    if epoch < EPOCHS and trial.should_prune():
                        raise optuna.TrialPruned
            return account.end(one, bits)

        study.optimize(objective, n_trials=TRIALS)

    return tune


def by_fulldeck(account: Account, seed: int) -> None:
    space = deck(account.bits)
    conditions = ("artifact_bytes <= 0.2 * baseline",) if account.bits else ()
    history = History()

    def chosen(values: Any) -> Configuration:
        return Configuration(
            nearest(values["train.learning_rate"]),
            values["train.batch_size"],
            values["lr_scheduler.kind"] if values["lr_scheduler"] else "none",
            values["optimizer_selection.kind"],
        )

    course = Course(
        space,
        history,
        aim("maximize accuracy", conditions, None),
        lambda values: chosen(values).key,
        seed=seed,
    )
    course.begin()
    history.tell(rungs=rungs(STEPS))
    while (job := course.next(())) is not None:
        one = chosen(job.trial.values)
        while history.level(job.trial.key) <= job.rung and history.level(job.trial.key) < len(
            history.facts["rungs"]
        ):
            epochs = round(EPOCHS * history.facts["rungs"][history.level(job.trial.key)])
            history.reached(job.trial.key, {"accuracy": account.train(one, epochs)[-1]})
        if job.last:
            used = account.bits and job.trial.values["post_training_quantization"]
            bits = job.trial.values["post_training_quantization.bit_width"] if used else 32
            figures = {"accuracy": account.end(one, bits, shared=True), "artifact_bytes": BYTES[bits]}
            history.finish(job.trial.number, figures, 0.0)


def deck(bits: bool) -> Space:
    """What `fulldeck tune` would search, of these decisions."""
    from fulldeck.instructions.inference.onnx_export import OnnxExport
    from fulldeck.instructions.inference.post_training_quantization import PostTrainingQuantization
    from fulldeck.instructions.training.optimizer_selection import OptimizerSelection

    chosen: list[Any] = [OptimizerSelection(kind=DEFAULT.optimizer)]
    if bits:
        chosen += [OnnxExport(), PostTrainingQuantization(mode="weights")]
    recipe = make_recipe(
        "digits", chosen, train={"learning_rate": DEFAULT.learning_rate, "batch_size": DEFAULT.batch_size}
    )
    search: dict[str, Any] = {
        "train.learning_rate": {"low": RATES[0], "high": RATES[-1], "log": True},
        "train.batch_size": list(BATCHES),
        "optimizer_selection.kind": list(OPTIMIZERS),
        "lr_scheduler": True,
        "lr_scheduler.kind": ["cosine", "one_cycle"],
    }
    if bits:
        search |= {"post_training_quantization": True, "post_training_quantization.bit_width": [8, 4]}
    recipe = replace(recipe, search=search)
    return search_space(recipe, situation(recipe), "accuracy")


def nearest(rate: float) -> float:
    """The table's learning rate for a drawn one."""
    return min(RATES, key=lambda one: abs(math.log(one / rate)))


TUNERS: dict[str, Tuner] = {
    "random": by_random,
    "grid": by_grid,
    "optuna": by_optuna(None),
    "optuna, median": by_optuna(optuna.pruners.MedianPruner),
    "optuna, hyperband": by_optuna(
        lambda: optuna.pruners.HyperbandPruner(min_resource=1, max_resource=EPOCHS, reduction_factor=3)
    ),
    "fulldeck": by_fulldeck,
}
TASKS = {"accuracy": False, "accuracy with weights of 4 bits": True}


def cost(
    tuner: Tuner, rows: dict[str, Any], target: float, bits: bool, seed: int, most: int | None = None
) -> Account:
    """One search, until it has the target."""
    account = Account(rows, target, bits, **({} if most is None else {"most": most}))
    with contextlib.suppress(Reached):
        tuner(account, seed)
    return account


def target(rows: dict[str, Any], bits: bool, seeds: int) -> float:
    """The median of what random search has after WHOLE trainings."""
    found = []
    for seed in range(seeds):
        account = Account(rows, math.inf, bits, most=WHOLE * EPOCHS)
        with contextlib.suppress(Reached):
            by_random(account, seed)
        found.append(account.best)
    return statistics.median_low(found)


def summary(raw: dict[str, Any]) -> dict[str, Any]:
    """Median epochs with its interval, and how many times less than random search and Optuna's defaults that is."""
    result = {}
    for tuner, costs in raw.items():
        values = [MOST if one is None else one for one in costs.values()]
        found = median(values)
        result[tuner] = {
            "seeds": len(values),
            "reached": sum(one is not None for one in costs.values()),
            "epochs": found,
            "times_less_than": {
                peer: round(statistics.median(one or MOST for one in raw[peer].values()) / found["median"], 2)
                for peer in ("random", "optuna")
                if raw.get(peer)
            },
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin nothing after so many")
    parser.add_argument("--add", action="store_true", help="go on with the result that there is")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["accuracy"])
    parser.add_argument("--tuner", choices=TUNERS, help="this one only, anew")
    chosen = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    end = time.monotonic() + chosen.seconds
    rows = json.loads((RESULTS / "tuner_table.json").read_bytes())["raw"]
    path = RESULTS / f"{NAME}.json"
    result: dict[str, Any] = {"machine": describe(), "goal": GOAL, "targets": {}, "tasks": {}}
    if (chosen.add or chosen.tuner) and path.exists():
        result |= json.loads(path.read_bytes())
    result["tasks"] = {task: found for task, found in result["tasks"].items() if task in chosen.tasks}
    for task in chosen.tasks:
        bits = TASKS[task]
        mine = result["tasks"].setdefault(task, {"raw": {}})
        aimed = result["targets"].setdefault(task, target(rows, bits, 100))
        for name, tuner in TUNERS.items():
            if chosen.tuner not in (None, name):
                continue
            raw = mine["raw"].setdefault(name, {})
            if chosen.tuner and not chosen.add:
                raw.clear()
            for seed in range(chosen.seeds):
                if str(seed) not in raw and time.monotonic() < end:
                    raw[str(seed)] = cost(tuner, rows, aimed, bits, seed).reached
        mine["tuners"] = summary({name: raw for name, raw in mine["raw"].items() if raw})
        write_result(NAME, result)
        print(f"{task}: target {aimed}")
        for name, one in mine["tuners"].items():
            print(f"  {name:<20}{one}")


if __name__ == "__main__":
    main()
