import pytest

from fulldeck.serving.http import Refusal
from fulldeck.serving.rate_limit import CLIENTS, RateLimit


def admitted(limit: RateLimit, client: str, now: float) -> bool:
    try:
        limit.admit(client, now)
    except Refusal:
        return False
    return True


def test_a_burst_and_then_its_rate() -> None:
    limit = RateLimit(2.0, 3)
    assert [admitted(limit, "a", 100.0) for _ in range(5)] == [True] * 3 + [False] * 2
    assert [admitted(limit, "a", 100.6) for _ in range(2)] == [True, False]
    assert [admitted(limit, "a", 200.0) for _ in range(4)] == [True] * 3 + [False]
    assert sum(admitted(limit, "b", 300 + 0.1 * step) for step in range(101)) == 3 + 20


def test_it_says_when_to_come_again() -> None:
    limit = RateLimit(0.25, 1)
    limit.admit("a", 0.0)
    with pytest.raises(Refusal, match=r"a may send 0\.25 requests a second") as refusal:
        limit.admit("a", 1.0)
    assert refusal.value.response.headers == (("retry-after", "3"),)
    limit.admit("a", 4.0)


def test_clients_are_forgotten_in_the_end() -> None:
    limit = RateLimit(1.0, 1)
    for number in range(2 * CLIENTS):
        limit.admit(str(number), 0.0)
    assert len(limit._clients) == CLIENTS
