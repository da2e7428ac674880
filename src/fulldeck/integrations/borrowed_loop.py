"""A stand-in of the training loop, for a trainer that fulldeck does not own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from fulldeck.distributed.ranks import Ranks
from fulldeck.errors import BadInput
from fulldeck.instruction import Instruction, check_attachable, labels
from fulldeck.memory import keep_freed_memory
from fulldeck.training.batch import Batch, Part
from fulldeck.training.hooks import EVENTS, Hooks

OWN = {
    "gradients": "computes the gradients itself",
    "part": "computes the gradients itself",
    "forward": "computes the loss itself",
    "apply": "steps the optimizer itself",
    "part_start": "computes the loss itself",
    "after_forward": "computes the loss itself",
    "after_backward": "computes the gradients itself",
    "model_changed": "never changes the model",
    "wrap_model": "wraps the model itself",
    "companion": "trains nothing but its model",
    "surgery": "would not train what a surgery adds",
    "carry": "has no later door, of conversion or of serving",
    "loader": "makes its own batches",
    "split": "splits batches itself",
    "weigh": "weighs batches itself",
    "build_optimizers": "builds the optimizer itself",
    "loss": "computes the loss itself",
    "loss_scale": "scales the loss itself",
    "micro_batch": "splits batches itself",
    "checkpoints": "writes checkpoints itself",
}
"""What an instruction may ask for, and what the trainer does instead."""
TOLD = frozenset(EVENTS) - frozenset(OWN)
"""The events that a trainer tells its callbacks, or its model's forward pass; the rest it does itself."""
REPLACED = ("loader", "split", "weigh", "build_optimizers", "loss", "loss_scale", "micro_batch")


class NotOffered(BadInput):
    """The instruction needs something that the trainer has not."""


