"""How a Triton kernel is launched: CUDA's launch bounds and shared memory in the words that Triton has."""

from __future__ import annotations

from dataclasses import dataclass

from fulldeck.errors import BadInput

WARP = 32
REGISTERS = 65_536
"""Of 32 bits, of one multiprocessor of every NVIDIA GPU from Volta on."""
MOST_REGISTERS = 255
"""Of one thread."""
STAGES = 3
"""Tiles in flight at once, where there is memory for them."""
SMALLEST_TILE, LARGEST_TILE = 64, 8192


@dataclass(frozen=True)
class Launch:
    """What Triton takes: warps of a block, most registers of a thread (None: the compiler decides), elements of a
    tile, and tiles in flight."""

    num_warps: int
    maxnreg: int | None
    tile: int
    num_stages: int

    def options(self) -> dict[str, int]:
        """The keyword arguments of a launch, but for the tile."""
        limit = {} if self.maxnreg is None else {"maxnreg": self.maxnreg}
        return {"num_warps": self.num_warps, "num_stages": self.num_stages, **limit}


def launch_of(
    bounds: tuple[int, int] | None,
    shared_memory: int | None,
    *,
    operands: int = 2,
    bytes_each: int = 4,
    wanted: int = 1024,
) -> Launch:
    """The launch that keeps to `bounds` (threads of a block at most, blocks of a multiprocessor at least: what
    `__launch_bounds__` says) and to `shared_memory` bytes of a block.

    Threads are warps of 32. So many blocks of so many threads share the multiprocessor's registers, which limits
    those of a thread. Tiles of `operands` tensors in flight must fit into the shared memory: first fewer are in
    flight, then tiles get smaller than `wanted`. Raises BadInput for bounds that no GPU has, or memory for no tile.
    """
    threads, blocks = bounds or (4 * WARP, 1)
    if threads % WARP or not WARP <= threads <= 1024 or threads & (threads - 1):
        raise BadInput(
            f"cuda_kernel_launch_bounds: a block has 32, 64, 128, 256, 512 or 1024 threads, got {threads}"
        )
    if not 1 <= blocks <= 32 or threads * blocks > 2048:
        raise BadInput(
            f"cuda_kernel_launch_bounds: {blocks} blocks of {threads} threads do not fit on a multiprocessor, which "
            "has room for 32 blocks and 2048 threads"
        )
    registers = min(REGISTERS // (threads * blocks) // 8 * 8, MOST_REGISTERS)
    tile, stages = max(min(wanted, LARGEST_TILE), SMALLEST_TILE), STAGES
    if shared_memory is not None:
        while stages > 1 and stages * tile * operands * bytes_each > shared_memory:
            stages -= 1
        while tile > SMALLEST_TILE and tile * operands * bytes_each > shared_memory:
            tile //= 2
        if tile * operands * bytes_each > shared_memory:
            raise BadInput(
                f"shared_memory_size: {shared_memory} bytes hold no tile of {SMALLEST_TILE} elements of {operands} "
                f"tensors; give at least {SMALLEST_TILE * operands * bytes_each}"
            )
    return Launch(threads // WARP, registers if bounds is not None else None, tile, stages)
