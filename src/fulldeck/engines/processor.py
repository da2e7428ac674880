"""What native code was compiled for, and whether this machine has it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

INSTRUCTION_SETS = (
    *("sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni"),
    *("avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "fphp", "i8mm", "bf16", "sve"),
)
"""Those that compilers of models use, by their names in /proc/cpuinfo."""


@cache
def instruction_sets() -> tuple[str, ...]:
    """Those of INSTRUCTION_SETS that this processor has; empty where the system does not tell."""
    file = Path("/proc/cpuinfo")
    match = (
        re.search(r"^(?:flags|Features)\s*:(.*)$", file.read_text(), re.MULTILINE) if file.is_file() else None
    )
    present = set(match[1].split()) if match else set()
    return tuple(name for name in INSTRUCTION_SETS if name in present)


def traits(library: str, *also: str) -> list[str]:
    """What native code that is compiled here by `library` needs: system, processor, version, and `also`."""
    return [sys.platform, platform.machine(), *instruction_sets(), release(library), *also]


def release(library: str) -> str:
    """The installed distribution with its version, such as `torch 2.13.0`; without a build's suffix."""
    try:
        return f"{library} {version(library).partition('+')[0]}"
    except PackageNotFoundError:
        return f"{library} missing"


def cpp_compiler() -> str | None:
    """Where the C++ compiler is that PyTorch would call, or None."""
    return shutil.which(os.environ.get("CXX") or "g++") or shutil.which("clang++")
