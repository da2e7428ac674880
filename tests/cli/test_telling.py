"""What is told of a long measurement where standard error is no terminal."""

import pytest

from fulldeck.cli import telling


def test_a_pipe_gets_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(telling.time, "monotonic", lambda: now)
    with telling.telling() as tell:
        for second in range(0, 40, 4):
            now = float(second)
            tell(f"round {second}")
    answer = capsys.readouterr()
    assert answer.err.splitlines() == ["round 12", "round 24", "round 36"]
    assert answer.out == ""
