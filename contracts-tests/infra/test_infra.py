"""Owns what can be known about infra/ and docker-compose.yml without a container engine."""

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from penstock.contracts.topics import TOPICS, Deployment
from penstock.runtime.settings import ServiceSettings, load
from penstock.runtime.telemetry import Metric
from services.gateway.telemetry import Metric as GatewayMetric
from services.inference.telemetry import InferenceMetric
from services.local.kafka import MESSAGE_BYTES_MAX
from services.local.kafka_cache import locked_jars
from services.local.postgres import DATABASES
from services.orchestrator.shell.telemetry import OrchestratorMetric

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<text>[^}]*))?\}")
SETTINGS = {
    "orchestrator": "services.orchestrator.settings:OrchestratorSettings",
    "inference": "services.inference.settings:InferenceSettings",
    "tool_executor": "services.tool_executor.settings:ToolExecutorSettings",
    "worker": "services.worker.settings:WorkerSettings",
    "gateway": "services.gateway.settings:GatewaySettings",
    "topics": "penstock.runtime.settings:ServiceSettings",
}
# What every process exports by itself, and what Prometheus adds.
KNOWN_ELSEWHERE = {"process_cpu_seconds_total", "process_resident_memory_bytes", "up"}
FUNCTIONS = {
    "sum",
    "by",
    "rate",
    "increase",
    "topk",
    "histogram_quantile",
    "max",
    "vector",
    "or",
    "abs",
    "and",
    "offset",
}


def example_environment() -> dict[str, str]:
    lines = (INFRA / "docker/example.env").read_text().splitlines()
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name: value.strip("'") for name, _, value in pairs}


def compose() -> dict[str, Any]:
    """The file as the engine sees it with the example settings."""
    values = example_environment()

    def fill(match: re.Match[str]) -> str:
        default = match["text"] if match["kind"] == "-" else None
        found = values.get(match["name"]) or default
        assert found is not None, f"{match['name']} is in neither example.env nor has it a default"
        return found

    read: dict[str, Any] = yaml.safe_load(VARIABLE.sub(fill, (ROOT / "docker-compose.yml").read_text()))
    return read


def expressions() -> Iterator[str]:
    dashboard = json.loads((INFRA / "grafana/dashboards/lag.json").read_text())
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    for group in yaml.safe_load((INFRA / "prometheus/alerts.yml").read_text())["groups"]:
        yield from (rule["expr"] for rule in group["rules"])


def test_compose_keeps_its_schema() -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"),
            str(ROOT / "docker-compose.yml"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_mounted_file_and_dependency_is_there() -> None:
    described = compose()
    services, volumes = described["services"], described["volumes"]
    for name, service in services.items():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            optional = name == "worker"  # its tasks are the user's
            assert optional or (ROOT / source).exists() if source.startswith(".") else source in volumes, mount
        assert set(service.get("depends_on", [])) <= services.keys()


@pytest.mark.parametrize("name", SETTINGS)
def test_each_service_accepts_its_environment(name: str) -> None:
    # given the variables that the container gets from compose and from the image
    service = compose()["services"][name]
    image = dict(re.findall(r"(PENSTOCK_\w+)=(\S+)", (INFRA / "docker/Dockerfile").read_text()))
    environment = image | {key: str(value) for key, value in service["environment"].items()}

    # when its settings are read, then none is unknown or wrong
    module, _, settings = SETTINGS[name].partition(":")
    read: ServiceSettings = load(getattr(importlib.import_module(module), settings), environment)
    assert read.kafka_bootstrap_servers == "kafka:19092"
    assert read.deployment == Deployment()
    assert read.health_port == 9100


def test_versions_and_limits_are_those_of_the_local_stack() -> None:
    services = compose()["services"]
    broker = dict(coordinate.rsplit(":", 1) for _, coordinate in locked_jars())["org.apache.kafka:kafka_2.13"]
    properties = (INFRA / "kafka/server.properties").read_text()

    assert services["kafka"]["image"].endswith(f":{broker}")
    assert f"message.max.bytes={MESSAGE_BYTES_MAX}\n" in properties
    assert "auto.create.topics.enable=false\n" in properties
    assert re.findall(r"^create (\w+)", (INFRA / "postgres/databases.sh").read_text(), re.M) == list(DATABASES)


def test_dashboards_and_alerts_name_metrics_that_exist() -> None:
    exported = set(Metric) | set(OrchestratorMetric) | set(InferenceMetric) | set(GatewayMetric) | KNOWN_ELSEWHERE
    for expression in expressions():
        without_labels = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(?:by|on) \([^)]*\)", " ", expression)
        for name in re.findall(r"[a-z_]{2,}", without_labels):
            metric = re.sub(r"_(bucket|sum|count)$", "", name) if name not in exported else name
            assert metric in exported | FUNCTIONS, f"{name} in {expression}"


def test_dashboards_and_alerts_name_topics_that_exist() -> None:
    names = {topic.name for topic in TOPICS}
    for expression in expressions():
        assert set(re.findall(r'topic="([^"$]+)"', expression)) <= names


def test_the_dashboard_is_provisioned() -> None:
    dashboard = json.loads((INFRA / "grafana/dashboards/lag.json").read_text())
    sources = yaml.safe_load((INFRA / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    uids = {target["datasource"]["uid"] for panel in dashboard["panels"] for target in panel["targets"]}

    assert uids == {source["uid"] for source in sources}
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_prometheus_asks_the_services_of_compose() -> None:
    described = compose()["services"]
    config = yaml.safe_load((INFRA / "prometheus/prometheus.yml").read_text())
    (discovery,) = config["scrape_configs"][0]["dns_sd_configs"]

    assert set(discovery["names"]) == SETTINGS.keys() - {"topics"}
    assert set(discovery["names"]) <= described.keys()
    assert f"PENSTOCK_HEALTH_PORT={discovery['port']}" in (INFRA / "docker/Dockerfile").read_text()
    assert all((INFRA / "prometheus" / file).exists() for file in config["rule_files"])
