"""Health: readiness by part, aliveness by asking the loop, over real HTTP."""

import asyncio
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from penstock.runtime import health as module
from penstock.runtime.health import Health, HealthServer
from penstock.runtime.telemetry import Instruments


@pytest.fixture
def served() -> Iterator[tuple[Health, Instruments, str]]:
    registry = CollectorRegistry()
    health, instruments = Health(), Instruments(registry)
    server = HealthServer(health, registry, "127.0.0.1", 0)
    server.start()
    yield health, instruments, f"http://127.0.0.1:{server.port}"
    server.stop()


def get(url: str) -> tuple[int, Any]:
    """Status and body."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_ready_when_every_part_is(served: tuple[Health, Instruments, str]) -> None:
    """Given parts, when one is not ready, then 503 names it; when all are, then 200."""
    health, _, url = served
    assert get(f"{url}/readyz")[0] == 503

    health.set_ready("consumer", True)
    health.set_ready("postgres", False, "connecting")
    status, body = get(f"{url}/readyz")
    assert status == 503
    assert json.loads(body)["parts"]["postgres"] == {"ready": False, "detail": "connecting"}

    health.set_ready("postgres", True)
    assert get(f"{url}/readyz")[0] == 200


def test_metrics_ask_for_the_lag_when_scraped(served: tuple[Health, Instruments, str]) -> None:
    """Given a consumer's lag, when metrics are scraped, then they stand under the names that dashboards know."""
    _, instruments, url = served
    instruments.lag.add(lambda: {("g", "t", 0): 3, ("g", "t", 1): 4})

    _, body = get(f"{url}/metrics")

    assert b'kafka_consumergroup_lag{consumergroup="g",partition="0",topic="t"} 3.0' in body
    assert b'kafka_consumergroup_lag_sum{consumergroup="g",topic="t"} 7.0' in body


def test_records_are_counted_by_how_they_ended_and_how_long_they_took(
    served: tuple[Health, Instruments, str],
) -> None:
    """Given counted records, when metrics are scraped, then the buckets add up, and what never happened is a zero."""
    _, instruments, url = served
    tally = instruments.tallies.add("g", "t", ("done", "dead_lettered"))
    for seconds in (0.001, 0.02, 700.0):
        tally.count("done", seconds)

    lines = get(f"{url}/metrics")[1].decode().splitlines()

    for name, labels, value in (
        ("penstock_records_handled_total", 'consumergroup="g",outcome="done",topic="t"', "3.0"),
        ("penstock_records_handled_total", 'consumergroup="g",outcome="dead_lettered",topic="t"', "0.0"),
        ("penstock_handler_seconds_bucket", 'consumergroup="g",le="0.001",topic="t"', "1.0"),
        ("penstock_handler_seconds_bucket", 'consumergroup="g",le="0.025",topic="t"', "2.0"),
        ("penstock_handler_seconds_bucket", 'consumergroup="g",le="600.0",topic="t"', "2.0"),
        ("penstock_handler_seconds_bucket", 'consumergroup="g",le="+Inf",topic="t"', "3.0"),
        ("penstock_handler_seconds_sum", 'consumergroup="g",topic="t"', "700.021"),
    ):
        assert f"{name}{{{labels}}} {value}" in lines


def test_other_paths_are_not_found(served: tuple[Health, Instruments, str]) -> None:
    """Given a path nobody serves, then 404 says which there are."""
    status, body = get(f"{served[2]}/nothing")

    assert (status, b"/readyz" in body) == (404, True)


async def test_alive_while_the_loop_answers(
    served: tuple[Health, Instruments, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a loop that answers, then alive; given one that has been silent for too long, then 503."""
    health, _, url = served
    health.watch(asyncio.get_running_loop())
    assert (await asyncio.to_thread(get, f"{url}/healthz"))[0] == 200

    monkeypatch.setattr(module, "PROBE_SECONDS", 0.01)
    monkeypatch.setattr(module, "LOOP_SILENT_SECONDS_MAX", 0.01)
    answers: list[int] = []
    asking = threading.Thread(target=lambda: answers.append(get(f"{url}/healthz")[0]))
    asking.start()
    asking.join()  # holds the loop on purpose
    assert answers == [503]

    monkeypatch.undo()
    assert (await asyncio.to_thread(get, f"{url}/healthz"))[0] == 200
