"""The live page of a training that goes on in another process."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fulldeck.monitoring.panels import TRAINING
from fulldeck.monitoring.training_log import TrainingLog
from tests.monitoring.live_stack import live_stack
from tests.monitoring.test_panels import queries, without_data

from .trainings import Training, live_page, training

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Training]:
    with training(tmp_path_factory.mktemp("training")) as one:
        yield one


@pytest.fixture(scope="module")
def url(run: Training) -> Iterator[str]:
    with live_page(run.folder) as one:
        yield one


def events(url: str, count: int) -> list[dict[str, Any]]:
    """The first events of the page."""
    found = []
    with urllib.request.urlopen(url + "/events", timeout=30) as stream:
        while len(found) < count:
            line = stream.readline()
            if line.startswith(b"data: "):
                found.append(json.loads(line[len(b"data: ") :]))
    return found


def test_history_comes_first_then_what_is_new(url: str) -> None:
    history, *new = events(url, 4)
    assert history["readings"]
    words, kind = history["state"]
    assert re.fullmatch(r"epoch [\d,]+ of 100000, step [\d,]+ of [\d,]+", words)
    assert kind == "finished"
    readings = [event["reading"] for event in new if event["reading"] is not None]
    last = readings[-1]
    assert last["samples"] > 0
    assert 0 < last["p50"] <= last["p90"] <= last["p99"]
    assert last["loss"] is not None
    assert set(last["validation"]) == {"loss", "accuracy"}
    (cpu,) = (device for device in last["devices"] if device["name"] == "cpu")
    assert 0 < cpu["utilisation"] <= 1
    assert cpu["memory"] > 10**7
    assert cpu["bandwidth"] > 0
    assert [reading["at"] for reading in readings] == sorted({reading["at"] for reading in readings})


def test_what_there_is_not(url: str) -> None:
    for path, method, status in (("nothing", "GET", 404), ("metrics", "POST", 405)):
        request = urllib.request.Request(url.replace("/ui", f"/{path}"), method=method)
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(request, timeout=10)
        assert error.value.code == status


@pytest.mark.services
def test_every_panel_has_data_on_a_live_prometheus(url: str, tmp_path: Path) -> None:
    with live_stack(tmp_path / "monitoring") as stack:
        stack.configure(trainings=[url.split("/")[2]])
        stack.start("prometheus")
        asked = queries(TRAINING, "cells")
        end = time.monotonic() + 60
        while missing := without_data(stack, asked):
            assert time.monotonic() < end, missing
            time.sleep(0.2)


def shown(page: "Page", text: str) -> None:
    page.locator("#state").filter(has_text=re.compile(text)).wait_for()


def test_it_is_drawn_and_goes_on(browser: "Browser", url: str, run: Training) -> None:
    for width, scheme in ((360, "dark"), (1440, "light")):
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        page = context.new_page()
        said: list[str] = []
        page.on("pageerror", lambda error, said=said: said.append(str(error)))
        page.goto(url)
        page.locator(".panel canvas").nth(len(TRAINING) - 1).wait_for()
        assert page.locator("h1").inner_text() == run.folder.name
        assert page.locator("#tiles h2").all_inner_texts() == [panel.title for panel in TRAINING]
        page.locator("#tiles li").filter(has_text=re.compile(r"Throughput\s*[\d,.]+ /s\s*samples")).wait_for()
        before = page.locator("#state").inner_text()
        page.locator("#state").filter(has_not_text=before).wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert said == []
        context.close()


def test_a_run_that_is_killed_is_said_to_be_gone(browser: "Browser", url: str, run: Training) -> None:
    page = browser.new_page()
    page.goto(url)
    shown(page, "epoch")
    run.process.kill()
    shown(page, "its process is gone; it was at train")
    page.locator("#tiles li").filter(has_text=re.compile(r"Utilisation\s*–?")).wait_for()
    page.close()


def test_your_own_loop_has_a_page_too(browser: "Browser", tmp_path: Path) -> None:
    log = TrainingLog(tmp_path, name="mine", stage="train", steps=10, epochs=1)
    with live_page(tmp_path) as url:
        page = browser.new_page()
        page.goto(url)
        shown(page, "epoch 1 of 1, step 0 of 10")
        log.step(32, 0.5)
        log.write(status="finished")
        shown(page, "finished")
        page.close()


def test_a_burst_of_connections_waits_for_a_busy_page(tmp_path: Path) -> None:
    TrainingLog(tmp_path, name="mine")
    command = [
        sys.executable,
        "-m",
        "fulldeck",
        "dashboard",
        str(tmp_path),
        "--live",
        "--port",
        "0",
        "--json",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, ExitStack() as opened:
        assert process.stdout is not None
        port = int(json.loads(process.stdout.readline())["url"].split(":")[2].partition("/")[0])
        process.send_signal(signal.SIGSTOP)
        try:
            # One that finds no place is tried again by the system after a second.
            for _ in range(200):
                opened.enter_context(socket.create_connection(("127.0.0.1", port), timeout=0.9))
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()
