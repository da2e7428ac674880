"""A profile of the machine at hand: the one that fits it, with what was measured here."""

from __future__ import annotations

import time
from pathlib import Path

import tomlkit

from fulldeck.device import pick_device
from fulldeck.diagnosis.ceilings import ceilings
from fulldeck.errors import BadInput
from fulldeck.files import write_text
from fulldeck.hardware.detection import detect
from fulldeck.hardware.profile import Profile
from fulldeck.machine import processor
from fulldeck.memory import memory_limit


def calibrated(path: Path) -> Profile:
    """Measure the machine's accelerator, or its CPU (some seconds), for a profile that is to be written to `path`.

    Types that are slower than float32 are left out. Raises BadInput where `path` cannot be a new profile.
    """
    if path.suffix != ".toml":
        raise BadInput(f"a hardware profile is a .toml file, got {path}")
    if path.exists():
        raise BadInput(f"{path} exists; name another, or remove it first")
    device = pick_device()
    near = detect(device).profile
    found = ceilings(device, fresh=True)
    single = found.flops_per_s["float32"]
    rates = {dtype: float(f"{rate:.3g}") for dtype, rate in found.flops_per_s.items()}
    return near.replace(
        name=path.stem,
        title=f"{processor() if device.type == 'cpu' else near.title}, as measured",
        source=f"measured by fulldeck doctor --calibrate on {time.strftime('%Y-%m-%d')}",
        dtypes=tuple(dtype for dtype, rate in rates.items() if dtype == "float32" or rate > single),
        memory_gib=round(memory_limit(device) / 2**30, 1),
        bytes_per_s=float(f"{found.bytes_per_s:.3g}"),
        flops_per_s=rates,
    )


def write_profile(profile: Profile, path: Path) -> None:
    """Write it as TOML."""
    write_text(path, tomlkit.dumps(profile.model_dump(mode="json", exclude_defaults=True, exclude={"name"})))
