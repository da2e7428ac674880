"""Processes that train together have to do the same work: the same recipe, code, data and model, or none at all."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

import fulldeck
from fulldeck.errors import BadInput
from fulldeck.evaluation import fingerprint
from fulldeck.recipe_changes import changed_settings, describe_changes

if TYPE_CHECKING:
    from torch import nn

    from fulldeck.data import Data, Examples
    from fulldeck.distributed.ranks import Ranks

LOOKED_AT = 1000
"""Examples of each split that are compared."""


def refuse_other_work(ranks: Ranks, recipe: str) -> None:
    """Raise BadInput on all ranks if one has another recipe (as text) or other versions than rank 0."""
    mine = {
        "fulldeck": f"{fulldeck.__version__} (code {_code()})",
        "PyTorch": torch.__version__,
        "Python": platform.python_version(),
    }
    every = ranks.gather((recipe, mine))
    for rank, (other, _) in enumerate(every):
        if other != every[0][0]:
            changes = describe_changes(changed_settings(other, every[0][0]))
            raise BadInput(
                f"rank {rank} has another recipe than rank 0, which is here: {changes}; start all processes with the "
                "same one"
            )
    _refuse([versions for _, versions in every], "another version of {}", "install the same on all machines")


def refuse_other_data(ranks: Ranks, data: Data) -> None:
    """Raise BadInput on all ranks if one has other data than rank 0; of each split some examples are compared."""
    mine = {
        name: f"{len(examples):,} examples ({_some(examples)})" for name, examples in data.splits().items()
    }
    _refuse(
        ranks.gather(mine),
        "other {} data",
        "give all processes the same files, and let what is drawn at random follow a seed",
    )


def refuse_other_model(ranks: Ranks, model: nn.Module) -> None:
    """Raise BadInput on all ranks if one has a model of other names or shapes than rank 0."""
    shapes = {name: " x ".join(map(str, tensor.shape)) for name, tensor in model.state_dict().items()}
    _refuse(ranks.gather(shapes), "another model ({})", "run the same code on all machines")


def _refuse(every: list[dict[str, str]], what: str, remedy: str) -> None:
    for rank, theirs in enumerate(every):
        for name in (*every[0], *theirs):
            there, first = theirs.get(name, "none"), every[0].get(name, "none")
            if there != first:
                raise BadInput(
                    f"rank {rank} has {what.format(name)} than rank 0: {there} there, {first} at rank 0; {remedy}"
                )


@cache
def _code() -> str:
    """A hash of fulldeck's own source files."""
    root = Path(fulldeck.__file__).parent
    whole = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        whole.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return whole.hexdigest()[:12]


def _some(examples: Examples) -> str:
    rows = np.unique(np.linspace(0, max(len(examples) - 1, 0), min(len(examples), LOOKED_AT)).astype(int))
    return fingerprint(examples.take(rows))
