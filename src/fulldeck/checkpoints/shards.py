"""A checkpoint as a folder that many processes write: a shard each, and a manifest that makes it one.

    step-00000012/shard-0.safetensors   what rank 0 writes: its part of the tensors, by name; the tree of the state
    step-00000012/shard-1.safetensors   what rank 1 writes
    step-00000012/manifest.json         step, number of ranks, metrics; bytes and SHA-256 of each shard

Tensors that all ranks hold alike are shared out among them; of a tensor that is spread (DTensor) each rank
writes its own piece and where it belongs. Names and shapes are those of the whole, so any number of ranks,
spread or not, can read what any other wrote.

`torch.distributed.checkpoint` solves the same, but its metadata is a pickle, which runs whatever code is in
the file that is read: so shards are safetensors here, the rest is JSON, and nothing is believed before its
hash was compared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from fulldeck.checkpoints.checkpoint import decode, header
from fulldeck.checkpoints.store import Store
from fulldeck.distributed.spread_tensor import is_spread, piece, put_together
from fulldeck.errors import BadInput

MANIFEST = "manifest.json"
_FORMAT = 1

Places = dict[str, dict[str, list[int]]]
"""Of the pieces in a shard, by name: `offset` in the whole tensor, and its `shape`."""


PREFIX = "step-"
"""Of a checkpoint's folder; what follows is the step."""


class Damaged(BadInput):
    """A checkpoint that cannot be believed: cut short, changed, or not written by this code."""


@dataclass(frozen=True)
class Manifest:
    """What makes shards a checkpoint: `metrics` of its step, and the bytes and SHA-256 of each shard."""

    metrics: Mapping[str, float]
    shards: list[tuple[int, str]]


def folder_of(step: int) -> str:
    """The name of a step's folder."""
    return f"{PREFIX}{step:08d}"


def steps_in(store: Store) -> dict[int, bool]:
    """The steps that there are folders of, and whether each is a checkpoint: one has a manifest."""
    return {
        int(name.removeprefix(PREFIX)): MANIFEST in files
        for name, files in store.folders().items()
        if name.startswith(PREFIX) and name.removeprefix(PREFIX).isdecimal()
    }


def share_out(tensors: Mapping[str, Tensor], rank: int, world_size: int) -> tuple[dict[str, Tensor], Places]:
    """What `rank` writes of `tensors`: its pieces of those that are spread, and its share of the others.

    All ranks have to hold the same names. The largest go first to whoever has least, so that all write about
    equally much.
    """
    mine: dict[str, Tensor] = {}
    places: Places = {}
    load_of = [0] * world_size
    for name in sorted(tensors, key=lambda name: (-tensors[name].numel(), name)):
        tensor = tensors[name]
        if is_spread(tensor):
            if (part := piece(tensor)) is not None:
                mine[name], offset = part
                places[name] = {"offset": list(offset), "shape": list(tensor.shape)}
            continue
        least = load_of.index(min(load_of))
        load_of[least] += tensor.numel() * tensor.element_size()
        if least == rank:
            mine[name] = tensor
    return mine, places


def write_shard(
    store: Store, folder: str, rank: int, tree: Any, tensors: Mapping[str, Tensor], places: Places
) -> dict[str, Any]:
    """Write one rank's shard; return its `bytes` and `sha256`. Raises BadInput if the disk is full."""
    metadata = {"places": json.dumps(places)} | ({"tree": json.dumps(tree)} if rank == 0 else {})
    return store.write_with(_shard(folder, rank), partial(save_file, dict(tensors), metadata=metadata))


def write_manifest(
    store: Store, folder: str, step: int, metrics: Mapping[str, float], shards: Sequence[Mapping[str, Any]]
) -> None:
    """Make the shards a checkpoint: before this file is there, they are none."""
    content = {
        "format": _FORMAT,
        "step": step,
        "metrics": dict(metrics),
        "shards": [{"bytes": shard["bytes"], "sha256": shard["sha256"]} for shard in shards],
    }
    store.write(f"{folder}/{MANIFEST}", json.dumps({"content": content, "sha256": _hash(content)}).encode())


def read_manifest(store: Store, folder: str) -> Manifest:
    """The manifest of a checkpoint. Raises Damaged."""
    where = f"checkpoint {store.name}/{folder}"
    try:
        read = json.loads(store.read(f"{folder}/{MANIFEST}"))
        content, expected = read["content"], read["sha256"]
        number = content["format"]
        manifest = Manifest(
            metrics={str(name): float(value) for name, value in content["metrics"].items()},
            shards=[(int(shard["bytes"]), str(shard["sha256"])) for shard in content["shards"]],
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{where} is damaged: {MANIFEST} is no manifest") from error
    if _hash(content) != expected:
        raise Damaged(f"{where} is damaged: its manifest does not match its hash")
    if number != _FORMAT:
        raise Damaged(f"{where} has format {number}, and this version reads {_FORMAT}")
    return manifest


def read_state(store: Store, folder: str) -> Any:
    """The state that a checkpoint holds; tensors are whole and on the CPU. Raises Damaged."""
    shards = [
        _read_shard(store, folder, rank, size, digest)
        for rank, (size, digest) in enumerate(read_manifest(store, folder).shards)
    ]
    try:
        tensors: dict[str, Tensor] = {}
        parts: dict[str, list[tuple[Tensor, list[int]]]] = {}
        shapes: dict[str, list[int]] = {}
        for content in shards:
            places: Places = json.loads(header(content)["places"])
            for name, tensor in load(content).items():
                if name in places:
                    parts.setdefault(name, []).append((tensor, places[name]["offset"]))
                    shapes[name] = places[name]["shape"]
                else:
                    tensors[name] = tensor
        tensors |= {name: put_together(found, shapes[name]) for name, found in parts.items()}
        return decode(json.loads(header(shards[0])["tree"]), tensors)
    except (SafetensorError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        # The hashes are right, so somebody wrote this on purpose, or another program did.
        raise Damaged(f"checkpoint {store.name}/{folder} holds something else than a state") from error


def _read_shard(store: Store, folder: str, rank: int, size: int, digest: str) -> bytes:
    where = f"checkpoint {store.name}/{folder} is damaged: shard {rank}"
    try:
        # The name is made here and not read: no manifest can point to another place.
        content = store.read(_shard(folder, rank))
    except FileNotFoundError:
        raise Damaged(f"{where} is missing") from None
    if len(content) != size:
        raise Damaged(f"{where} has {len(content)} bytes instead of {size}")
    if hashlib.sha256(content).hexdigest() != digest:
        raise Damaged(f"{where} does not match its hash")
    return content


def _shard(folder: str, rank: int) -> str:
    return f"{folder}/shard-{rank}.safetensors"


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
