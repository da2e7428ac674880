"""The page at / in a real browser: an image, a row, a text that is wrong, a token, a phone in the dark."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from .packages import SIDE, image_package, sum_package, table_package
from .servers import running

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def test_an_image_is_asked_and_its_classes_are_shown(browser: "Browser", tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.full((SIDE, SIDE), 250, np.uint8)).save(stream, "PNG")
    picture = {"name": "bright.png", "mimeType": "image/png", "buffer": stream.getvalue()}
    with running(image_package(tmp_path / "package")) as server:
        page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
        errors: list[str] = []
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"http://127.0.0.1:{server.port}/")
        page.get_by_label("An image file").set_input_files(picture)
        page.get_by_role("button", name="Ask").click()
        page.locator("#label").wait_for()
        assert page.locator("#label").inner_text() == "bright"
        assert page.locator(".bars div").count() == 4, "two classes, each with its bar"
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert errors == []
        page.close()


def test_a_row_is_asked_with_the_token_and_a_mistake_is_said(browser: "Browser", tmp_path: Path) -> None:
    with running(table_package(tmp_path / "package"), FULLDECK_TOKEN="secret") as server:
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.port}/")
        page.get_by_label("This server wants its token").fill("secret")
        page.keyboard.press("Enter")
        page.get_by_label("width").fill("3.5")
        page.get_by_label("row", exact=True).fill("2")
        page.get_by_role("button", name="Ask").click()
        page.locator("#label").wait_for()
        assert page.locator("#label").inner_text() == "5.5"
        page.get_by_label("width").fill("wide")
        page.get_by_role("button", name="Ask").click()
        page.locator("#answer .banner").wait_for()
        assert "width" in page.locator("#answer .banner").inner_text()
        page.close()


@pytest.mark.parametrize("text", ["[1, 2, 3]", "[[1, 2, 3"])
def test_a_list_of_numbers(browser: "Browser", tmp_path: Path, text: str) -> None:
    with running(sum_package(tmp_path / "package")) as server:
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.port}/")
        page.get_by_label("A nested list of numbers").fill(text)
        page.get_by_role("button", name="Ask").click()
        shown = page.locator("#label, #answer .banner")
        shown.wait_for()
        assert (shown.inner_text() == "6") == (text == "[1, 2, 3]")
        page.close()
