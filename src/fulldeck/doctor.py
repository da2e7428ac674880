"""What this machine and installation have, and what is missing for which instruction."""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Mapping
from importlib.metadata import distribution
from pathlib import Path
from typing import Literal, NotRequired, TypedDict

import psutil
import torch
from packaging.specifiers import SpecifierSet

from fulldeck import __version__
from fulldeck.catalogue import Entry, catalogue
from fulldeck.device import pick_device
from fulldeck.engines import ENGINES, available
from fulldeck.hardware import detect
from fulldeck.installed import Need, missing_packages, needs, owner_of
from fulldeck.machine import processor
from fulldeck.recipe.reader import read_recipe

CPU_FLAGS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "amx_tile": "AMX",
    "amx_int8": "AMX INT8",
    "amx_bf16": "AMX BF16",
}
"""Instruction sets that decide what a low-precision model gains, by their name in /proc/cpuinfo."""
LITTLE_MEMORY = 4 * 2**30
LITTLE_DISK = 2 * 2**30
FIRST = "digits"
"""The shipped recipe that a new user runs first."""


class Finding(TypedDict):
    """One line: `ok`, `note` (works, and you should know) or `missing`; with what to type about it."""

    name: str
    verdict: Literal["ok", "note", "missing"]
    found: str
    remedy: NotRequired[str]


def examine() -> dict[str, list[Finding]]:
    """Findings by topic: machine, accelerators, versions, extras, engines, instructions."""
    return {
        "machine": _machine(),
        "accelerators": _accelerators(),
        "versions": _versions(),
        "extras": _extras(),
        "engines": [_engine(name, reason) for name, reason in available().items()],
        "instructions": [_instruction(entry) for entry in catalogue()] + _broken_plugins(),
    }


def summary(findings: Mapping[str, list[Finding]]) -> str:
    """Whether everything is here that the first recipe needs, and how many other things are missing."""
    first = {entry.instruction.card.name for entry in read_recipe(FIRST).entries}
    missing = {
        (topic, line["name"])
        for topic, lines in findings.items()
        for line in lines
        if line["verdict"] == "missing"
    }
    needed = [
        name
        for topic, name in sorted(missing)
        if topic in ("versions", "engines") or name.split()[-1] in first
    ]
    other = len(missing) - len(needed)
    others = f"; {other} other {'thing is' if other == 1 else 'things are'} missing" if other else ""
    if not needed:
        return f"everything that the recipe {FIRST} needs is here{others}"
    count = "one thing is" if len(needed) == 1 else f"{len(needed)} things are"
    return f"{count} missing that the recipe {FIRST} needs: {', '.join(needed)}{others}"


def _machine() -> list[Finding]:
    flags = cpu_flags()
    memory = psutil.virtual_memory()
    disk = shutil.disk_usage(Path.cwd()).free
    low_precision = any("VNNI" in flag or "AMX" in flag for flag in flags)
    return [
        {"name": "processor", "verdict": "ok", "found": f"{processor()}, {_cores()} cores"},
        {
            "name": "instruction sets",
            "verdict": "ok" if low_precision else "note",
            "found": (", ".join(flags) or "none of note")
            + ("" if low_precision else "; without VNNI or AMX, int8 gains size more than speed"),
        },
        _hardware_profile(),
        _enough(
            "memory",
            memory.available,
            LITTLE_MEMORY,
            f"{_gib(memory.total)}, {_gib(memory.available)} free",
            "close other programs, or compute less at once: fulldeck run RECIPE --set train.micro_batch=16",
        ),
        _enough(
            "disk",
            disk,
            LITTLE_DISK,
            f"{_gib(disk)} free in {Path.cwd()}",
            "free some, or write runs elsewhere: fulldeck run RECIPE --out DIR",
        ),
        {"name": "system", "verdict": "ok", "found": platform.platform()},
    ]


def _hardware_profile() -> Finding:
    found = detect(pick_device())
    return {
        "name": "hardware profile",
        "verdict": "ok" if found.exact else "note",
        "found": f"{found.profile.name}, {found.profile.title}: {found.reason}",
        "remedy": "for measured figures: fulldeck doctor --calibrate mine.toml",
    }


def _enough(name: str, there: int, little: int, found: str, remedy: str) -> Finding:
    if there >= little:
        return {"name": name, "verdict": "ok", "found": found}
    return {"name": name, "verdict": "note", "found": f"{found}, which is little", "remedy": remedy}


