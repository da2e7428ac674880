import gc
import subprocess
import sys

import pytest
import torch

from fulldeck.errors import BadInput
from fulldeck.machine import peak_memory, recent_peak, reset_peak
from fulldeck.memory import (
    give_back,
    is_out_of_memory,
    memory_in_use,
    memory_limit,
    parse_bytes,
    spoken_bytes,
)

CPU = torch.device("cpu")
BIG = 25_000_000  # floats: 100 MB


@pytest.mark.parametrize(
    ("text", "count"), [("2GiB", 2**31), ("1.5GiB", 3 * 2**29), ("500 MB", 5 * 10**8), ("64KiB", 2**16)]
)
def test_amounts(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["2", "2 gib", "GiB", "-1GiB", "0GiB", "2GB2", ""])
def test_what_is_no_amount_is_refused_with_an_example(text):
    with pytest.raises(BadInput, match="such as 2GiB"):
        parse_bytes(text)


@pytest.mark.parametrize("count", [1, 2**20, 10**8, 2**30, 1.5 * 2**30, 7 * 10**10])
def test_what_is_said_is_enough(count):
    assert count <= parse_bytes(spoken_bytes(count)) <= 1.1 * count + 2**20


def test_a_peak_is_seen_after_it_is_gone_and_can_be_reset():
    gc.collect()  # or what goes meanwhile is missing from the peak
    reset_peak(CPU)
    before = recent_peak(CPU)
    tensor = torch.ones(BIG)
    del tensor
    assert recent_peak(CPU) > before + 3 * BIG
    highest = peak_memory(CPU)
    give_back(CPU)
    reset_peak(CPU)
    assert recent_peak(CPU) < highest - 3 * BIG
    assert peak_memory(CPU) >= highest


def test_there_is_more_than_is_in_use():
    assert 0 < memory_in_use(CPU) < memory_limit(CPU)


def test_running_out_of_memory_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))


def test_what_is_freed_goes_back_to_the_system():
    code = """
import torch
from fulldeck.memory import give_back, memory_in_use
cpu = torch.device("cpu")
start = memory_in_use(cpu)
some = [torch.ones(8000) for _ in range(4000)]  # 128 MB in pieces that the C allocator keeps
last = torch.ones(10)
held = memory_in_use(cpu)
del some
give_back(cpu)
assert memory_in_use(cpu) < start + (held - start) / 4
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
