"""Trained weights as one safetensors file: no pickle, and every framework reads it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from fulldeck.candidate import Artifact
from fulldeck.files import write_with
from fulldeck.networks import describe

PRECISIONS = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.int8: "int8",
}


def save_weights(module: nn.Module, path: Path | str) -> Artifact:
    """Write the parameters and buffers of `module` to `path`, by their names in its `state_dict`.

    Load them with `model.load_state_dict(safetensors.torch.load_file(path))`. Tied weights are written
    once for each name. The description of a built-in network is written beside them, as `network` in the file's
    metadata. The artifact's precision is the type of most of the weights.
    """
    from safetensors.torch import save_file

    weights: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, value in module.state_dict().items():
        if isinstance(value, Tensor):  # a module may keep other things in its state
            weight = value.detach().cpu().contiguous()
            storage = weight.untyped_storage().data_ptr()
            # safetensors refuses tensors that share memory.
            weights[name] = weight.clone() if storage in storages else weight
            storages.add(storage)
    described = describe(module)
    metadata = {"network": json.dumps(described)} if described is not None else None
    write_with(Path(path), partial(save_file, weights, metadata=metadata))
    return Artifact(Path(path), "safetensors", _precision(weights), "torch")


def _precision(weights: dict[str, Tensor]) -> str:
    sizes: dict[torch.dtype, int] = {}
    for weight in weights.values():
        sizes[weight.dtype] = sizes.get(weight.dtype, 0) + weight.numel()
    most = max(sizes, key=lambda dtype: sizes[dtype], default=torch.float32)
    return PRECISIONS.get(most, str(most).removeprefix("torch."))
