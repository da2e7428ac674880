"""A profile: dtypes, memory and ceilings of one kind of machine, and the parameters that suit it.

`hardware:` of a recipe names a shipped one (a file of `profiles/`) or a user's own TOML file. Parameters of
instructions stand in it under `[instructions.NAME]`; what the recipe itself says goes before them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

from fulldeck.catalogue import catalogue
from fulldeck.declared import Declared, Refused
from fulldeck.errors import BadInput, closest
from fulldeck.param import param

FOLDER = Path(__file__).parent / "profiles"

Dtype = Literal["float32", "tf32", "bfloat16", "float16", "float8", "int8"]


class Profile(Declared):
    """One kind of machine. Rates are the best that its maker states, or that were measured (`source`)."""

    name: str = param(..., doc="Its file's name, without .toml.")
    title: str = param(..., doc="What it is called by its maker.")
    device: Literal["cpu", "cuda", "xpu", "mps"] = param(..., doc="What PyTorch calls its kind of device.")
    vendor: Literal["nvidia", "amd", "intel", "apple"] | None = param(
        None, doc="Tells AMD's devices, which ROCm calls cuda too, from NVIDIA's."
    )
    names: tuple[str, ...] = param((), doc="Parts of the device's name by which it is known.")
    cpu_flags: tuple[str, ...] = param((), doc="Flags that a processor must have, as in /proc/cpuinfo.")
    capability: tuple[int, int] | None = param(None, doc="CUDA's compute capability.")
    source: str = param(..., doc="Where the figures are from.")
    dtypes: tuple[Dtype, ...] = param(("float32",), doc="Types that it multiplies fast.")
    memory_gib: float | None = param(None, gt=0, doc="GiB of its memory that a program can have.")
    shared_memory: int | None = param(
        None, gt=0, doc="Bytes of fast memory of one multiprocessor, shared by the threads of a block."
    )
    bytes_per_s: float | None = param(None, gt=0, doc="Of its memory, read and written together.")
    flops_per_s: dict[Dtype, float] = param({}, doc="Of dense matrix products, by type.")
    instructions: dict[str, dict[str, Any]] = param({}, doc="Parameters that suit it, by instruction.")

    @property
    def memory_bytes(self) -> int | None:
        """Bytes that a program can have; None where the profile does not say."""
        return None if self.memory_gib is None else int(self.memory_gib * 2**30)

    def parameters(self, name: str) -> Mapping[str, Any]:
        """Those of the instruction `name`."""
        return self.instructions.get(name, {})


@cache
def shipped_profiles() -> Mapping[str, Profile]:
    """Those that come with fulldeck, by name."""
    return {path.stem: read_profile(path) for path in sorted(FOLDER.glob("*.toml"))}


def find_profile(name: str | Path) -> Profile:
    """The shipped profile `name`, or that of a file. Raises BadInput with the closest name, or file and key."""
    path = Path(name)
    if path.suffix == ".toml":
        return read_profile(path)
    shipped = shipped_profiles()
    if str(name) in shipped:
        return shipped[str(name)]
    raise BadInput(
        f'there is no hardware profile "{name}"{closest(str(name), shipped)}; there are {", ".join(shipped)}; '
        "a file of your own ends with .toml"
    )


def read_profile(path: Path) -> Profile:
    """The profile in a TOML file, its instructions' parameters checked. Raises BadInput with file and key."""
    try:
        value = tomllib.loads(path.read_text())
    except OSError as error:
        raise BadInput(f"cannot read hardware profile {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"not a TOML file: {error}", str(path)) from None
    try:
        profile = Profile(**({"name": path.stem} | value))
        for name, parameters in profile.instructions.items():
            _check(name, parameters)
    except Refused as error:
        raise BadInput(str(error.problems[0]), str(path)) from None
    except BadInput as error:
        raise BadInput(error.message, str(path)) from None
    return profile


def _check(name: str, parameters: Mapping[str, Any]) -> None:
    """Names only, by the catalogue: values are checked when the instruction is made, which imports it."""
    known = catalogue().find(name).parameters
    for key in parameters:
        if key not in known:
            raise BadInput(f'[instructions.{name}] has no parameter "{key}"{closest(key, known)}')
