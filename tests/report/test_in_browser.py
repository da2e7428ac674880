"""The pages in a real browser: drawn, quiet, readable by keyboard, in the dark, on a phone and on paper."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fulldeck.report import write_comparison, write_diagnosis, write_evidence, write_report
from fulldeck.report.comparison import compare
from tests.report.measurements import contributions, evidence, inference_diagnosis, verified_diagnosis
from tests.report.run_folders import HOSTILE, classification, metrics, regression, write_run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

LONG_NAME = "regression-with-a-name-that-does-not-want-to-end"
Open = Callable[..., "Page"]
COLOURS_OF_FIRST_CHART = """
    const canvas = document.querySelector(".panel canvas");
    const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    const found = new Set();
    for (let i = 0; i < pixels.length; i += 4)
        if (pixels[i + 3] === 255) found.add(`${pixels[i]},${pixels[i + 1]},${pixels[i + 2]}`);
    [...found]
"""
LIGHT_LINE, DARK_LINE = "31,95,196", "127,176,255"
"""--c1 of page.css."""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports of a classification and of a regression, a comparison of both, diagnoses, and measurements."""
    folder = tmp_path_factory.mktemp("runs")
    names = ("a rather long name of a class", HOSTILE, *(f"class {number}" for number in range(30)))
    runs = [
        write_run(folder / "classification", evaluation=classification(names)),
        write_run(folder / LONG_NAME, evaluation=regression(), metrics=metrics(5)),
    ]
    write_comparison(compare(runs), folder / "compare.html")
    reports = [write_report(run) for run in runs]
    made = dict(zip(("classes", "values", "compare"), [*reports, folder / "compare.html"], strict=True))
    for name, result in (("diagnosis", verified_diagnosis()), ("inference", inference_diagnosis())):
        made[name] = folder / f"{name}.html"
        write_diagnosis(result, made[name])
    made["evidence"] = folder / "evidence.html"
    write_evidence(evidence(), [contributions()], made["evidence"])
    return made


def wait_until(page: "Page", condition: str) -> None:
    """Playwright's own wait_for_function needs eval, which the pages' security policy forbids them."""
    for _ in range(100):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"never true within 5 s: {condition}")


