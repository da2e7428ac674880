"""What a server does when more is asked than it can answer."""

from pathlib import Path

from fulldeck.serving.load_generator import Connections, open_loop, summary

from .packages import slow_package, sum_package
from .servers import eventually, meanwhile, running
from .test_metrics import scrape

ROW = [1, 2, 3]


def test_who_would_wait_too_long_is_turned_away_and_told_when_to_come(tmp_path: Path) -> None:
    """The engine does nothing, and is known to be fast; so many wait that not all can be answered in time."""
    package = slow_package(tmp_path / "package", queue=100, carried={"limits": {"wait_ms": 200.0}})
    with running(package) as server, meanwhile(40) as call:
        asked = [call(server.infer, "slow", ROW) for _ in range(40)]
        statuses = [one.result()[0] for one in asked]
        assert set(statuses) == {200, 429}
        assert 2 <= statuses.count(200) < 30
        assert server.infer("slow", ROW)[0] == 200


def test_ten_times_too_much_is_refused_and_the_rest_is_answered(tmp_path: Path) -> None:
    from fulldeck.serving.process import http_request

    package = slow_package(tmp_path / "package", queue=1000, carried={"limits": {"wait_ms": 100.0}})
    body = b'{"inputs":[{"name":"input","datatype":"FP32","shape":[1,3],"data":[1,2,3]}]}'
    with running(package) as server:
        connections = Connections(server.port, 100)
        request = http_request("/v2/models/slow/infer", body)
        seen = summary(open_loop(connections, [request], 1.5, 10 / 0.02, 0))
        connections.close()
    assert set(seen["wrong"]) == {"429"}, "nobody waits in vain, and no connection is lost"
    assert seen["answered"] > 10
    assert seen["wrong"]["429"] > seen["answered"]


def test_a_client_is_held_to_its_rate(tmp_path: Path) -> None:
    package = sum_package(tmp_path / "package", carried={"limits": {"rate_per_s": 0.01, "burst": 3}})
    with running(package) as server:
        answers = [server.infer("sums", ROW) for _ in range(5)]
        assert [status for status, _ in answers] == [200] * 3 + [429] * 2
        assert "may send 0.01 requests a second" in answers[4][1]["error"]
        assert server.ask("GET", "/v2/models/sums")[0] == 200, "only inferences count"
        assert server.ask("POST", "/predict", {"input": ROW})[0] == 429
        found = scrape(server)
        assert found["fulldeck_requests_total", "rate_limited", "429"] == 3
        # These two burn the error budget.
        for route in ("infer", "refused"):
            assert not found.get(("fulldeck_requests_total", route, "429"))


def test_a_refused_request_keeps_its_connection(tmp_path: Path) -> None:
    import http.client
    import json

    package = sum_package(tmp_path / "package", carried={"limits": {"rate_per_s": 0.01, "burst": 1}})
    with running(package) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        connection.connect()
        own = connection.sock.getsockname()
        statuses = []
        for _ in range(3):
            connection.request("POST", "/predict", json.dumps({"input": ROW}))
            response = connection.getresponse()
            response.read()
            statuses.append((response.status, response.headers["Retry-After"] is not None))
            assert connection.sock.getsockname() == own
        assert statuses == [(200, False), (429, True), (429, True)]
        connection.close()
    eventually(lambda: server.process.poll() is not None)
