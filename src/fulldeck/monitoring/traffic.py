"""Bytes that a model moves to and from memory, from which its bandwidth is estimated."""

from __future__ import annotations

from dataclasses import dataclass

CARRIED = "traffic"
"""Label under which a package carries its Traffic."""


@dataclass(frozen=True)
class Traffic:
    """Bytes for each batch (the weights), and for each of its rows (what layers read and write)."""

    batch: float = 0.0
    row: float = 0.0
