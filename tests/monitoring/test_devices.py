"""Readings of processes and counters; what cannot be read is not known, and not 0."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fulldeck.monitoring.devices import Processor, cores
from fulldeck.monitoring.gpus import Gpus

SPIN = "while True: pass"


def test_a_process_at_work_and_one_asleep() -> None:
    for code, low, high in ((SPIN, 0.05, 1.0), ("import time; time.sleep(60)", 0.0, 0.05)):
        with subprocess.Popen([sys.executable, "-c", code]) as process:
            processor = Processor()
            time.sleep(0.3)
            processor.read([process.pid], 1)
            time.sleep(0.5)
            device = processor.read([process.pid], 1)
            process.kill()
        assert device.name == "cpu"
        assert device.utilisation is not None
        assert low <= device.utilisation <= high
        assert device.memory is not None
        assert device.memory > 10**6


def test_without_a_process_nothing_is_known() -> None:
    device = Processor().read([], 1)
    assert (device.utilisation, device.memory, device.bandwidth) == (None, None, None)
    gone = Processor().read([2**22 + 1], 1)
    assert gone.utilisation is None


def test_memory_counts_the_front_process_too() -> None:
    processor = Processor()
    alone = processor.read([os.getpid()], 1).memory
    both = processor.read([os.getpid()], 1, front=os.getpid()).memory
    assert alone is not None
    assert both == pytest.approx(2 * alone, rel=0.1)


def test_bandwidth_is_counted_where_there_are_counters_and_else_estimated(tmp_path: Path) -> None:
    estimated = Processor(tmp_path).read([os.getpid()], 1, estimate=5.0)
    assert (estimated.bandwidth, estimated.estimated) == (5.0, True)
    files = [tmp_path / f"mon_L3_0{number}" / "mbm_total_bytes" for number in range(2)]
    for path in files:
        path.parent.mkdir()
        path.write_text("1000\n")
    processor = Processor(tmp_path)
    time.sleep(0.1)
    for path in files:
        path.write_text("500001000\n")
    counted = processor.read([os.getpid()], 1, estimate=5.0)
    assert counted.estimated is False
    assert counted.bandwidth is not None
    assert 1e8 < counted.bandwidth <= 1e10, "a billion bytes in a tenth of a second or a little more"
    files[0].write_text("Unavailable\n")
    assert processor.read([os.getpid()], 1, estimate=5.0).estimated is True


def test_there_are_cores() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)


def test_without_a_driver_there_are_no_gpus() -> None:
    found = Gpus().read()
    assert all(device.name.startswith("gpu") for device in found)
