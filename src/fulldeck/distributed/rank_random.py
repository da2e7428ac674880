"""Random numbers of each rank's own: the masks of dropout must not be the same for the samples of all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from fulldeck.training.batch import Part
    from fulldeck.training.loop import TrainingLoop


def draw_apart(loop: TrainingLoop) -> None:
    """Let each rank draw numbers of its own inside of each part.

    They follow from seed, rank, step and part alone. Everything else that is drawn, as the order of the data and
    what is done to a whole batch, goes on from one state that is the same on all ranks.
    """

    def apart(part: Part, inner: Callable[[Part], None]) -> None:
        with drawing_from(loop.device, loop.seed, loop.ranks.rank, loop.step, part.start):
            inner(part)

    loop.around("part", apart)


@contextmanager
def drawing_from(device: torch.device, *numbers: int) -> Iterator[None]:
    """Within it, torch draws what follows from `numbers`; afterwards it goes on where it was."""
    seed = 0
    for number in numbers:
        seed = (seed * 6364136223846793005 + number + 1) % 2**63
    module = None if device.type == "cpu" else torch.get_device_module(device)
    here, there = torch.get_rng_state(), None if module is None else module.get_rng_state(device)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(here)
        if module is not None:
            module.set_rng_state(there, device)
