"""Bars that go on where the one above ends."""

from fulldeck.report.waterfall import waterfall

TEXTS = {"data": "a", "forward": "b", "backward": "c"}


def test_bars_follow_each_other_and_fill_the_whole() -> None:
    bars = waterfall({"data": 1.0, "forward": 1.0, "backward": 2.0}, TEXTS)
    assert [(bar["start"], bar["width"]) for bar in bars] == [
        ("0.00", "25.00"),
        ("25.00", "25.00"),
        ("50.00", "50.00"),
    ]
    assert len({bar["colour"] for bar in bars}) == 3


def test_nothing_is_no_bar() -> None:
    assert [bar["name"] for bar in waterfall({"data": 0.0, "forward": 1.0}, TEXTS)] == ["forward"]
    assert waterfall({"data": 0.0}, TEXTS) == []


def test_the_strongest_stands_out_alone() -> None:
    bars = waterfall({"data": 1.0, "forward": 3.0}, TEXTS, "forward")
    assert [(bar["strongest"], bar["colour"]) for bar in bars] == [(False, None), (True, None)]
