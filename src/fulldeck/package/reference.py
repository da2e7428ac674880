"""A few rows that a package keeps, and what each form of its model answered to them where it was packaged.

Whoever opens the package elsewhere can see whether the model still answers so.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fulldeck.errors import BadInput
from fulldeck.files import write_with

if TYPE_CHECKING:
    from fulldeck.package import PackagedModel

Array = npt.NDArray[Any]
Tensors = dict[str, Array]

FILE = "reference.safetensors"
INPUTS = "inputs."
TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 5e-2, "int8": 0.1, "int4": 0.2}
"""By precision, the largest difference between two machines, relative to the largest output (if over 1)."""


def write_reference(
    folder: Path, inputs: Mapping[str, Array], outputs: Mapping[str, Mapping[str, Array]]
) -> None:
    """Write FILE into `folder`; `outputs` by the name of the form (`label`)."""
    from safetensors.numpy import save_file

    tensors = {INPUTS + name: array for name, array in inputs.items()}
    for form, arrays in outputs.items():
        tensors |= {f"{form}.{name}": array for name, array in arrays.items()}
    contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    write_with(folder / FILE, partial(save_file, contiguous))


def read_reference(folder: Path, form: PackagedModel) -> tuple[Tensors, Tensors] | None:
    """The rows as encoded inputs, and what `form` answered. None if nothing is known of that form.

    Raises BadInput if the file cannot be read.
    """
    if not (folder / FILE).is_file():
        return None
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(folder / FILE)
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{folder / FILE} cannot be read: {error}") from error
    inputs, outputs = (
        {name.removeprefix(start): array for name, array in tensors.items() if name.startswith(start)}
        for start in (INPUTS, label(form) + ".")
    )
    return (inputs, outputs) if outputs else None


def label(form: PackagedModel) -> str:
    """What a form is called in the file."""
    return f"{form.engine}-{form.precision}"


def differs(outputs: Mapping[str, Array], expected: Mapping[str, Array], precision: str) -> str | None:
    """How `outputs` differ from those expected by more than two machines may; None: they do not."""
    for name, wanted in expected.items():
        found = outputs.get(name)
        if found is None or found.shape != wanted.shape:
            return f"there is no output {name} of shape {list(wanted.shape)}"
        difference = float(np.abs(found.astype(np.float64) - wanted.astype(np.float64)).max(initial=0.0))
        limit = TOLERANCE.get(precision, max(TOLERANCE.values()))
        if not difference <= limit * max(1.0, float(np.abs(wanted).max(initial=0.0))):
            return f"output {name} differs by {difference:.2g}"
    return None
