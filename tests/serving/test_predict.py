import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fulldeck.cli import main
from fulldeck.serving.predict import softmax

from .packages import SIDE, city_package, image_package, sum_package, table_package
from .servers import Server, running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(image_package(tmp_path_factory.mktemp("shapes") / "package", max_batch=8)) as server:
        yield server


def png(level: int, side: int = SIDE) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((side, side), level, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    "content_type", ["image/png", "application/octet-stream", "application/x-www-form-urlencoded"]
)
@pytest.mark.parametrize(("level", "label"), [(250, "bright"), (3, "dark")])
def test_an_image_file(server: Server, content_type: str, level: int, label: str) -> None:
    status, answer = server.ask("POST", "/predict", png(level), content_type=content_type)
    assert status == 200
    assert answer["label"] == label
    assert answer["probability"] > 0.99
    assert set(answer["probabilities"]) == {"bright", "dark"}
    assert sum(answer["probabilities"].values()) == pytest.approx(1)


def test_an_image_of_another_size_is_resized(server: Server) -> None:
    assert server.ask("POST", "/predict", png(250, 64), content_type="image/png")[1]["label"] == "bright"


def test_one_file_or_several_in_a_form(server: Server) -> None:
    def form(*levels: int) -> tuple[int, Any]:
        parts = [
            b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + png(level) + b"\r\n"
            for level in levels
        ]
        body = b"".join(parts) + b"--b--\r\n"
        return server.ask("POST", "/predict", body, content_type="multipart/form-data; boundary=b")

    assert form(250)[1]["label"] == "bright"
    assert [one["label"] for one in form(250, 3)[1]["predictions"]] == ["bright", "dark"]


def test_nested_lists(server: Server) -> None:
    bright, dark = [[[250] * SIDE] * SIDE, [[3] * SIDE] * SIDE]
    assert server.ask("POST", "/predict", {"image": bright})[1]["label"] == "bright"
    assert server.ask("POST", "/predict", {"input": dark})[1]["label"] == "dark"
    for items in ([bright, dark], [{"image": bright}, dark]):
        answer = server.ask("POST", "/predict", {"items": items})[1]
        assert [one["label"] for one in answer["predictions"]] == ["bright", "dark"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is empty"),
        (b"no image", "not a readable image"),
        (png(3)[:40], "not a readable image"),
        (b"{", "not JSON"),
        ({}, 'send an image file, or {"image"'),
        ({"text": "hello"}, "send an image file"),
        ({"image": "hello"}, "image file"),
        ({"image": [[1, 2], [3]]}, "nested list of numbers"),
        ({"image": [[999] * SIDE] * SIDE}, "between 0 and 255"),
        ({"items": []}, "1 to 8 items, got 0"),
        ({"items": [[[1] * SIDE] * SIDE] * 9}, "1 to 8 items, got 9"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(server: Server, body: Any, message: str) -> None:
    status, answer = server.ask("POST", "/predict", body)
    assert status == 400
    assert message in answer["error"]
    assert "\n" not in answer["error"]


def test_regression_answers_a_value(tmp_path: Path) -> None:
    with running(sum_package(tmp_path / "package")) as server:
        assert server.ask("POST", "/predict", {"input": [1, 2, 3.5]}) == (200, {"value": 6.5})
        answer = server.ask("POST", "/predict", {"items": [[1, 2, 3], [4, 5, 6]]})
        assert answer == (200, {"predictions": [{"value": 6.0}, {"value": 15.0}]})


def test_a_row_bare_or_under_its_key(tmp_path: Path) -> None:
    row = {"row": 2, "width": 3}
    with running(table_package(tmp_path / "package")) as server:
        for body in (row, {"row": row}, {"input": row}):
            assert server.ask("POST", "/predict", body) == (200, {"value": 5.0})
        assert (
            server.ask("POST", "/predict", {"items": [row, {"row": row}]})[1]["predictions"][1]["value"] == 5
        )
        for body, message in (
            ({"row": 2}, 'column "width" is absent'),
            ({"a": 1, "b": 2}, 'unknown columns "a", "b"; a row has columns "row", "width"'),
            ({}, 'send a row as {"column": value, ...} or {"row": {...}}'),
        ):
            status, answer = server.ask("POST", "/predict", body)
            assert status == 400
            assert message in answer["error"]


def test_a_category_that_the_model_does_not_know_is_noted_beside_the_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    note = 'column "city": the model does not know "tokyo"; it knows paris, rome'
    package = city_package(tmp_path / "package")
    with running(package) as server:
        assert server.ask("POST", "/predict", {"city": "rome"}) == (200, {"value": 1.0})
        answer = server.ask("POST", "/predict", {"items": [{"city": "tokyo"}, {"city": "rome"}]})
        assert answer == (200, {"predictions": [{"value": 1.0, "notes": [note]}, {"value": 1.0}]})
    assert main(["predict", str(package), '{"city": "tokyo"}']) == 0
    assert tuple(capsys.readouterr()) == ("1.0\n", f"note: {note}\n")


def test_softmax_of_extreme_logits() -> None:
    assert softmax(np.array([[1000.0, 0.0], [-1e30, -1e30]], np.float32)).tolist() == [[1.0, 0.0], [0.5, 0.5]]
