import sys

import polars as pl
import pytest

from fulldeck.errors import BadInput
from fulldeck.sources.column_file import ColumnFile, array


def test_without_polars_the_exact_line_to_type_is_said(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(BadInput, match=r'polars is not installed: pip install "fulldeck\[files\]"'):
        ColumnFile(str(tmp_path / "a.csv"))


def test_dates_become_seconds_and_gaps_none():
    dates = pl.Series(["1970-01-02", "1970-01-03"]).str.to_date()
    assert array(dates).tolist() == [86400.0, 172800.0]
    assert array(pl.Series([1, None])).tolist() == [1, None]


def test_many_columns_are_not_all_listed(tmp_path):
    path = tmp_path / "wide.parquet"
    pl.DataFrame({f"c{i}": [1] for i in range(100)}).write_parquet(path)
    with pytest.raises(BadInput, match="c19 and 80 more"):
        ColumnFile(str(path)).named("zzz")


@pytest.mark.parametrize(
    ("header", "shown"),
    [
        ("yes,72,21.05", '"72", "21.05"'),
        ("7,city,3", '"7", "3"'),
        ("age,city", None),
        ("0,1,2,label", None),
        ("country,2019,2020,2021", None),
    ],
)
def test_a_first_line_that_looks_like_data_is_doubted(tmp_path, header, shown):
    path = tmp_path / "a.csv"
    path.write_text(f"{header}\n" + ",".join("1" * len(header.split(","))) + "\n")
    doubts = ColumnFile(str(path)).doubts()
    assert len(doubts) == (shown is not None)
    assert not doubts or f"looks like data, not names ({shown})" in doubts[0]


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_a_file_in_another_encoding_says_how_to_save_it(tmp_path, encoding):
    path = tmp_path / "towns.csv"
    path.write_bytes("town,label\nKöln,ä\nBonn,ö\n".encode(encoding))
    with pytest.raises(
        BadInput, match=r"towns\.csv cannot be read: it is not in UTF-8; save it as CSV in UTF-8"
    ):
        ColumnFile(str(path)).read(["town"])
