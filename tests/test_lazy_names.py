"""`fulldeck.NAME`: every instruction, its functions, and the entry points."""

from pathlib import Path

import pytest

import fulldeck


def test_every_name_resolves_and_is_in_the_stub() -> None:
    stub = Path(fulldeck.__file__).with_suffix(".pyi").read_text()
    for name in (*fulldeck.NAMES, *fulldeck._instruction_names()):
        assert getattr(fulldeck, name).__name__ == name
        assert f" import {name} as {name}\n" in stub


def test_no_name_hides_a_module() -> None:
    modules = {path.stem for path in Path(fulldeck.__file__).parent.iterdir()}
    assert not modules & {*fulldeck.NAMES, *fulldeck._instruction_names()}


def test_an_unknown_name_offers_the_closest() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'OnnxExprt'; did you mean OnnxExport\?"):
        _ = fulldeck.OnnxExprt
    with pytest.raises(AttributeError, match=r"no attribute 'nosuch'; dir\(fulldeck\) lists those"):
        _ = fulldeck.nosuch
    with pytest.raises(ImportError):
        from fulldeck import TrainingLop  # noqa: F401
    assert not hasattr(fulldeck, "__wrapped__")


def test_dir_lists_them() -> None:
    assert {"run", "plan", "TrainingLoop", "OnnxExport", "export_onnx"} <= set(dir(fulldeck))
