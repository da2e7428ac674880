"""What is read of GPUs, on a stand-in for NVML: its functions as NVIDIA documents them."""

# ruff: noqa: N802 -- NVML's names

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest

from fulldeck.monitoring.devices import Device
from fulldeck.monitoring.gpus import Gpus

PEAK = 2 * 1000e6 * 256 / 8
"""Bytes a second: two transfers at 1000 MHz on a bus of 256 bits."""


class NVMLError(Exception):
    """What every function raises that has no answer."""


class Nvml(ModuleType):
    """Two GPUs; GPU n is busy (n + 1) / 10 of its time, its memory 50 %; its counters count 25 %."""

    NVMLError = NVMLError
    NVML_CLOCK_MEM, NVML_SUCCESS = 2, 0
    NVML_GPM_METRICS_GET_VERSION, NVML_GPM_METRIC_DRAM_BW_UTIL = 1, 10

    def __init__(self, *, counts: bool = False, refuses: tuple[str, ...] = ()) -> None:
        super().__init__("pynvml")
        self.__spec__ = ModuleSpec("pynvml", None)
        self.counts = counts
        self.samples: list[object] = []
        """Those that were allocated and not freed."""
        for name in refuses:
            setattr(self, name, self._refuse)

    def _refuse(self, *_: object) -> None:
        raise NVMLError("not supported")

    def nvmlInit(self) -> None:
        """Nothing to do."""

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:
        return {"GPU-a": 0, "GPU-b": 1}[uuid]

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(gpu=10 * (handle + 1), memory=50)

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(used=1000 + handle)

    def nvmlDeviceGetMaxClockInfo(self, handle: int, clock: int) -> int:
        assert clock == self.NVML_CLOCK_MEM
        return 1000

    def nvmlDeviceGetMemoryBusWidth(self, handle: int) -> int:
        return 256

    def nvmlGpmQueryDeviceSupport(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(isSupportedDevice=self.counts)

    def nvmlGpmSampleAlloc(self) -> object:
        self.samples.append(sample := object())
        return sample

    def nvmlGpmSampleGet(self, handle: int, sample: object) -> object:
        return sample

    def nvmlGpmSampleFree(self, sample: object) -> None:
        self.samples.remove(sample)

    def c_nvmlGpmMetricsGet_t(self) -> SimpleNamespace:
        return SimpleNamespace(metrics=[SimpleNamespace()])

    def nvmlGpmMetricsGet(self, wanted: SimpleNamespace) -> SimpleNamespace:
        assert wanted.sample1 is not wanted.sample2
        assert wanted.metrics[0].metricId == self.NVML_GPM_METRIC_DRAM_BW_UTIL
        wanted.metrics[0].value, wanted.metrics[0].nvmlReturn = 25.0, self.NVML_SUCCESS
        return wanted


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Callable[[Nvml], Nvml]:
    """Puts a stand-in in the place of NVML, on a process that may use all GPUs."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def put(nvml: Nvml) -> Nvml:
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        return nvml

    return put


def test_bandwidth_is_estimated_where_nothing_counts_it(here: Callable[[Nvml], Nvml]) -> None:
    here(Nvml())
    assert Gpus().read() == [
        Device("gpu0", 0.1, 1000, PEAK / 2, estimated=True),
        Device("gpu1", 0.2, 1001, PEAK / 2, estimated=True),
    ]


def test_bandwidth_is_counted_from_the_second_reading_on(here: Callable[[Nvml], Nvml]) -> None:
    nvml = here(Nvml(counts=True))
    gpus = Gpus()
    assert [device.estimated for device in gpus.read()] == [True, True]
    for _ in range(5):
        first, second = gpus.read()
        assert first == Device("gpu0", 0.1, 1000, PEAK / 4, estimated=False)
        assert second == Device("gpu1", 0.2, 1001, PEAK / 4, estimated=False)
    assert len(nvml.samples) == 2, "one is kept of each, the others are freed"


def test_what_a_gpu_refuses_to_tell_is_not_known(here: Callable[[Nvml], Nvml]) -> None:
    here(Nvml(refuses=("nvmlDeviceGetUtilizationRates", "nvmlGpmQueryDeviceSupport")))
    assert Gpus().read()[0] == Device("gpu0", None, 1000, None)
    here(Nvml(refuses=("nvmlDeviceGetMemoryInfo", "nvmlDeviceGetMemoryBusWidth")))
    assert Gpus().read()[0] == Device("gpu0", 0.1, None, None)
    # A counter that fails leaves the estimate.
    here(Nvml(counts=True, refuses=("nvmlGpmMetricsGet",)))
    (gpus := Gpus()).read()
    assert gpus.read()[1] == Device("gpu1", 0.2, 1001, PEAK / 2, estimated=True)


def test_without_a_driver_there_is_none(here: Callable[[Nvml], Nvml]) -> None:
    here(Nvml(refuses=("nvmlInit",)))
    assert Gpus().read() == []


@pytest.mark.parametrize(
    ("visible", "busy"),
    [("1", {"gpu1": 0.2}), ("GPU-b, GPU-a", {"gpuGPU-b": 0.2, "gpuGPU-a": 0.1}), ("", {})],
)
def test_only_those_that_the_process_may_use(
    here: Callable[[Nvml], Nvml], monkeypatch: pytest.MonkeyPatch, visible: str, busy: dict[str, float]
) -> None:
    here(Nvml())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert {device.name: device.utilisation for device in Gpus().read()} == busy
