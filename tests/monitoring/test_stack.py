"""The folder for Prometheus, Alertmanager and Grafana: complete, accepted by their own tools, kept over rewrites."""

import json
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from fulldeck.errors import BadInput
from fulldeck.monitoring.panels import SERVER, TRAINING
from fulldeck.monitoring.settings import Monitoring
from fulldeck.monitoring.stack import write_stack
from tests.serving.packages import sum_package
from tests.small_disk import on_small_disk

from .services import program, said

ADDRESSES = {"servers": ["127.0.0.1:8000", "[::1]:8001"], "trainings": ["127.0.0.1:8002"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stack(tmp_path_factory.mktemp("stack") / "monitoring", Monitoring(), **ADDRESSES)


def read(path: Path) -> Any:
    return YAML(typ="safe").load(path)


def test_promtool_takes_it(folder: Path) -> None:
    found = said(program("promtool"), "check", "config", folder / "prometheus.yml")
    assert "24 rules found" in found


def test_amtool_takes_it(folder: Path) -> None:
    found = said(program("amtool"), "check-config", folder / "alertmanager.yml")
    assert "3 receivers" in found


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        ("severity=scale instance=127.0.0.1:8000", "scale 127.0.0.1:8000"),
        ("severity=scale instance=[::1]:8001", "scale [::1]:8001"),
        ("severity=scale instance=elsewhere:1", "people"),
        ("alertname=FulldeckWatchdog severity=none", "scale 127.0.0.1:8000,scale [::1]:8001"),
        ("alertname=FulldeckErrorBudgetBurn severity=page", "people"),
    ],
)
def test_who_hears_of_what(folder: Path, labels: str, receiver: str) -> None:
    config = f"--config.file={folder / 'alertmanager.yml'}"
    found = said(program("amtool"), "config", "routes", "test", config, *labels.split())
    assert found.splitlines()[-1] == receiver


def test_containers_are_on_loopback_and_have_no_password_of_ours(folder: Path) -> None:
    services = read(folder / "compose.yaml")["services"]
    assert set(services) == {"prometheus", "alertmanager", "grafana"}
    for service in services.values():
        assert "ports" not in service, "the host's network, and loopback there"
        assert service["network_mode"] == "host"
    for name in ("prometheus", "alertmanager"):
        (listens,) = [word for word in services[name]["command"] if "web.listen-address" in word]
        assert listens.partition("=")[2].startswith("127.0.0.1:")
    grafana = services["grafana"]["environment"]
    assert grafana["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    assert grafana["GF_SECURITY_ADMIN_PASSWORD"].startswith("${GRAFANA_PASSWORD:?")
    for secret in (folder / "token", folder / ".env"):
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600


@pytest.mark.parametrize(("board", "panels"), [("server", SERVER), ("training", TRAINING)])
def test_grafana_shows_the_panels_of_the_live_page(folder: Path, board: str, panels: Any) -> None:
    shown = json.loads((folder / "grafana" / "dashboards" / f"{board}.json").read_text())
    assert [panel["title"] for panel in shown["panels"]] == [panel.title for panel in panels]
    for panel, one in zip(shown["panels"], panels, strict=True):
        assert [target["expr"] for target in panel["targets"]] == [line.query for line in one.lines]
    (source,) = read(folder / "grafana/provisioning/datasources/fulldeck.yml")["datasources"]
    assert {panel["datasource"]["uid"] for panel in shown["panels"]} == {source["uid"]}


def test_written_again_secrets_and_data_stay(tmp_path: Path) -> None:
    folder = write_stack(tmp_path / "new" / "monitoring", Monitoring(), servers=["127.0.0.1:8000"])
    secrets = {name: (folder / name).read_text() for name in ("token", ".env")}
    (folder / "data" / "prometheus" / "wal").write_text("samples")
    write_stack(folder, Monitoring(interval_s=7), servers=["127.0.0.1:9000"])
    assert {name: (folder / name).read_text() for name in secrets} == secrets
    assert (folder / "data" / "prometheus" / "wal").read_text() == "samples"
    assert read(folder / "prometheus.yml")["global"]["scrape_interval"] == "7s"
    other = write_stack(tmp_path / "other", Monitoring(), servers=["127.0.0.1:8000"])
    assert (other / "token").read_text() != secrets["token"]


def test_a_full_disk_leaves_no_empty_secret(tmp_path: Path) -> None:
    package = sum_package(tmp_path / "package")
    whole = write_stack(tmp_path / "whole", Monitoring(), servers=["127.0.0.1:8000"])
    pages = sum(-(-path.stat().st_size // 4096) for path in whole.rglob("*") if path.is_file())
    (disk := tmp_path / "disk").mkdir()
    # All but the two secrets, which are written last.
    command = (
        f"{sys.executable} -m fulldeck dashboard {package} --out {disk}/m; find {disk}/m -type f -size 0; "
    )
    done = on_small_disk(disk, f"{4 * (pages - 2)}k", f"{command} ls {disk}/m")
    assert "no space left on device" in done.stderr
    assert {"prometheus.yml", "compose.yaml"} <= set(done.stdout.split())
    assert not {"token", f"{disk}/m/token"} & set(done.stdout.split())


def test_an_empty_secret_is_made_anew(tmp_path: Path) -> None:
    folder = write_stack(tmp_path / "monitoring", Monitoring(), servers=["127.0.0.1:8000"])
    (folder / "token").write_text("")
    write_stack(folder, Monitoring(), servers=["127.0.0.1:8000"])
    assert len((folder / "token").read_text()) > 20
    assert stat.S_IMODE((folder / "token").stat().st_mode) == 0o600


def test_a_folder_that_is_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(BadInput, match="is not a monitoring folder"):
        write_stack(tmp_path, Monitoring(), servers=["127.0.0.1:8000"])
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("address", ["8000", "http://127.0.0.1:8000", "host:99999", "host:0", "a b:80", ""])
def test_what_is_no_address(tmp_path: Path, address: str) -> None:
    with pytest.raises(BadInput, match="an address is HOST:PORT"):
        write_stack(tmp_path / "monitoring", Monitoring(), servers=[address])
    assert not list(tmp_path.iterdir())
