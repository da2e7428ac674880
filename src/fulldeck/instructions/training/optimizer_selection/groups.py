"""Which parameters are decayed, and which are matrices in the sense of Muon."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

_SPARED = (
    nn.Embedding,
    nn.EmbeddingBag,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.GroupNorm,
    nn.modules.batchnorm._NormBase,
)


def decayed_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The trained parameters of `model` that weight decay is meant for: weights of products and convolutions.

    Spared are biases and other vectors, embeddings (also where an output layer shares them), everything of a
    normalisation, and tables that are laid over a batch (1 x ...: positions, class tokens).
    """
    spared = {id(p) for module in model.modules() if isinstance(module, _SPARED) for p in module.parameters()}
    return [p for p in model.parameters() if p.requires_grad and id(p) not in spared and _is_weight(p)]


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """Those of the decayed parameters that Muon is meant for: matrices, and kernels of convolutions.

    Not the last linear layer's, and no kernels of convolutions that are transposed or grouped, where rows have
    nothing to do with each other.
    """
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    head = linear[-1].weight if linear else None
    kernels = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, nn.modules.conv._ConvNd) and module.groups == 1 and not module.transposed
    }
    return [p for p in decayed_parameters(model) if (p.ndim == 2 or id(p) in kernels) and p is not head]


def parameter_groups(
    parameters: Iterable[nn.Parameter],
    decayed: Iterable[nn.Parameter],
    *,
    rates: Mapping[int, float],
    weight_decay: float,
) -> list[dict[str, Any]]:
    """`parameters` in groups of equal rate (`rates`: id to rate) and decay, the decayed ones first."""
    chosen = {id(parameter) for parameter in decayed}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in parameters:
        decay = weight_decay if id(parameter) in chosen else 0.0
        groups.setdefault((rates[id(parameter)], decay), []).append(parameter)
    found = [{"params": some, "lr": rate, "weight_decay": decay} for (rate, decay), some in groups.items()]
    return sorted(found, key=lambda group: group["weight_decay"] == 0)


def _is_weight(parameter: nn.Parameter) -> bool:
    return parameter.ndim == 2 or (parameter.ndim > 2 and len(parameter) > 1)
