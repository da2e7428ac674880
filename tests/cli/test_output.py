"""How figures and tables are written."""

import pytest

from fulldeck.cli.output import duration, figure, size, write_table


@pytest.mark.parametrize(
    ("bytes_", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (301_000, "301 kB"), (2.5e9, "2.5 GB")]
)
def test_sizes(bytes_: float, text: str) -> None:
    assert size(bytes_) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.9, "59.9 s"), (125, "2 m 05 s"), (3661, "1 h 01 m")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("bytes", 1_200_000, "1.2 MB"),
        ("latency_ms", 0.08323, "0.08323 ms"),
        ("train_rows", 1797, "1,797"),
        ("accuracy", 0.98251, "0.9825"),
        ("policy", "augmix", "augmix"),
        ("latency_ms", {"p50": 1.0, "p99": 2.0}, "p50 1 ms, p99 2 ms"),
    ],
)
def test_figures_in_the_unit_of_their_name(name: str, value: object, text: str) -> None:
    assert figure(name, value) == text


@pytest.mark.parametrize("width", [40, 59, 60, 100])
def test_tables_fit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    write_table(("no", "name", "meaning"), [("01", "something", "a long text " * 20), ("", "", "more")])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert any("something" in line for line in lines)
    assert "" not in lines