class BorrowedLoop:
    """What an instruction sees of a trainer: its model, its events, and refusals.

    Its callback fires the events that are TOLD. `model` is what is trained, `device` where; `judged` says whether there
    is validation data.
    """

    def __init__(self, trainer: str, model: nn.Module, device: torch.device, *, judged: bool) -> None:
        self.trainer = trainer
        self.model = model
        self.module = model
        self.device = device
        self.keep_memory = True
        # Instructions ask whether there is validation data; the trainer reads it.
        self.validation: tuple[()] | None = () if judged else None
        self.data = None
        self.seed = 0
        self.optimizers: list[torch.optim.Optimizer] = []
        self.ranks = Ranks(together=False)
        self.batches: Callable[[], Iterable[Any]] | None = None
        self.epoch = 0
        self.epochs = 0
        self.max_steps: int | None = None
        self.step = 0
        self.updates = 0
        self.steps: Callable[[], tuple[int, int]] | None = None
        self.skipped: dict[str, int] = {}
        self.history: list[dict[str, float]] = []
        self.notes: list[str] = []
        self.states: dict[str, Any] = {}
        self.reported: dict[str, dict[str, dict[str, float]]] = {}
        self.drawn: dict[str, list[dict[str, Any]]] = {}
        self.last_loss: Tensor | None = None
        self.stopped: str | None = None
        self._hooks = Hooks()
        self._label = ""
        self._deployed: list[Callable[[], AbstractContextManager[object]]] = []
        self._swapped: ExitStack | None = None

    # What the trainer's callback uses ----------------------------------------------------------------

    def attach(self, instructions: Iterable[Instruction]) -> None:
        """Open the training door of each. Raises BadInput, with all reasons, if the trainer cannot meet one."""
        chosen = check_attachable(instructions)
        problems = []
        for label, one in zip(labels(i.card.name for i in chosen), chosen, strict=True):
            self._label = label
            try:
                if "prepare" in one.doors():
                    raise NotOffered("it changes the data, which the trainer has read already")
                one.attach(self)  # type: ignore[arg-type]
            except NotOffered as error:
                problems.append(f"{label}: {error}")
        if problems:
            raise BadInput(
                f"{self.trainer} cannot meet what some instructions need; leave them out, or train with "
                f"fulldeck.TrainingLoop: {'; '.join(problems)}"
            )

    def begin(self, saved: dict[str, Any] | None) -> None:
        """The optimizers exist; `saved` is what `state_dict` gave, where the trainer goes on from a checkpoint."""
        self.ranks = Ranks()  # the trainer has its processes by now
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        before = [{name: value for name, value in group.items() if name != "params"} for group in groups]
        if self.device.type == "cpu":
            keep_freed_memory(self.keep_memory)
        self.fire("ready")
        if saved is not None:
            self.load_state_dict(saved)
            # The trainer has restored its optimizers already, and a schedule that starts has set the rate.
            for group, values in zip(groups, before, strict=True):
                group.update(values)

    def fire(self, event: str, *arguments: Any) -> None:
        """Call the handlers of `event`."""
        self._hooks.fire(event, *arguments)

    def skip_reason(self, batch: Batch) -> str | None:
        """Ask the handlers of *before_step*; the first reason counts. The step to skip loses its gradients."""
        for handler in self._hooks.handlers["before_step"]:
            if (reason := handler(batch)) is not None:
                self.skipped[reason] = self.skipped.get(reason, 0) + 1
                for optimizer in self.optimizers:
                    optimizer.zero_grad(set_to_none=True)  # without a gradient no optimizer moves a weight
                return str(reason)
        self.updates += 1
        return None

    def swap_in(self) -> None:
        """Put what will be shipped in place, until `swap_out`."""
        if self._swapped is None and self._deployed:
            self._swapped = ExitStack()
            for swap in self._deployed:
                self._swapped.enter_context(swap())

    def swap_out(self) -> None:
        """Go back to what is trained."""
        if self._swapped is not None:
            self._swapped.close()
            self._swapped = None

    def hand_over(self) -> None:
        """Training is over: what remains in the model is what will be shipped."""
        self.fire("fit_end")
        self.fire("hand_over")
        keep_freed_memory(None)

    def state_dict(self) -> dict[str, Any]:
        """What the instructions keep."""
        states = {label: state.state_dict() for label, state in self.states.items()}
        return {"states": states, "updates": self.updates, "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave. Raises BadInput if other instructions wrote it."""
        if differ := sorted(set(state["states"]) ^ set(self.states)):
            raise BadInput(f"the checkpoint is of other instructions; these differ: {', '.join(differ)}")
        for label, saved in state["states"].items():
            self.states[label].load_state_dict(saved)
        self.updates, self.skipped = state["updates"], state["skipped"]

    # What instructions use ---------------------------------------------------------------------------

    def on(self, event: str, handler: Callable[..., Any]) -> None:
        """As the training loop's; refused for an event that the trainer does not have."""
        if event != "model_changed" and event not in TOLD:
            self._refuse(event, f'hears of "{event}"')
        self._hooks.on(event, handler)

    def around(self, phase: str, wrapper: Callable[..., Any]) -> None:
        """Refused: the trainer's phases cannot be wrapped."""
        self._refuse(phase, f'wraps the phase "{phase}"')

    def keep(self, state: Any) -> None:
        """Let the trainer's checkpoints hold `state.state_dict()`."""
        self.states[self._label] = state

    def figures(self) -> dict[str, dict[str, float]]:
        """Where the attaching instruction writes what it changed; see `FulldeckCallback.reported`."""
        return self.reported.setdefault(self._label, {})

    def charts(self) -> list[dict[str, Any]]:
        """Where the attaching instruction puts charts."""
        return self.drawn.setdefault(self._label, [])

    def deploy_with(self, swap: Callable[[], AbstractContextManager[object]]) -> None:
        """Evaluate inside `swap()`, which puts in place what will be shipped."""
        self._deployed.append(swap)

    @contextmanager
    def deployed(self) -> Iterator[nn.Module]:
        """The model as it will be shipped."""
        already = self._swapped is not None
        self.swap_in()
        try:
            yield self.model
        finally:
            if not already:
                self.swap_out()

    def stop(self, reason: str) -> None:
        """Ask the trainer to stop, unless a handler of *stopping* refuses."""
        refusals = [refusal for handler in self._hooks.handlers["stopping"] if (refusal := handler(reason))]
        if not refusals:
            self.stopped = reason

    def parameters(self) -> list[nn.Parameter]:
        """All that is trained."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def learning_rate(self) -> float:
        """That of the first group of the first optimizer."""
        return float(self.optimizers[0].param_groups[0]["lr"])

    def split(self, batch: Batch) -> list[Part]:
        """The batch as one part."""
        return [Part(batch.inputs, batch.targets, batch.weight)]

    def forward(self, part: Part) -> None:
        """The model's outputs alone; the loss is the trainer's."""
        inputs = part.inputs
        part.outputs = self.model(**inputs) if isinstance(inputs, dict) else self.model(inputs)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one epoch. Raises TypeError where the trainer does not know yet."""
        return self._steps()[0]

    @property
    def total_steps(self) -> int:
        """Optimizer steps in the whole training. Raises TypeError where the trainer does not know yet."""
        return self._steps()[1]

    @property
    def loader(self) -> TrainersBatches:
        """The trainer's batches, to be read once it trains."""
        return TrainersBatches(self)

    def _steps(self) -> tuple[int, int]:
        if self.steps is None:
            raise TypeError("the number of steps is not known before the training begins")
        return self.steps()

    def __setattr__(self, name: str, value: Any) -> None:
        if name in REPLACED:
            self._refuse(name, f"replaces the {name.replace('_', ' ')}")
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> NoReturn:
        self._refuse(name, f"uses {name}")

    def _refuse(self, name: str, what: str) -> NoReturn:
        raise NotOffered(f"it {what}, and the trainer {OWN.get(name, 'has nothing like it')}")


class TrainersBatches:
    """A trainer's data loader, as the training loop's loader: to read, not to change."""

    _loop: BorrowedLoop

    def __init__(self, loop: BorrowedLoop) -> None:
        object.__setattr__(self, "_loop", loop)

    def batches(self, epoch: int = 0, skip: int = 0) -> Iterator[tuple[Any, Tensor]]:
        """Inputs and targets. Raises NotOffered before the training, BadInput for batches of another form."""
        if self._loop.batches is None:
            raise NotOffered("it reads batches before the training, and the trainer has none yet")
        for batch in self._loop.batches():
            if (pair := as_pair(batch)) is None:
                raise BadInput(
                    "an instruction needs batches of inputs and targets, and the trainer's are others"
                )
            yield pair

    def __setattr__(self, name: str, value: Any) -> None:
        raise NotOffered(f"it replaces the {name} of the loader, and the trainer {OWN['loader']}")


def no_batch(device: torch.device) -> Batch:
    """For handlers, where the trainer does not show the batch."""
    nothing = torch.empty(0, device=device)
    return Batch(nothing, nothing)


def as_pair(batch: Any) -> tuple[Any, Tensor] | None:
    """Inputs and targets of a trainer's batch: a pair, or a mapping with labels; None for anything else."""
    if isinstance(batch, Mapping):
        inputs = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
        targets = inputs.pop("labels", None)
        return None if targets is None else (inputs, targets)
    if isinstance(batch, (tuple, list)) and len(batch) == 2 and isinstance(batch[1], Tensor):
        return batch[0], batch[1]
    return None


def as_validation(metrics: Mapping[str, Any]) -> dict[str, float]:
    """A trainer's metrics by the training loop's names: `val_loss` and `eval_loss` are `validation_loss`."""
    found = {}
    for name, value in metrics.items():
        for prefix in ("validation_", "valid_", "val_", "eval_"):
            if name.startswith(prefix) and isinstance(value, (int, float, Tensor)):
                found[f"validation_{name.removeprefix(prefix)}"] = float(value)
                break
    return found
