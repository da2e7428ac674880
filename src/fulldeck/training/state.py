"""The whole state of a training as plain values, and the way back: bit for bit.

It knows parameters and optimizer states by name and order as one process has them. What is spread over
processes (DTensor) is put together when it is written and spread again as the present model is when it is
read, so one process, replicas and shards read each other's states.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from fulldeck.distributed.spread_tensor import spread_as
from fulldeck.errors import BadInput
from fulldeck.training.random_state import random_state, restore_random_state

if TYPE_CHECKING:
    from fulldeck.training.loop import TrainingLoop

_COUNTERS = ("epoch", "step_in_epoch", "step", "updates", "skipped", "history", "stopped")


def training_state(loop: TrainingLoop) -> dict[str, Any]:
    """All that the future of this training depends on; `own` is what each process has for itself."""
    return {
        "model": loop.model.state_dict(),
        "companions": loop.companions.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in loop.optimizers],
        "instructions": {label: state.state_dict() for label, state in loop.states.items()},
        "surgeries": list(loop.surgeries_done),
        "own": {
            "loader": loop.loader.state_dict() if hasattr(loop.loader, "state_dict") else None,
            "random": random_state(),
        },
        "losses": list(loop.losses.values),
        "clock": loop.clock.state_dict(),
        "reported": loop.reported,
        "notes": list(loop.notes),
        **{name: getattr(loop, name) for name in _COUNTERS},
    }


def restore_training_state(loop: TrainingLoop, state: dict[str, Any]) -> None:
    """Let `loop` go on where `state` was taken.

    Raises BadInput if it belongs to another model, to other instructions or to another optimizer.
    """
    if differ := sorted(set(state["instructions"]) ^ set(loop.states)):
        raise BadInput(
            f"the checkpoint was written with other instructions; these differ: {', '.join(differ)}"
        )
    for label in state["surgeries"]:
        loop.change_model(label)
    _check_model(state["model"], loop.model.state_dict())
    _check_optimizers(loop, state["optimizers"])
    loop.model.load_state_dict(spread_as(state["model"], loop.model.state_dict()))
    loop.companions.load_state_dict(state["companions"])
    for optimizer, saved in zip(loop.optimizers, state["optimizers"], strict=True):
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        states = {
            number: {name: spread_as(value, parameters[number]) for name, value in values.items()}
            for number, values in saved["state"].items()
        }
        optimizer.load_state_dict({**saved, "state": states})
    for label, saved in state["instructions"].items():
        loop.states[label].load_state_dict(spread_as(saved, loop.states[label].state_dict()))
    loop.losses.values = list(state["losses"])
    loop.clock.load_state_dict(state["clock"])
    for label, figures in state["reported"].items():
        # Instructions hold on to their own dict of figures, so it is filled, not replaced.
        loop.reported.setdefault(label, {}).update(figures)
    loop.notes += [note for note in state["notes"] if note not in loop.notes]
    for name in _COUNTERS:
        setattr(loop, name, state[name])
    if (own := state["own"]) is not None:
        if own["loader"] is not None:
            loop.loader.load_state_dict(own["loader"])  # type: ignore[attr-defined]
        restore_random_state(own["random"])


def _check_model(saved: dict[str, Any], present: dict[str, Any]) -> None:
    if differ := sorted(set(saved) ^ set(present)):
        raise BadInput(f"the checkpoint is of another model; these keys differ: {', '.join(differ[:3])}")
    shapes = [
        f"{name} is {_shape(value)} there and {_shape(present[name])} here"
        for name, value in saved.items()
        if isinstance(value, Tensor) and value.shape != getattr(present[name], "shape", value.shape)
    ]
    if shapes:
        raise BadInput(f"the checkpoint is of another model; {', '.join(shapes[:3])}")


def _check_optimizers(loop: TrainingLoop, saved: list[dict[str, Any]]) -> None:
    there = [[len(group["params"]) for group in one["param_groups"]] for one in saved]
    here = [[len(group["params"]) for group in one.param_groups] for one in loop.optimizers]
    if there != here:
        raise BadInput(
            f"the checkpoint was written with another optimizer; its groups have {there} parameters there "
            f"and {here} here"
        )


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"
