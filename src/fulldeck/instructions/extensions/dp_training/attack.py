"""Membership inference: whether losses give away what a model was trained on (Yeom et al. 2018, arXiv:1709.01604)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fulldeck.data import Examples
from fulldeck.encoders.tensor import TensorEncoder
from fulldeck.training.loader import BatchLoader, ShuffledSampler
from fulldeck.training.loop import TrainingLoop

if TYPE_CHECKING:
    from fulldeck.instruction import Instruction

SAMPLES, WIDTH, EPOCHS = 100, 40, 40
"""Of the planted task: samples that are trained on (and as many that are not), features, and passes."""


def membership_auc(members: npt.NDArray[Any], others: npt.NDArray[Any]) -> float:
    """The chance that a member's loss is smaller than that of another sample; 0.5 gives nothing away."""
    from scipy.stats import mannwhitneyu

    return float(1 - mannwhitneyu(members, others).statistic / (len(members) * len(others)))


def attacked(instructions: Sequence[Instruction], seed: int) -> float:
    """The attack's AUC on a small net that learns labels drawn at random: all that it can learn is who was there."""
    draw = np.random.default_rng(seed)
    inputs = draw.normal(size=(2 * SAMPLES, WIDTH)).astype(np.float32)
    targets = draw.integers(2, size=2 * SAMPLES)
    members = BatchLoader(
        Examples(inputs[:SAMPLES], targets[:SAMPLES]),
        TensorEncoder((WIDTH,)),
        SAMPLES // 4,
        ShuffledSampler(SAMPLES, seed),
    )
    torch.manual_seed(seed)
    loop = TrainingLoop(
        nn.Sequential(nn.Linear(WIDTH, 64), nn.ReLU(), nn.Linear(64, 2)),
        members,
        nn.functional.cross_entropy,
        instructions=instructions,
        epochs=EPOCHS,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=3e-3),
        device="cpu",
        seed=seed,
    )
    model = loop.fit().eval()
    with torch.no_grad():
        outputs = model(torch.from_numpy(inputs))
        losses = nn.functional.cross_entropy(outputs, torch.from_numpy(targets), reduction="none").numpy()
    return membership_auc(losses[:SAMPLES], losses[SAMPLES:])
