"""Profiles of machines: those that are shipped, a user's own, and what is wrong with one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from fulldeck.catalogue import catalogue
from fulldeck.cli import main
from fulldeck.diagnosis import measured_profile
from fulldeck.errors import BadInput
from fulldeck.hardware import find_profile, shipped_profiles


@pytest.mark.parametrize("name", shipped_profiles())
def test_what_a_shipped_profile_says_can_be_used(name: str) -> None:
    profile = shipped_profiles()[name]
    assert profile.source
    assert set(profile.flops_per_s) >= (set(profile.dtypes) if profile.flops_per_s else set())
    for instruction, parameters in profile.instructions.items():
        catalogue().find(instruction).load()(**parameters)


@pytest.mark.parametrize("name", [name for name, one in shipped_profiles().items() if one.shared_memory])
def test_kernels_of_a_gpu_get_no_more_shared_memory_than_it_has(name: str) -> None:
    profile = shipped_profiles()[name]
    assert profile.shared_memory is not None
    assert 0 < profile.parameters("kernel_fusion")["shared_memory_size"] <= profile.shared_memory


def test_the_command_that_a_source_names_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    named = re.findall(
        r"fulldeck (doctor --calibrate [^ ]+)", " ".join(one.source for one in shipped_profiles().values())
    )
    assert len(named) >= 4
    calibrated_to: list[Path] = []
    monkeypatch.setattr(measured_profile, "calibrated", calibrated_to.append)
    monkeypatch.setattr(measured_profile, "write_profile", lambda profile, path: None)
    for words in named:
        assert main(words.split()) == 0
    assert set(calibrated_to) == {Path("mine.toml")}


@pytest.mark.parametrize(
    "kind", ["T4", "V100", "A100", "H100", "H200", "B200", "MI200", "MI300", "Max", "AMX"]
)
def test_the_accelerators_of_the_specification_are_there(kind: str) -> None:
    assert any(kind.lower() in name or kind in one.title for name, one in shipped_profiles().items())


def test_a_users_own(tmp_path: Path) -> None:
    file = tmp_path / "bench.toml"
    file.write_text(
        'title = "Under the desk"\ndevice = "cuda"\nsource = "measured"\nmemory_gib = 23.5\n'
        '[instructions.amp_optimizer]\ndtype = "float16"\n'
    )
    profile = find_profile(file)
    assert profile.name == "bench"
    assert profile.memory_bytes == int(23.5 * 2**30)
    assert profile.parameters("amp_optimizer") == {"dtype": "float16"}
    assert profile.parameters("lr_scheduler") == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("title = ", "not a TOML file"),
        ('title = "x"\ndevice = "tpu"\nsource = "y"\n', "device"),
        ('title = "x"\ndevice = "cpu"\nsource = "y"\nmemry_gib = 3\n', 'did you mean "?memory_gib'),
        (
            'title = "x"\ndevice = "cpu"\nsource = "y"\n[instructions.amp_optimise]\ndtype = "float16"\n',
            "amp_optimizer",
        ),
        (
            'title = "x"\ndevice = "cpu"\nsource = "y"\n[instructions.amp_optimizer]\ndtyp = 1\n',
            "did you mean",
        ),
    ],
)
def test_what_is_wrong_is_said_with_the_file(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(BadInput, match=said) as caught:
        find_profile(file)
    assert "mine.toml" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(BadInput, match="did you mean nvidia-a100"):
        find_profile("nvidia-a10")
    with pytest.raises(BadInput, match=r"cannot read hardware profile nowhere\.toml"):
        find_profile("nowhere.toml")


def test_reading_profiles_does_not_import_torch() -> None:
    code = "import sys, fulldeck.hardware as h; h.shipped_profiles(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