def _gib(number: int) -> str:
    return f"{number / 2**30:.1f} GiB"


def cpu_flags() -> list[str]:
    """The processor's instruction sets among CPU_FLAGS; empty where the system does not tell."""
    file = Path("/proc/cpuinfo")
    if not file.is_file():
        return []
    match = re.search(r"^flags\s*:(.*)$", file.read_text(), re.MULTILINE)
    present = set(match[1].split()) if match else set()
    return [name for flag, name in CPU_FLAGS.items() if flag in present]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _accelerators() -> list[Finding]:
    if not torch.accelerator.is_available():
        if Path("/dev/nvidia0").exists():
            found = f"a GPU is here, but torch {torch.__version__} cannot use it"
            remedy = "install the torch that is built for your CUDA driver"
            return [{"name": "accelerator", "verdict": "note", "found": found, "remedy": remedy}]
        return [{"name": "accelerator", "verdict": "note", "found": "none; everything runs on the CPU"}]
    kind = torch.accelerator.current_accelerator()
    return [
        {"name": f"{kind}:{place}", "verdict": "ok", "found": _accelerator(str(kind), place)}
        for place in range(torch.accelerator.device_count())
    ]


def _accelerator(kind: str, place: int) -> str:
    if kind != "cuda":
        return kind
    facts = torch.cuda.get_device_properties(place)
    return f"{facts.name}, {facts.total_memory / 2**30:.1f} GiB"


def _versions() -> list[Finding]:
    own = distribution("fulldeck")
    findings: list[Finding] = [
        {"name": "fulldeck", "verdict": "ok", "found": __version__},
        _python(own.metadata["Requires-Python"] or ""),
    ]
    return findings + [_version(need) for need in needs(own)]


def _python(bounds: str) -> Finding:
    found = platform.python_version()
    if SpecifierSet(bounds).contains(found, prereleases=True):
        return {"name": "python", "verdict": "ok", "found": found}
    return {
        "name": "python",
        "verdict": "missing",
        "found": f"{found}, and fulldeck takes {bounds}",
        "remedy": f"python{bounds.lstrip('>=')} -m venv .venv",
    }


def _version(need: Need) -> Finding:
    if need.met:
        assert need.found is not None
        return {"name": need.name, "verdict": "ok", "found": need.found}
    found = "not installed" if need.found is None else f"{need.found}, and fulldeck takes {need.bounds}"
    return {"name": need.name, "verdict": "missing", "found": found, "remedy": f"pip install {need.line}"}


def _extras() -> list[Finding]:
    own = distribution("fulldeck")
    return [_extra(name, needs(own, name)) for name in own.metadata.get_all("Provides-Extra") or ()]


def _extra(name: str, packages: list[Need]) -> Finding:
    missing = [need.name for need in packages if not need.met]
    if not missing:
        found = ", ".join(f"{need.name} {need.found}" for need in packages)
        return {"name": name, "verdict": "ok", "found": found}
    return {
        "name": name,
        "verdict": "note",
        "found": f"without {', '.join(missing)}",
        "remedy": f'pip install "fulldeck[{name}]"',
    }


def _engine(name: str, reason: str | None) -> Finding:
    if reason is None:
        return {"name": name, "verdict": "ok", "found": "can be used"}
    found, _, remedy = reason.partition(": ")
    verdict: Literal["note", "missing"] = "note" if ENGINES[name].optional else "missing"
    return {"name": name, "verdict": verdict, "found": found, "remedy": remedy}


def _instruction(entry: Entry) -> Finding:
    name = f"{entry.number:02d} {entry.name}"
    owner = owner_of(entry.module)
    missing = [extra for extra in entry.extras if missing_packages(owner, extra)]
    if not missing:
        return {"name": name, "verdict": "ok", "found": "can be used"}
    packages = [package for extra in missing for package in missing_packages(owner, extra)]
    return {
        "name": name,
        "verdict": "missing",
        "found": f"{', '.join(packages)} not installed",
        "remedy": f'pip install "{owner.name}[{",".join(missing)}]"',
    }


def _broken_plugins() -> list[Finding]:
    return [
        {"name": f'plugin "{name}"', "verdict": "missing", "found": f"broken: {reason}"}
        for name, reason in catalogue().broken.items()
    ]
