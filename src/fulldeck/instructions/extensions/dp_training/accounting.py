"""From noise to epsilon and back, by Opacus's accountants: of Poisson-sampled steps with Gaussian noise."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Literal

from fulldeck.errors import BadInput, extra

Accountant = Literal["rdp", "prv"]
MOST_NOISE = 100.0
"""A noise multiplier above it leaves nothing to learn from."""


@dataclass(frozen=True)
class Steps:
    """What is accounted for: so many steps, each on every sample with the probability `rate`."""

    rate: float
    count: int
    delta: float
    accountant: Accountant = "rdp"

    def epsilon(self, noise: float, count: int | None = None) -> float:
        """What `count` steps (all of them) spend at a noise multiplier."""
        steps = self.count if count is None else count
        if steps == 0:
            return 0.0
        made = extra("opacus.accountants", "dp").create_accountant(mechanism=self.accountant)
        made.history = [(noise, self.rate, steps)]
        with warnings.catch_warnings():
            # That the best order is at the end of the range makes the bound loose, not wrong.
            warnings.simplefilter("ignore")
            return float(made.get_epsilon(delta=self.delta))

    def noise(self, epsilon: float) -> float:
        """The least noise multiplier at which all steps spend `epsilon` at most, to one part in a thousand.

        Raises BadInput where that is more than MOST_NOISE, with the steps that would do.
        """
        if self.epsilon(MOST_NOISE) > epsilon:
            few = self.most_steps(epsilon, MOST_NOISE)
            raise BadInput(
                f"epsilon {epsilon:g} is not reachable in {self.count} steps on {self.rate:.3%} of the data each: "
                f"even a noise multiplier of {MOST_NOISE:g} spends {self.epsilon(MOST_NOISE):.3g}; "
                + (f"at most {few} steps would do" if few else "ask for more")
            )
        low, high = 1e-2, MOST_NOISE
        while high / low > 1.001:
            middle = math.sqrt(low * high)
            low, high = (low, middle) if self.epsilon(middle) <= epsilon else (middle, high)
        return high

    def most_steps(self, epsilon: float, noise: float) -> int:
        """How many steps spend `epsilon` at most."""
        low, high = 0, self.count
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.epsilon(noise, middle) <= epsilon else (low, middle)
        return low
