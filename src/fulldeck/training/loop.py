"""The training loop: plain PyTorch, read top to bottom, that knows no instruction by name.

The loop owns zero_grad, backward and step. Instructions change it in five ways, all in their `attach`:

- `on(event, handler)`: be told; `around(phase, wrapper)`: wrap a phase (see `fulldeck.training.hooks`).
- `keep(state)`: let checkpoints hold an object that has `state_dict` and `load_state_dict`.
- replace an attribute: `loader`, `loader.sampler`, `split`, `weigh`, `build_optimizers`, `loss_scale`,
  `checkpoints`, `ranks`, `keep_memory`.
- `wrap_model`, `companion`, `deploy_with`, `surgery`: change or accompany the model (see `Attachments`).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fulldeck.checkpoints.checkpoint import Checkpoints, LastCheckpoint
from fulldeck.device import pick_device
from fulldeck.distributed.ranks import GradientExchange, Ranks
from fulldeck.errors import RunFailed
from fulldeck.instruction import check_attachable, labels
from fulldeck.memory import freed_memory_kept
from fulldeck.training.attachments import Attachments
from fulldeck.training.batch import (
    Batch,
    LossFunction,
    Metric,
    Part,
    call,
    rows,
    to_device,
)
from fulldeck.training.hooks import Handler
from fulldeck.training.loader import Loader, as_loader
from fulldeck.training.loss_log import LossLog
from fulldeck.training.random_state import seed_all
from fulldeck.training.rank_share import parts_of, predictions, shares
from fulldeck.training.state import restore_training_state, training_state
from fulldeck.training.step_clock import (
    BACKWARD,
    COMMUNICATION,
    DATA,
    FORWARD,
    INSTRUCTIONS,
    OPTIMIZER,
    TRANSFER,
    StepClock,
)
from fulldeck.training.token_mean import score

if TYPE_CHECKING:
    from fulldeck.data import Data
    from fulldeck.instruction import Instruction


class TrainingLoop(Attachments):
    """Train `model` on batches from `loader`.

    `loader` gives (inputs, targets); `loss(outputs, targets)` is a mean over the samples. `validation` is
    a loader like it, `metrics` map a name to a function of all outputs and targets. `micro_batch` is the
    most samples computed at once (None: the whole batch). `device` is `auto`, `cpu` or an accelerator.
    With `checkpoints`, a folder, the state is kept there at the end of each epoch and every
    `checkpoint_every` steps; `resume=True` in `fit` goes on from it, bit for bit.
    """

    def __init__(
        self,
        model: nn.Module,
        loader: Loader | Iterable[Any],
        loss: LossFunction,
        *,
        instructions: Iterable[Instruction] = (),
        epochs: int = 1,
        max_steps: int | None = None,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] = torch.optim.AdamW,
        validation: Loader | Iterable[Any] | None = None,
        metrics: Mapping[str, Metric] | None = None,
        micro_batch: int | None = None,
        device: str = "auto",
        seed: int = 0,
        data: Data | None = None,
        checkpoints: Path | None = None,
        checkpoint_every: int | None = None,
        record: Callable[[Mapping[str, Any]], object] | None = None,
    ) -> None:
        super().__init__(model, pick_device(device))
        self.loader = as_loader(loader)
        self.loss = loss
        self.epochs = epochs
        self.max_steps = max_steps
        self.validation = None if validation is None else as_loader(validation)
        self.metrics = dict(metrics or {})
        self.micro_batch = micro_batch
        self.seed = seed
        self.data = data
        self.checkpoints: Checkpoints | None = (
            None if checkpoints is None else LastCheckpoint(checkpoints, checkpoint_every)
        )
        self.record = record or (lambda values: None)
        self.keep_memory = True
        """On a CPU, keep what is freed for the next step; false for who measures what this process holds."""

        self.build_optimizers: Callable[[Iterable[nn.Parameter]], list[torch.optim.Optimizer]] = (
            lambda parameters: [optimizer(parameters)]
        )
        self.split: Callable[[Batch], Sequence[Part]] = partial(parts_of, self)
        # A loss that is no mean over the samples says what it is a mean over.
        self.weigh: Callable[[Tensor], float] = getattr(loss, "weigh", rows)
        self.loss_scale: float | Tensor = 1.0
        # Of several processes each computes its share of every batch; losses and decisions are those of all.
        self.ranks = Ranks(together=False)
        self.exchange: GradientExchange | None = None

        self.epoch = 0
        self.step_in_epoch = 0
        self.step = 0
        self.updates = 0
        self.skipped: dict[str, int] = {}
        self.history: list[dict[str, float]] = []
        self.clock = StepClock()
        self.last_loss: Tensor | None = None
        self.losses = LossLog(self.device)
        self.moved_bytes: float | None = None  # to and from memory in a step, where somebody has counted them
        self.stopped: str | None = None
        self._stop_wanted: str | None = None

        attached = check_attachable(instructions)
        for label, instruction in zip(labels(i.card.name for i in attached), attached, strict=True):
            self.attach(instruction, label)

    # What instructions use ---------------------------------------------------------------------------

    def attach(self, instruction: Instruction, label: str) -> None:
        """Open the instruction's training door; what it keeps is known by `label`."""
        self._label = label
        instruction.attach(self)

    def stop(self, reason: str) -> None:
        """Ask to stop after this step; handlers of *stopping* may refuse."""
        self._stop_wanted = reason

    def batches(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of `epoch` without the first `skip`: of each one this process's share, not yet moved."""
        ranks = self.ranks
        return shares(self.loader, epoch, skip, rank=ranks.rank, world_size=ranks.world_size)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one epoch."""
        return len(self.loader)

    @property
    def total_steps(self) -> int:
        """Optimizer steps in the whole training, unless it is stopped."""
        planned = self.epochs * self.steps_per_epoch
        return planned if self.max_steps is None else min(planned, self.max_steps)

    def forward(self, part: Part) -> None:
        """The forward phase with all its wrappers so far: for a second pass in one step, or before training."""
        self._hooks.compose("forward", self._forward)(part)

    # The work ----------------------------------------------------------------------------------------

    def fit(self, *, resume: bool = False) -> nn.Module:
        """Train, and return the model as deployed (a copy, on the CPU, without wrappers).

        Raises RunFailed if the loss is not finite.
        """
        with (
            nullcontext() if self.checkpoints is None else self.checkpoints.opened(self),
            freed_memory_kept(self.keep_memory) if self.device.type == "cpu" else nullcontext(),
        ):
            seed_all(self.seed)
            self._bind()
            self.module = self._wrapped()
            self.optimizers = self.build_optimizers(self.parameters())
            self._hooks.fire("ready")
            if self.checkpoints is not None and (state := self.checkpoints.read(resume)) is not None:
                restore_training_state(self, state)
            while self.epoch < self.epochs and self.stopped is None:
                self._run_epoch()
        self._hooks.fire("fit_end")
        self._hooks.fire("hand_over")
        with self.deployed() as model:
            return copy.deepcopy(model).cpu()

    def _run_epoch(self) -> None:
        if self.step_in_epoch == 0:
            self._hooks.fire("epoch_start")
        self.module.train()
        clock, now = self.clock.seconds, time.perf_counter
        on_host = self.device.type == "cpu"
        steps = self.max_steps if self.max_steps is not None else math.inf
        due = None if self.checkpoints is None else self.checkpoints.due
        started = now()
        for batch in self.batches(self.epoch, self.step_in_epoch):
            fetched = now()
            clock[DATA] += fetched - started
            if not on_host:  # even to stay where it is costs a tensor a microsecond
                batch.inputs = to_device(batch.inputs, self.device)
                batch.targets = to_device(batch.targets, self.device)
                clock[TRANSFER] += now() - fetched
            self.run_step(batch)
            self.step += 1
            self.step_in_epoch += 1
            self.clock.steps += 1
            if self._stop_wanted is not None:
                self._consider_stopping()
            if self.step >= steps:
                self.stopped = f"{self.step} steps done"
            if self.stopped is not None:
                break
            if due is not None and due():
                self.save()
            started = now()
        self._end_epoch()

    def run_step(self, batch: Batch) -> None:
        """One optimizer step, with all that is hooked into it, on a batch that is on the device."""
        if batch.whole is None:
            batch.weight = self.weigh(batch.targets)
        else:
            batch.weight = self.weigh(batch.whole) / self.ranks.world_size
        if self._batch_start:
            self._tell(self._batch_start, batch)
        self._phase_gradients(batch)
        if batch.whole is not None:
            self._share_loss()
        if self._before_step and self._asked_to_skip(batch):
            return
        assert self.last_loss is not None
        if not self.losses.add(self.last_loss):
            self._fail_for_loss()
        clock, now = self.clock.seconds, time.perf_counter
        start = now()
        self._phase_apply(batch)
        clock[OPTIMIZER] += now() - start
        self.updates += 1
        if self._step_end:
            self._tell(self._step_end, batch)

    def _tell(self, handlers: Sequence[Handler], argument: Batch | Part) -> None:
        start = time.perf_counter()
        for handler in handlers:
            handler(argument)
        self.clock.seconds[INSTRUCTIONS] += time.perf_counter() - start

    def _asked_to_skip(self, batch: Batch) -> bool:
        start = time.perf_counter()
        reason: str | None = None
        for handler in self._before_step:
            if (reason := handler(batch)) is not None:
                self.skipped[reason] = self.skipped.get(reason, 0) + 1
                break  # the next one must not count somebody else's overflow
        self.clock.seconds[INSTRUCTIONS] += time.perf_counter() - start
        return reason is not None

    def _share_loss(self) -> None:
        """Of several processes the loss is that of all, so that they decide alike."""
        assert self.last_loss is not None
        start = time.perf_counter()
        self.last_loss = self.ranks.mean(self.last_loss)
        self.clock.seconds[COMMUNICATION] += time.perf_counter() - start

    def _gradients(self, batch: Batch) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss: Tensor | float = 0.0
        parts = self.split(batch)
        parts[-1].last = True
        for part in parts:
            if self._part_start:
                self._tell(self._part_start, part)
            part.share = 0.0 if batch.idle else part.weight / batch.weight
            self._phase_part(part)
            for handler in self._after_backward:
                handler(part)
            part.outputs = None  # logits can be as large as all else; they are not held while others come
            assert part.loss is not None
            # Not detached where it need not be: that alone costs microseconds.
            loss = part.loss if part.share == 1.0 else loss + part.loss.detach() * part.share
        assert isinstance(loss, Tensor)
        self.last_loss = loss

    def _part(self, part: Part) -> None:
        clock, now = self.clock.seconds, time.perf_counter
        start = now()
        self._phase_forward(part)
        forwarded = now()
        clock[FORWARD] += forwarded - start
        if self._after_forward:
            self._tell(self._after_forward, part)
            forwarded = now()
        assert part.loss is not None
        total = sum(part.terms, part.loss) if part.terms else part.loss
        # A sum over the part divided by the weight of the whole batch: exact for ragged parts.
        seed = self.loss_scale * part.share
        torch.autograd.backward(
            total, None if isinstance(seed, float) and seed == 1.0 else torch.ones_like(total) * seed
        )
        clock[BACKWARD] += now() - forwarded

    def _forward(self, part: Part) -> None:
        part.outputs = call(self.module, part.inputs)
        part.loss = self.loss(part.outputs, part.targets)

    def _apply(self, batch: Batch) -> None:
        for optimizer in self.optimizers:
            optimizer.step()

    def _end_epoch(self) -> None:
        if not self.losses.read():
            self._fail_for_loss()
        values = {"loss": self.losses.mean()}
        if self.validation is not None:
            values |= {f"validation_{name}": value for name, value in self.evaluate(self.validation).items()}
            self._hooks.fire("evaluation", values)
        self.history.append(values)
        self.record(
            {
                "epoch": self.epoch,
                "step": self.step,
                "lr": self.learning_rate(),
                **values,
                **self.losses.curve(),
                "phases_ms": self.clock.milliseconds(),
            }
        )
        self._hooks.fire("epoch_end")
        if self._stop_wanted is not None:
            self._consider_stopping()
        self.epoch += 1
        self.step_in_epoch = 0
        self.losses.clear()
        self.clock.reset()
        if self.checkpoints is not None and self.checkpoints.due():
            self.save()

    def _consider_stopping(self) -> None:
        reason, self._stop_wanted = self._stop_wanted, None
        refusals = [refusal for handler in self._hooks.handlers["stopping"] if (refusal := handler(reason))]
        if not refusals:
            self.stopped = reason

    def _fail_for_loss(self) -> None:
        raise RunFailed(
            f"the loss is not finite at step {self.step} (epoch {self.epoch}, learning rate "
            f"{self.learning_rate():g}); try a tenth of the learning rate, and look for NaN in the data"
        )

    @torch.no_grad()
    def evaluate(self, loader: Loader | Iterable[Any]) -> dict[str, float]:
        """Loss and metrics of the model as deployed, over all batches of `loader`: the same on all ranks."""
        self._hooks.fire("before_evaluation")
        with self.deployed() as model:
            answers = predictions(model, as_loader(loader), self.device, self.ranks)
            return score(answers, {"loss": self.loss, **self.metrics}, self.ranks)

    @torch.no_grad()
    def predict(self, loader: Loader | Iterable[Any]) -> tuple[Tensor, Tensor]:
        """Outputs and targets of the model as deployed, over all batches (of each this rank's share), on the CPU."""
        self._hooks.fire("before_evaluation")
        with self.deployed() as model:
            answers = predictions(model, as_loader(loader), self.device, self.ranks)
            outputs, targets = zip(*answers, strict=True)
        return torch.cat(outputs), torch.cat(targets)

    # Checkpoints -------------------------------------------------------------------------------------

    def save(self) -> None:
        """Keep the whole state of training; what is kept loads completely, or the one before it does."""
        assert self.checkpoints is not None
        if not self.losses.read():
            self._fail_for_loss()
        state = training_state(self)
        self._hooks.fire("checkpoint", state)
        self.checkpoints.write(state)

    # Inside ------------------------------------------------------------------------------------------

    def _bind(self) -> None:
        # Bound once: looking handlers up and wrapping phases in every step costs microseconds.
        self._batch_start = self._hooks.handlers["batch_start"]
        self._part_start = self._hooks.handlers["part_start"]
        self._after_forward = self._hooks.handlers["after_forward"]
        self._after_backward = self._hooks.handlers["after_backward"]
        self._before_step = self._hooks.handlers["before_step"]
        self._step_end = self._hooks.handlers["step_end"][::-1]
        self._phase_forward = self._hooks.compose("forward", self._forward)
        self._phase_apply = self._hooks.compose("apply", self._apply)
        self._phase_gradients = self._hooks.compose("gradients", self._gradients)
        self._phase_part = self._hooks.compose("part", self._part)
