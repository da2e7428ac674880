"""How busy NVIDIA's GPUs are, by NVML (extra `gpu`)."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from typing import Any

from fulldeck.monitoring.devices import Device


class Gpus:
    """The GPUs that this process may use; none where NVML's library or a driver is missing.

    Bandwidth is what the memory's own counters say (Hopper and later), else estimated: the share of time in
    which memory was busy, of what it could move. Each reader needs an object of its own.
    """

    def __init__(self) -> None:
        self._nvml: Any = None
        self._handles: dict[str, Any] = {}
        self._samples: dict[str, Any] = {}
        if importlib.util.find_spec("pynvml") is None:
            return
        import pynvml

        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlInit()
            self._nvml = pynvml
            self._handles = self._visible()

    def read(self) -> list[Device]:
        """All of them; what one refuses to tell is None."""
        return [self._device(name, handle) for name, handle in self._handles.items()]

    def _visible(self) -> dict[str, Any]:
        nvml, named = self._nvml, os.environ.get("CUDA_VISIBLE_DEVICES")
        if named is None:
            named = ",".join(map(str, range(nvml.nvmlDeviceGetCount())))
        words = [word.strip() for word in named.split(",") if word.strip()]
        return {
            f"gpu{word}": nvml.nvmlDeviceGetHandleByIndex(int(word))
            if word.isdigit()
            else nvml.nvmlDeviceGetHandleByUUID(word)
            for word in words
        }

    def _device(self, name: str, handle: Any) -> Device:
        nvml = self._nvml
        busy = memory = estimate = None
        with contextlib.suppress(nvml.NVMLError):
            rates = nvml.nvmlDeviceGetUtilizationRates(handle)
            busy = rates.gpu / 100
            estimate = rates.memory / 100 * self._peak(handle)
        with contextlib.suppress(nvml.NVMLError):
            memory = int(nvml.nvmlDeviceGetMemoryInfo(handle).used)
        with contextlib.suppress(nvml.NVMLError, AttributeError):
            if (share := self._counted(name, handle)) is not None:
                return Device(name, busy, memory, share * self._peak(handle), estimated=False)
        return Device(name, busy, memory, estimate)

    def _counted(self, name: str, handle: Any) -> float | None:
        """Share of the memory's bandwidth used since the reading before, by the GPU's counters."""
        nvml = self._nvml
        if not nvml.nvmlGpmQueryDeviceSupport(handle).isSupportedDevice:
            return None
        before, sample = self._samples.get(name), nvml.nvmlGpmSampleAlloc()
        self._samples[name] = nvml.nvmlGpmSampleGet(handle, sample)
        if before is None:
            return None
        wanted = nvml.c_nvmlGpmMetricsGet_t()
        wanted.version, wanted.numMetrics = nvml.NVML_GPM_METRICS_GET_VERSION, 1
        wanted.sample1, wanted.sample2 = before, sample
        wanted.metrics[0].metricId = nvml.NVML_GPM_METRIC_DRAM_BW_UTIL
        try:
            found = nvml.nvmlGpmMetricsGet(wanted).metrics[0]
        finally:
            nvml.nvmlGpmSampleFree(before)
        return float(found.value) / 100 if found.nvmlReturn == nvml.NVML_SUCCESS else None

    def _peak(self, handle: Any) -> float:
        """Bytes a second that the memory could move: two transfers a clock on a bus of so many bits."""
        nvml = self._nvml
        clock = nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM) * 1e6
        return float(2 * clock * nvml.nvmlDeviceGetMemoryBusWidth(handle) / 8)
