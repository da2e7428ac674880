"""The OpenAPI document is valid, and the server keeps to it whatever a fuzzer sends."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .packages import image_package, sum_package, table_package
from .servers import Server, running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(sum_package(tmp_path_factory.mktemp("sums") / "package", max_batch=8)) as server:
        yield server


@pytest.mark.parametrize("make", [sum_package, image_package, table_package])
def test_every_route_of_the_protocol_is_described(tmp_path: Path, make) -> None:
    with running(make(tmp_path / "package"), FULLDECK_TOKEN="secret") as server:
        assert server.ask("GET", "/openapi.json")[0] == 401
        status, found = server.ask("GET", "/openapi.json", authorization="Bearer secret")
    assert status == 200
    assert found["openapi"].startswith("3.1")
    model = found["info"]["title"]
    assert {"/v2", "/predict", "/v2/health/ready", f"/v2/models/{model}/infer"} <= set(found["paths"])
    assert found["security"] == [{"token": []}]


def test_a_fuzzer_finds_nothing(server: Server) -> None:
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    import schemathesis.specs.openapi.checks as openapi
    from hypothesis import HealthCheck, Phase, given, settings

    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/openapi.json")
    checks = [
        schemathesis.checks.not_a_server_error,
        openapi.status_code_conformance,
        openapi.content_type_conformance,
        openapi.response_schema_conformance,
    ]
    tried = 0
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path.endswith(("unload", "load")):
            continue

        @settings(
            max_examples=15,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def keeps_to_it(case) -> None:
            case.call_and_validate(checks=checks)

        keeps_to_it()
        tried += 1
    assert tried >= 10
    assert server.infer("sums", [1, 2, 3])[0] == 200
