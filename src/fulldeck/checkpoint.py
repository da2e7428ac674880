"""A checkpoint: nested states in one safetensors file, no pickle.

Tensors are stored as tensors; everything else is JSON in the file's header. The file is written whole or
not at all, and a SHA-256 of the content is compared before anything of it is believed.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save

from fulldeck.errors import BadInput
from fulldeck.files import write_bytes

_HASH_BYTES = 32


def save_checkpoint(path: Path, state: Any) -> None:
    """Write `state` (dicts, lists, tuples, tensors, arrays, numbers, texts, None) atomically to `path`.

    Raises TypeError for a value of another type, RunFailed if the disk is full.
    """
    tensors: dict[str, torch.Tensor] = {}
    tree = json.dumps(_encode(state, tensors))
    content = save(tensors, metadata={"tree": tree})
    write_bytes(path, hashlib.sha256(content).digest() + content)


def load_checkpoint(path: Path) -> Any:
    """Read what `save_checkpoint` wrote; tensors are on the CPU.

    Raises BadInput if the file is cut short or any byte of it was changed.
    """
    raw = path.read_bytes()
    digest, content = raw[:_HASH_BYTES], raw[_HASH_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        raise BadInput(f"checkpoint {path} is damaged: its content does not match its hash")
    header_size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + header_size])
    return _decode(json.loads(header["__metadata__"]["tree"]), load(content))


def _encode(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return {"array": _encode(torch.from_numpy(value.copy()), tensors)["tensor"]}
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        # A fused optimizer takes its state to lie in memory as the parameter does (channels_last), and
        # computes nonsense where it does not: the order of the dimensions is part of the state.
        order = sorted(range(value.ndim), key=value.stride, reverse=True)
        permuted = not value.is_contiguous() and value.permute(order).is_contiguous()
        stored = value.detach().permute(order) if permuted else value.detach()
        # clone: safetensors refuses tensors that share storage (tied weights, views of one buffer).
        tensors[name] = stored.cpu().contiguous().clone()
        return {"permuted": [name, order]} if permuted else {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, _encode(item, tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_encode(item, tensors) for item in value]}
    raise TypeError(
        f"a state must hold tensors, numbers, texts and containers of these, not {type(value).__name__}"
    )


def _decode(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "permuted":
        name, order = content
        return tensors[name].permute(sorted(range(len(order)), key=order.__getitem__))
    if kind == "array":
        return tensors[content].numpy()
    if kind == "dict":
        return {key: _decode(item, tensors) for key, item in content}
    items = [_decode(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items
