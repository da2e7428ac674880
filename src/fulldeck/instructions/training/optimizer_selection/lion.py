"""Lion: the sign of a momentum, so one state in place of two and steps of equal size for every weight."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn


class Lion(torch.optim.Optimizer):
    """Chen et al. 2023, arXiv:2302.06675, algorithm 2, with decoupled weight decay.

    A good rate is 3 to 10 times smaller than AdamW's, and a good decay as many times larger.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            chosen = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not chosen:
                continue
            gradients = [parameter.grad for parameter in chosen]
            momenta: list[Tensor] = []
            for parameter in chosen:
                state = self.state[parameter]
                if not state:
                    state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                momenta.append(state["exp_avg"])
            fast, slow = group["betas"]
            rate = group["lr"]
            direction = torch._foreach_lerp(momenta, gradients, 1 - fast)
            torch._foreach_sign_(direction)
            torch._foreach_mul_(chosen, 1 - rate * group["weight_decay"])
            torch._foreach_add_(chosen, direction, alpha=-rate)
            torch._foreach_lerp_(momenta, gradients, 1 - slow)
        return loss
