"""The live page of real servers in a real browser: it moves, gives reasons, and asks for the token if there is one."""

import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fulldeck.monitoring.panels import SERVER

from .packages import sum_package
from .servers import Server, running, start
from .test_scaling import scaled

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Open = Callable[..., "Page"]
DARK, LIGHT = "rgb(20, 23, 27)", "rgb(251, 251, 250)"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two replicas of which one is too many, and a few answers."""
    package = sum_package(tmp_path_factory.mktemp("page") / "package", workers=2)
    with scaled(package, max_replicas=2) as one:
        for _ in range(20):
            one.infer("sums", [1, 2, 3])
        yield one


@pytest.fixture
def visit(browser: "Browser") -> Iterator[Open]:
    """Open a server's page; at the end of the test it must have complained of nothing and asked only its server."""
    said: list[str] = []
    asked: set[str] = set()
    contexts = []

    def open_page(server: Server, width: int = 1024, **how: Any) -> "Page":
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}, **how))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.add(re.sub(r"^http://127\.0\.0\.1:\d+", "", request.url)))
        page.goto(f"http://127.0.0.1:{server.port}/ui")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []
    assert {path for path in asked if not path.startswith("data:")} <= {"/ui", "/ui/events"}


def drawn(page: "Page") -> None:
    """Wait until the first reading is shown."""
    page.locator(".panel canvas").nth(len(SERVER) - 1).wait_for()


def tile(page: "Page", title: str) -> str:
    """The text of a tile."""
    return (
        page.locator("#tiles li").filter(has=page.get_by_role("heading", name=title, exact=True)).inner_text()
    )


def test_it_shows_the_panels_of_the_one_list_and_goes_on(visit: Open, server: Server) -> None:
    page = visit(server)
    drawn(page)
    titles = page.locator("#tiles h2").all_inner_texts()
    assert titles == [panel.title for panel in SERVER]
    assert len(page.locator(".panel canvas").all()) == len(SERVER)
    assert page.locator("#state").inner_text() == "live"
    server.infer("sums", [1, 2, 3])
    page.locator("#tiles li").filter(
        has_text=re.compile(r"Latency\s*[\d.]+ ms\s*P50, P90 [\d.]+, P99 ")
    ).wait_for()
    assert re.search(r"[\d.]+ GB/s\s+cpu, estimated", tile(page, "Memory bandwidth"))
    assert re.search(r"\d+ %\s+cpu", tile(page, "Utilisation"))
    before = page.locator("#when").inner_text()
    page.locator("#when").filter(has_not_text=before).wait_for()


def test_decisions_stand_with_their_reasons(visit: Open, server: Server) -> None:
    page = visit(server)
    change = page.locator("#log tr.changed").first
    change.wait_for()
    assert "2 → 1" in change.inner_text()
    assert "utilisation was under 30% in 3 samples, no queue" in change.inner_text()
    page.locator("#tiles li").filter(has_text=re.compile(r"Replicas\s*1\s*ready, wanted 1")).wait_for()


@pytest.mark.parametrize(("scheme", "background"), [("light", LIGHT), ("dark", DARK)])
def test_it_fits_every_width(visit: Open, server: Server, scheme: str, background: str) -> None:
    page = visit(server, color_scheme=scheme)
    drawn(page)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == background
    page.locator("details").evaluate_all("all => all.forEach(one => { one.open = true })")
    for width in (360, 768, 1440):
        page.set_viewport_size({"width": width, "height": 800})
        page.wait_for_timeout(150)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_keyboard_pauses_it_and_reads_a_chart(visit: Open, server: Server) -> None:
    page = visit(server)
    drawn(page)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "pause"
    page.keyboard.press("Enter")
    pause = page.locator("#pause")
    assert (pause.inner_text(), pause.get_attribute("aria-pressed")) == ("Go on", "true")
    paused = page.locator("#when").inner_text()
    page.wait_for_timeout(2200)
    assert page.locator("#when").inner_text() == paused
    plot = page.locator(".panel .plot").first
    plot.focus()
    page.keyboard.press("End")
    assert re.match(r"seconds from now 0: cpu [\d.]+ %", page.locator(".panel .said").first.inner_text())
    pause.press("Enter")
    page.locator("#when").filter(has_not_text=paused).wait_for()


def test_a_token_is_asked_for_and_kept(visit: Open, tmp_path: Path) -> None:
    with running(sum_package(tmp_path / "package"), FULLDECK_TOKEN="secret") as guarded:
        page = visit(guarded)
        field = page.get_by_label("This server wants its token (FULLDECK_TOKEN)")
        field.wait_for()
        assert page.locator(".panel canvas").count() == 0
        field.fill("wrong")
        field.press("Enter")
        page.get_by_text("That is not its token.").wait_for()
        assert page.evaluate("document.activeElement.id") == "token"
        field.fill("secret")
        field.press("Enter")
        drawn(page)
        assert not field.is_visible()
        page.reload()
        drawn(page)


def test_it_finds_its_server_again(visit: Open, tmp_path: Path) -> None:
    package = sum_package(tmp_path / "package")
    first = start(package)
    page = visit(first)
    page.locator("#state").filter(has_text="live").wait_for()
    first.process.send_signal(signal.SIGKILL)
    first.process.communicate()
    page.locator("#state").filter(has_text="no connection").wait_for()
    second = start(package, port=first.port)
    try:
        page.locator("#state").filter(has_text="live").wait_for()
    finally:
        second.process.terminate()
        second.process.communicate(timeout=30)
