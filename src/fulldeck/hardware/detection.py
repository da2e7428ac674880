"""Which profile fits the machine at hand."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fulldeck.hardware.profile import Profile, shipped_profiles

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Detected:
    """The profile that fits, and why; `exact` is False where only a near one is known."""

    profile: Profile
    reason: str
    exact: bool


def detect(device: torch.device) -> Detected:
    """The shipped profile for `device` of this machine."""
    if device.type == "cpu":
        return for_processor(processor_flags())
    import torch

    name = device_name(device)
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    vendor = "amd" if torch.version.hip else "nvidia"
    return for_accelerator(device.type, name, capability, vendor)


def for_processor(flags: frozenset[str]) -> Detected:
    """By the flags of a processor: the profile that asks for most of those that are there."""
    fitting = [
        profile
        for profile in shipped_profiles().values()
        if profile.device == "cpu" and flags.issuperset(profile.cpu_flags)
    ]
    best = max(fitting, key=lambda profile: (len(profile.cpu_flags), profile.name == "cpu-amx"))
    said = ", ".join(best.cpu_flags) or "no instruction set of note"
    return Detected(best, f"the processor has {said}", exact=True)


def for_accelerator(kind: str, name: str, capability: tuple[int, int] | None, vendor: str) -> Detected:
    """By its name; else the one of its kind and vendor whose compute capability is nearest below its own."""
    own = [profile for profile in shipped_profiles().values() if profile.device == kind]
    if kind == "cuda":
        own = [profile for profile in own if (profile.vendor or "nvidia") == vendor]
    for profile in own:
        # A whole word: "A100" is in "A100-SXM4-80GB" and not in "RTX A1000".
        if any(re.search(rf"\b{re.escape(part)}(?!\d)", name) for part in profile.names):
            return Detected(profile, f"the device calls itself {name}", exact=True)
    if not own:
        return Detected(shipped_profiles()["cpu"], f"no profile knows devices such as {name}", exact=False)
    reached = [one for one in own if capability is None or (one.capability or (0, 0)) <= capability] or own
    near = max(reached, key=lambda one: (one.capability or (0, 0), -(one.memory_bytes or 0)))
    return Detected(near, f"no profile is made for {name}; {near.title} is the nearest", exact=False)


def processor_flags() -> frozenset[str]:
    """The flags of /proc/cpuinfo; empty where there is none."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return frozenset()
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()


def device_name(device: torch.device) -> str:
    """What the driver calls it."""
    import torch

    if device.type == "mps":
        return "Apple"
    return str(torch.get_device_module(device).get_device_name(device))
