"""Where the time of a step goes: always recorded, by the clock of the host.

On an accelerator the host only queues work, so its times show where the *host* waits; they add no
synchronisation.
"""

from __future__ import annotations

from typing import Any

PHASES = ("data", "transfer", "instructions", "forward", "backward", "optimizer", "communication")
DATA, TRANSFER, INSTRUCTIONS, FORWARD, BACKWARD, OPTIMIZER, COMMUNICATION = range(len(PHASES))


class StepClock:
    """Seconds spent in each phase since the last `reset`, and the number of steps."""

    def __init__(self) -> None:
        self.seconds = [0.0] * len(PHASES)
        self.steps = 0

    def reset(self) -> None:
        """Start again from zero."""
        self.seconds[:] = [0.0] * len(PHASES)
        self.steps = 0

    def milliseconds(self) -> dict[str, float]:
        """Mean milliseconds a step, by phase."""
        steps = max(self.steps, 1)
        return {name: 1000 * value / steps for name, value in zip(PHASES, self.seconds, strict=True)}

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint in the middle of an epoch."""
        return {"seconds": list(self.seconds), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting where the checkpoint was written."""
        self.seconds[:] = state["seconds"]
        self.steps = state["steps"]
