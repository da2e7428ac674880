"""Train a few steps that leave no trace: to find something out before the training begins."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fulldeck.errors import BadInput
from fulldeck.training.batch import Batch, to_device
from fulldeck.training.random_state import random_state, restore_random_state
from fulldeck.training.state import restore_training_state, training_state

if TYPE_CHECKING:
    from fulldeck.training.loop import TrainingLoop


@contextmanager
def trial(loop: TrainingLoop) -> Iterator[Callable[[], float]]:
    """Within it, each call trains one step on the next batch and returns its loss; afterwards all is as before.

    To be used once the optimizers exist and before the model is changed (at *epoch_start*). The handlers of
    the step's events hear of these steps; what they keep is put back, and so are notes. Raises BadInput if
    the batches can be read once only.
    """
    if isinstance(getattr(loop.loader, "iterable", None), Iterator):
        raise BadInput("a trial reads batches that training needs again, and these can be read once only")
    state, notes = copy.deepcopy(training_state(loop)), list(loop.notes)
    batches = _endless(loop)

    def step() -> float:
        loop.run_step(_moved(next(batches), loop))
        loop.step += 1
        assert loop.last_loss is not None
        return float(loop.last_loss.detach())

    loop.module.train()
    try:
        yield step
    finally:
        batches.close()
        loop.losses.read()  # or what an accelerator still holds would count later
        restore_training_state(loop, state)
        loop.notes[:] = notes


def check_trial(loop: TrainingLoop) -> None:
    """Raises BadInput where a trainer that fulldeck does not own has no steps or batches to try: before it trains."""
    _ = loop.run_step, loop.weigh


def first_batch(loop: TrainingLoop) -> Batch:
    """This process's share of the first batch, on its device, without the loader or the random state noticing."""
    with unnoticed(loop):
        return _moved(next(loop.batches(0)), loop)


@contextmanager
def unnoticed(loop: TrainingLoop) -> Iterator[None]:
    """Within it batches may be read and random numbers drawn; afterwards loader and random state are as before."""
    random = random_state()
    keeps: Any = loop.loader if hasattr(loop.loader, "load_state_dict") else None
    place = keeps.state_dict() if keeps is not None else None
    try:
        yield
    finally:
        if keeps is not None:
            keeps.load_state_dict(place)
        restore_random_state(random)


def _moved(batch: Batch, loop: TrainingLoop) -> Batch:
    batch.inputs, batch.targets = to_device(batch.inputs, loop.device), to_device(batch.targets, loop.device)
    return batch


def _endless(loop: TrainingLoop) -> Generator[Batch]:
    epoch = 0
    while True:
        yield from loop.batches(epoch)
        epoch += 1
