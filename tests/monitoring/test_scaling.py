"""The controller alone: which sequences of loads change replicas, and which never do."""

import random
from typing import Any

import pytest

from fulldeck.errors import BadInput
from fulldeck.monitoring.scaling import ALERT_SECONDS, LOW, WATCHDOG, Alerts, Controller, Load, Scaling

INTERVAL = 5.0


class Bench:
    """A controller with a clock, and the replicas that it wants."""

    def __init__(self, replicas: int = 4, **settings: Any) -> None:
        scaling = {"max_replicas": 8, "cooldown_s": 0.0, "interval_s": INTERVAL, **settings}
        self.controller = Controller(Scaling(**scaling))
        self.replicas = replicas
        self.now = 1000.0

    def sample(
        self, utilisation: float | None = 0.1, busy: float | None = 0.1, queue: float = 0.0, **changed: Any
    ) -> int:
        self.now += changed.pop("after", INTERVAL)
        load = Load(self.now, utilisation, busy, queue, self.replicas, changed.get("whole", True))
        self.controller.see(load)
        self.replicas = self.controller.decide(self.now, self.replicas)
        return self.replicas

    @property
    def reason(self) -> str:
        return self.controller.log[-1].reason


def test_three_low_samples_halve_and_two_do_not() -> None:
    bench = Bench()
    assert [bench.sample() for _ in range(3)] == [4, 4, 2]
    assert bench.reason == "utilisation was under 30% in 3 samples, no queue"


def test_each_change_wants_three_new_samples() -> None:
    bench = Bench(8)
    assert [bench.sample() for _ in range(9)] == [8, 8, 4, 4, 4, 2, 2, 2, 1]
    assert bench.sample() == 1
    assert "no fewer than 1" not in bench.reason, "after one sample nothing is known of the new number"


def test_a_sample_at_the_threshold_or_above_starts_the_count_anew() -> None:
    bench = Bench()
    assert [bench.sample(value) for value in (0.1, 0.1, 0.3, 0.1, 0.1)] == [4] * 5
    assert bench.sample(0.29) == 2


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"utilisation": None}, "not known"),
        ({"busy": None}, "not known"),
        ({"queue": 1.0}, "1.0 requests wait"),
        ({"busy": 0.5}, "busy 50%"),
        ({"whole": False}, "not all replicas are ready"),
    ],
)
def test_one_signal_is_never_enough(changed: dict[str, Any], reason: str) -> None:
    bench = Bench()
    for _ in range(20):
        assert bench.sample(**changed) == 4
    assert reason in bench.reason
    for place in range(3):
        bench = Bench()
        for step in range(3):
            bench.sample(**(changed if step == place else {}))
        assert bench.replicas == 4


def test_a_silently_zero_exporter_at_peak_never_scales_in() -> None:
    generator = random.Random(0)
    for _ in range(100):
        bench = Bench()
        for _ in range(20):
            bench.sample(
                utilisation=0.0, busy=generator.uniform(0.3, 1.0), queue=generator.choice([0.0, 3.0])
            )
        assert bench.replicas >= 4


def test_a_gap_between_samples_starts_the_count_anew() -> None:
    bench = Bench()
    bench.sample()
    bench.sample()
    assert bench.sample(after=3 * INTERVAL) == 4
    assert [bench.sample(), bench.sample()] == [4, 2]


def test_samples_that_come_at_once_or_backwards_are_not_consecutive() -> None:
    bench = Bench()
    assert [bench.sample(after=0.0) for _ in range(9)] == [4] * 9
    assert [bench.sample(after=-1.0) for _ in range(9)] == [4] * 9


def test_an_old_sample_decides_nothing() -> None:
    bench = Bench()
    bench.sample()
    bench.sample()
    bench.controller.see(Load(bench.now + INTERVAL, 0.1, 0.1, 0.0, 4, True))
    assert bench.controller.decide(bench.now + 10 * INTERVAL, 4) == 4
    assert bench.reason == "there is no fresh sample"


def test_to_be_asked_again_and_again_changes_nothing_more() -> None:
    bench = Bench()
    for _ in range(3):
        bench.sample()
    assert bench.replicas == 2
    for _ in range(100):
        assert bench.controller.decide(bench.now, 2) == 2


def test_cooldown_after_a_change() -> None:
    bench = Bench(cooldown_s=60.0)
    seen = [bench.sample() for _ in range(20)]
    assert seen.index(2) == 2
    assert seen.index(1) == 2 + 12
    assert any("waiting 60 s" in one.reason for one in bench.controller.log)


def test_fewer_replicas_that_would_be_too_busy_are_not_chosen() -> None:
    bench = Bench(8)
    for _ in range(3):
        bench.sample(utilisation=0.29, busy=0.29)
    assert bench.replicas == 4, "8 x 0.29 of work over 4 is 0.58, under 0.6"
    bench = Bench(3)
    for _ in range(3):
        bench.sample(utilisation=0.29, busy=0.29)
    assert bench.replicas == 2


def test_two_full_samples_with_a_queue_double_and_one_does_not() -> None:
    bench = Bench(1)
    assert bench.sample(0.9, 1.0, 5.0) == 1
    assert bench.sample(0.9, 1.0, 5.0) == 2
    assert [bench.sample(0.9, 1.0, 5.0) for _ in range(6)] == [2, 4, 4, 7, 7, 8]
    assert [bench.sample(0.9, 1.0, 5.0) for _ in range(4)] == [8] * 4
    assert "no more than 8" in bench.reason


