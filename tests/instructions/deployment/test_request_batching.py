from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from fulldeck.errors import CannotAct
from fulldeck.instructions.deployment.request_batching import RequestBatching, dependent, join_calls
from fulldeck.service import Batching, Service


def test_the_package_says_how_requests_are_joined(quantised):
    made = RequestBatching(max_batch=16).configure(Service(quantised, "digits", Path()))
    assert Batching.of(made.carried) == Batching(max_batch=16)
    assert Batching.of({}) is None


def centred(inputs):
    return {"y": inputs["x"] - inputs["x"].mean(axis=0)}


def test_a_model_whose_rows_influence_each_other_is_refused(exported, monkeypatch):
    rows = {"x": np.random.default_rng(0).normal(size=(4, 3))}
    assert dependent(lambda inputs: {"y": 2 * inputs["x"]}, rows) is None
    assert "changes by" in dependent(centred, rows)
    assert "not one row for each row" in dependent(lambda inputs: {"y": inputs["x"].mean(axis=0)}, rows)

    class Centred(type(exported)):
        def run(self, inputs, batch=256):
            outputs = super().run(inputs, batch)
            return outputs - outputs.mean(axis=0)

    candidate = Centred(**{one.name: getattr(exported, one.name) for one in fields(exported)})
    with pytest.raises(CannotAct, match="requests cannot be joined: output output of a row changes by"):
        RequestBatching().configure(Service(candidate, "digits", Path()))


def test_calls_that_come_meanwhile_are_joined_and_get_their_own_rows():
    sizes, begun, go = [], Event(), Event()

    def model(inputs):
        sizes.append(len(inputs["x"]))
        begun.set()
        go.wait(30)
        return {"y": 2 * inputs["x"]}

    joined = join_calls(model, max_batch=4)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(joined, {"x": np.full((1, 2), 0.0)})
        begun.wait(30)
        others = [pool.submit(joined, {"x": np.full((1, 2), float(number))}) for number in range(1, 7)]
        while len(joined._waiting) < 6:
            pass
        go.set()
        answers = [one.result()["y"] for one in (first, *others)]
    assert [answer.tolist() for answer in answers] == [[[2.0 * number] * 2] for number in range(7)]
    assert sizes == [1, 4, 2]


def test_one_bad_call_does_not_spoil_those_it_was_joined_with():
    begun, go = Event(), Event()

    def model(inputs):
        begun.set()
        go.wait(30)
        if (inputs["x"] < 0).any():
            raise ValueError("negative")
        return {"y": inputs["x"]}

    joined = join_calls(model, max_batch=8)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(joined, {"x": np.ones((1, 1))})
        begun.wait(30)
        good, bad = (pool.submit(joined, {"x": np.full((1, 1), value)}) for value in (3.0, -1.0))
        while len(joined._waiting) < 2:
            pass
        go.set()
        assert first.result()["y"] == 1
        assert good.result()["y"] == 3
        with pytest.raises(ValueError, match="negative"):
            bad.result()
