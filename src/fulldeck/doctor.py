"""What this machine and installation have, and what is missing for which instruction."""

from __future__ import annotations

import os
import platform
import re
import shutil
from importlib.metadata import (
    Distribution,
    PackageNotFoundError,
    distribution,
    entry_points,
    packages_distributions,
    version,
)
from pathlib import Path
from typing import Literal, NotRequired, TypedDict

import psutil
import torch

from fulldeck import __version__
from fulldeck.catalogue import GROUP, Entry, catalogue
from fulldeck.engines import available
from fulldeck.machine import processor

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
PACKAGES = ("torch", "numpy", "onnx", "onnxruntime", "scikit-learn", "kornia", "safetensors", "pydantic")


class Finding(TypedDict):
    """One line: `ok`, `note` (works, and you should know) or `missing`; with what to type about it."""

    name: str
    verdict: Literal["ok", "note", "missing"]
    found: str
    remedy: NotRequired[str]


def examine() -> dict[str, list[Finding]]:
    """Findings by topic: machine, accelerators, versions, engines, instructions."""
    return {
        "machine": _machine(),
        "accelerators": _accelerators(),
        "versions": _versions(),
        "engines": [_engine(name, reason) for name, reason in available().items()],
        "instructions": [_instruction(entry) for entry in catalogue()] + _broken_plugins(),
    }


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
        {
            "name": "memory",
            "verdict": "ok" if memory.available >= LITTLE_MEMORY else "note",
            "found": f"{memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} GiB free",
        },
        {
            "name": "disk",
            "verdict": "ok" if disk >= LITTLE_DISK else "note",
            "found": f"{disk / 2**30:.1f} GiB free in {Path.cwd()}",
        },
        {"name": "system", "verdict": "ok", "found": platform.platform()},
    ]


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
    findings: list[Finding] = [
        {"name": "fulldeck", "verdict": "ok", "found": __version__},
        {"name": "python", "verdict": "ok", "found": platform.python_version()},
    ]
    for name in PACKAGES:
        try:
            findings.append({"name": name, "verdict": "ok", "found": version(name)})
        except PackageNotFoundError:
            findings.append(
                {
                    "name": name,
                    "verdict": "missing",
                    "found": "not installed",
                    "remedy": f"pip install {name}",
                }
            )
    return findings


def _engine(name: str, reason: str | None) -> Finding:
    if reason is None:
        return {"name": name, "verdict": "ok", "found": "can be used"}
    found, _, remedy = reason.partition(": ")
    return {"name": name, "verdict": "missing", "found": found, "remedy": remedy}


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


def owner_of(module: str) -> Distribution:
    """The installed distribution that an instruction's module belongs to."""
    top = module.split(".")[0]
    # packages_distributions does not know editable installs; an entry point knows who brought it.
    for point in entry_points(group=GROUP):
        if point.module == module and point.dist is not None:
            owner: Distribution = point.dist
            return owner
    return distribution("fulldeck" if top == "fulldeck" else packages_distributions()[top][0])


def missing_packages(owner: Distribution, extra: str) -> list[str]:
    """The packages of `owner`'s extra that are not installed."""
    marker = re.compile(rf"""extra\s*==\s*["']{re.escape(extra)}["']""")
    names = [
        re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
        for requirement in owner.requires or ()
        if marker.search(requirement)
    ]
    return [name for name in names if not _installed(name)]


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _broken_plugins() -> list[Finding]:
    return [
        {"name": f'plugin "{name}"', "verdict": "missing", "found": f"broken: {reason}"}
        for name, reason in catalogue().broken.items()
    ]
