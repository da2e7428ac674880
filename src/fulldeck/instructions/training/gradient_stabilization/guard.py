"""The guard of one training: judges each gradient before the optimizer sees it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fulldeck.errors import RunFailed
from fulldeck.instructions.training.gradient_stabilization.clipping import LIMITS, clip_by, gradient_norm
from fulldeck.instructions.training.gradient_stabilization.fault import (
    all_finite,
    first_bad_gradient,
    first_fault,
)
from fulldeck.instructions.training.gradient_stabilization.spikes import RunningQuantile
from fulldeck.training.random_state import random_state, restore_random_state

if TYPE_CHECKING:
    from fulldeck.instructions.training.gradient_stabilization import GradientStabilization
    from fulldeck.training.batch import Batch
    from fulldeck.training.loop import TrainingLoop

NOT_FINITE = "the gradient was not finite"
SPIKE = "the gradient's norm was a spike"
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_LATE = 4
"""Steps after which the verdict on a step is read from the device, if it has not come before."""


@dataclass
class _Verdict:
    """On one step: whether its gradient was [not finite, a spike]; on its way from the device."""

    step: int
    batch: Batch
    flags: Tensor
    arrived: torch.Event | None


class Guard:
    """Clips, and skips steps whose gradient is not finite or a spike, as if they had not been."""

    def __init__(self, instruction: GradientStabilization, loop: TrainingLoop) -> None:
        self.instruction = instruction
        self.loop = loop
        self.figures = loop.figures()
        self.norms = RunningQuantile(instruction.quantile, instruction.window, loop.device)
        self.largest = torch.zeros((), device=loop.device)
        self.applied = torch.zeros((), device=loop.device)
        self.in_a_row = 0
        self.on_device = False
        self._verdicts: deque[_Verdict] = deque()
        self._finite_loss = torch.zeros((), device=loop.device)
        self.follow()

    def follow(self) -> None:
        """Guard the parameters and statistics that the model has now."""
        model = self.loop.model
        self.parameters = self.loop.parameters()
        self.statistics = [b for name, b in model.named_buffers() if name.endswith(_STATISTICS)]
        self.kept = [buffer.clone() for buffer in self.statistics]

    def choose_place(self) -> None:
        """Decide on the device where every optimizer can leave a step out by itself, else on the host."""
        able = all(getattr(o, "_step_supports_amp_scaling", False) for o in self.loop.optimizers)
        wanted = self.instruction.decide
        accelerator = self.loop.device.type != "cpu"
        self.on_device = able and (wanted == "device" or (wanted == "auto" and accelerator))
        if not able and (wanted == "device" or accelerator):
            self.loop.notes.append(
                "gradient_stabilization reads one number from the device at every step, because this optimizer "
                "cannot leave out a step by itself; a fused one can (optimizer_selection: {kind: adamw})"
            )

    # One step ----------------------------------------------------------------------------------------

    @torch.no_grad()
    def keep_statistics(self, batch: Batch) -> None:
        """Batch-norm's statistics move in the forward pass, before anything is known of its gradient."""
        if self.statistics:
            torch._foreach_copy_(self.kept, self.statistics)

    @torch.no_grad()
    def before_step(self, batch: Batch) -> str | None:
        chosen, loop = self.instruction, self.loop
        assert loop.last_loss is not None
        loss = loop.last_loss.detach()
        parameters = [parameter for parameter in self.parameters if parameter.grad is not None]
        norm = gradient_norm(parameters)
        finite = (norm + loss).isfinite()
        usual = self.norms.value() if chosen.skip_spikes else None
        spike = torch.zeros_like(finite) if usual is None else (norm > chosen.spike_factor * usual) & finite
        self.norms.add(norm)
        flags = torch.stack([~finite, spike])
        if self.on_device:
            self._leave_out(batch, flags, loss)
        elif (reason := self._decide(batch, flags)) is not None:
            return reason
        self.largest = torch.maximum(self.largest, torch.where(finite, norm, 0.0))
        limit = LIMITS.get(chosen.clip, torch.inf) if chosen.limit is None else chosen.limit
        self.applied = torch.maximum(self.applied, torch.where(flags.any(), 0.0, norm.clamp(max=limit)))
        if chosen.clip != "none":
            clip_by(parameters, chosen.clip, limit, norm)
        return None

    def _decide(self, batch: Batch, flags: Tensor) -> str | None:
        bad, spike = flags.tolist()
        if not bad:
            self.in_a_row = 0
        if not bad and not spike:
            return None
        if bad:
            self._explain(self.loop.step, batch, gradient_is_there=True)
        self._put_statistics_back()
        return NOT_FINITE if bad else SPIKE

    def _put_statistics_back(self) -> None:
        if self.statistics:
            torch._foreach_copy_(self.statistics, self.kept)

    # On the device: nothing is waited for -------------------------------------------------------------

    def _leave_out(self, batch: Batch, flags: Tensor, loss: Tensor) -> None:
        """Let the optimizers leave this step out if a flag is set; read later whether one was."""
        loop, skip = self.loop, flags.any()
        for optimizer in loop.optimizers:
            vars(optimizer).update(grad_scale=None, found_inf=skip.float())
        for buffer, kept in zip(self.statistics, self.kept, strict=True):
            buffer.copy_(torch.where(skip, kept, buffer))
        # The loop ends a training whose loss is not finite; this one's step is not taken.
        self._finite_loss = torch.where(flags[0], self._finite_loss, loss)
        loop.last_loss = self._finite_loss
        arrived = None
        if flags.device.type != "cpu":
            flags = flags.to("cpu", non_blocking=True)
            arrived = torch.Event(self.loop.device.type)
            arrived.record()
        self._verdicts.append(_Verdict(loop.step, batch, flags, arrived))
        while self._verdicts and (len(self._verdicts) > _LATE or _has_arrived(self._verdicts[0])):
            self._hear(self._verdicts.popleft())

    def _hear(self, verdict: _Verdict) -> None:
        if verdict.arrived is not None:
            verdict.arrived.synchronize()
        bad, spike = verdict.flags.tolist()
        if bad:
            self._explain(verdict.step, verdict.batch, gradient_is_there=False)
        else:
            self.in_a_row = 0
        if bad or spike:
            reason = NOT_FINITE if bad else SPIKE
            self.loop.skipped[reason] = self.loop.skipped.get(reason, 0) + 1

    def hear_all(self) -> None:
        """Wait for the verdicts that are still on their way."""
        while self._verdicts:
            self._hear(self._verdicts.popleft())

    def release(self) -> None:
        """Let the optimizers be as they were."""
        for optimizer in self.loop.optimizers:
            for name in ("grad_scale", "found_inf"):
                vars(optimizer).pop(name, None)

    # What went wrong ----------------------------------------------------------------------------------

    def _explain(self, step: int, batch: Batch, *, gradient_is_there: bool) -> None:
        """Note the origin of a gradient that is not finite. Raises RunFailed where going on is no use."""
        loop = self.loop
        weight = next((n for n, p in loop.model.named_parameters() if not all_finite(p)), None)
        if weight is not None:
            raise RunFailed(
                f"the weights {weight} are not finite at step {step}; lower the learning rate, and look for "
                "NaN in what the training started from"
            )
        origin = self._origin(batch)
        if origin is None:
            origin = (gradient_is_there and first_bad_gradient(loop.model)) or "the backward pass"
        self.in_a_row += 1
        if self.in_a_row >= self.instruction.patience:
            raise RunFailed(
                f"the gradient was not finite for {self.in_a_row} steps up to step {step}; the first to go "
                f"wrong is {origin}; look there, and for NaN in the data, or lower the learning rate"
            )
        what = f"gradient_stabilization: first to go wrong was {origin}"
        if not any(note.startswith(what) for note in loop.notes):
            loop.notes.append(f"{what} (at step {step}, which was skipped)")

    def _origin(self, batch: Batch) -> str | None:
        """Compute the batch once more, and look at every module."""
        loop, bad_losses = self.loop, []

        def forward() -> None:
            for part in loop.split(batch):
                loop.forward(part)
                if part.loss is not None and not all_finite(part.loss):
                    bad_losses.append(part)

        here, module = random_state(), loop.module
        statistics = [buffer.clone() for buffer in self.statistics]
        loop.module = loop.model  # a compiled one calls no hooks
        try:
            origin = first_fault(loop.model, forward)
        finally:
            loop.module = module
            restore_random_state(here)
            for buffer, before in zip(self.statistics, statistics, strict=True):
                buffer.copy_(before)
        return origin or ("the loss" if bad_losses else None)

    def report(self) -> None:
        """Write down what the norms were."""
        self.hear_all()
        change = {"before": float(self.largest)}
        if self.instruction.clip in ("norm", "none"):
            change["after"] = float(self.applied)
            self.figures["largest_gradient_norm"] = change

    def state_dict(self) -> dict[str, Any]:
        """All that later verdicts depend on."""
        self.hear_all()
        return {
            "norms": self.norms.state_dict(),
            "largest": self.largest,
            "applied": self.applied,
            "in_a_row": self.in_a_row,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.norms.load_state_dict(state["norms"])
        self.largest.copy_(state["largest"])
        self.applied.copy_(state["applied"])
        self.in_a_row = state["in_a_row"]
        self.follow()


def _has_arrived(verdict: _Verdict) -> bool:
    return verdict.arrived is None or verdict.arrived.query()
