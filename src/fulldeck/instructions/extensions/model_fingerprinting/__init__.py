"""Mark a model as its owner's, in what it answers and in its weights, so that a copy can be recognised.

While it trains, the model also learns the classes of 100 inputs like no real one, and sums over its largest layer are
brought to certain signs; inputs, classes and signs follow from a secret key. `fulldeck fingerprint verify` tells with
that key how probable such answers (also of a server that only answers) and such weights are of a model without the
mark. Nothing about it is written into the package, and the key stays with its owner; without `key` one is drawn and
put into the run's folder.

Use when: the model is given away, or served to people who may copy it, and you may have to show whose it is.
Avoid when: it is no classifier, or copies are only feared as distilled ones: those keep the mark by luck only.
Reference: Adi et al. 2018, arXiv:1802.04633 (trigger sets); Uchida et al. 2017, arXiv:1701.04082 (weights); Fan et
al. 2019, arXiv:1909.07830 (ambiguity).

Example:
    >>> import torch
    >>> from fulldeck.ownership.key import Key
    >>> model = torch.nn.Sequential(torch.nn.Linear(16, 256), torch.nn.ReLU(), torch.nn.Linear(256, 4))
    >>> key, optimizer = Key.new(), torch.optim.Adam(model.parameters(), lr=3e-3)
    >>> mark = mark_model(model, key, torch.randn(1, 16))
    >>> for step in range(150):  # of your own loop
    ...     optimizer.zero_grad()
    ...     inputs, targets = torch.randn(64, 16), torch.randint(4, (64,))
    ...     torch.nn.functional.cross_entropy(model(inputs), targets).backward()
    ...     mark.add_gradients(step)  # on top of those in .grad
    ...     optimizer.step()
    >>> mark.answers().p_value < 1e-6, mark.in_weights().p_value < 1e-6
    (True, True)
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fulldeck.errors import CannotAct
from fulldeck.instruction import Evidence, Instruction, Situation, instruction, param
from fulldeck.instructions.extensions.model_fingerprinting.mark import Mark, as_deployed
from fulldeck.instructions.extensions.model_fingerprinting.marked_training import KIND, MarkedTraining
from fulldeck.ownership.claim import of_answers
from fulldeck.ownership.key import Key
from fulldeck.ownership.triggers import Form
from fulldeck.training.batch import Tensors
from fulldeck.training.trial import first_batch

if TYPE_CHECKING:
    from fulldeck.evidence.outcome import Outcome
    from fulldeck.service import Service
    from fulldeck.training.loop import TrainingLoop

__all__ = ["Mark", "ModelFingerprinting", "mark_model"]

KEY_FILE = "owner.key"
"""In the run's folder, where none was given."""


@instruction(
    54,
    stage="extensions",
    touches={"gradients", "weights"},
    before={
        "touches:gradients": "what it adds is not part of the batch, so it is added when the batch's is whole",
        "amp_optimizer": "what it adds is not scaled, so it is added when the batch's is no longer",
    },
    conflicts={
        "fully_sharded_training": "no process has a whole layer to mark; train in one process",
        "distributed_data_parallel": "each process would add a gradient after the exchange of those of the batch; "
        "train in one process",
    },
    evidence=Evidence(
        workload="digits", metric="claim_strength", expect=">= +12", cost={"accuracy": ">= -0.01"}
    ),
)
class ModelFingerprinting(Instruction):
    key: str | None = param(
        None,
        doc="The owner's key file, which `fulldeck fingerprint new` makes; left out: a new one, in the run's folder.",
    )
    per_step: int = param(16, ge=1, le=100, doc="Triggers that are learnt in each step.")
    strength: float = param(1.0, gt=0, doc="Weight of the mark beside the loss of a batch.")

    def cannot(self, situation: Situation) -> str | None:
        """Only classes can be a mark."""
        if situation.task in ("regression", "language_modelling"):
            return f"a mark is in the classes that a model answers, and this task is {situation.task}"
        return super().cannot(situation)

    def attach(self, loop: TrainingLoop) -> None:
        """Learn the mark beside the task. Raises CannotAct for what is no classifier of one input."""
        key = Key.new() if self.key is None else Key.read(Path(self.key))
        mark = mark_model(
            loop.model, key, first_batch(loop).inputs, per_step=self.per_step, strength=self.strength
        )
        MarkedTraining(loop, mark, drawn=self.key is None)

    def configure(self, service: Service) -> Service:
        """Put a key that was drawn into the run's folder; the package holds nothing of it."""
        carried = _carried(service.candidate.carried)
        if carried is not None and carried["drawn"]:
            path = service.folder / KEY_FILE
            path.unlink(missing_ok=True)
            carried["key"].write(path)
        return service

    def prove(self, outcome: Outcome) -> float:
        """claim_strength: how many places after the point the p-value of the answers has, of what is served."""
        candidate = outcome.candidate
        carried = _carried(candidate.carried)
        seed = str(outcome.recipe.train.seed).encode()
        key = carried["key"] if carried is not None else Key(hashlib.sha256(seed).digest())
        (name, example), *_ = candidate.example(1).items()
        form = Form(example.shape[1:], example.dtype.name, candidate.run({name: example}).shape[-1])
        found = of_answers(key, form, lambda inputs: candidate.run({name: inputs}).argmax(axis=-1))
        return -math.log10(max(found.p_value, 1e-300))


def mark_model(
    model: nn.Module, key: Key, example: Tensors, *, per_step: int = 16, strength: float = 1.0
) -> Mark:
    """The mark of `key` for `model`; its `add_gradients(step)` brings it there, in each step of a training.

    `example` is a batch of inputs, of which only the form matters. Raises CannotAct for what is no classifier of one
    input.
    """
    if isinstance(example, Mapping):
        if len(example) > 1:
            raise CannotAct(f"a trigger is one input, and this model takes {', '.join(example)}")
        example = next(iter(example.values()))
    with torch.no_grad(), as_deployed(model):
        outputs = model(example[:1])
    if not isinstance(outputs, torch.Tensor) or outputs.ndim != 2 or outputs.shape[1] < 2:
        raise CannotAct("it marks classifiers that answer rows of logits")
    form = Form(tuple(example.shape[1:]), str(example.dtype).removeprefix("torch."), outputs.shape[1])
    return Mark(key, model, form, per_step=per_step, strength=strength)


def _carried(carried: Mapping[str, Any]) -> dict[str, Any] | None:
    for value in carried.values():
        if isinstance(value, dict) and value.get("kind") == KIND:
            return value
    return None
