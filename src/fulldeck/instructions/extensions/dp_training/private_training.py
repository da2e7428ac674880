"""A training that is private: what stands in the loop, and what it says in the end."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import torch

from fulldeck.errors import BadInput, CannotAct
from fulldeck.instructions.extensions.dp_training.accounting import Steps
from fulldeck.instructions.extensions.dp_training.clipping import MODES, Forward, Mode
from fulldeck.instructions.extensions.dp_training.gradients import PrivateGradients
from fulldeck.instructions.extensions.dp_training.poisson import PoissonLoader, Secret
from fulldeck.training.batch import Batch, Part, Tensors
from fulldeck.training.random_state import random_state, restore_random_state
from fulldeck.training.trial import first_batch

if TYPE_CHECKING:
    from fulldeck.instructions.extensions.dp_training import DpTraining
    from fulldeck.training.loop import TrainingLoop

DRAWS = "it draws the batches itself, by Poisson sampling"
TIMED = 3
"""Sums that each way is timed on, after one to warm up."""


class PrivateTraining:
    """One private training of a loop: it stands where that computes gradients."""

    def __init__(
        self,
        chosen: DpTraining,
        loop: TrainingLoop,
        loader: PoissonLoader,
        secret: Secret,
        steps: Steps,
        noise: float,
    ) -> None:
        self.chosen = chosen
        self.loop = loop
        self.loader = loader
        self.secret = secret
        self.steps = steps
        self.noise = noise
        self.figures = loop.figures()
        self.stated: dict[str, Any] = {}
        loop.carry(self.stated)
        self.gradients: PrivateGradients | None = None
        loop.keep(self)
        loop.on("ready", self.begin)
        loop.around("gradients", lambda batch, inner: self.compute(batch))
        loop.on("fit_end", self.finish)
        loop.on("hand_over", self.release)

    def begin(self) -> None:
        """Choose how to compute the clipped sum; everything is as before afterwards."""
        if self.loop.loader is not self.loader:
            raise BadInput(f"dp_training: {DRAWS}, and another instruction has put its own loader in place")
        mode = self.chosen.mode
        self.mode: Mode = self._fastest() if mode == "auto" else mode
        self.gradients = self._made(self.mode)

    def state_dict(self) -> dict[str, Any]:
        """The secret, and how sums are computed: another way rounds otherwise."""
        return {**self.secret.state_dict(), "mode": self.mode}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on as the training began."""
        self.secret.load_state_dict(state)
        if state["mode"] != self.mode:
            self.release()
            self.mode = state["mode"]
            self.gradients = self._made(self.mode)

    def _made(self, mode: Mode) -> PrivateGradients:
        return PrivateGradients(
            self.loop.model,
            self.loop.loss,
            noise=self.noise,
            expected=self.loader.expected,
            max_norm=self.chosen.max_grad_norm,
            mode=mode,
            micro_batch=self.chosen.micro_batch or self.loop.micro_batch,
            secret=self.secret,
        )

    def _fastest(self) -> Mode:
        """By the time of a sum on the first batch; a way that does not know a layer, or fails, is none."""
        random, batch = random_state(), first_batch(self.loop)
        best: Mode | None = None
        least, why = math.inf, ""
        self.loop.module.train()
        for mode in MODES:
            made: PrivateGradients | None = None
            try:
                made = self._made(mode)
                seconds = [self._timed(made, batch) for _ in range(1 + TIMED)]
            except (CannotAct, RuntimeError, NotImplementedError, ValueError, TypeError) as error:
                why = str(error).splitlines()[0]
                continue
            finally:
                if made is not None:
                    made.clipped.end()
            if min(seconds[1:]) < least:
                best, least = mode, min(seconds[1:])
        for parameter in self.loop.model.parameters():
            parameter.grad = None
        restore_random_state(random)
        if best is None:
            raise CannotAct(f"no way of clipping works for this model: {why}")
        return best

    def _timed(self, made: PrivateGradients, batch: Batch) -> float:
        start = time.perf_counter()
        made(0, batch.inputs, batch.targets, self._forward(batch))
        if self.loop.device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter() - start

    def _forward(self, batch: Batch) -> Forward:
        """As the loop does it, with what is wrapped around it (autocast)."""

        def forward(inputs: Tensors) -> Any:
            first = next(iter(inputs.values())) if isinstance(inputs, dict) else inputs
            part = Part(inputs, batch.targets[: len(first)], 1.0)
            self.loop.forward(part)
            return part.outputs

        return forward

    def compute(self, batch: Batch) -> None:
        """In the place of the loop's own gradients."""
        assert self.gradients is not None
        forward = self._forward(batch)
        self.loop.last_loss = self.gradients(self.loop.step, batch.inputs, batch.targets, forward)

    def spent(self) -> float:
        """The epsilon of the steps so far."""
        return self.steps.epsilon(self.noise, self.loop.step)

    def finish(self) -> None:
        """Say what was spent, in the result and for the manifest."""
        spent = self.spent()
        self.figures["epsilon"] = {"after": spent}
        self.figures["delta"] = {"after": self.steps.delta}
        self.figures["noise_multiplier"] = {"after": self.noise}
        known = "noise_seed is set: whoever knows it can take the noise away"
        self.stated |= {
            "kind": "differential_privacy",
            "epsilon": spent,
            "delta": self.steps.delta,
            "noise_multiplier": self.noise,
            "max_grad_norm": self.chosen.max_grad_norm,
            "sample_rate": self.steps.rate,
            "steps": self.loop.step,
            "accountant": self.steps.accountant,
            **({} if self.chosen.noise_seed is None else {"void": known}),
        }
        self.loop.notes.append(
            f"private training: epsilon {spent:.3g} at delta {self.steps.delta:.2g}, noise multiplier "
            f"{self.noise:.3g}, clipping by {self.mode}"
            + ("" if self.chosen.noise_seed is None else f"; it holds for nobody: {known}")
        )

    def release(self) -> None:
        """Take the hooks away."""
        if self.gradients is not None:
            self.gradients.clipped.end()
