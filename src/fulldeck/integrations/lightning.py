"""Instructions in Lightning's Trainer.

from fulldeck.integrations.lightning import FulldeckCallback
trainer = lightning.Trainer(callbacks=[FulldeckCallback([fulldeck.WeightAveraging()])])
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fulldeck.errors import BadInput, extra
from fulldeck.instruction import Instruction, check_attachable
from fulldeck.integrations.borrowed_loop import BorrowedLoop, as_pair, as_validation, no_batch
from fulldeck.training.batch import Batch

extra("lightning.pytorch", "lightning")

from lightning.pytorch import Callback, LightningModule, Trainer  # noqa: E402
from lightning.pytorch.utilities.model_helpers import is_overridden  # noqa: E402


class FulldeckCallback(Callback):
    """The training doors of `instructions`, inside `Trainer.fit`.

    They are attached in `setup`, before the optimizers exist; what they keep is in Lightning's checkpoints.
    Validation sees the model as it will be shipped, and after `fit` the module is that model. `loop.reported` and
    `loop.notes` say what the instructions changed. Mixed precision, accumulation and checkpoints are the Trainer's
    own: `Trainer(precision="bf16-mixed", accumulate_grad_batches=2)`.

    Raises BadInput before the training starts if Lightning cannot meet what an instruction needs.
    """

    def __init__(self, instructions: Iterable[Instruction]) -> None:
        self.instructions = check_attachable(instructions)
        self.loop: BorrowedLoop | None = None
        self._saved: dict[str, Any] | None = None
        self._batch: Batch | None = None

    @property
    def _loop(self) -> BorrowedLoop:
        if self.loop is None:
            raise BadInput("FulldeckCallback has not been in a Trainer.fit yet")
        return self.loop

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        loop = BorrowedLoop(
            "Lightning's Trainer",
            pl_module,
            trainer.strategy.root_device,
            judged=is_overridden("validation_step", pl_module),
        )
        loop.epochs = trainer.max_epochs or 0
        loop.max_steps = trainer.max_steps if trainer.max_steps >= 0 else None
        loop.steps = lambda: _steps(trainer)
        self.loop = loop
        loop.attach(self.instructions)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loop = self._loop
        loop.optimizers = [getattr(one, "optimizer", one) for one in trainer.optimizers]
        loop.batches = lambda: trainer.train_dataloader or ()
        loop.begin(self._saved)
        self._saved = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._loop.epoch = trainer.current_epoch
        self._loop.fire("epoch_start")

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        loop = self._loop
        loop.step = trainer.global_step
        pair = as_pair(batch)
        self._batch = no_batch(loop.device) if pair is None else Batch(*pair, weight=float(len(pair[1])))
        loop.fire("batch_start", self._batch)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._loop.last_loss = loss.detach()

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        assert self._batch is not None
        if self._loop.skip_reason(self._batch) is not None:
            self._batch = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loop = self._loop
        # Between the steps of an accumulation nothing has been stepped, and a skipped step does not count.
        if trainer.global_step > loop.step and self._batch is not None:
            loop.fire("step_end", self._batch)
        if loop.stopped is not None:
            trainer.should_stop = True

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._loop.swap_in()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._loop.swap_out()
            self._loop.fire("evaluation", as_validation(trainer.callback_metrics))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._loop.fire("epoch_end")
        if self._loop.stopped is not None:
            trainer.should_stop = True

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._loop.hand_over()

    def state_dict(self) -> dict[str, Any]:
        return {} if self.loop is None else self.loop.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._saved = state_dict


def _steps(trainer: Trainer) -> tuple[int, int]:
    total = trainer.estimated_stepping_batches
    if total == float("inf"):
        raise TypeError("the training has no end")
    each = -(-trainer.num_training_batches // trainer.accumulate_grad_batches)
    return int(each), int(total)
