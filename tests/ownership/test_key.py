"""An owner's key: kept from others, never overwritten, and everything follows from it."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import numpy as np
import pytest

from fulldeck.errors import BadInput
from fulldeck.ownership.key import Key


def test_it_is_written_for_its_owner_alone_and_read_back(tmp_path: Path) -> None:
    key, path = Key.new(), tmp_path / "owner.key"
    key.write(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Key.read(path) == key
    with pytest.raises(BadInput, match="exists, and a key that is lost cannot be made again"):
        Key.new().write(path)
    assert Key.read(path) == key


def test_it_does_not_show_itself(tmp_path: Path) -> None:
    key = Key.new()
    assert key.secret.hex() not in repr(key) + key.commitment
    assert repr(key.secret) not in repr(key)


@pytest.mark.parametrize(
    "content",
    ["", "no JSON", "[]", '{"secret": "00"}', json.dumps({"format": "fulldeck owner key 1", "secret": "zz"})],
)
def test_a_file_that_is_no_key_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "owner.key"
    path.write_text(content)
    with pytest.raises(BadInput, match=r"owner\.key is no owner's key"):
        Key.read(path)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"does not exist; fulldeck fingerprint new .*owner\.key makes a key"):
        Key.read(tmp_path / "owner.key")


def test_what_follows_from_it_is_the_same_each_time_and_another_for_each_purpose_and_key() -> None:
    key, other = Key(bytes(32)), Key(bytes(31) + b"\1")
    assert np.array_equal(key.signs("a", 100), key.signs("a", 100))
    assert not np.array_equal(key.signs("a", 100), key.signs("b", 100))
    assert not np.array_equal(key.signs("a", 100), other.signs("a", 100))
    assert key.commitment != other.commitment


def test_signs_are_even_and_numbers_lie_between_0_and_1() -> None:
    signs, numbers = Key(bytes(32)).signs("a", 100_000), Key(bytes(32)).uniform("b", 100_000)
    assert abs(signs.mean()) < 0.02
    assert 0 < numbers.min() < 0.001
    assert 0.999 < numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.01
