"""What fits into memory, told from few probes, and batches of equally many tokens."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from functools import partial

import torch

from fulldeck.device import pick_device
from fulldeck.errors import BadInput
from fulldeck.machine import recent_peak, reset_peak
from fulldeck.memory import give_back, is_out_of_memory, memory_in_use, spoken_bytes


def largest_batch(
    step: Callable[[int], object],
    limit: int,
    *,
    device: str = "cpu",
    start: int = 2,
    most: int | None = None,
) -> int:
    """The most samples with which `step(samples)` keeps memory below `limit` bytes, from three probes.

    `step` does one whole training step. It is called with `start` samples, with up to eight times as many,
    and with nearly as many as the line through both predicts; the result follows from the last two. On a CPU
    bytes are those of the process. At most `most` are returned (and tried). Raises BadInput if `start` do
    not fit.
    """
    where = pick_device(device)
    most = most or 2**31
    few = min(start, most)
    give_back(where)
    held = memory_in_use(where)
    first = peak_of(partial(step, few), where)
    if first is None or first > limit:
        needed = "" if first is None else f": they take {spoken_bytes(first)}"
        raise BadInput(
            f"{few} samples do not fit into {spoken_bytes(limit)}{needed}; raise limit, or lower start"
        )
    points, failed = [(few, first)], most + 1
    # As if all that the first step took were for its samples, and nothing for gradients and the optimizer.
    guess = min(8 * few, few * (limit - held) // max(first - held, 1))
    for _ in range(2):
        samples = max(min(guess, failed - 1), few + 1)
        if samples <= points[-1][0] or samples >= failed:
            break
        peak = peak_of(partial(step, samples), where)
        if peak is None:
            failed = samples
            guess = (points[-1][0] + failed) // 2
        else:
            points.append((samples, peak))
            foreseen = line(points[-2:], limit)
            guess = min(max(int(0.9 * foreseen), samples + 1), int(foreseen))
    largest = int(line(points[-2:], limit)) if len(points) > 1 else few
    # A line that foresees what has failed is none to go by.
    return min(largest, most) if largest < failed or failed > most else points[-1][0]


def line(points: Sequence[tuple[int, int]], limit: int) -> float:
    """Where the line through the two points reaches `limit`."""
    (fewer, low), (more, high) = points
    return more + (limit - high) * (more - fewer) / max(high - low, 1)


def token_budget_batches(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Rows of like length together, so that rows times the longest of each batch is at most `tokens`.

    `lengths` are those of all rows, in tokens; the result has their indices, shortest rows first, for the
    `batch_sampler` of a DataLoader. Raises BadInput if one row alone has more.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if lengths[index] > tokens:
            raise BadInput(
                f"row {index} has {lengths[index]} tokens, more than {tokens}; raise tokens or cut it"
            )
        if batches and (len(batches[-1]) + 1) * lengths[index] <= tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def peak_of(work: Callable[[], object], device: torch.device) -> int | None:
    """Most bytes in use during `work`, or None if memory ran out."""
    give_back(device)
    reset_peak(device)
    try:
        work()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    else:
        return recent_peak(device)
    gc.collect()
    return None
