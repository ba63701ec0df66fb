"""Settings: read once, every fault named."""

import pytest
from pydantic import ValidationError

from penstock.contracts.topics import Deployment
from penstock.runtime.errors import SettingsError
from penstock.runtime.settings import PostgresSettings, ServiceSettings, load


class WorkerLike(ServiceSettings):
    worker_concurrency: int = 4


class OrchestratorLike(PostgresSettings, ServiceSettings):
    pass


def test_variables_become_fields() -> None:
    """Given variables, when they are loaded, then the fields have their types and the rest its defaults."""
    settings = load(
        WorkerLike,
        {"PENSTOCK_KAFKA_BOOTSTRAP_SERVERS": "k:1", "PENSTOCK_QUEUES": "a, b", "PENSTOCK_WORKER_CONCURRENCY": "9"},
    )

    assert (settings.kafka_bootstrap_servers, settings.queues, settings.worker_concurrency) == ("k:1", ("a", "b"), 9)
    assert settings.deployment == Deployment(queues=("a", "b"))


def test_a_misspelt_variable_names_the_nearest() -> None:
    """Given a variable nobody knows, when settings are loaded, then the error names it and the nearest known one."""
    with pytest.raises(SettingsError, match=r"PENSTOCK_DRAIN_SECOND: .*did you mean PENSTOCK_DRAIN_SECONDS"):
        load(WorkerLike, {"PENSTOCK_DRAIN_SECOND": "5"})


def test_a_misspelt_variable_of_ones_own_prefix_is_no_other_services() -> None:
    """Given a misspelt variable with the service's own prefix, then it is a fault; another service's is not."""
    load(WorkerLike, {"PENSTOCK_INFERENCE_POOL": "large", "PENSTOCK_POSTGRES_URL": "x", "HOME": "/root"})

    with pytest.raises(SettingsError, match="PENSTOCK_WORKER_CONCURENCY"):
        load(WorkerLike, {"PENSTOCK_WORKER_CONCURENCY": "5"})


def test_all_faults_are_listed_at_once() -> None:
    """Given three faults, when settings are loaded, then the message has a line for each."""
    with pytest.raises(SettingsError) as caught:
        load(OrchestratorLike, {"PENSTOCK_HOME_PARTITIONS": "many", "PENSTOCK_NOTHING": "1"})

    lines = str(caught.value).splitlines()
    assert {line.split(":")[0] for line in lines} == {
        "PENSTOCK_HOME_PARTITIONS",
        "PENSTOCK_NOTHING",
        "PENSTOCK_POSTGRES_URL",
    }


def test_settings_do_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given settings, when somebody assigns or the environment changes, then they stay."""
    monkeypatch.setenv("PENSTOCK_DRAIN_SECONDS", "1")
    settings = load(WorkerLike, {})

    assert settings.drain_seconds == 20.0
    with pytest.raises(ValidationError):
        settings.drain_seconds = 3.0  # type: ignore[misc]  # that is the test
