"""The state of every random generator that training may draw from, as one value."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

ACCELERATORS = ("cuda", "xpu")
"""Modules of torch whose devices have generators of their own."""


def seed_all(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """The present state of all global generators."""
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    for name in ACCELERATORS:
        if (accelerator := getattr(torch, name)).is_available():
            state[name] = accelerator.get_rng_state_all()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Set all global generators to what `random_state` gave."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    for name in ACCELERATORS:
        if name in state and (accelerator := getattr(torch, name)).is_available():
            accelerator.set_rng_state_all(state[name])