@pytest.mark.parametrize(("busy", "queue"), [(1.0, 0.0), (0.2, 5.0), (None, 5.0)])
def test_full_or_queued_alone_adds_nothing(busy: float | None, queue: float) -> None:
    bench = Bench(1)
    for _ in range(10):
        assert bench.sample(0.9, busy, queue) == 1


def test_bounds_hold_at_once() -> None:
    assert Bench(1, min_replicas=2).sample() == 2
    assert Bench(20).sample() == 8


def test_noise_around_the_threshold_does_not_oscillate() -> None:
    generator = random.Random(1)
    bench = Bench(2, cooldown_s=60.0)
    work = 0.6  # replicas' worth; constant
    for _ in range(1000):
        busy = min(1.0, work / bench.replicas * generator.uniform(0.8, 1.2))
        bench.sample(busy, busy)
    changes = [one for one in bench.controller.log if one.before != one.after]
    assert len(changes) <= 1


def delivery(
    status: str = "firing", started: float = 900, ended: float = 0, name: str = LOW
) -> dict[str, Any]:
    from datetime import UTC, datetime

    def moment(seconds: float) -> str:
        return datetime.fromtimestamp(seconds, UTC).isoformat() if seconds else "0001-01-01T00:00:00Z"

    alert = {
        "status": status,
        "labels": {"alertname": name},
        "fingerprint": "f",
        "startsAt": moment(started),
        "endsAt": moment(ended),
    }
    return {"version": "4", "status": status, "alerts": [alert]}


def test_where_alerts_are_wanted_samples_alone_do_nothing() -> None:
    bench = Bench(needs_alert=True)
    for _ in range(5):
        assert bench.sample() == 4
    assert "nothing is heard of Alertmanager" in bench.reason
    bench.controller.alerts.hear(delivery(name=WATCHDOG), bench.now)
    assert bench.controller.decide(bench.now, 4) == 4
    assert "no alert says so" in bench.reason
    bench.controller.alerts.hear(delivery(), bench.now)
    assert bench.controller.decide(bench.now, 4) == 2


def test_an_alert_alone_does_nothing() -> None:
    bench = Bench(needs_alert=True)
    for _ in range(20):
        bench.controller.alerts.hear(delivery(), bench.now)
        assert bench.controller.decide(bench.now, 4) == 4
        assert bench.sample(0.9, 0.9) == 4


def test_a_continuing_alert_scales_in_to_the_end() -> None:
    """It keeps its start time, and may be delivered once: the level counts, not the edge."""
    bench = Bench(8, needs_alert=True)
    bench.controller.alerts.hear(delivery(), bench.now)
    for _ in range(9):
        bench.sample()
    assert bench.replicas == 1


def test_an_alert_that_is_no_longer_heard_of_counts_no_more() -> None:
    alerts = Alerts()
    alerts.hear(delivery(), 1000)
    assert alerts.firing(LOW, 1000 + ALERT_SECONDS)
    assert not alerts.firing(LOW, 1001 + ALERT_SECONDS)


@pytest.mark.parametrize("seed", range(100))
def test_repeated_and_reordered_deliveries_come_to_the_newest_state(seed: int) -> None:
    generator = random.Random(seed)
    story = [
        delivery("firing", 900),
        delivery("resolved", 900, 950),
        delivery("firing", 960),
        delivery("resolved", 960, 970),
    ]
    ends_firing = generator.random() < 0.5
    told = story[:3] if ends_firing else story
    sent = told * generator.randint(1, 3)
    generator.shuffle(sent)
    alerts = Alerts()
    for one in sent:
        alerts.hear(one, 1000)
    assert alerts.firing(LOW, 1000) is ends_firing


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"version": "3", "alerts": []},
        {"version": "4", "alerts": {}},
        {"version": "4", "alerts": [3]},
        {"version": "4", "alerts": [{"status": "firing"}]},
        delivery("pending"),
        {**delivery(), "alerts": [{**delivery()["alerts"][0], "startsAt": "yesterday"}]},
        {**delivery(), "alerts": [{**delivery()["alerts"][0], "startsAt": 5}]},
    ],
)
def test_what_is_no_delivery_is_refused(body: dict[str, Any]) -> None:
    alerts = Alerts()
    with pytest.raises(BadInput):
        alerts.hear(body, 1000)
    assert alerts.heard is None


def test_memory_of_alerts_is_bounded() -> None:
    alerts = Alerts()
    for number in range(10_000):
        body = delivery()
        body["alerts"][0]["fingerprint"] = str(number)
        alerts.hear(body, 1000)
    assert alerts.firing(LOW, 1000)
    assert len(vars(alerts)["_started"]) <= 100


@pytest.mark.parametrize("text", ["3", "a:b", "1:2:3", "4:2"])
def test_bounds_that_are_none(text: str) -> None:
    with pytest.raises(BadInput, match="MIN:MAX"):
        Scaling.bounds(text)
    with pytest.raises(BadInput, match="min_replicas must be at most"):
        Scaling(min_replicas=3, max_replicas=2)
