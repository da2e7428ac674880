"""The profile that fits a machine, told from what the machine says of itself."""

import pytest
import torch

from fulldeck.hardware import detect
from fulldeck.hardware.detection import for_accelerator, for_processor


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ("fpu sse4_2", "cpu"),
        ("avx2 avx512f avx512_vnni avx512_bf16", "cpu-avx512"),
        ("avx2 avx512f avx512_vnni avx512_bf16 amx_tile amx_bf16 amx_int8", "cpu-amx"),
    ],
)
def test_processors_by_their_flags(flags: str, name: str) -> None:
    found = for_processor(frozenset(flags.split()))
    assert found.profile.name == name
    assert found.exact


@pytest.mark.parametrize(
    ("kind", "said", "capability", "vendor", "name"),
    [
        ("cuda", "Tesla T4", (7, 5), "nvidia", "nvidia-t4"),
        ("cuda", "Tesla V100-SXM2-16GB", (7, 0), "nvidia", "nvidia-v100"),
        ("cuda", "NVIDIA A100-SXM4-80GB", (8, 0), "nvidia", "nvidia-a100"),
        ("cuda", "NVIDIA H100 80GB HBM3", (9, 0), "nvidia", "nvidia-h100"),
        ("cuda", "NVIDIA H200", (9, 0), "nvidia", "nvidia-h200"),
        ("cuda", "AMD Instinct MI250X", (9, 0), "amd", "amd-mi200"),
        ("cuda", "AMD Instinct MI300X", (9, 4), "amd", "amd-mi300"),
        ("xpu", "Intel(R) Data Center GPU Max 1550", None, "nvidia", "intel-max"),
        ("mps", "Apple", None, "nvidia", "apple-silicon"),
    ],
)
def test_accelerators_by_their_names(kind, said, capability, vendor, name) -> None:
    found = for_accelerator(kind, said, capability, vendor)
    assert (found.profile.name, found.exact) == (name, True)
    assert said in found.reason


@pytest.mark.parametrize(
    ("said", "capability", "vendor", "near"),
    [
        ("NVIDIA GeForce RTX 4090", (8, 9), "nvidia", "nvidia-a100"),
        ("NVIDIA RTX A1000", (8, 6), "nvidia", "nvidia-a100"),
        ("NVIDIA B300", (10, 3), "nvidia", "nvidia-b200"),
        ("Tesla P100", (6, 0), "nvidia", None),
        ("AMD Instinct MI355X", (9, 5), "amd", "amd-mi300"),
    ],
)
def test_an_unknown_one_falls_to_the_nearest_and_says_so(said, capability, vendor, near) -> None:
    found = for_accelerator("cuda", said, capability, vendor)
    assert not found.exact
    assert said in found.reason
    assert near is None or found.profile.name == near
    assert found.profile.device == "cuda"


def test_a_kind_of_device_that_no_profile_knows() -> None:
    found = for_accelerator("npu", "Ascend", None, "nvidia")
    assert (found.profile.name, found.exact) == ("cpu", False)


def test_this_machine() -> None:
    assert detect(torch.device("cpu")).profile.name.startswith("cpu")
