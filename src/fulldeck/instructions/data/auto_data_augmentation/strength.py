"""The strongest augmentation that the model can still learn, found while it trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from fulldeck.distributed.ranks import Ranks

_MEMORY = 0.95
"""How much of the running accuracies is kept at each measurement."""
_KEEP = 0.9
_IMAGES = 20_000
"""Images between magnitude 0 and 1 if all steps go the same way."""


class FoundMagnitude:
    """Raise the magnitude while augmented samples are nearly as often right as clean ones, else lower it.

    The signal is the accuracy on augmented training samples, as a share of that on the clean samples of
    the same batches: at 0.9 or above the magnitude rises, below it falls, by 1 in 20,000 images. Only
    training samples are looked at, and no pass is added. After CUDA's level of learning (Ahn et al. 2023,
    arXiv:2302.05499), with the clean samples in place of its fixed threshold and one level for all
    classes, and ADA's constant steps (Karras et al. 2020, arXiv:2006.06676).
    """

    def __init__(self, device: torch.device) -> None:
        # Tensors, so that following the accuracy never waits for an accelerator.
        self.magnitude = torch.zeros((), device=device)
        self.right = torch.zeros(2, device=device)
        self.seen = torch.zeros(2, device=device)
        self.counted = torch.zeros(2, 2, device=device)

    def begin(self) -> None:
        """A batch begins."""
        self.counted.zero_()

    def observe(self, outputs: Tensor, targets: Tensor, augmented: Tensor) -> None:
        """Count, in N x C logits, N classes or N x C probabilities, by which rows were augmented."""
        classes = targets.argmax(1) if targets.ndim == 2 else targets
        right = (outputs.detach().argmax(1) == classes).float()
        rows = torch.stack([~augmented, augmented]).float()
        self.counted += torch.stack([rows @ right, rows.sum(1)])

    def learn(self, ranks: Ranks) -> None:
        """The batch is over: let the magnitude follow what was counted of it, on all ranks together."""
        right, seen = ranks.total(self.counted)
        self.right = _MEMORY * self.right + right
        self.seen = _MEMORY * self.seen + seen
        clean, changed = self.right / self.seen.clamp(min=1)
        step = seen.sum() / _IMAGES
        self.magnitude = (self.magnitude + torch.where(changed >= _KEEP * clean, step, -step)).clamp(0, 1)

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        return {"magnitude": self.magnitude, "right": self.right, "seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        for name, value in state.items():
            setattr(self, name, value.to(self.magnitude.device))
