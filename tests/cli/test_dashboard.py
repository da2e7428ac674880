from collections.abc import Callable
from pathlib import Path

import pytest

from tests.serving.packages import sum_package

from .conftest import Answer

Cli = Callable[..., Answer]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sum_package(tmp_path_factory.mktemp("run") / "package")


def test_it_writes_the_folder_and_says_what_to_start(cli: Cli, package: Path, tmp_path: Path) -> None:
    out = tmp_path / "my monitoring"
    answer = cli("dashboard", package, "--out", out)
    assert answer.code == 0
    assert (out / "prometheus.yml").is_file()
    assert f"FULLDECK_TOKEN=$(cat '{out}'/token) fulldeck serve {package}" in answer.out
    assert f"docker compose --project-directory '{out}' up" in answer.out
    assert (out / "token").read_text() not in answer.out


def test_json_has_files_and_commands(cli: Cli, package: Path, tmp_path: Path) -> None:
    answer = cli("dashboard", package, "--out", tmp_path / "m", "--server", "127.0.0.1:9", "--json")
    found = answer.json
    assert found["servers"] == ["127.0.0.1:9"]
    assert {"prometheus.yml", "rules.yml", "alertmanager.yml", "compose.yaml", "token"} <= set(found["files"])
    for name in found["files"]:
        assert (Path(found["folder"]) / name).is_file()
    assert set(found["start"]) == {"server", "containers", "prometheus", "alertmanager"}


def test_what_to_start_is_where_it_is_watched(cli: Cli, package: Path, tmp_path: Path) -> None:
    servers = ("--server", "127.0.0.1:9001", "--server", "[::1]:8000")
    start = cli(
        "dashboard", package, "--out", tmp_path / "m", *servers, "--training", "127.0.0.1:9002", "--json"
    ).json["start"]
    assert start["server"].endswith(f"fulldeck serve {package} --port 9001")
    assert start["server [::1]:8000"].endswith(f"fulldeck serve {package} --host ::1")
    assert start["training"] == f"fulldeck dashboard {package} --live --port 9002"


def test_a_run_without_a_package_is_watched_by_its_live_page(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("workload: digits\n")
    found = cli("dashboard", tmp_path / "run", "--out", tmp_path / "m", "--json").json
    assert (found["servers"], found["trainings"]) == ([], ["127.0.0.1:8002"])
    assert found["start"]["training"] == f"fulldeck dashboard {tmp_path / 'run'} --live"
    assert "fulldeck_training" in (tmp_path / "m" / "prometheus.yml").read_text()


def test_bad_input_is_one_line(cli: Cli, package: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    for words, message in (
        ([package, "--server", "nowhere"], 'an address is HOST:PORT, such as 127.0.0.1:8000, got "nowhere"'),
        ([package, "--out", tmp_path], "exists and is not a monitoring folder; give a new one"),
        ([tmp_path / "absent"], "does not exist"),
        ([package, "--live"], "say what is wanted: --live for a page of the training, or --out DIR"),
    ):
        answer = cli("dashboard", "--out", tmp_path / "m", *words)
        assert answer.code == 2
        assert message in answer.err
        assert len(answer.err.splitlines()) == 1
    answer = cli("dashboard", package)
    assert (answer.code, "say what is wanted" in answer.err) == (2, True)
    answer = cli("dashboard", package, "--live")
    assert (answer.code, "is no run" in answer.err) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
