"""From epochs to charts."""

import json
import math

from fulldeck.report.panels import MAX_POINTS, learning_curves
from tests.report.run_folders import metrics


def test_the_loss_of_each_step_beside_validation() -> None:
    loss, *others = learning_curves({"": metrics(epochs=3, steps=20)})
    training, validation = loss["series"]
    assert (training["x"], validation["x"]) == (list(range(1, 61)), [20, 40, 60])
    assert training["y"][:2] == [2.0, float(f"{2 * math.exp(-1 / 20):.5g}")]
    assert [panel["title"] for panel in others] == ["Validation accuracy", "Learning rate"]
    assert others[0]["share"]


def test_means_of_several_steps_stand_where_they_end() -> None:
    line = {"epoch": 0, "step": 250, "loss": 1.0, "losses": [3.0, 2.0, 1.0], "losses_every": 100}
    (training,) = learning_curves({"": [line]})[0]["series"]
    assert training["x"] == [100, 200, 250]


def test_an_epoch_resumed_in_its_middle_has_no_losses_before() -> None:
    line = {"epoch": 0, "step": 250, "loss": 1.0, "losses": [2.0, 1.0], "losses_every": 10}
    assert learning_curves({"": [line]})[0]["series"][0]["x"] == [240, 250]


def test_long_runs_are_thinned_and_what_is_no_number_is_a_gap() -> None:
    lines = metrics(epochs=100, steps=100)
    lines[50]["losses"] = [math.nan] * 100
    (loss, *_) = learning_curves({"": lines})
    training = loss["series"][0]
    assert len(training["x"]) == MAX_POINTS
    assert training["x"][-1] == 10_000
    assert training["y"][1000:1020] == [None] * 20
    json.dumps(loss, allow_nan=False)


def test_losses_over_orders_of_magnitude_are_drawn_logarithmically() -> None:
    assert learning_curves({"": metrics(epochs=10)})[0]["log"]
    assert not learning_curves({"": metrics(epochs=2)})[0]["log"]


def test_several_runs_are_laid_over_each_other() -> None:
    panels = learning_curves({"A": metrics(), "B": metrics(epochs=5), "C": []})
    assert [[series["name"] for series in panel["series"]] for panel in panels] == [["A", "B"]] * 4
    assert panels[0]["title"] == "Training loss"


def test_nothing_to_draw() -> None:
    assert learning_curves({"": []}) == []
