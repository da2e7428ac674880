"""The schedules of one training."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from fulldeck.errors import BadInput, closest
from fulldeck.instructions.training.lr_scheduler.range_test import range_test
from fulldeck.instructions.training.lr_scheduler.rates import batch_factor, scale_rates, split_groups
from fulldeck.instructions.training.lr_scheduler.schedules import schedule
from fulldeck.training.trial import trial

if TYPE_CHECKING:
    from fulldeck.instructions.training.lr_scheduler import LrScheduler
    from fulldeck.training.batch import Batch
    from fulldeck.training.loop import TrainingLoop

TICKS = 1000
"""Parts that `seconds` is divided into: the rate is followed to a thousandth of the training."""
_LOWEST, _HIGHEST, _TEST_STEPS = 1e-6, 1.0, 100
"""Of the range test: rates, and how many."""


class ScheduledRun:
    """Schedulers for all optimizers of a loop, with the batch and the time that they follow."""

    def __init__(self, instruction: LrScheduler, loop: TrainingLoop) -> None:
        self.instruction = instruction
        self.loop = loop
        self.figures = loop.figures()
        self.charts = loop.charts()
        # Later instructions may change it; the rate is meant for this one.
        self.batch = instruction.reference_batch or _batch_size(loop)
        if instruction.reference_batch is not None and _batch_size(loop) is None:
            raise BadInput(
                "lr_scheduler.reference_batch: this loader does not tell its batch size; "
                "leave reference_batch out"
            )
        self.total = 0
        self.given_rate = self.base_rate = 0.0
        self.elapsed = 0.0
        self.testing = False
        self.schedulers: list[LRScheduler] = []
        self.plateaus: list[ReduceLROnPlateau] = []

    def start(self) -> None:
        """The optimizers are there."""
        chosen, loop = self.instruction, self.loop
        self.given_rate = self.base_rate = loop.learning_rate()
        if chosen.groups:
            split_groups(loop.optimizers, loop.model, chosen.groups)
        self.total = self._units()
        warmup = chosen.warm_up(self.total)
        for optimizer in loop.optimizers:
            if chosen.kind == "plateau":
                lowest = [float(group["lr"]) * chosen.min_lr_ratio for group in optimizer.param_groups]
                self.plateaus.append(
                    ReduceLROnPlateau(optimizer, chosen.mode, chosen.factor, chosen.patience, min_lr=lowest)
                )
            self.schedulers.append(
                schedule(
                    optimizer,
                    "constant" if chosen.kind == "plateau" else chosen.kind,
                    total_steps=self.total,
                    warmup_steps=warmup,
                    min_lr_ratio=chosen.min_lr_ratio,
                    power=chosen.power,
                    decay=chosen.decay,
                )
            )
        if self.plateaus:
            self.total = warmup + 1
        self._since = time.monotonic()

    def begin(self) -> None:
        """Before the first step, the base rate may be looked for."""
        if self.instruction.range_test and self.loop.step == 0:
            self._find_rate()
        if self.loop.step == 0:
            self._since = time.monotonic()

    def follow_batch(self, batch: Batch) -> None:
        """The batch may have another size than the rate is meant for, from the start or from now on."""
        size = _batch_size(self.loop)
        if size is None or size == self.batch or self.testing:
            return
        assert self.batch is not None
        factor = batch_factor(size, self.batch, self.instruction.scaling)
        if self.instruction.reference_batch is None:
            self.loop.notes.append(
                f"lr_scheduler: batches went from {self.batch} to {size} samples, and rates by a factor of "
                f"{factor:.3g} ({self.instruction.scaling.replace('_', ' ')})"
            )
        self.batch = size
        self._scale(factor)

    def advance(self, batch: Batch | None = None) -> None:
        """A unit is over."""
        if self.testing:
            return
        units = 1
        if self.instruction.unit == "time":
            now = time.monotonic()
            self.elapsed += self._agreed(now - self._since)
            self._since = now
            assert self.instruction.seconds is not None
            units = int(TICKS * self.elapsed / self.instruction.seconds) - self.schedulers[0].last_epoch
            if self.elapsed >= self.instruction.seconds:
                self.loop.stop(f"the {self.instruction.seconds:g} seconds of lr_scheduler are over")
        for scheduler in self.schedulers:
            # The last rate stays: OneCycleLR has none after it, and a plateau goes on from the warm-up's.
            for _ in range(min(units, self.total - 1 - scheduler.last_epoch)):
                scheduler.step()

    def _agreed(self, seconds: float) -> float:
        """The mean over the ranks: by clocks of their own they would take other rates, and end apart."""
        ranks = self.loop.ranks
        if ranks.world_size == 1:
            return seconds
        return float(ranks.mean(torch.tensor(seconds, device=self.loop.device)))

    def watch(self, metrics: dict[str, float]) -> None:
        """The metric that a plateau is seen in."""
        name = f"validation_{self.instruction.metric}"
        if name not in metrics:
            there = [key.removeprefix("validation_") for key in metrics]
            raise BadInput(
                f'lr_scheduler: no metric "{self.instruction.metric}"'
                f"{closest(self.instruction.metric, there) or '; there is ' + ', '.join(there)}"
            )
        for scheduler, plateau in zip(self.schedulers, self.plateaus, strict=True):
            if scheduler.last_epoch >= self.total - 1:
                plateau.step(metrics[name])

    def report(self) -> None:
        """Write down where the rates began and ended."""
        self.figures["learning_rate"] = {"before": self.given_rate, "after": self.loop.learning_rate()}
        if self.base_rate != self.given_rate:
            self.figures["base_learning_rate"] = {"before": self.given_rate, "after": self.base_rate}
        seconds = self.instruction.seconds
        if seconds is not None and self.elapsed < seconds:
            self.loop.notes.append(
                f"lr_scheduler: training ended after {self.elapsed:.0f} of {seconds:g} seconds, before the rate had "
                "come to its end; give train.epochs more, or seconds less"
            )

    def state_dict(self) -> dict[str, Any]:
        """All that later rates depend on."""
        return {
            "schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
            "plateaus": [plateau.state_dict() for plateau in self.plateaus],
            "batch": self.batch,
            "rates": [self.given_rate, self.base_rate],
            "elapsed": self.elapsed,
            "charts": list(self.charts),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        for scheduler, saved in zip(self.schedulers, state["schedulers"], strict=True):
            scheduler.load_state_dict(saved)
        for plateau, saved in zip(self.plateaus, state["plateaus"], strict=True):
            plateau.load_state_dict(saved)
        self.batch = state["batch"]
        self.given_rate, self.base_rate = state["rates"]
        self.elapsed = state["elapsed"]
        self.charts[:] = state["charts"]
        self._since = time.monotonic()

    def _units(self) -> int:
        chosen, loop = self.instruction, self.loop
        if chosen.unit == "time":
            return TICKS
        if chosen.unit == "epoch":
            return loop.epochs
        try:
            return loop.total_steps
        except TypeError:
            if loop.max_steps is not None:
                return loop.max_steps
        level = chosen.kind in ("constant", "plateau")
        if level and (chosen.warmup_steps is not None or chosen.warm_up_share() == 0):
            return chosen.warm_up(0) + 1
        raise BadInput(
            f"lr_scheduler: {chosen.kind} needs to know the number of steps, and this loader has no length; "
            "set max_steps, or use unit: epoch or time"
        )

    def _find_rate(self) -> None:
        self.testing = True
        groups = [group for optimizer in self.loop.optimizers for group in optimizer.param_groups]
        base = self.base_rate
        ratios = [float(group.get("max_lr", group.get("initial_lr", group["lr"]))) / base for group in groups]
        with trial(self.loop) as step:

            def at(rate: float) -> float:
                for group, ratio in zip(groups, ratios, strict=True):
                    group["lr"] *= rate * ratio / float(group["lr"])
                return step()

            found = range_test(at, lowest=_LOWEST, highest=_HIGHEST, steps=_TEST_STEPS)
        self.testing = False
        self.batch = _batch_size(self.loop)  # the rate was found with this one
        self._scale(found.suggestion / base)
        self.charts.append(
            {
                "title": f"Loss in the range test, {found.suggestion:.2g} chosen;",
                "x": "learning rate",
                "log_x": True,
                "share": False,
                "log": False,
                "series": [{"name": "loss", "x": found.rates, "y": found.losses}],
            }
        )

    def _scale(self, factor: float) -> None:
        self.base_rate *= factor
        scale_rates(self.loop.optimizers, factor, self.schedulers, self.plateaus)


def _batch_size(loop: TrainingLoop) -> int | None:
    loader = getattr(loop.loader, "iterable", loop.loader)
    size = getattr(loader, "batch_size", None)
    return None if size is None else int(size)
