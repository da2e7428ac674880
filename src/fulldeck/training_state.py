"""The whole state of a training as plain values, and the way back: bit for bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fulldeck.errors import BadInput
from fulldeck.random_state import random_state, restore_random_state

if TYPE_CHECKING:
    from fulldeck.training_loop import TrainingLoop

_COUNTERS = ("epoch", "step_in_epoch", "step", "updates", "skipped", "history", "stopped")


def training_state(loop: TrainingLoop) -> dict[str, Any]:
    """All that the future of this training depends on."""
    return {
        "model": loop.model.state_dict(),
        "companions": loop.companions.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in loop.optimizers],
        "instructions": {label: state.state_dict() for label, state in loop.states.items()},
        "surgeries": list(loop.surgeries_done),
        "loader": loop.loader.state_dict() if hasattr(loop.loader, "state_dict") else None,
        "random": random_state(),
        "losses": list(loop.losses.values),
        "clock": loop.clock.state_dict(),
        "reported": loop.reported,
        "notes": list(loop.notes),
        **{name: getattr(loop, name) for name in _COUNTERS},
    }


def restore_training_state(loop: TrainingLoop, state: dict[str, Any]) -> None:
    """Let `loop` go on where `state` was taken.

    Raises BadInput if it belongs to another model or to other instructions.
    """
    if differ := sorted(set(state["instructions"]) ^ set(loop.states)):
        raise BadInput(
            f"the checkpoint was written with other instructions; these differ: {', '.join(differ)}"
        )
    for label in state["surgeries"]:
        loop.change_model(label)
    if differ := sorted(set(state["model"]) ^ set(loop.model.state_dict())):
        raise BadInput(f"the checkpoint is of another model; these keys differ: {', '.join(differ[:3])}")
    loop.model.load_state_dict(state["model"])
    loop.companions.load_state_dict(state["companions"])
    for optimizer, saved in zip(loop.optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    for label, saved in state["instructions"].items():
        loop.states[label].load_state_dict(saved)
    if state["loader"] is not None:
        loop.loader.load_state_dict(state["loader"])  # type: ignore[attr-defined]
    loop.losses.values = list(state["losses"])
    loop.clock.load_state_dict(state["clock"])
    for label, figures in state["reported"].items():
        # Instructions hold on to their own dict of figures, so it is filled, not replaced.
        loop.reported.setdefault(label, {}).update(figures)
    loop.notes += [note for note in state["notes"] if note not in loop.notes]
    for name in _COUNTERS:
        setattr(loop, name, state[name])
    restore_random_state(state["random"])
