"""Instructions in the Trainer of Hugging Face's transformers.

from fulldeck.integrations.transformers import FulldeckCallback
trainer = transformers.Trainer(model, arguments, callbacks=[FulldeckCallback([fulldeck.WeightAveraging()])])
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fulldeck.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from fulldeck.errors import BadInput, extra
from fulldeck.instruction import Instruction, check_attachable
from fulldeck.integrations.borrowed_loop import BorrowedLoop, as_pair, as_validation, no_batch
from fulldeck.training.batch import Batch

extra("transformers", "huggingface")

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments  # noqa: E402

FILE = "fulldeck.safetensors"
"""In each of the Trainer's checkpoint folders: what the instructions keep."""


class FulldeckCallback(TrainerCallback):
    """The training doors of `instructions`, inside `Trainer.train`.

    Give it to `Trainer(callbacks=[...])`: they are attached when the Trainer has been made, before it makes its
    optimizer. Evaluation during training sees the model as it will be shipped, and after `train` the model is
    that. `loop.reported` and `loop.notes` say what the instructions changed.

    Raises BadInput before the training starts if the Trainer cannot meet what an instruction needs.
    """

    def __init__(self, instructions: Iterable[Instruction]) -> None:
        self.instructions = check_attachable(instructions)
        self.loop: BorrowedLoop | None = None
        self._skipped = False
        self._in_epoch = False
        self._batch: Batch | None = None
        self._hooks: list[Any] = []

    @property
    def _loop(self) -> BorrowedLoop:
        if self.loop is None:
            raise BadInput("FulldeckCallback is for Trainer(callbacks=[...]); it was added later")
        return self.loop

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        loop = BorrowedLoop(
            "the Trainer of transformers",
            given["model"],
            args.device,
            judged=args.eval_strategy != "no",
        )
        loop.seed = args.seed
        self.loop = loop
        loop.attach(self.instructions)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        loop = self._loop
        loop.optimizers = [getattr(given["optimizer"], "optimizer", given["optimizer"])]
        loop.batches = lambda: given["train_dataloader"]
        loop.epochs, loop.max_steps = int(state.num_train_epochs), state.max_steps
        each = -(-state.max_steps // max(loop.epochs, 1))
        loop.steps = lambda: (each, state.max_steps)
        self._hooks = [
            loop.model.register_forward_pre_hook(self._see_batch, with_kwargs=True),
            loop.model.register_forward_hook(self._see_loss),
        ]
        file = _file(args, state)
        loop.begin(load_checkpoint(file) if state.global_step and file.is_file() else None)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        self._end_epoch()
        self._in_epoch = True
        self._loop.epoch = int(state.epoch or 0)
        self._loop.fire("epoch_start")

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        loop = self._loop
        loop.step = state.global_step
        self._skipped = loop.skip_reason(self._batch or no_batch(loop.device)) is not None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        if not self._skipped:
            self._loop.fire("step_end", self._batch or no_batch(self._loop.device))
        self._batch = None
        self._flow(control)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        self._flow(control)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        self._loop.swap_out()
        if state.global_step:
            self._loop.fire("evaluation", as_validation(given["metrics"]))
        self._flow(control)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        if self._loop.states:
            save_checkpoint(_file(args, state), self._loop.state_dict())

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._loop.swap_out()
        self._end_epoch()
        self._loop.hand_over()

    def _see_batch(self, model: nn.Module, inputs: Any, named: dict[str, Any]) -> None:
        # The callbacks are not shown the batch. Of an accumulation it is the first part of it.
        if not model.training or self._batch is not None:
            return
        loop = self._loop
        pair = as_pair(named)
        self._batch = no_batch(loop.device) if pair is None else Batch(*pair, weight=float(len(pair[1])))
        loop.last_loss = torch.zeros((), device=loop.device)
        loop.fire("batch_start", self._batch)

    def _see_loss(self, model: nn.Module, inputs: Any, outputs: Any) -> None:
        if model.training and isinstance(loss := getattr(outputs, "loss", None), Tensor):
            self._loop.last_loss = loss.detach()

    def _flow(self, control: TrainerControl) -> None:
        if control.should_evaluate:  # it follows at once, and has no event of its own before it
            self._loop.swap_in()
        if self._loop.stopped is not None:
            control.should_training_stop = True

    def _end_epoch(self) -> None:
        # Here and not in on_epoch_end: the evaluation of an epoch comes after that.
        if self._in_epoch:
            self._loop.fire("epoch_end")
            self._in_epoch = False


def _file(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(args.output_dir or ".") / f"checkpoint-{state.global_step}" / FILE
