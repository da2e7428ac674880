"""How figures are named and written on a page."""

import pytest

from fulldeck.report.words import ratio, said, shown


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("accuracy", 0.98814, "98.81 %"),
        ("latency_ms", 0.052781, "0.0528 ms"),
        ("bytes", 338_755, "339 kB"),
        ("train_rows", 1797, "1,797"),
        ("validation_loss", None, "–"),
        ("accuracy", float("nan"), "nan %"),
    ],
)
def test_a_figure_stands_in_its_unit_and_never_breaks(name: str, value: object, text: str) -> None:
    assert shown(name, value) == text.replace(" ", "\N{NO-BREAK SPACE}")


@pytest.mark.parametrize(
    ("name", "before", "after", "text"),
    [
        ("bytes", 1000, 250, "4× smaller"),
        ("bytes", 1000, 1020, "no change"),
        ("latency_ms", 1.0, 0.1, "10× faster"),
        ("latency_ms", 1.0, 1.19, "no change"),
        ("latency_ms", 1.0, 2.0, "2× slower"),
        ("memory_bytes", 300, 100, "3× less"),
        ("validation_loss", 1.0, 0.5, "2× lower"),
        ("accuracy", 0.9, 0.8, ""),
        ("bytes", 0, 5, ""),
        ("policy", "a", "b", ""),
    ],
)
def test_ratios_in_words(name: str, before: object, after: object, text: str) -> None:
    assert ratio(name, before, after) == text


def test_names() -> None:
    assert [said(name) for name in ("latency_ms", "agreement", "bytes", "lr", "validation_r2")] == [
        "latency",
        "same predictions",
        "size",
        "learning rate",
        "validation R²",
    ]