@pytest.fixture
def visit(browser: "Browser", pages: dict[str, Path]) -> Iterator[Open]:
    """Open a page; at the end of the test it must have said nothing and asked for nothing."""
    said: list[str] = []
    asked: list[str] = []
    contexts = []

    def open_page(name: str, width: int = 1024, **how: Any) -> "Page":
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}, **how))
        page = contexts[-1].new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(pages[name].as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []
    assert {url for url in asked if not url.startswith("data:")} <= {path.as_uri() for path in pages.values()}


def colours(page: "Page") -> set[str]:
    return set(page.evaluate(COLOURS_OF_FIRST_CHART))


@pytest.mark.parametrize("name", ["classes", "values", "compare"])
def test_every_chart_is_drawn(visit: Open, name: str) -> None:
    page = visit(name)
    charts = page.locator(".panel")
    assert charts.count() == page.locator(".panel canvas").count() >= 3
    assert LIGHT_LINE in colours(page)


def test_dark_colours_come_and_go_with_the_system(visit: Open) -> None:
    page = visit("classes", color_scheme="dark")
    assert DARK_LINE in colours(page)
    background = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(background) == "rgb(20, 23, 27)"
    page.emulate_media(color_scheme="light")
    assert page.evaluate(background) == "rgb(251, 251, 250)"
    assert LIGHT_LINE in colours(page)


@pytest.mark.parametrize("name", ["classes", "values", "compare", "diagnosis", "inference", "evidence"])
def test_no_width_needs_sideways_scrolling(visit: Open, name: str) -> None:
    page = visit(name)
    page.locator("details").evaluate_all("all => all.forEach(one => { one.open = true })")
    for width in (360, 768, 1440):
        page.set_viewport_size({"width": width, "height": 800})
        wait_until(
            page, "[...document.querySelectorAll('.uplot')].every((one) => one.clientWidth <= innerWidth)"
        )
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_charts_follow_the_window(visit: Open) -> None:
    page = visit("classes", 1440)
    page.set_viewport_size({"width": 500, "height": 800})
    wait_until(page, "document.querySelector('.panel .uplot').clientWidth <= 500")


def test_the_keyboard_reaches_a_chart_and_reads_it(visit: Open) -> None:
    page = visit("classes")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    for _ in range(200):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "plot":
            break
    spoken = page.locator(".panel .said").first
    page.keyboard.press("End")
    assert spoken.inner_text().startswith("step 60: training 0.1")
    page.keyboard.press("ArrowLeft")
    assert spoken.inner_text().startswith("step 59:")
    page.keyboard.press("Home")
    assert spoken.inner_text() == "step 1: training 2, validation –"
    assert "at step 1" in page.locator(".panel .legend").first.inner_text()


def test_a_series_is_hidden_and_a_table_stands_for_the_chart(visit: Open) -> None:
    page = visit("compare")
    page.get_by_role("button", name="A").first.press("Enter")
    assert LIGHT_LINE not in colours(page)
    page.get_by_text("As a table").first.click()
    rows = page.locator(".panel table").first.locator("tbody tr")
    rows.nth(99).wait_for()
    assert rows.count() == 100
    assert rows.nth(59).inner_text().split() == ["60", "0.1047", "0.1047"]


def test_paper_has_the_charts_in_light_colours(visit: Open, tmp_path: Path) -> None:
    page = visit("classes", color_scheme="dark")
    page.evaluate("""
        addEventListener("beforeprint", () => queueMicrotask(() => {
            const images = [...document.querySelectorAll("canvas")].map((canvas) => canvas.width);
            document.title = `${images.length} ${Math.min(...images) > 0}`;
        }))
    """)
    printed = page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert printed.startswith(b"%PDF")
    assert page.title() == f"{page.locator('canvas').count()} true"
    assert DARK_LINE in colours(page), "and the screen has its own again"
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert LIGHT_LINE in colours(page)


def test_text_stands_out_from_its_background(visit: Open) -> None:
    """WCAG AA: 4.5 to 1 for the page's colours of text on its backgrounds, light and dark."""
    for scheme in ("light", "dark"):
        page = visit("classes", color_scheme=scheme)
        ratios = page.evaluate("""
            const style = getComputedStyle(document.documentElement);
            const channel = (c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
            const luminance = (name) => {
                const hex = style.getPropertyValue(name).trim();
                const [r, g, b] = [1, 3, 5].map((at) => channel(parseInt(hex.slice(at, at + 2), 16) / 255));
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            };
            const pairs = [];
            for (const text of ["--ink", "--quiet", "--accent", "--wrong", "--good"])
                for (const ground of ["--paper", "--card"]) pairs.push([text, ground]);
            pairs.push(["--ink", "--code"], ["--good", "--good-tint"], ["--wrong", "--bad-tint"]);
            pairs.push(["--warn", "--warn-tint"], ["--ink", "--warn-tint"]);
            pairs.push(["--warn", "--paper"], ["--quiet", "--code"]);
            for (const stage of [1, 2, 3, 4]) pairs.push([`--c${stage}`, "--paper"]);
            pairs.map(([text, ground]) => {
                const [light, dark] = [luminance(text), luminance(ground)].sort((a, b) => b - a);
                return [text, ground, (light + 0.05) / (dark + 0.05)];
            })
        """)
        assert [pair for pair in ratios if pair[2] < 4.5] == []


@pytest.mark.parametrize("name", ["diagnosis", "evidence"])
def test_bars_and_intervals_are_drawn_within_their_rows(visit: Open, name: str) -> None:
    for width in (360, 1440):
        page = visit(name, width)
        outside = page.evaluate("""
            [...document.querySelectorAll("svg.track")].filter((track) => {
                const room = track.getBoundingClientRect();
                const marks = [...track.querySelectorAll("rect, circle, .interval, .before")];
                return room.width < 40 || marks.length === 0 || marks.some((mark) => {
                    const box = mark.getBoundingClientRect();
                    return box.left < room.left - 7 || box.right > room.right + 7;
                });
            }).map((track) => track.parentElement.textContent.trim())
        """)
        assert page.locator("svg.track").count() > 5
        assert outside == []


def test_a_roofline_is_drawn_for_the_width_with_letters_that_can_be_read(visit: Open) -> None:
    page = visit("diagnosis", 1440)
    for width, shown, hidden in ((1440, "wide", "narrow"), (360, "narrow", "wide")):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.locator(f".roofline .{shown}").is_visible()
        assert not page.locator(f".roofline .{hidden}").is_visible()
        heights = page.locator(f".roofline .{shown} text").evaluate_all(
            "all => all.filter((one) => !one.hasAttribute('transform')).map((one) => one.getBBox().height"
            " * one.getScreenCTM().d)"
        )
        assert min(heights) >= 9
    assert page.get_by_role("img", name="Roofline").count() == 1, "the other is not read out"


def test_the_keyboard_scrolls_every_wide_table(visit: Open) -> None:
    page = visit("evidence", 360)
    region = page.get_by_role("region", name="All measurements")
    region.evaluate("""(one) => {
        window.scrolled = new Promise((done) => one.addEventListener("scroll", () => done(one.scrollLeft)));
    }""")
    region.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("window.scrolled") > 0


def test_verdicts_are_told_in_words_too(visit: Open) -> None:
    page = visit("evidence")
    rows = page.locator(".forest li:not(.axis)")
    assert rows.count() == 8
    for text in rows.all_inner_texts():
        assert any(word in text for word in ("helps", "no difference", "hurts", "inconclusive"))


def test_measurements_on_paper(visit: Open, tmp_path: Path) -> None:
    for name in ("diagnosis", "evidence"):
        assert (
            visit(name, color_scheme="dark").pdf(path=tmp_path / "page.pdf", format="A4").startswith(b"%PDF")
        )
