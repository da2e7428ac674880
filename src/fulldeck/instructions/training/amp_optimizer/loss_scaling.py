"""Dynamic loss scaling for float16: torch's GradScaler inside the loop's contracts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fulldeck.errors import RunFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from fulldeck.training.batch import Batch
    from fulldeck.training.loop import TrainingLoop

OVERFLOW = "float16 overflow"


class LossScaling:
    """The scaler of one training."""

    def __init__(self, loop: TrainingLoop, initial_scale: float, growth_interval: int) -> None:
        self.loop = loop
        self.one = torch.ones((), device=loop.device)
        self.scaler = torch.amp.GradScaler(
            loop.device.type, init_scale=initial_scale, growth_interval=growth_interval
        )

    def gradients(self, batch: Batch, inner: Callable[[Batch], None]) -> None:
        scale = self.scaler.scale(self.one)
        # Setting the scale to what it is forgets an earlier unscale_: this phase may run twice in a step.
        self.scaler.update(scale)
        self.loop.loss_scale = scale
        inner(batch)
        for optimizer in self.loop.optimizers:
            self.scaler.unscale_(optimizer)

    def before_step(self, batch: Batch) -> str | None:
        if self.loop.ranks.world_size > 1:
            self._agree()
        before = self.scaler.get_scale()
        self.scaler.update()
        after = self.scaler.get_scale()
        if after >= before:
            return None
        if after < 1:
            raise RunFailed(
                f"the gradient is not finite at step {self.loop.step}, however small the loss scale; write "
                "dtype: bfloat16, keep the module that overflows in fp32, or lower the learning rate"
            )
        self._check_statistics()
        return OVERFLOW

    def _agree(self) -> None:
        """Each rank has looked at its own gradient, or its share of it: an overflow on one is one on all."""
        for optimizer in self.loop.optimizers:
            found = self.scaler._per_optimizer_states[id(optimizer)]["found_inf_per_device"]
            for device, overflow in found.items():
                found[device] = self.loop.ranks.total(overflow)

    def _check_statistics(self) -> None:
        # Skipping the step undoes an overflow of the gradient, not one of the activations.
        for name, buffer in self.loop.model.named_buffers():
            if name.endswith(("running_mean", "running_var")) and not buffer.isfinite().all():
                raise RunFailed(
                    f"an activation overflowed float16 at step {self.loop.step} and reached {name}; write "
                    f"dtype: bfloat16, or keep the modules before {name.rpartition('.')[0]} in fp32"
                )
