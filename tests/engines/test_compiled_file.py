"""Native code is looked through before any of it is loaded."""

import resource
import signal
from pathlib import Path

import pytest

from fulldeck.engines.compiled_file import Compiled, open_compiled, write_compiled
from fulldeck.engines.processor import instruction_sets, traits
from fulldeck.engines.shapes import Range
from fulldeck.engines.signature import Signature
from fulldeck.errors import BadInput

HERE = ["linux", "x86_64", "avx2", "torch 2.13.0"]
CODE = bytes(range(256)) * 200


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path)


def written(folder: Path, needs: tuple[str, ...] = tuple(HERE)) -> Path:
    code = folder / "code"
    code.write_bytes(CODE)
    signature = Signature({"input": ("float32", (Range(1, 1, 64), Range(3, 3, 3)))})
    path = folder / "model.aoti"
    write_compiled(path, code, Compiled("torch_compiled", "bf16", needs, signature, ("output",)))
    return path


def test_what_was_written_is_read_and_the_copy_is_gone_afterwards(file: Path) -> None:
    with open_compiled(file, "torch_compiled", HERE, ".so") as (facts, code):
        assert code.read_bytes() == CODE
        assert code.suffix == ".so"
        assert (facts.precision, facts.outputs, facts.device) == ("bf16", ("output",), "cpu")
        assert facts.signature.inputs["input"][1][0].high == 64
    assert not code.exists()


def test_another_instruction_set_is_refused_by_name(tmp_path: Path) -> None:
    file = written(tmp_path, (*HERE, "avx512_bf16", "amx_tile"))
    with (
        pytest.raises(
            BadInput, match="was compiled for avx512_bf16, amx_tile, which this machine does not have"
        ),
        open_compiled(file, "torch_compiled", HERE, ".so"),
    ):
        pass


def test_a_file_of_another_engine_is_refused(file: Path) -> None:
    with (
        pytest.raises(BadInput, match="compiled for engine torch_compiled, not for tvm"),
        open_compiled(file, "tvm", HERE, ".so"),
    ):
        pass


def test_every_truncation_and_every_changed_byte_is_refused(file: Path, tmp_path: Path) -> None:
    content = file.read_bytes()
    damaged = [content[:size] for size in range(0, len(content), 997)]
    start = content.index(CODE[:64])
    damaged += [
        content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]
        for place in range(start, start + len(CODE), 1009)
    ]
    other = tmp_path / "damaged.aoti"
    for one in damaged:
        other.write_bytes(one)
        with (
            pytest.raises(BadInput, match=r"damaged\.aoti was cut off or changed after it was compiled"),
            open_compiled(other, "torch_compiled", HERE, ".so"),
        ):
            pass


def test_a_full_disk_leaves_the_old_file(file: Path) -> None:
    before = file.read_bytes()
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    code = file.with_name("code")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
        with pytest.raises(BadInput, match=r"cannot write .*model\.aoti"):
            write_compiled(file, code, Compiled("tvm", "fp32", (), Signature({}), ()))
        with (
            pytest.raises(BadInput, match="cannot write"),
            open_compiled(file, "torch_compiled", HERE, ".so"),
        ):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert file.read_bytes() == before
    assert sorted(path.name for path in file.parent.iterdir()) == ["code", "model.aoti"]


def test_this_machine_has_its_own_traits() -> None:
    found = traits("numpy", "extra")
    assert set(instruction_sets()) < set(found)
    assert found[-1] == "extra"
    assert found[-2].startswith("numpy ")
    assert traits("no-such-library")[-1] == "no-such-library missing"
